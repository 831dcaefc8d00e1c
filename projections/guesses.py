"""Which events bring keys that no row has: so that rows are not looked for which are not there.

A guess is never trusted. Of a row that was guessed missing, the table's own key proves it when the row is added; what was guessed and
not added is looked for before the batch commits. A wrong guess fails the batch, which is then done again without guessing.
"""

from __future__ import annotations

# So many keys of an event in a row had no row before the next ones are guessed to have none.
_ENOUGH = 500
# After a wrong guess four times as many, up to this: a batch that is done twice costs more than a few hundred look-ups.
_ENOUGH_MAX = 1_000_000


class Misguessed(Exception):
    """A row was there that was guessed missing. Nothing of the batch may stay; done again, it looks first."""

    def __init__(self, table: str) -> None:
        super().__init__(f"{table}: a row was there that was guessed missing")
        self.table = table


class Guesses:
    """By event and table, how many keys were missing since the last that was not. Lives longer than a cache of rows."""

    def __init__(self) -> None:
        self._missing: dict[tuple[str, str], int] = {}
        self._enough: dict[tuple[str, str], int] = {}

    def novel(self, event: str, table: str) -> bool:
        """Whether the event's next keys are guessed to have no row."""
        place = (event, table)
        return self._missing.get(place, 0) >= self._enough.get(place, _ENOUGH)

    def looked(self, event: str, table: str, keys: int, rows: int) -> None:
        """What looking for keys of an event found."""
        place = (event, table)
        self._missing[place] = 0 if rows else self._missing.get(place, 0) + keys

    def wrong(self, table: str) -> None:
        """A guess about a table was wrong: whichever event made it, none is trusted for some time."""
        for place in self._missing:
            if place[1] == table:
                self._missing[place] = 0
                self._enough[place] = min(_ENOUGH_MAX, 4 * self._enough.get(place, _ENOUGH))
