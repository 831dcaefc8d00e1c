"""The dashboard asks for series and labels that the code exports, and Prometheus can read its expressions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.deploy import test_deploy as files

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text(encoding="utf-8"))

TARGETS = [(p["title"], t["expr"], t["legendFormat"]) for p in DASHBOARD["panels"] for t in p["targets"]]


def bare(series: str) -> str:
    return series.removesuffix("_bucket")


@pytest.mark.parametrize(("title", "expr", "legend"), TARGETS)
def test_a_panel_asks_for_what_the_code_exports(title: str, expr: str, legend: str) -> None:
    # What the library itself tells of the process is declared nowhere.
    names = {bare(name) for name in files.series_of(expr) if not name.startswith("indexer_process_")}
    assert names <= files.METRICS.keys(), title
    assert names or "indexer_process_" in expr
    labels = set().union(files.SCRAPE_LABELS, {"le"}, *(files.METRICS[name][2] for name in names))
    for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expr):
        assert {label.strip() for label in group.split(",")} <= labels
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels
    for name in names:
        if name.endswith("_total"):
            assert re.search(rf"(?:rate|increase)\({name}\{{", expr), f"{name} is a counter: ask for its rate"


def test_panels_have_room() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not mine & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= mine


def test_prometheus_reads_every_expression(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: no expression was parsed (Debian: apt-get install prometheus)")
    rules = [
        {"record": f"panel:{n}", "expr": expr.replace("$job", "indexer")} for n, (_, expr, _) in enumerate(TARGETS)
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
