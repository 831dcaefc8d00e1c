"""The projected rows against the accounts on the chain, field by field.

The node gives all accounts at one slot, S. Rows are compared when the tables have reached S; what differs is looked at again a few
times, because the chain moves on between the two reads, and only what stays different is reported.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from programs.codec import CodecError
from programs.errors import EXIT_UNREACHABLE, UserError
from projections import catalogue
from projections.catalogue import Conn, State
from projections.decoding import ProgramSpec
from projections.model import Key, Projection, Row, clean
from projections.store import query, quoted
from projections.views import installed_name
from schema import db

LOOKS = 6
PAUSE_S = 0.7
_ACCOUNTS_MAX = 100
MISSING = "(missing)"


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which the table and the chain disagree; field '' is the row or the account as a whole."""

    projection: str
    table: str
    key: str
    field: str
    in_table: Any
    on_chain: Any
    updated_slot: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """`slot`: of the accounts. `remedy` is None when nothing differs."""

    slot: int
    accounts: int
    rows: int
    undecodable: int
    differences: tuple[Difference, ...]
    remedy: str | None


class Chain:
    """The two calls that are needed, over HTTP."""

    def __init__(self, url: str, timeout_s: float = 30.0) -> None:
        self._client = httpx.Client(timeout=timeout_s)
        self._url = url

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def program_accounts(self, program: str) -> tuple[int, dict[str, bytes]]:
        """The slot, and the data of every account of the program."""
        options = {"encoding": "base64", "commitment": "confirmed", "withContext": True}
        result = self._call("getProgramAccounts", [program, options])
        return result["context"]["slot"], {
            a["pubkey"]: base64.b64decode(a["account"]["data"][0]) for a in result["value"]
        }

    def accounts(self, program: str, addresses: Sequence[str]) -> tuple[int, dict[str, bytes]]:
        """The slot, and the data of those of the addresses that are accounts of the program. At most 100."""
        result = self._call("getMultipleAccounts", [list(addresses), {"encoding": "base64", "commitment": "confirmed"}])
        pairs = zip(addresses, result["value"], strict=True)
        return result["context"]["slot"], {
            a: base64.b64decode(v["data"][0]) for a, v in pairs if v is not None and v["owner"] == program
        }

    def _call(self, method: str, params: list[Any]) -> Any:
        try:
            reply = self._client.post(self._url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
            body = reply.json()
        except (httpx.HTTPError, ValueError) as error:
            raise UserError(
                f"INDEXER_RPC_URL: {method}: {type(error).__name__}; is the node up?", EXIT_UNREACHABLE
            ) from None
        if not isinstance(body, dict) or "result" not in body:
            detail = body.get("error") if isinstance(body, dict) else reply.status_code
            raise UserError(f"INDEXER_RPC_URL: {method}: {detail}; does the node serve it?", EXIT_UNREACHABLE)
        return body["result"]


def reconcile(dsn: str, specs: Sequence[ProgramSpec], url: str, *, timeout_s: float = 30.0) -> Report:
    """Compare everything. UserError, exit code 3, when the tables do not reach the accounts' slot in time."""
    chain = Chain(url, timeout_s)
    slot = accounts = rows = undecodable = 0
    found: list[Difference] = []
    try:
        with db.connect(dsn, application="indexer-reconcile") as conn:
            for spec in specs:
                at, held = chain.program_accounts(spec.address)
                slot, accounts = max(slot, at), accounts + len(held)
                _wait(conn, spec, at, timeout_s)
                for projection in spec.projections:
                    if projection.accounts:
                        differing, compared, broken = _settled(conn, chain, spec, projection, at, held)
                        found += differing
                        rows, undecodable = rows + compared, undecodable + broken
            remedy = _remedy(conn, dsn, specs, found, undecodable)
    finally:
        chain.close()
    return Report(slot, accounts, rows, undecodable, tuple(found), remedy)


def _wait(conn: Conn, spec: ProgramSpec, slot: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    projected = None
    while time.monotonic() < deadline:
        row = conn.execute("SELECT projected_slot FROM events.freshness WHERE program = %s", (spec.name,)).fetchone()
        projected = None if row is None else row[0]
        if projected is not None and projected >= slot:
            return
        time.sleep(0.1)
    raise UserError(
        f"{spec.name}: the tables are at slot {projected}, the accounts at {slot}; start `indexer run`, or give it time",
        EXIT_UNREACHABLE,
    )


def _settled(
    conn: Conn, chain: Chain, spec: ProgramSpec, projection: Projection, slot: int, held: dict[str, bytes]
) -> tuple[list[Difference], int, int]:
    tables = _rows(conn, spec, projection, None)
    compared = sum(map(len, tables.values()))
    differing, broken = compare(spec, projection, slot, held, tables)
    for _ in range(LOOKS - 1):
        keys = sorted({d.key for d in differing})
        if not keys:
            break
        time.sleep(PAUSE_S)
        # Only what differed is read again, both sides close to each other.
        again: dict[str, bytes] = {}
        for at in range(0, len(keys), _ACCOUNTS_MAX):
            slot, some = chain.accounts(spec.address, keys[at : at + _ACCOUNTS_MAX])
            again.update(some)
        _wait(conn, spec, slot, 10.0)
        differing, _ = compare(spec, projection, slot, again, _rows(conn, spec, projection, keys))
    return differing, compared, broken


def _rows(conn: Conn, spec: ProgramSpec, projection: Projection, keys: list[str] | None) -> dict[str, dict[Key, Row]]:
    state: State = catalogue.states(conn)[installed_name(spec, projection)]
    found: dict[str, dict[Key, Row]] = {}
    for table in projection.tables:
        (key,) = [c.name for c in table.primary_key.columns]
        where = "" if keys is None else f" WHERE {quoted(key)} = ANY(%s)"
        cursor = conn.execute(
            query(f"SELECT * FROM {quoted(state.schema)}.{quoted(table.name)}{where}"), None if keys is None else [keys]
        )
        names = [c.name for c in cursor.description or ()]
        at = names.index(key)
        found[table.name] = {(values[at],): dict(zip(names, values, strict=True)) for values in cursor}
    return found


def compare(
    spec: ProgramSpec, projection: Projection, slot: int, held: Mapping[str, bytes], tables: dict[str, dict[Key, Row]]
) -> tuple[list[Difference], int]:
    """Differences between accounts and rows, and how many accounts do not decode. Pure."""
    name = installed_name(spec, projection)
    found: list[Difference] = []
    seen: set[tuple[str, Key]] = set()
    broken = 0
    codec = spec.codec_at(slot)
    for address, data in held.items():
        try:
            decoded = codec.decode_account(data)
        except CodecError as error:
            broken += 1
            found.append(Difference(name, "", address, "", MISSING, f"undecodable: {error}", None))
            continue
        expectation = projection.accounts.get(decoded.name)
        if expectation is None:
            continue
        table, key, expected = expectation(address, clean(decoded.data))
        seen.add((table, key))
        row = tables[table].get(key)
        if row is None or projection.gone(table, row):
            found.append(
                Difference(name, table, address, "", MISSING if row is None else row.get("status"), "account", None)
            )
            continue
        for column, value in expected.items():
            if row[column] != value:
                found.append(Difference(name, table, address, column, row[column], value, row["updated_slot"]))
    for table, rows in tables.items():
        for key, row in rows.items():
            if (table, key) not in seen and not projection.gone(table, row):
                found.append(Difference(name, table, str(key[0]), "", "row", MISSING, row["updated_slot"]))
    return found, broken


def _remedy(
    conn: Conn, dsn: str, specs: Sequence[ProgramSpec], found: Sequence[Difference], undecodable: int
) -> str | None:
    """The first thing that can explain the differences, tried in the order of its cost."""
    if not found:
        return None
    if undecodable:
        return "accounts do not decode: the IDL is not the program's; fetch or mend it (indexer idl check), then indexer rebuild"
    row = conn.execute("SELECT count(*) FROM ledger.dead_letters WHERE resolved_at IS NULL").fetchone()
    if row is not None and row[0]:
        return "events are parked: indexer dead-letters list, mend the cause, indexer dead-letters retry"
    from projections.rebuild import rebuild

    for name in sorted({d.projection for d in found}):
        if any(not d.equal for d in rebuild(dsn, specs, name, dry_run=True).differences):
            return f"the tables are not what the ledger says: indexer rebuild {name}"
    slots = [d.updated_slot for d in found if d.updated_slot is not None]
    first = min(slots) if slots and len(slots) == len(found) else 0
    return f"the ledger lacks transactions: indexer replay --from-slot {first}"
