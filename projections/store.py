"""Rows between the fold and PostgreSQL: one SELECT a table for what a batch needs, one write a table for what it changed.

Every key in the cache is known to exist in the table or not, so new rows go by COPY and changed ones by one UPDATE; nothing is an
upsert. The cache outlives a batch; the writer's lock on the projection's row makes that sound, and a failed transaction clears it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, LiteralString, cast

import psycopg
import sqlalchemy as sa
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from projections.model import PROVENANCE, Key, Projection, Row

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
    """The statements of one table."""

    def __init__(self, table: sa.Table, schema: str) -> None:
        made = physical(table, schema)
        self.columns = [c.name for c in made.c]
        self.key = [c.name for c in table.primary_key.columns]
        self.json = frozenset(c.name for c in made.c if isinstance(c.type, sa.JSON))
        self.name = f"{quoted(schema)}.{quoted(table.name)}"
        self.stage = quoted(f"stage_{schema}_{table.name}"[:60])
        listed = ", ".join(map(quoted, self.columns))
        types = [str(table.c[k].type.compile(dialect=_DIALECT)) for k in self.key]
        wanted = ", ".join(f"%s::{kind}[]" for kind in types)
        keys = ", ".join(map(quoted, self.key))
        same = " AND ".join(f"t.{quoted(k)} = s.{quoted(k)}" for k in self.key)
        self.select = query(
            f"SELECT {', '.join('t.' + quoted(c) for c in self.columns)} FROM {self.name} t "
            f"JOIN unnest({wanted}) AS s({keys}) ON {same}"
        )
        self.copy = query(f"COPY {self.name} ({listed}) FROM STDIN")
        self.make_stage = query(
            f"CREATE TEMP TABLE IF NOT EXISTS {self.stage} (LIKE {self.name}) ON COMMIT DELETE ROWS"
        )
        self.copy_stage = query(f"COPY {self.stage} ({listed}) FROM STDIN")
        changed = ", ".join(f"{quoted(c)} = s.{quoted(c)}" for c in self.columns if c not in self.key)
        self.update = query(f"UPDATE {self.name} t SET {changed} FROM {self.stage} s WHERE {same}")
        self.empty_stage = query(f"DELETE FROM {self.stage}")
        self.delete = query(f"DELETE FROM {self.name} t USING unnest({wanted}) AS s({keys}) WHERE {same}")

    def values(self, row: Row) -> list[Any]:
        if not self.json:
            return [row[c] for c in self.columns]
        return [Jsonb(row[c]) if c in self.json and row[c] is not None else row[c] for c in self.columns]


class Store:
    """A generation's rows. `rows_max` bounds the cache between batches."""

    def __init__(
        self, conn: psycopg.Connection[Any], projection: Projection, schema: str, rows_max: int = 50_000
    ) -> None:
        self._conn = conn
        self._sql = {t.name: _Sql(t, schema) for t in projection.tables}
        self._rows_max = rows_max
        self.held: dict[str, dict[Key, Row | None]] = {name: {} for name in self._sql}
        self._stored: dict[str, set[Key]] = {name: set() for name in self._sql}
        self._dirty: dict[str, set[Key]] = {name: set() for name in self._sql}
        # A table that is known to be empty needs no SELECT.
        self._maybe: dict[str, bool] = dict.fromkeys(self._sql, True)

    def known_empty(self) -> None:
        """The tables were just made."""
        self._maybe = dict.fromkeys(self._sql, False)

    def load(self, keys: Iterable[tuple[str, Key]]) -> None:
        """Bring the rows of the keys into the cache."""
        wanted: dict[str, set[Key]] = {}
        for table, key in keys:
            if key not in self.held[table]:
                wanted.setdefault(table, set()).add(key)
        for table, missing in wanted.items():
            held = self.held[table]
            for key in missing:
                held[key] = None
            if self._maybe[table]:
                self._select(table, missing)

    def _select(self, table: str, missing: set[Key]) -> None:
        statement = self._sql[table]
        # The cursor's default prepares after a few uses; the plan stays a key lookup because ANALYZE ran.
        lists = [list(column) for column in zip(*missing, strict=True)]
        width = [statement.columns.index(k) for k in statement.key]
        for values in self._conn.execute(statement.select, lists):
            key = tuple(values[i] for i in width)
            self.held[table][key] = dict(zip(statement.columns, values, strict=True))
            self._stored[table].add(key)

    def touch(self, table: str, key: Key) -> None:
        """The row was changed."""
        self._dirty[table].add(key)

    @property
    def size(self) -> int:
        """Rows in the cache."""
        return sum(map(len, self.held.values()))

    def write(self) -> None:
        """Write what was changed, in the caller's transaction."""
        for table, keys in self._dirty.items():
            if keys:
                self._write(table, keys)
                keys.clear()
        if self.size > self._rows_max:
            self.clear()

    def _write(self, table: str, keys: set[Key]) -> None:
        statement, held, stored = self._sql[table], self.held[table], self._stored[table]
        new: list[Row] = []
        changed: list[Row] = []
        gone: list[Key] = []
        for key in keys:
            row = held[key]
            if row is None:
                if key in stored:
                    gone.append(key)
            else:
                (changed if key in stored else new).append(row)
        with self._conn.cursor() as cursor:
            if new:
                with cursor.copy(statement.copy) as copy:
                    for row in new:
                        copy.write_row(statement.values(row))
                self._maybe[table] = True
                stored.update(tuple(row[k] for k in statement.key) for row in new)
            if changed:
                cursor.execute(statement.make_stage)
                with cursor.copy(statement.copy_stage) as copy:
                    for row in changed:
                        copy.write_row(statement.values(row))
                cursor.execute(statement.update)
                cursor.execute(statement.empty_stage)
            if gone:
                cursor.execute(statement.delete, [list(column) for column in zip(*gone, strict=True)])
                stored.difference_update(gone)

    def clear(self) -> None:
        """Forget everything; after a failed transaction, and when the tables changed under the cache."""
        for name in self._sql:
            self.held[name].clear()
            self._stored[name].clear()
            self._dirty[name].clear()
            self._maybe[name] = True


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
