"""The projected rows against the accounts on the chain, field by field, at one slot.

The node gives all accounts as they were at a slot S; the tables have reached S or gone beyond it. What differs is looked at again, and then
a row that has changed after S is folded anew from the events up to S: a question that is voted on in every slot is compared as exactly as
one that rests. Only what stays different is reported.
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from programs.body import ACCEPTED, Body, BodyRefused
from programs.codec import CodecError
from programs.errors import EXIT_UNREACHABLE, UserError
from programs.urls import scrubbed
from projections import catalogue
from projections.apply import Target, stored_events
from projections.catalogue import EVENTS, Conn, State
from projections.decoding import ProgramSpec
from projections.fold import MemoryStore, fold
from projections.model import Key, Projection, Row, clean
from projections.store import Store, query, quoted
from projections.views import installed_name
from schema import db

LOOKS = 4
PAUSE_S = 0.7
MISSING = "(missing)"
_ACCOUNTS_MAX = 100
_ROWS_AT_ONCE = 5_000
_REFOLD_EVENTS = 2_000
# A differing row is looked at again; so many rows that differ at once are no matter of timing.
_SUSPECTS_MAX = 20_000
_CALL_ATTEMPTS = 6
_BACKOFF_S = 0.25
_BACKOFF_S_MAX = 5.0
# A listing is held whole, so this bounds what the comparison takes of memory, whatever a node sends.
_BODY_BYTES_MAX = 1 << 30
# A listing that trickles in for ever ends here.
_BODY_SECONDS_MAX = 300.0
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_RETRY_CODES = frozenset({429, -32029, -32005, -32016})


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which the table and the chain disagree; field '' is the row or the account as a whole. `scope` is None where it is not known."""

    projection: str
    table: str
    key: str
    field: str
    in_table: Any
    on_chain: Any
    updated_slot: int | None
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """`slot`: of the accounts. `remedy` is None when nothing differs."""

    slot: int
    accounts: int
    rows: int
    undecodable: int
    differences: tuple[Difference, ...]
    remedy: str | None


class _Busy(Exception):
    """Worth another try; `after_s` is what the node asked to wait."""

    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


class Chain:
    """The two calls that are needed, over HTTP: retried with patience, at the next endpoint when there are several."""

    def __init__(self, urls: Sequence[str], timeout_s: float = 30.0) -> None:
        self._client = httpx.Client(timeout=timeout_s)
        self._urls = tuple(urls)

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def program_accounts(self, program: str) -> tuple[int, dict[str, bytes]]:
        """The slot, and the data of every account of the program."""
        options = {"encoding": "base64", "commitment": "confirmed", "withContext": True}
        result = self._call("getProgramAccounts", [program, options])
        with _promised("getProgramAccounts"):
            return _slot(result), {a["pubkey"]: base64.b64decode(a["account"]["data"][0]) for a in result["value"]}

    def accounts(self, program: str, addresses: Sequence[str]) -> tuple[int, dict[str, bytes]]:
        """The slot, and the data of those of the addresses that are accounts of the program. At most 100."""
        result = self._call("getMultipleAccounts", [list(addresses), {"encoding": "base64", "commitment": "confirmed"}])
        with _promised("getMultipleAccounts"):
            pairs = zip(addresses, result["value"], strict=True)
            return _slot(result), {
                a: base64.b64decode(v["data"][0]) for a, v in pairs if v is not None and v["owner"] == program
            }

    def _call(self, method: str, params: list[Any]) -> Any:
        retrying = Retrying(
            retry=retry_if_exception_type(_Busy),
            stop=stop_after_attempt(_CALL_ATTEMPTS * len(self._urls)),
            wait=_patience,
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt:
                    turn = attempt.retry_state.attempt_number - 1
                    return self._ask(self._urls[turn % len(self._urls)], method, params)
        except _Busy as busy:
            raise UserError(f"INDEXER_RPC_URL: {method}: {busy}; is the node up?", EXIT_UNREACHABLE) from None
        raise AssertionError("an attempt returns or raises")

    def _ask(self, url: str, method: str, params: list[Any]) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        until = time.monotonic() + _BODY_SECONDS_MAX
        try:
            with self._client.stream("POST", url, json=request, headers={"accept-encoding": ACCEPTED}) as reply:
                content = Body(reply.headers.get("content-encoding", ""), _BODY_BYTES_MAX)
                for part in reply.iter_raw():
                    content.feed(part)
                    if time.monotonic() > until:
                        raise _Busy(f"an answer that took longer than {_BODY_SECONDS_MAX:.0f} s")
            text = content.whole()
        except httpx.HTTPError as error:
            raise _Busy(type(error).__name__) from None
        except BodyRefused as refused:
            raise _Busy(str(refused)) from None
        if reply.status_code in _RETRY_STATUS:
            raise _Busy(f"HTTP {reply.status_code}", _seconds(reply.headers.get("retry-after")))
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            raise _Busy("an answer that is no JSON") from None
        refusal = body.get("error") if isinstance(body, dict) else None
        if isinstance(refusal, dict) and refusal.get("code") in _RETRY_CODES:
            raise _Busy(scrubbed(f"{refusal.get('message')} ({refusal.get('code')})", url))
        if not isinstance(body, dict) or body.get("result") is None:
            detail = f"HTTP {reply.status_code} without a result" if refusal is None else scrubbed(str(refusal), url)
            raise UserError(f"INDEXER_RPC_URL: {method}: {detail}; does the node serve it?", EXIT_UNREACHABLE)
        return body["result"]


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None


@contextlib.contextmanager
def _promised(method: str) -> Iterator[None]:
    """UserError, exit code 3, where a result is not of the promised shape."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(
            f"INDEXER_RPC_URL: {method}: a result of another shape ({type(error).__name__}); is it a Solana node?",
            EXIT_UNREACHABLE,
        ) from None


def _slot(result: Any) -> int:
    slot = result["context"]["slot"]
    if not isinstance(slot, int):
        raise TypeError("slot")
    return slot


def _patience(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.after_s if isinstance(error, _Busy) else None
    return float(min(_BACKOFF_S_MAX, asked if asked is not None else _BACKOFF_S * 2 ** (state.attempt_number - 1)))


def reconcile(dsn: str, specs: Sequence[ProgramSpec], urls: Sequence[str], *, timeout_s: float = 30.0) -> Report:
    """Compare everything. UserError, exit code 3, when the node or the tables do not come in time."""
    chain = Chain(urls, timeout_s)
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
    """What differs, how many rows were compared, and how many accounts do not decode."""
    first = Comparison(spec, projection, slot, held)
    with conn.transaction():
        for table, row in _rows(conn, spec, projection, None):
            first.row(table, row)
    differing = first.finish()
    for _ in range(LOOKS - 1):
        keys = sorted({d.key for d in differing})
        if not keys or len(keys) > _SUSPECTS_MAX:
            break
        time.sleep(PAUSE_S)
        differing = []
        for at in range(0, len(keys), _ACCOUNTS_MAX):
            some = keys[at : at + _ACCOUNTS_MAX]
            slot, again = chain.accounts(spec.address, some)
            _wait(conn, spec, slot, 10.0)
            look = Comparison(spec, projection, slot, again)
            for table, row in _rows_at(conn, spec, projection, slot, some):
                look.row(table, row)
            differing += look.finish()
    return differing, first.rows, first.undecodable


def _rows(conn: Conn, spec: ProgramSpec, projection: Projection, keys: list[str] | None) -> Iterator[tuple[str, Row]]:
    """Rows of every table, all or those of the keys, through a cursor of the caller's transaction."""
    state: State = catalogue.states(conn)[installed_name(spec, projection)]
    for table in projection.tables:
        (key,) = [c.name for c in table.primary_key.columns]
        where = "" if keys is None else f" WHERE {quoted(key)} = ANY(%s)"
        with conn.cursor(name="reconcile") as cursor:
            cursor.itersize = _ROWS_AT_ONCE
            cursor.execute(
                query(f"SELECT * FROM {quoted(state.schema)}.{quoted(table.name)}{where}"),
                None if keys is None else [keys],
            )
            names = [c.name for c in cursor.description or ()]
            for values in cursor:
                yield table.name, dict(zip(names, values, strict=True))


def _rows_at(
    conn: Conn, spec: ProgramSpec, projection: Projection, slot: int, keys: list[str]
) -> list[tuple[str, Row]]:
    """The rows of the keys as they were after `slot`: those that changed later are folded anew from the events up to it."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        now = list(_rows(conn, spec, projection, keys))
        newer = [row for _, row in now if row["updated_slot"] > slot]
        if not newer:
            return now
        scopes = None if projection.scope is None else sorted({row[projection.scope] for row in newer})
        past = _folded(conn, spec, projection, slot, scopes)
    kept = [] if scopes is None else [(t, row) for t, row in now if row[projection.scope or ""] not in scopes]
    return kept + [
        (table, row)
        for table, rows in past.held.items()
        for key, row in rows.items()
        if row is not None and key[0] in set(keys)
    ]


def _folded(conn: Conn, spec: ProgramSpec, projection: Projection, slot: int, scopes: list[str] | None) -> MemoryStore:
    states = catalogue.states(conn)
    state = states[installed_name(spec, projection)]
    decoded = f"{quoted(states[EVENTS].schema)}.decoded"
    target = Target(spec, projection, Store(conn, projection, state.schema), state, decoded)
    skip = catalogue.discarded(conn, state.name) | catalogue.parked_events(conn, state.name)
    store = MemoryStore(projection)
    stopped: set[str] = set()
    batch = []
    for event in stored_events(conn, target, scopes, state.position):
        if event.slot > slot:
            break
        batch.append(event)
        if len(batch) >= _REFOLD_EVENTS:
            fold(projection, store, batch, stopped, skip)
            batch = []
    fold(projection, store, batch, stopped, skip)
    return store


@dataclass(slots=True)
class Comparison:
    """Accounts at a slot against the rows that are handed in one by one; `finish` gives the differences. Pure."""

    spec: ProgramSpec
    projection: Projection
    slot: int
    accounts: Mapping[str, bytes]
    rows: int = 0
    undecodable: int = 0
    _found: list[Difference] = field(default_factory=list)
    # Which account a row must have. Its fields are decoded when the row comes: all at once would be many times the accounts' bytes.
    _wanted: dict[tuple[str, Key], tuple[str, str | None]] = field(default_factory=dict)
    _name: str = ""

    def __post_init__(self) -> None:
        self._name = installed_name(self.spec, self.projection)
        codec = self.spec.codec_at(self.slot)
        for address, data in self.accounts.items():
            try:
                decoded = codec.decode_account(data)
            except CodecError as error:
                self.undecodable += 1
                self._differs("", address, "", MISSING, f"undecodable: {error}", None)
                continue
            expectation = self.projection.accounts.get(decoded.name)
            if expectation is not None:
                table, key, row = expectation(address, clean(decoded.data))
                self._wanted[table, key] = address, row.get(self.projection.scope or "")

    def row(self, table: str, row: Row) -> None:
        """Compare a row with its account."""
        self.rows += 1
        (column,) = [c.name for c in next(t for t in self.projection.tables if t.name == table).primary_key.columns]
        key = (row[column],)
        address, _ = self._wanted.pop((table, key), (None, None))
        gone, scope = self.projection.gone(table, row), row.get(self.projection.scope or "")
        if address is None:
            if not gone:
                self._differs(table, str(key[0]), "", "row", MISSING, row["updated_slot"], scope)
            return
        if gone:
            self._differs(table, address, "", row.get("status"), "account", None, scope)
            return
        decoded = self.spec.codec_at(self.slot).decode_account(self.accounts[address])
        _, _, expected = self.projection.accounts[decoded.name](address, clean(decoded.data))
        for name, value in expected.items():
            if row[name] != value:
                self._differs(table, address, name, row[name], value, row["updated_slot"], scope)

    def finish(self) -> list[Difference]:
        """All differences: accounts without a row come last."""
        for (table, _), (address, scope) in self._wanted.items():
            self._differs(table, address, "", MISSING, "account", None, scope)
        self._wanted.clear()
        return self._found

    def _differs(
        self,
        table: str,
        key: str,
        name: str,
        in_table: Any,
        on_chain: Any,
        updated: int | None,
        scope: str | None = None,
    ) -> None:
        self._found.append(Difference(self._name, table, key, name, in_table, on_chain, updated, scope))


def _is_behind(difference: Difference, waiting: set[str]) -> bool:
    return bool(waiting) and (difference.scope is None or "" in waiting or difference.scope in waiting)


def _remedy(
    conn: Conn, dsn: str, specs: Sequence[ProgramSpec], found: Sequence[Difference], undecodable: int
) -> str | None:
    """The first thing that can explain the differences, tried in the order of its cost."""
    if not found:
        return None
    if undecodable:
        return "accounts do not decode: the IDL is not the program's; fetch or mend it (indexer idl check), then indexer rebuild"
    waiting = {name: catalogue.parked_scopes(conn, name) for name in {difference.projection for difference in found}}
    if any(_is_behind(difference, waiting[difference.projection]) for difference in found):
        return "events are parked: indexer dead-letters list, mend the cause, indexer dead-letters retry"
    from projections.rebuild import rebuild

    for name in sorted({d.projection for d in found}):
        if any(not d.equal for d in rebuild(dsn, specs, name, dry_run=True).differences):
            return f"the tables are not what the ledger says: indexer rebuild {name}"
    slots = [d.updated_slot for d in found if d.updated_slot is not None]
    first = min(slots) if slots and len(slots) == len(found) else 0
    return f"the ledger lacks transactions: indexer replay --from-slot {first}"
