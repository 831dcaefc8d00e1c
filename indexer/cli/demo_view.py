"""What the demo shows: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

BAR_CELLS = 24
LINE_S = 2.0


class View:
    """`say` a fact once; `show` the moving picture."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False)
        self._live: Live | None = None
        self._said_at = -LINE_S
        self._last: tuple[float, int] = (0.0, 0)

    def say(self, topic: str, words: str) -> None:
        """One line that stays."""
        self._console.print(Text.assemble((f"{topic:<11}", "bold"), words), soft_wrap=True)

    def show(self, now_s: float, picture: dict[str, Any], landed: int) -> None:
        """The state of things at this second."""
        then, before = self._last
        events = picture.get("events") or 0
        rate = (events - before) / (now_s - then) if now_s > then else 0.0
        self._last = (now_s, events)
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False)
                self._live.start()
            self._live.update(_drawn(now_s, picture, landed, rate), refresh=True)
        elif now_s - self._said_at >= LINE_S:
            self._said_at = now_s
            self._console.print(_line(now_s, picture, landed, rate), soft_wrap=True)

    def done(self) -> None:
        """The picture stands still from here on."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _slots(picture: dict[str, Any]) -> str:
    names = ("sealed", "projected", "tip")
    parts = [f"{name} {picture[name + '_slot'] if picture.get(name + '_slot') is not None else '–'}" for name in names]
    lag = picture.get("lag_slots")
    return "  ".join([*parts, f"lag {'–' if lag is None else lag} slots"])


def _line(now_s: float, picture: dict[str, Any], landed: int, rate: float) -> str:
    counts = picture.get("counts") or {}
    words = ", ".join(f"{number} {name}" for name, number in counts.items()) or "no tables yet"
    return f"{now_s:5.1f} s  {_slots(picture)}  {rate:4.0f} events/s  landed {landed}  {words}"


def _drawn(now_s: float, picture: dict[str, Any], landed: int, rate: float) -> RenderableType:
    parts: list[RenderableType] = [Text(_line(now_s, picture, landed, rate))]
    for question in picture.get("questions") or []:
        table = Table.grid(padding=(0, 1))
        total = max(1, sum(question["tallies"] or [0]))
        for option, votes in zip(question["options"], question["tallies"] or [], strict=False):
            cells = round(BAR_CELLS * votes / total)
            table.add_row(
                f"  {option[:20]:<20}", Text("█" * cells + "░" * (BAR_CELLS - cells), style="cyan"), f"{votes}"
            )
        head = f"{question['text'][:60]}  ({question['status']}, {question['ballots_cast']} ballots)"
        parts.append(Group(Text(head, style="bold"), table))
    return Group(*parts)
