"""The log must not end what it tells of."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.log import Log

FULL = Path("/dev/full")


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_log_on_a_full_disk_stops_nothing(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux's /dev/full refuses each write, as a disk does that has no room left for the log."""
    log = Log()
    log.form = form
    with FULL.open("w", buffering=1) as full:
        monkeypatch.setattr("sys.stderr", full)
        log.error("unproven", reason="x" * 100_000)
        log.info("stopped")
        with pytest.raises(OSError, match="No space left"):
            full.write("shows that it refuses\n")
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space left"):
            full.close()
