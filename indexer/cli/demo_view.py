"""What the demo shows: a live picture on a terminal, plain lines elsewhere, and a drawing for the documentation."""

from __future__ import annotations

import io
from collections import deque
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

BAR_CELLS = 28
LINE_S = 2.0
RATE_S = 2.5
LAGS_MAX = 40
QUESTIONS_MAX = 3
OPTIONS_MAX = 4
DRAWING_COLUMNS = 92
_LEVELS = "▁▂▃▄▅▆▇█"

# The frame around an exported picture: no fonts from elsewhere, so that it looks alike without a network.
_SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px;
line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class View:
    """`say` a fact once; `show` the moving picture."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False)
        self._live: Live | None = None
        self._said_at = -LINE_S
        self._seen: deque[tuple[float, int]] = deque()
        self._lags: deque[int] = deque(maxlen=LAGS_MAX)
        self._picture: RenderableType | None = None

    def say(self, topic: str, words: str) -> None:
        """One line that stays."""
        self._console.print(Text.assemble((f"{topic:<11}", "bold"), words), soft_wrap=True)

    def show(self, now_s: float, picture: dict[str, Any], landed: int) -> None:
        """The state of things at this second."""
        rate = self._rate(now_s, picture.get("rows"))
        self._lags.append(picture.get("lag_slots") or 0)
        self._picture = drawn(now_s, picture, landed, rate, tuple(self._lags))
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False)
                self._live.start()
            self._live.update(self._picture, refresh=True)
        elif now_s - self._said_at >= LINE_S:
            self._said_at = now_s
            self._console.print(_line(now_s, picture, landed, rate), soft_wrap=True)

    def _rate(self, now_s: float, rows: int | None) -> float:
        """Rows a second over the last `RATE_S` seconds."""
        # A picture that could not be taken knows no rows: that is not minus a thousand a second.
        self._seen.append((now_s, rows or (self._seen[-1][1] if self._seen else 0)))
        while now_s - self._seen[0][0] > RATE_S:
            self._seen.popleft()
        (then, before), (_, now) = self._seen[0], self._seen[-1]
        return (now - before) / (now_s - then) if now_s > then else 0.0

    def done(self) -> None:
        """The picture stands still from here on."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def save(self, path: Path) -> None:
        """The last picture as an SVG file."""
        if self._picture is None:
            return
        console = Console(file=io.StringIO(), record=True, width=DRAWING_COLUMNS, force_terminal=True, highlight=False)
        console.print(self._picture)
        path.write_text(console.export_svg(title="make demo", code_format=_SVG, unique_id="demo"))


def _slots(picture: dict[str, Any]) -> str:
    names = ("sealed", "projected", "tip")
    return "  ".join(f"{name} {_known(picture.get(name + '_slot'))}" for name in names)


def _known(value: object) -> str:
    return "–" if value is None else str(value)


def _counts(picture: dict[str, Any]) -> str:
    counts = picture.get("counts") or {}
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "no tables yet"


def _line(now_s: float, picture: dict[str, Any], landed: int, rate: float) -> str:
    lag = f"lag {_known(picture.get('lag_slots'))} slots"
    return f"{now_s:5.1f} s  {_slots(picture)}  {lag}  {rate:4.0f} rows/s  landed {landed}  {_counts(picture)}"


def sparkline(values: tuple[int, ...]) -> str:
    """One cell a value, as tall as its share of the largest."""
    top = max(values, default=0) or 1
    return "".join(_LEVELS[round(value / top * (len(_LEVELS) - 1))] for value in values)


def drawn(now_s: float, picture: dict[str, Any], landed: int, rate: float, lags: tuple[int, ...]) -> RenderableType:
    """The whole picture: where the indexer stands, then questions with their bars."""
    lag = picture.get("lag_slots")
    behind = "red" if (lag or 0) > 2 else "green"
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", width=8)
    facts.add_row("time", f"{now_s:.1f} s")
    facts.add_row("chain", f"{landed:,} transactions landed")
    facts.add_row("slots", _slots(picture))
    facts.add_row("lag", Text.assemble(f"{f'{_known(lag)} slots':<9}", (sparkline(lags), behind)))
    facts.add_row("ledger", f"{picture.get('rows') or 0:,} rows, {rate:.0f} rows/s")
    facts.add_row("tables", _counts(picture))
    parts: list[RenderableType] = [facts]
    for question in (picture.get("questions") or [])[:QUESTIONS_MAX]:
        parts += [Text(""), *_question(question)]
    return Group(*parts)


def _question(question: dict[str, Any]) -> list[RenderableType]:
    ballots = f"{question['status'].lower()}, {question['ballots_cast']} ballots"
    head = Text.assemble((f"{question['community']}: {question['text']}"[:60], "bold"), f"  ({ballots})")
    tallies = question["tallies"] or [0] * len(question["options"])
    if question["ballot_kind"] == "Sealed" and not any(tallies):
        return [head, Text("  sealed: nobody knows before the reveal", style="bright_black")]
    total = max(1, sum(tallies))
    table = Table.grid(padding=(0, 1))
    for option, votes in list(zip(question["options"], tallies, strict=False))[:OPTIONS_MAX]:
        cells = round(BAR_CELLS * votes / total)
        bar = Text.assemble(("━" * cells, "cyan"), ("─" * (BAR_CELLS - cells), "bright_black"))
        table.add_row(f"  {option[:24]:<24}", bar, f"{votes}")
    if len(tallies) > OPTIONS_MAX:
        table.add_row(f"  and {len(tallies) - OPTIONS_MAX} more", "", "")
    return [head, table]
