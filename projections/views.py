"""What readers see: views over the live generations, replaced only when their text changed.

A wish for anonymity is honoured here, in every view: the voting tables by their own view, the decoded events, the typed views and the account
mirror by a lookup of the row that carries the wish. While there is no such row, because the projection is behind or its event is parked, nobody
knows the wish, and nothing is shown.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeAlias

import psycopg
from psycopg import sql

from programs.codec.layout import Enum, FixedBytes, Named, Node, Option, Record, Scalar, Sized
from programs.errors import UserError
from projections.catalogue import EVENTS, Conn, State
from projections.declared import NAME_BYTES_MAX
from projections.decoding import ProgramSpec
from projections.model import PROVENANCE, Projection, Redaction
from projections.store import create_indexes, create_tables, query, quoted
from schema import roles

# Floats stay JSON: "NaN" is a text there, and they keep one form everywhere.
_SCALARS = {
    **dict.fromkeys(("u8", "u16", "u32", "i8", "i16", "i32", "i64"), "bigint"),
    **dict.fromkeys(("u64", "u128", "u256", "i128", "i256"), "numeric"),
    "pubkey": "text",
    "bool": "boolean",
}


def installed_name(spec: ProgramSpec, projection: Projection) -> str:
    """The name under which a projection of a program is installed, checkpointed and counted."""
    return f"{spec.name}.{projection.name}"


def definitions(specs: Sequence[ProgramSpec], states: dict[str, State]) -> dict[tuple[str, str], str]:
    """Every view's text by schema and name. A projection's views are in the schema of its program's name."""
    found: dict[tuple[str, str], str] = {}
    redactions: list[_Hidden] = []
    for spec in specs:
        for projection in spec.projections:
            state = states[installed_name(spec, projection)]
            for (name, text), clash in projection_views(projection, spec.name, state.schema, found):
                if clash:
                    raise ValueError(f"two projections of {spec.name} have a table or view {name[1]!r}; rename one")
                found[name] = text
            redactions += [
                (r, f"{quoted(state.schema)}.{quoted(r.table)}", spec.address) for r in projection.redactions
            ]
    decoded = f"{quoted(states[EVENTS].schema)}.decoded"
    masked = _masked("e", "e.data ->> {field}", redactions, "e.data ? {field} AND ")
    rows = f"FROM {decoded} e WHERE NOT e.retracted"
    found["events", "decoded"] = (
        "SELECT e.position, e.slot, e.transaction_index, e.event_index, e.signature, e.block_time, e.program, e.name,"
        f" {masked} AS data {rows}"
    )
    found["events", "accounts"] = (
        "SELECT a.address, p.name AS program, a.program AS program_address, a.slot, a.name,"
        f" {_masked('a', 'a.address', redactions)} AS data, a.lamports, a.owner, a.closed, a.error, a.created_slot,"
        " a.slot AS updated_slot FROM projections.accounts a JOIN ledger.programs p ON p.id = a.program_id"
    )
    hidden = frozenset(field for redaction, _, _ in redactions for field in redaction.fields)
    for spec in specs:
        taken: set[str] = set()
        for event in dict.fromkeys(layout.name for layout in spec.idl.events):
            found[f"{spec.name}_events", free_name(event, taken)] = _typed(spec, event, masked, rows, hidden)
    return found


def projection_views(
    projection: Projection, schema: str, tables: str, taken: object = ()
) -> list[tuple[tuple[tuple[str, str], str], bool]]:
    """The reader's views of one projection's tables, and whether a name is taken already."""
    places = {t.name: f"{quoted(tables)}.{quoted(t.name)}" for t in projection.tables}
    texts = {name: f"SELECT * FROM {place}" for name, place in places.items()}
    texts.update({name: text.format(**places) for name, text in projection.views.items()})
    return [(((schema, name), text), (schema, name) in taken) for name, text in texts.items()]  # type: ignore[operator]


# What is hidden, the table that has the wish, and the program whose events and accounts it is about.
_Hidden: TypeAlias = tuple[Redaction, str, str]


def _masked(row: str, key: str, redactions: Sequence[_Hidden], guard: str = "") -> str:
    """The JSON of a row of events or accounts with the fields blanked for which somebody wished so, or may have wished so.

    A scalar look-up by key, not EXISTS: that one the planner may hash, and then a page of twenty events reads every vote.
    """
    text = data = f"{row}.data"
    for redaction, table, address in redactions:
        field = _literal(redaction.event_field)
        fields = [_literal(name) for name in redaction.fields]
        blank = ", ".join(f"{name}, NULL" for name in fields)
        text = (
            f"CASE WHEN {row}.program = {_literal(address)} AND {guard.format(field=field)}{data} ?| ARRAY[{', '.join(fields)}]"
            f" AND coalesce((SELECT r.{quoted(redaction.flag)} FROM {table} r WHERE r.{_key(redaction)} = {key.format(field=field)}), true)"
            f" THEN {text} || jsonb_build_object({blank}) ELSE {text} END"
        )
    return text


def _key(redaction: Redaction) -> str:
    return quoted(redaction.event_field)


def _typed(spec: ProgramSpec, name: str, masked: str, rows: str, hidden: frozenset[str]) -> str:
    """One column a field, or `data` when there are no named fields, or too many. Types that SQL has become that type; the rest stay JSON.

    A field that nobody's wish can hide is read from the data itself: an index on it then serves the view.
    """
    columns = ["e.position", "e.slot", "e.transaction_index", "e.event_index", "e.signature", "e.block_time"]
    taken = {c.removeprefix("e.") for c in columns} | set(PROVENANCE)
    fields = fields_of(spec.codec.layout("event", name))
    if fields is None or len(fields) > _FIELDS_MAX:
        fields = None
        columns.append(f"{masked} AS data")
    for field, kind in fields or ():
        literal = _literal(field)
        column = free_name(field, taken)
        source = f"({masked})" if field in hidden else "e.data"
        value = {
            "text": f"{source} ->> {literal}",
            "bigint": f"({source} ->> {literal})::bigint",
            "numeric": f"({source} ->> {literal})::numeric",
            "boolean": f"({source} ->> {literal})::boolean",
        }.get(kind, f"{source} -> {literal}")
        columns.append(f"{value} AS {quoted(column)}")
    address, event = _literal(spec.address), _literal(name)
    return (
        f"SELECT {', '.join(columns)}, e.slot AS created_slot, e.signature AS created_signature, e.slot AS updated_slot,"
        f" e.signature AS updated_signature {rows} AND e.program = {address} AND e.name = {event}"
    )


def _literal(text: str) -> str:
    """As SQL writes it. U+0000 is U+FFFD in all that is stored."""
    return "'" + text.replace("\x00", "\ufffd").replace("'", "''") + "'"


def fields_of(layout: Node | None) -> list[tuple[str, str]] | None:
    """An event's fields and the SQL type of each: text, bigint, numeric, boolean, or jsonb for what has no plain one. None when it has no
    named fields: an enum, or a struct of unnamed ones.
    """
    body = _body(layout)
    if not isinstance(body, Record) or body.shape == "tuple":
        return None
    return [(str(member.name), _sql_type(member.node)) for member in body.values]


def is_short(layout: Node | None, field: str) -> bool:
    """Whether an event's field of this name, if it has one, is an address, a number or a flag: never more than a few dozen characters."""
    body = _body(layout)
    if not isinstance(body, Record) or body.shape == "tuple":
        return True
    for member in body.values:
        if str(member.name) == field:
            inner = _body(member.node)
            inner = _body(inner.inner) if isinstance(inner, Option) else inner
            return isinstance(inner, Scalar)
    return True


def _body(node: Node | None) -> Node | None:
    while isinstance(node, Named):
        node = node.body
    return node


def _sql_type(node: Node) -> str:
    """The type of a field whose value, in its JSON form, is one text, one number or one boolean, or none."""
    body = _body(node)
    if isinstance(body, Option):
        body = _body(body.inner)
    if isinstance(body, Scalar):
        return _SCALARS.get(body.kind, "jsonb")
    if isinstance(body, Sized | FixedBytes) or (isinstance(body, Enum) and body.plain):
        return "text"
    return "jsonb"


# A view has at most 1,664 columns; an event of more fields is given as one.
_FIELDS_MAX = 1600


def free_name(name: str, taken: set[str]) -> str:
    """A column's or a view's name, unlike all that are taken and within PostgreSQL's bounds. It is taken then."""
    whole = name.replace("\x00", "") or "field"
    free, number = _cut(whole, ""), 1
    while free in taken:
        number += 1
        free = _cut(whole, f"_{number}")
    taken.add(free)
    return free


def _cut(name: str, ending: str) -> str:
    return name.encode()[: NAME_BYTES_MAX - len(ending)].decode(errors="ignore") + ending


def replace_views(conn: Conn, specs: Sequence[ProgramSpec], states: dict[str, State]) -> None:
    """Bring the views up to the states, in the caller's transaction. Only those whose text changed are locked."""
    wanted = definitions(specs, states)
    held = {
        (s, n): text for s, n, text in conn.execute("SELECT schema, name, definition FROM projections.views").fetchall()
    }
    for schema, name in held.keys() - wanted.keys():
        if schema.removesuffix("_events") in {spec.name for spec in specs} or schema == "events":
            drop_view(conn, schema, name)
    changed = {key: text for key, text in wanted.items() if held.get(key) != text}
    # Another order at each attempt: readers take the views in an order of their own, and against a fixed one a busy reader would make every
    # attempt a deadlock.
    _must_not_be_theirs(conn, [key for key in changed if key not in held])
    for (schema, name), text in random.sample([*changed.items()], len(changed)):
        create_view(conn, schema, name, text)
    for schema in sorted({schema for schema, _ in changed}):
        roles.grant_views(conn, schema)


def _must_not_be_theirs(conn: Conn, new: Sequence[tuple[str, str]]) -> None:
    """ValueError when a relation that we did not make has the name of a view that we are about to make: replacing it would lose it."""
    found = conn.execute(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN unnest(%s::text[], %s::text[]) AS w (schema, name) ON w.schema = n.nspname AND w.name = c.relname ORDER BY 1",
        ([schema for schema, _ in new], [name for _, name in new]),
    ).fetchall()
    if found:
        raise ValueError(
            f"INDEXER_DATABASE_URL: {found[0][0]} exists and is not ours; rename it, give the program another name, or use another database"
        )


def make_tables(conn: Conn, name: str, projection: Projection, tables: str) -> None:
    """Make a projection's empty tables in the schema `tables`, and nothing else. UserError when the server refuses them, or an index or a view: these
    are tried out here, before the work of hours at whose end they are made.
    """
    try:
        create_tables(conn, projection, tables)
        with conn.transaction(force_rollback=True):
            create_indexes(conn, projection, tables)
            for number, ((_, text), _clash) in enumerate(projection_views(projection, "", tables)):
                conn.execute(query(f"CREATE VIEW {quoted(tables)}.{quoted(f'view {number}')} AS {text}"))
    except psycopg.errors.InsufficientPrivilege:
        raise
    except psycopg.ProgrammingError as error:
        raise refused(name, error) from None


def refused(name: str, error: psycopg.Error) -> UserError:
    """What the server says of a projection's tables or views, as an error of whoever wrote it."""
    said = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"projection {name}: the database refuses its tables or views: {said[0]}; mend them")


def drop_view(conn: Conn, schema: str, name: str) -> None:
    """Remove a view of ours."""
    conn.execute(query(f"DROP VIEW IF EXISTS {quoted(schema)}.{quoted(name)}"))
    conn.execute("DELETE FROM projections.views WHERE schema = %s AND name = %s", (schema, name))


def create_view(conn: Conn, schema: str, name: str, text: str) -> None:
    """Make or replace a view of ours and record its text."""
    conn.execute(query(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}"))
    full = f"{quoted(schema)}.{quoted(name)}"
    # A parameter's sign would be read in the text: it has none, so no parameters are given.
    try:
        with conn.transaction():
            conn.execute(query(f"CREATE OR REPLACE VIEW {full} AS {text}"))
    except (psycopg.errors.InvalidTableDefinition, psycopg.errors.WrongObjectType):
        conn.execute(query(f"DROP VIEW {full}"))
        conn.execute(query(f"CREATE VIEW {full} AS {text}"))
    conn.execute(
        sql.SQL(
            "INSERT INTO projections.views (schema, name, definition) VALUES (%s, %s, %s)"
            " ON CONFLICT (schema, name) DO UPDATE SET definition = excluded.definition"
        ),
        (schema, name, text),
    )
