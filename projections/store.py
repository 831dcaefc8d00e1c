"""Rows between the fold and PostgreSQL: one SELECT a table for what a batch needs, one write a table for what it changed.

Every key in the cache is known to exist in the table or not, so new rows go by COPY and changed ones by one UPDATE; nothing is an
upsert. The cache outlives a batch; the writer's lock on the projection's row makes that sound, and a failed transaction clears it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, LiteralString, cast

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from projections import copytext
from projections.columns import as_put, type_name
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


def literal(value: int | str) -> str:
    """A number or text as a statement has it, whatever the server takes a backslash for. (`sql.Literal` asks the connection how, each time.)"""
    if value.__class__ is int:
        return str(value)
    text = str(value).replace("'", "''")
    return "E'" + text.replace("\\", "\\\\") + "'" if "\\" in text else "'" + text + "'"


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
        types = {c.name: type_name(c.type) for c in made.c}
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
        self._insert: tuple[LiteralString, Callable[[Sequence[Row]], str]] | None = None
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

    def insert(self, rows: Sequence[Row]) -> tuple[LiteralString, str]:
        """The statement that adds rows, and its parameter."""
        if self._insert is None:
            listed = ", ".join(map(quoted, self.columns))
            typed = ", ".join(f"{quoted(c)} {self._types[c]}" for c in self.columns)
            text = (
                f"INSERT INTO {self.name} ({listed}) SELECT {listed} FROM jsonb_to_recordset(%s::jsonb) AS s({typed})"
            )
            self._insert = query(text), copytext.json_rows([(c, self._kinds[c]) for c in self.columns])
        return self._insert[0], self._insert[1](rows)


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


@dataclass(slots=True)
class _Part:
    """The changes of one table: rows that are new, in order of their keys; rows as they were and as they are; keys of rows that are gone; and
    keys that were guessed to have no row, and got none."""

    table: str
    statement: _Sql
    new: list[Row]
    guessed: bool
    before: list[Row]
    changed: list[Row]
    gone: list[Key]
    unproven: list[Key]

    def lines(self) -> Iterator[str]:
        """The new rows for COPY, some at a time: the server stores the first while we make the lines of the next."""
        line, rows = self.statement.line, self.new
        return ("".join(map(line, rows[at : at + _COPY_ROWS])) for at in range(0, len(rows), _COPY_ROWS))

    def insert(self) -> tuple[LiteralString, str]:
        """The new rows in a statement instead, with its parameter."""
        return self.statement.insert(self.new)

    def updates(self) -> Iterator[tuple[LiteralString, str]]:
        """The statements for the changed rows, each with its parameter."""
        for at in range(0, len(self.changed), _WRITE_ROWS_MAX):
            part = slice(at, at + _WRITE_ROWS_MAX)
            update = self.statement.update(self.before[part], self.changed[part])
            if update is not None:
                yield update

    def perform(
        self, conn: psycopg.Connection[Any], lines: Iterable[str], updates: Iterable[tuple[LiteralString, str]]
    ) -> None:
        if self.new:
            try:
                with conn.cursor() as cursor, cursor.copy(self.statement.copy) as copy:
                    for some in lines:
                        copy.write(some)
            except psycopg.errors.UniqueViolation:
                if not self.guessed:
                    raise
                raise Misguessed(self.table) from None
        for statement, parameter in updates:
            conn.execute(statement, [parameter])
        if self.gone:
            conn.execute(self.statement.delete, _columns(self.gone))

    def prove(self, conn: psycopg.Connection[Any]) -> None:
        if self.unproven and conn.execute(self.statement.select, _columns(self.unproven)).fetchone() is not None:
            raise Misguessed(self.table)


def _columns(keys: Iterable[Key]) -> list[list[Any]]:
    return [list(column) for column in zip(*keys, strict=True)]


class Writes:
    """What a batch changed. Rows are replaced and never changed, so another thread may perform this while the next batch is folded."""

    def __init__(self, parts: list[_Part], kept: dict[str, dict[Key, Row | None]]) -> None:
        self.kept = kept
        self._parts = [part for part in parts if part.new or part.changed or part.gone or part.unproven]
        self._texts: list[tuple[list[str], list[tuple[LiteralString, str]]]] | None = None

    def __bool__(self) -> bool:
        return bool(self._parts)

    def prepare(self) -> Writes:
        """Make all texts now: who performs it has nothing left to compute, and does not need the interpreter's lock for that."""
        self._texts = [(["".join(part.lines())], list(part.updates())) for part in self._parts]
        return self

    def statements(self) -> list[str] | None:
        """The same as text, for batches so small that messages to the server are most of their cost; None when it is not to be had.

        What `misguessed` says has to be asked of a UniqueViolation then.
        """
        if any(part.gone or part.unproven for part in self._parts):
            return None
        found = []
        for part in self._parts:
            for statement, parameter in [*([part.insert()] if part.new else ()), *part.updates()]:
                before, after = statement.split("%s")
                found.append(before + literal(parameter) + after)
        return found

    def misguessed(self, error: psycopg.errors.UniqueViolation) -> Misguessed | None:
        """The wrong guess that shows itself in an error of the statements; None when it is none."""
        for part in self._parts:
            if (
                part.guessed
                and part.statement.name
                == f"{quoted(error.diag.schema_name or '')}.{quoted(error.diag.table_name or '')}"
            ):
                return Misguessed(part.table)
        return None

    def perform(self, conn: psycopg.Connection[Any]) -> None:
        """Write it, in the caller's transaction. Misguessed when a row was there that was guessed missing: nothing of it may stay."""
        texts: Sequence[tuple[Iterable[str], Iterable[tuple[LiteralString, str]]]]
        texts = self._texts or [(part.lines(), part.updates()) for part in self._parts]
        for part, (lines, updates) in zip(self._parts, texts, strict=True):
            part.perform(conn, lines, updates)
        for part in self._parts:
            part.prove(conn)


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
        self.changed: dict[str, set[Key]] = {name: set() for name in self._sql}
        self._seen: dict[str, _Seen] | None = {name: _Seen() for name in self._sql} if fresh else None
        assert not (bulk and guesses), "a guess is proven by the batch's own write"
        self._guesses = guesses
        self._guessed: dict[str, set[Key]] = {name: set() for name in self._sql}
        # Rows that made room, of each staged batch that is not committed yet.
        self._leaving: list[dict[str, dict[Key, Row | None]]] = []

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
                if row is _MISSING and self._leaving:
                    row = self._left(table, key)
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

    def _left(self, table: str, key: Key) -> Any:
        """A row that made room and is not committed yet, as it left; _MISSING when it is none of these."""
        for waiting in reversed(self._leaving):
            row = waiting[table].get(key, _MISSING)
            if row is not _MISSING:
                if row is not None:
                    self._stored[table][key] = row
                return row
        return _MISSING

    def _select(self, table: str, missing: list[Key]) -> None:
        statement, held, stored = self._sql[table], self.held[table], self._stored[table]
        columns, width = statement.columns, statement.width
        for values in self._conn.execute(statement.select, _columns(missing)):
            row = dict(zip(columns, values, strict=True))
            for name, convert in statement.loaded:
                row[name] = convert(row[name])
            key = tuple([row[columns[i]] for i in width])
            held[key] = stored[key] = row

    @property
    def size(self) -> int:
        """Rows in the cache."""
        return sum(map(len, self.held.values()))

    def write(self) -> None:
        """The end of a batch, in the caller's transaction: what was changed is written, or, in bulk, only what makes room."""
        self._perform(self.stage())

    def flush(self) -> None:
        """Write everything that was changed."""
        self._perform(Writes([self._staged(table, keys) for table, keys in self.changed.items()], {}))
        for keys in self.changed.values():
            keys.clear()

    def _perform(self, writes: Writes) -> None:
        try:
            writes.perform(self._conn)
        except Misguessed as error:
            self.misguessed(error)
            raise
        self._leaving.clear()

    def stage(self) -> Writes:
        """The end of a batch whose writes are performed elsewhere: what `write` would write, taken out of the store.

        The store goes on as if it were written. `settled` tells it when that is committed; until then rows that had to make room are found
        here, since no other connection can see them.
        """
        parts = []
        if not self._bulk:
            for table, keys in self.changed.items():
                parts.append(self._staged(table, keys))
                keys.clear()
        kept: dict[str, dict[Key, Row | None]] = {name: {} for name in self._sql}
        over = self.size - self._rows_max
        if over > 0:
            parts += self._make_room(over + self._rows_max // 2, kept)
        writes = Writes(parts, kept)
        if writes:
            self._leaving.append(kept)
        elif self._leaving and over > 0:
            # What makes room may be of the batch before.
            for table, rows in kept.items():
                self._leaving[-1][table].update(rows)
        return writes

    def settled(self, writes: Writes) -> None:
        """What was staged is committed."""
        self._leaving = [kept for kept in self._leaving if kept is not writes.kept]

    def misguessed(self, error: Misguessed) -> None:
        """Writes failed by a wrong guess: nothing is guessed about that table for some time."""
        assert self._guesses is not None, "who does not guess is not wrong"
        self._guesses.wrong(error.table)

    def _make_room(self, count: int, leaving_rows: dict[str, dict[Key, Row | None]]) -> list[_Part]:
        parts = []
        for table, held in sorted(self.held.items(), key=lambda item: -len(item[1])):
            going = list(islice(held, min(count, len(held))))
            count -= len(going)
            dirty = self.changed[table]
            leaving = dirty.intersection(going)
            if leaving:
                parts.append(self._staged(table, leaving))
                dirty -= leaving
            stored, kept = self._stored[table], leaving_rows[table]
            for key in going:
                kept[key] = held.pop(key)
                stored.pop(key, None)
            if count <= 0:
                break
        return parts

    def _staged(self, table: str, keys: set[Key]) -> _Part:
        held, stored, guessed = self.held[table], self._stored[table], self._guessed[table]
        new: list[Key] = []
        changed: list[Row] = []
        before: list[Row] = []
        gone: list[Key] = []
        for key in keys:
            row = held[key]
            was = stored.get(key)
            if row is None:
                if was is not None:
                    gone.append(key)
                    del stored[key]
            elif was is None:
                new.append(key)
            else:
                changed.append(row)
                before.append(was)
                stored[key] = row
        # Neighbours in the key's index are then written together.
        new.sort()
        rows: list[Row] = []
        for key in new:
            row = held[key]
            assert row is not None, "told from those that are gone"
            stored[key] = row
            rows.append(row)
        if self._seen is not None:
            self._seen[table].add(new)
        # Of what was guessed missing and is added the table's own key proves it; the rest has to be looked for.
        unproven = guessed.difference(new) if guessed else guessed
        part = _Part(table, self._sql[table], rows, len(unproven) < len(guessed), before, changed, gone, list(unproven))
        guessed.clear()
        return part

    def clear(self) -> None:
        """Forget everything; after a failed transaction, and when the tables changed under the cache."""
        for name in self._sql:
            self.held[name].clear()
            self._stored[name].clear()
            self.changed[name].clear()
            self._guessed[name].clear()
        self._leaving.clear()
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
