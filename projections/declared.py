"""What a projection's tables, views and redactions must be like, so that nothing of them fails later than when it is made.

Whatever PostgreSQL would say at the first batch, or at the end of a rebuild of hours, is said here, where it can be told from the declaration.
What only the server can tell is tried out by `views.make_tables`; what a value must be like stands in `columns.py`, what a handler may do in
`purity.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from projections.columns import accepts, unfit

if TYPE_CHECKING:
    from projections.model import Redaction

# Of PostgreSQL: what is longer is cut off without a word.
NAME_BYTES_MAX = 63
_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})


def wrong_tables(tables: Sequence[sa.Table], scope: str | None, filled: Sequence[str]) -> str | None:
    """What is wrong with the tables, and what to write; None when nothing is. `filled`: the columns that the framework adds."""
    return next(_wrong_tables(tables, scope, filled), None)


def _wrong_tables(tables: Sequence[sa.Table], scope: str | None, filled: Sequence[str]) -> Iterator[str]:
    if not tables:
        yield "no tables; give at least one"
    # Tables, their keys and indexes share the names of one schema.
    relations: set[str] = set()
    for table in tables:
        for problem in _wrong_table(table, scope, filled):
            yield f"table {table.name}: {problem}"
        for kind, name in _relations(table):
            odd = _wrong_name(name)
            if odd is not None:
                yield f"table {table.name}: {kind} {name!r}: {odd}"
            if name in relations:
                yield f"table {table.name}: {kind} {name!r}: another table or index has this name; rename one"
            relations.add(name)


def _relations(table: sa.Table) -> Iterator[tuple[str, str]]:
    yield "name", table.name
    yield "key", str(table.primary_key.name or f"{table.name}_pkey")
    for index in sorted(table.indexes, key=lambda i: str(i.name)):
        yield "index", str(index.name)


def _wrong_name(name: str) -> str | None:
    if not name or "%" in name or "\x00" in name:
        return "a name has letters, and no % or U+0000"
    if len(name.encode()) > NAME_BYTES_MAX:
        return f"a name has at most {NAME_BYTES_MAX} bytes; shorten it"
    return None


def _wrong_table(table: sa.Table, scope: str | None, filled: Sequence[str]) -> Iterator[str]:
    if table.schema is not None:
        yield f"schema={table.schema!r}: the framework chooses the schema; leave it out"
    odd = [name for name in ("postgresql_partition_by", "postgresql_inherits") if table.kwargs.get(name)]
    if table._prefixes or odd:
        yield f"{odd[0] if odd else table._prefixes[0]}: rows are kept in a plain table; leave it out"
    if not table.primary_key.columns:
        yield "no key; give a column primary_key=True"
    for constraint in [*table.constraints, *(each for column in table.columns for each in column.constraints)]:
        if not isinstance(constraint, sa.PrimaryKeyConstraint):
            yield (
                f"a {type(constraint).__name__} is checked by the database for a whole batch; leave it out and let the handler raise"
            )
    for index in table.indexes:
        if index.unique:
            yield f"index {index.name} is unique; make these columns the key instead"
    for column in table.columns:
        if column.name in filled:
            yield f"column {column.name} is filled by the framework; leave it out"
        for problem in _wrong_column(column):
            yield f"column {column.name}: {problem}"
    if scope is not None:
        if scope not in table.c:
            yield f"no column {scope!r}, the projection's scope; add it, or set scope=None"
        elif not isinstance(table.c[scope].type, sa.String):
            yield f"column {scope} is the projection's scope; make it sa.Text"


def _wrong_column(column: sa.Column[Any]) -> Iterator[str]:
    name = _wrong_name(column.name)
    if name is not None:
        yield name
    if column.name in _SYSTEM_COLUMNS:
        yield "PostgreSQL has a column of its own with this name; choose another"
    kind = unfit(column.type)
    if kind is not None:
        yield kind
        return
    if column.primary_key and isinstance(column.type, sa.JSON | sa.ARRAY | sa.Float):
        yield f"{column.type!r} is no type of a key; use text, whole numbers, bytes, a UUID or a time"
    if column.server_default is not None or column.computed is not None or column.identity is not None:
        yield "is filled by the database; give default=<a value> or let the handler put it"
    default = column.default
    if default is None:
        return
    if not (isinstance(default, sa.ColumnDefault) and default.is_scalar):
        yield "default must be a plain value"
        return
    wanted = accepts(column)
    if default.arg.__class__ not in wanted.kinds or wanted.refuses(default.arg):
        yield f"default={default.arg!r} does not fit; give {wanted.wants}"


def wrong_views(views: Mapping[str, str], tables: Sequence[sa.Table]) -> str | None:
    """What is wrong with the reader's views, as far as their text tells without a database."""
    places = {table.name: "t" for table in tables}
    for name, text in views.items():
        problem = _wrong_name(name)
        if problem is not None:
            return f"view {name!r}: {problem}"
        try:
            text.format(**places)
        except (KeyError, IndexError):
            known = ", ".join(f"{{{place}}}" for place in places)
            return f"view {name}: its text names a table that is not there; it has {known}, and a brace that means itself is written twice"
        except ValueError as error:
            return f"view {name}: {error}; a brace that means itself is written twice"
    return None


def wrong_accounts(accounts: Mapping[str, object], tables: Sequence[sa.Table]) -> str | None:
    """What hinders rows from being compared with accounts."""
    for table in tables if accounts else ():
        keys = list(table.primary_key.columns)
        if len(keys) != 1 or not isinstance(keys[0].type, sa.String):
            return (
                f"table {table.name}: rows are compared with accounts by address, so the key is one column of sa.Text;"
                " make such a table a projection of its own, or leave accounts out"
            )
    return None


def wrong_redaction(redaction: Redaction, tables: Sequence[sa.Table]) -> str | None:
    """What is wrong with a redaction: it would hide nothing, or too much."""
    table = next((t for t in tables if t.name == redaction.table), None)
    if table is None:
        return f"redaction of unknown table {redaction.table!r}; there is {', '.join(t.name for t in tables)}"
    if [c.name for c in table.primary_key.columns] != [redaction.event_field]:
        return f"redaction of {table.name}: event_field={redaction.event_field!r} is not the table's key; it must be, in events and table alike"
    if redaction.flag not in table.c or not isinstance(table.c[redaction.flag].type, sa.Boolean):
        return f"redaction of {table.name}: flag={redaction.flag!r} is no boolean column of it"
    if not redaction.fields:
        return f"redaction of {table.name}: no fields; name what is hidden"
    return None
