"""Rows between the fold and PostgreSQL: one SELECT a table for what a batch needs, one write a table for what it changed.

Every key in the cache is known to exist in the table or not, so new rows go by COPY and changed ones by one UPDATE; nothing is an
upsert. The cache outlives a batch; the writer's lock on the projection's row makes that sound, and a failed transaction clears it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, LiteralString, cast

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from projections import copytext
from projections.columns import as_put
from projections.guesses import Guesses, Misguessed
from projections.model import PROVENANCE, Key, Projection, Row

# About 2 kB each in memory, so 40 MB: two copies fit beside everything else in what a rebuild may take.
ROWS_MAX = 20_000
_WRITE_ROWS_MAX = 5_000
_COPY_ROWS = 200
_UPDATES_MAX = 256
_ONE_FORM = frozenset({str, int, bool, type(None), datetime})
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def query(text: str) -> LiteralString:
    """A statement that we made ourselves of checked names; the type checker cannot see that it is no user's text."""
    made: Any = text
    return cast(LiteralString, made)


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def physical(table: sa.Table, schema: str) -> sa.Table:
    """The table as it is made in a generation's schema, with the provenance columns."""
    made = table.to_metadata(sa.MetaData(), schema=schema)
    for name in PROVENANCE:
        made.append_column(sa.Column(name, sa.BigInteger if name.endswith("slot") else sa.Text, nullable=False))
    return made


def create_tables(conn: psycopg.Connection[Any], projection: Projection, schema: str) -> None:
    """Make a generation's schema and tables, without the indexes that only readers need."""
    conn.execute(query(f"CREATE SCHEMA {quoted(schema)}"))
    for table in projection.tables:
        conn.execute(query(str(CreateTable(physical(table, schema)).compile(dialect=_DIALECT))))


def create_indexes(conn: psycopg.Connection[Any], projection: Projection, schema: str) -> None:
    """Make the readers' indexes; after a rebuild's rows, since that is cheaper. Then ANALYZE, so that no plan is of empty tables."""
    for table in projection.tables:
        made = physical(table, schema)
        for index in sorted(made.indexes, key=lambda i: str(i.name)):
            conn.execute(query(str(CreateIndex(index).compile(dialect=_DIALECT))))
        conn.execute(query(f"ANALYZE {quoted(schema)}.{quoted(table.name)}"))


class _Sql:
    """The statements of one table, and its rows as COPY wants them."""

    def __init__(self, table: sa.Table, schema: str) -> None:
        made = physical(table, schema)
        self.columns = [c.name for c in made.c]
        self.key = [c.name for c in table.primary_key.columns]
        self.name = f"{quoted(schema)}.{quoted(table.name)}"
        self.width = [self.columns.index(k) for k in self.key]
        listed = ", ".join(map(quoted, self.columns))
        types = {c.name: str(c.type.compile(dialect=_DIALECT)) for c in made.c}
        wanted = ", ".join(f"%s::{types[k]}[]" for k in self.key)
        keys = ", ".join(map(quoted, self.key))
        same = " AND ".join(f"t.{quoted(k)} = s.{quoted(k)}" for k in self.key)
        self.select = query(
            f"SELECT {', '.join('t.' + quoted(c) for c in self.columns)} FROM {self.name} t "
            f"JOIN unnest({wanted}) AS s({keys}) ON {same}"
        )
        self.copy = query(f"COPY {self.name} ({listed}) FROM STDIN")
        self._types, self._same = types, same
        self._kinds = {c.name: c.type for c in made.c}
        self._updates: dict[tuple[str, ...], tuple[LiteralString, Callable[[Sequence[Row]], str]]] = {}
        self.delete = query(f"DELETE FROM {self.name} t USING unnest({wanted}) AS s({keys}) WHERE {same}")
        self.loaded = [(c.name, convert) for c in made.c if (convert := as_put(c.type)) is not None]
        self.line = copytext.line([(c.name, c.type) for c in made.c])

    def update(self, before: Sequence[Row], rows: Sequence[Row]) -> tuple[LiteralString, str] | None:
        """The statement that makes rows of what they were before, and its parameter: only columns that changed in one of them go along.

        None when nothing changed.
        """
        changed: set[str] = set()
        for old, new in zip(before, rows, strict=True):
            for name, value in new.items():
                was = old[name]
                # Equal values may be written differently: 0.0 and -0.0, or 1 and true as JSON.
                if was is not value and (
                    was.__class__ is not value.__class__ or was != value or value.__class__ not in _ONE_FORM
                ):
                    changed.add(name)
        if not changed:
            return None
        names = tuple(c for c in self.columns if c in changed or c in self.key)
        found = self._updates.get(names)
        if found is None:
            typed = ", ".join(f"{quoted(c)} {self._types[c]}" for c in names)
            sets = ", ".join(f"{quoted(c)} = s.{quoted(c)}" for c in names if c not in self.key)
            text = (
                f"UPDATE {self.name} t SET {sets} FROM jsonb_to_recordset(%s::jsonb) AS s({typed}) WHERE {self._same}"
            )
            found = query(text), copytext.json_rows([(c, self._kinds[c]) for c in names])
            if len(self._updates) >= _UPDATES_MAX:
                self._updates.clear()
            self._updates[names] = found
        return found[0], found[1](rows)


class _Seen:
    """Keys that were made, as a Bloom filter: `in` is never wrong when it says no. 16 MiB hold ten million keys, one in fifty wrongly.

    A rebuild's tables outgrow memory; asking the database for every new key whether it is there would cost as much as writing it.
    """

    _BITS = 27

    def __init__(self) -> None:
        self._bits = bytearray(1 << (self._BITS - 3))

    def add(self, keys: Iterable[Key]) -> None:
        bits, mask, shift = self._bits, (1 << self._BITS) - 1, 64 - self._BITS
        for key in keys:
            number = hash(key) & 0xFFFF_FFFF_FFFF_FFFF
            low, high = number & mask, number >> shift
            bits[low >> 3] |= 1 << (low & 7)
            bits[high >> 3] |= 1 << (high & 7)

    def __contains__(self, key: Key) -> bool:
        bits, number = self._bits, hash(key) & 0xFFFF_FFFF_FFFF_FFFF
        low = number & ((1 << self._BITS) - 1)
        if not bits[low >> 3] & 1 << (low & 7):
            return False
        high = number >> (64 - self._BITS)
        return bool(bits[high >> 3] & 1 << (high & 7))


_MISSING: Any = object()


class Store:
    """A generation's rows, the most recently used of them held. `rows_max` bounds what stays between batches.

    Followers write what a batch changed at its end. With `bulk`, rows are written when they must make room, and by `flush`: for a fold
    whose half-way states nobody sees. `fresh` says that the tables are empty and nobody else writes to them. With `guesses`, which do not
    go with `bulk`, `write` raises Misguessed where a batch has to be done again.
    """

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        projection: Projection,
        schema: str,
        rows_max: int = ROWS_MAX,
        *,
        bulk: bool = False,
        fresh: bool = False,
        guesses: Guesses | None = None,
    ) -> None:
        self._conn = conn
        self._sql = {t.name: _Sql(t, schema) for t in projection.tables}
        self._rows_max = rows_max
        self._bulk = bulk
        self.held: dict[str, dict[Key, Row | None]] = {name: {} for name in self._sql}
        # As the table has them. Rows are replaced and never changed, so this holds no second copy of what did not change.
        self._stored: dict[str, dict[Key, Row]] = {name: {} for name in self._sql}
        self._dirty: dict[str, set[Key]] = {name: set() for name in self._sql}
        self._seen: dict[str, _Seen] | None = {name: _Seen() for name in self._sql} if fresh else None
        assert not (bulk and guesses), "a guess is proven by the batch's own write"
        self._guesses = guesses
        self._guessed: dict[str, set[Key]] = {name: set() for name in self._sql}

    def use(self, conn: psycopg.Connection[Any]) -> None:
        """Go on over another connection."""
        self._conn = conn

    def load(self, wanted: Mapping[str, Iterable[tuple[str, Key]]]) -> None:
        """Bring the rows of the keys, by event, into the cache."""
        missing: dict[tuple[str, str], list[Key]] = {}
        for event, keys in wanted.items():
            for table, key in keys:
                held = self.held[table]
                # Put back at the end: a dictionary keeps its order, so the least recently used rows come first.
                row = held.pop(key, _MISSING)
                if row is _MISSING:
                    row = None
                    if self._seen is None or key in self._seen[table]:
                        missing.setdefault((event, table), []).append(key)
                held[key] = row
        guesses = self._guesses
        if guesses is not None:
            for place in [place for place in missing if guesses.novel(*place)]:
                self._guessed[place[1]].update(missing.pop(place))
        for name in {table for _, table in missing}:
            self._select(name, [key for (_, table), keys in missing.items() if table == name for key in keys])
        if guesses is not None:
            for (event, table), keys in missing.items():
                held = self.held[table]
                guesses.looked(event, table, len(keys), sum([held[key] is not None for key in keys]))

    def _select(self, table: str, missing: list[Key]) -> None:
        statement, held, stored = self._sql[table], self.held[table], self._stored[table]
        lists = [list(column) for column in zip(*missing, strict=True)]
        columns, width = statement.columns, statement.width
        for values in self._conn.execute(statement.select, lists):
            row = dict(zip(columns, values, strict=True))
            for name, convert in statement.loaded:
                row[name] = convert(row[name])
            key = tuple([row[columns[i]] for i in width])
            held[key] = stored[key] = row

    def touch(self, changed: Iterable[tuple[str, Key]]) -> None:
        """The rows were changed."""
        for table, key in changed:
            self._dirty[table].add(key)

    @property
    def size(self) -> int:
        """Rows in the cache."""
        return sum(map(len, self.held.values()))

    def write(self) -> None:
        """The end of a batch, in the caller's transaction: what was changed is written, or, in bulk, only what makes room."""
        if not self._bulk:
            self.flush()
        over = self.size - self._rows_max
        if over > 0:
            self._make_room(over + self._rows_max // 2)

    def flush(self) -> None:
        """Write everything that was changed."""
        for table, keys in self._dirty.items():
            if keys:
                self._write(table, keys)
                keys.clear()
        for table, guessed in self._guessed.items():
            if guessed:
                # Not added, so nothing has proven yet that they are not there.
                lists = [list(column) for column in zip(*guessed, strict=True)]
                if self._conn.execute(self._sql[table].select, lists).fetchone() is not None:
                    raise self._misguessed(table)
                guessed.clear()

    def _misguessed(self, table: str) -> Misguessed:
        assert self._guesses is not None, "who does not guess is not wrong"
        self._guesses.wrong(table)
        return Misguessed(table)

    def _make_room(self, count: int) -> None:
        for table, held in sorted(self.held.items(), key=lambda item: -len(item[1])):
            going = list(islice(held, min(count, len(held))))
            count -= len(going)
            dirty = self._dirty[table]
            leaving = dirty.intersection(going)
            if leaving:
                self._write(table, leaving)
                dirty -= leaving
            stored = self._stored[table]
            for key in going:
                del held[key]
                stored.pop(key, None)
            if count <= 0:
                return

    def _write(self, table: str, keys: set[Key]) -> None:
        statement, held, stored = self._sql[table], self.held[table], self._stored[table]
        new: list[Key] = []
        changed: list[Key] = []
        gone: list[Key] = []
        for key in keys:
            row = held[key]
            if row is None:
                if key in stored:
                    gone.append(key)
            elif key in stored:
                changed.append(key)
            else:
                new.append(key)
        # Neighbours in the key's index are then written together.
        new.sort()
        if new:
            try:
                self._add(statement, [held[key] for key in new])  # type: ignore[misc]
            except psycopg.errors.UniqueViolation:
                if self._guessed[table].isdisjoint(new):
                    raise
                raise self._misguessed(table) from None
            self._guessed[table].difference_update(new)
        for at in range(0, len(changed), _WRITE_ROWS_MAX):
            part = changed[at : at + _WRITE_ROWS_MAX]
            update = statement.update([stored[key] for key in part], [held[key] for key in part])  # type: ignore[misc]
            if update is not None:
                self._conn.execute(update[0], [update[1]])
        if gone:
            self._conn.execute(statement.delete, [list(column) for column in zip(*gone, strict=True)])
        for key in new:
            stored[key] = held[key]  # type: ignore[assignment]
        for key in changed:
            stored[key] = held[key]  # type: ignore[assignment]
        for key in gone:
            del stored[key]
        if self._seen is not None:
            self._seen[table].add(new)

    def _add(self, statement: _Sql, rows: Sequence[Row]) -> None:
        line = statement.line
        with self._conn.cursor() as cursor, cursor.copy(statement.copy) as copy:
            # In small parts: the server stores the first rows while we make the lines of the next.
            for at in range(0, len(rows), _COPY_ROWS):
                copy.write("".join([line(row) for row in rows[at : at + _COPY_ROWS]]))

    def clear(self) -> None:
        """Forget everything; after a failed transaction, and when the tables changed under the cache."""
        for name in self._sql:
            self.held[name].clear()
            self._stored[name].clear()
            self._dirty[name].clear()
            self._guessed[name].clear()
        self._seen = None


def delete_scopes(conn: psycopg.Connection[Any], projection: Projection, schema: str, scopes: list[str]) -> None:
    """Remove the rows of scopes, before they are folded anew."""
    assert projection.scope is not None, "only a projection with a scope is folded by scope"
    for table in projection.tables:
        conn.execute(
            sql.SQL("DELETE FROM {}.{} WHERE {} = ANY(%s)").format(
                sql.Identifier(schema), sql.Identifier(table.name), sql.Identifier(projection.scope)
            ),
            [scopes],
        )
