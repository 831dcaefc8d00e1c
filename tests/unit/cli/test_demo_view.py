"""What one sees of the demo."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from indexer.cli.demo_view import View, sparkline


def picture(rows: int, lag: int = 0) -> dict[str, Any]:
    question = {"community": "Park", "text": "Trees?", "status": "Open", "ballot_kind": "Open", "ballots_cast": 4}
    question |= {"options": ["yes", "no"], "tallies": [3, 1]}
    sealed = {**question, "text": "Who?", "ballot_kind": "Sealed", "tallies": [0, 0]}
    return {
        "sealed_slot": 9,
        "projected_slot": 8,
        "tip_slot": 9,
        "lag_slots": lag,
        "rows": rows,
        "counts": {"communities": 1, "votes": 4},
        "questions": [question, sealed],
    }


def test_a_line_says_where_everything_stands() -> None:
    out = io.StringIO()
    view = View(out)
    for second, rows in ((0.0, 0), (0.5, 50), (1.0, 100), (1.5, 150), (2.0, 200)):
        view.show(second, picture(rows, lag=1), landed=rows)
    first, last = out.getvalue().splitlines()
    assert first == "  0.0 s  sealed 9  projected 8  tip 9  lag 1 slots     0 rows/s  landed 0  1 communities, 4 votes"
    assert last == "  2.0 s  sealed 9  projected 8  tip 9  lag 1 slots   100 rows/s  landed 200  1 communities, 4 votes"


def test_a_picture_that_could_not_be_taken_is_no_negative_rate() -> None:
    out = io.StringIO()
    view = View(out)
    view.show(0.0, picture(1000), 1000)
    view.show(2.0, {}, 1000)
    assert (
        out.getvalue().splitlines()[1]
        == "  2.0 s  sealed –  projected –  tip –  lag – slots     0 rows/s  landed 1000  no tables yet"
    )


def test_the_drawing_shows_the_bars_and_names_nothing_outside_itself(tmp_path: Path) -> None:
    view = View(io.StringIO())
    view.show(1.0, picture(10, lag=7), 10)
    view.save(tmp_path / "demo.svg")
    drawing = (tmp_path / "demo.svg").read_text()
    ElementTree.fromstring(drawing)
    assert "Trees?" in drawing.replace("&#160;", " ")
    assert "━" * 21 in drawing
    assert "─" * 7 in drawing
    assert "nobody knows before the reveal" in drawing.replace("&#160;", " ")
    assert "url(http" not in drawing
    assert "@import" not in drawing
    assert "@font-face" not in drawing


def test_the_sparkline_is_as_tall_as_the_largest() -> None:
    assert sparkline((0, 7, 14)) == "▁▅█"
    assert sparkline((0, 0)) == "▁▁"
    assert sparkline(()) == ""
