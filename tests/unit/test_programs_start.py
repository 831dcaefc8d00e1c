"""What is run by hand now and then must not rot: every program of the tests can be read, and tells how to use it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(
    ".".join(("tests", *file.relative_to(ROOT).with_suffix("").parts))
    for file in ROOT.rglob("*.py")
    if file != Path(__file__) and "__main__" in (text := file.read_text()) and "ArgumentParser" in text
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_tells_how_to_use_it(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out
