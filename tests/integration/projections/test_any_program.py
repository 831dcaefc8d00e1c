"""Programs without a line of code of ours: from ledger rows to decoded events, typed views and the account mirror; and IDLs by slot."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from solders.pubkey import Pubkey

from indexer.app import Daemon, RunOptions
from indexer.settings import IdlSetting, ProgramSetting, Settings
from indexer.startup import prepare
from indexer.status import collect
from programs import chain_idl
from programs.base58 import address_bytes
from programs.community_voting import artifact
from programs.devnode.chain import Commitment
from programs.devnode.config import DevNodeConfig
from programs.devnode.node import DevNode
from programs.errors import UserError
from programs.idl import load_idl
from programs.registry import IdlVersion, ProgramRegistry, merged
from programs.transaction import from_rpc
from projections import accounts, bootstrap, catalogue
from projections.worker import Worker
from schema import db as database
from schema import lease, ledger
from schema.rows import prepare_row
from tests.golden import five

SOME = "3Bxs4PckVVt51W8w4kP8yHWjrZpWqTBgDsGBvU2RXzXA"


def write(dsn: str, work: Callable[[Any, Any], Awaitable[None]]) -> None:
    async def run() -> None:
        async with await database.aconnect(dsn) as conn:
            held = await lease.acquire(conn, "test", "test", 30)
            assert held is not None
            await work(conn, held)
            await lease.release(conn, held)

    asyncio.run(run())


def fill(dsn: str, name: str) -> int:
    """The program's history and accounts in the ledger, as the daemon appends them. Its number there."""
    raws = []
    for one in five.history(name):
        result = one.result()
        result["transaction"] = [base64.b64encode(one.wire()).decode(), "base64"]
        raws.append(from_rpc(json.dumps(result)))
    number = 0

    async def append(conn: Any, held: Any) -> None:
        nonlocal number
        number = (await ledger.ensure_programs(conn, [(name, five.program(name), 1)]))[five.program(name)].id
        rows = [prepare_row(raw, (number,), 4) for raw in raws]
        last = max(raw.slot for raw in raws)
        await ledger.append_seal(conn, held, [ledger.SealRange(number, 1, last)], rows, tip_slot=last)
        owner = address_bytes(five.program(name))
        updates = [
            ledger.AccountUpdate(number, last, address_bytes(place), 1, owner, data, False, 0)
            for place, _, data, _ in five.accounts(name)
        ]
        await ledger.append_account_updates(conn, held, updates)

    write(dsn, append)
    return number


def follow(dsn: str, *specs: Any) -> None:
    bootstrap.ensure(dsn, specs)
    worker = Worker(dsn, specs)
    with database.connect(dsn) as conn:
        worker.rebuild_stale(conn)
        while worker.step(conn):
            pass


def rows(dsn: str, statement: Any, *values: Any) -> list[tuple[Any, ...]]:
    with database.connect(dsn) as conn:
        return conn.execute(statement, values).fetchall()


def clean(value: Any) -> Any:
    return json.loads(json.dumps(value).replace("\\u0000", "\\ufffd"))


def test_large_accounts_are_mirrored_a_few_at_a_time(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five hundred accounts of ten megabytes would be taken at once otherwise."""
    number = fill(db, "amm")
    spec = bootstrap.spec("amm", five.program("amm"), number, load_idl((five.FOLDER / "amm.json").read_bytes()), ())
    bootstrap.ensure(db, (spec,))
    owner, (_, _, data, _) = address_bytes(five.program("amm")), five.accounts("amm")[0]

    async def append(conn: Any, held: Any) -> None:
        updates = [ledger.AccountUpdate(number, 9, bytes([n]) * 32, 1, owner, data, False, 0) for n in range(7)]
        await ledger.append_account_updates(conn, held, updates)

    write(db, append)
    monkeypatch.setattr(accounts, "_BYTES_MAX", len(data) + 1)
    taken = []
    with database.connect(db) as conn:
        while accounts.follow(conn, (spec,)):
            taken += conn.execute("SELECT count(*) FROM events.accounts").fetchall()
    assert taken == [(2,), (4,), (6,), (8,)]


def test_a_view_of_somebody_else_is_not_replaced(db: str) -> None:
    number = fill(db, "amm")
    spec = bootstrap.spec("amm", five.program("amm"), number, load_idl((five.FOLDER / "amm.json").read_bytes()), ())
    theirs = f'amm_events."{spec.idl.events[0].name}"'
    with database.connect(db) as conn:
        conn.execute(f"CREATE SCHEMA amm_events; CREATE VIEW {theirs} AS SELECT 'theirs' AS word")  # type: ignore[arg-type]
        with pytest.raises(UserError, match="exists and is not ours") as caught:
            bootstrap.ensure(db, (spec,))
        assert caught.value.exit_code == 2
        assert conn.execute(f"SELECT word FROM {theirs}").fetchall() == [("theirs",)]  # type: ignore[arg-type]
        conn.execute(f"DROP VIEW {theirs}")  # type: ignore[arg-type]
    bootstrap.ensure(db, (spec,))
    bootstrap.ensure(db, (spec,))


@pytest.mark.parametrize("name", five.NAMES)
def test_a_program_is_indexed_without_code(db: str, name: str) -> None:
    number = fill(db, name)
    idl = load_idl((five.FOLDER / f"{name}.json").read_bytes())
    follow(db, bootstrap.spec(name, five.program(name), number, idl, ()))

    answers = [answer for one in five.history(name) for answer in one.answers() if "event" in answer]
    once = [answer for answer in answers if "twin" not in answer]
    expected = [(a["signature"], a["slot"], a["event"], clean(a["data"])) for a in once if "data" in a]
    assert rows(db, "SELECT signature, slot, name, data FROM events.decoded ORDER BY position, event_index") == expected

    for layout in idl.events:
        view = sql.SQL("SELECT * FROM {}.{} ORDER BY position, event_index").format(
            sql.Identifier(f"{name}_events"), sql.Identifier(layout.name)
        )
        with database.connect(db) as conn:
            cursor = conn.execute(view)
            columns = [column.name for column in cursor.description or ()]
            found = [dict(zip(columns, row, strict=True)) for row in cursor]
        wanted = [e for e in expected if e[2] == layout.name]
        assert len(found) == len(wanted)
        for row, (signature, slot, _, data) in zip(found, wanted, strict=True):
            assert (row["signature"], row["slot"], row["created_slot"], row["updated_signature"]) == (
                signature,
                slot,
                slot,
                signature,
            )
            for field, value in data.items():
                held = row[field] if field in row else row[f"{field}_2"]
                assert held == value, (layout.name, field)

    letters = rows(db, "SELECT event_name, error FROM ledger.dead_letters WHERE resolved_at IS NULL ORDER BY id")
    assert letters == [(a["event"], a["error"]) for a in once if "error" in a]

    mirrored = rows(db, "SELECT address, name, data, error FROM events.accounts ORDER BY address")
    assert mirrored == sorted((place, kind, clean(holds), None) for place, kind, _, holds in five.accounts(name))


def test_five_programs_at_once_keep_apart(db: str) -> None:
    numbers = {name: fill(db, name) for name in five.NAMES}
    follow(
        db,
        *[
            bootstrap.spec(n, five.program(n), number, load_idl((five.FOLDER / f"{n}.json").read_bytes()), ())
            for n, number in numbers.items()
        ],
    )
    counted = rows(db, "SELECT program, count(*) FROM events.decoded GROUP BY program")
    for name in five.NAMES:
        answers = [
            a for one in five.history(name) for a in one.answers() if "data" in a and "event" in a and "twin" not in a
        ]
        assert dict(counted)[five.program(name)] == len(answers)


LONG = "E" * 70
FIELD = "f" * 70


def forms() -> dict[str, Any]:
    """Events of every form, and names that PostgreSQL would cut to one."""
    named = {"kind": "struct", "fields": [{"name": FIELD, "type": "u8"}, {"name": FIELD + "g", "type": "u8"}]}
    fields = [
        {"name": "slot", "type": "u64"},
        {"name": "owner", "type": {"option": "pubkey"}},
        {"name": "price", "type": {"option": {"defined": {"name": "Price"}}}},
        {"name": "side", "type": {"defined": {"name": "Side"}}},
        {"name": "hash", "type": {"array": ["u8", 2]}},
        {"name": "more", "type": {"vec": "u8"}},
        {"name": "ratio", "type": "f64"},
    ]
    types = {
        LONG + "a": named,
        LONG + "b": named,
        "Aliased": {"kind": "type", "alias": {"defined": {"name": "Plain"}}},
        "Plain": {"kind": "struct", "fields": fields},
        "Pair": {"kind": "struct", "fields": ["u8", "bool"]},
        "Choice": {"kind": "enum", "variants": [{"name": "A"}, {"name": "B", "fields": ["u8"]}]},
        "N\0l": {"kind": "struct", "fields": [{"name": "a\0'b", "type": "u8"}]},
        "Wide": {"kind": "struct", "fields": [{"name": f"f{n}", "type": "u8"} for n in range(1700)]},
        "Price": {"kind": "type", "alias": "u128"},
        "Side": {"kind": "enum", "variants": [{"name": "Buy"}, {"name": "Sell"}]},
    }
    return {
        "address": "5zWF1MxmFNPhWMh1h8F5xHnRb6rrcwuQWMLKT1DyzWvT",
        "metadata": {"name": "forms", "version": "0.1.0", "spec": "0.1.0"},
        "instructions": [],
        "events": [{"name": n, "discriminator": [i]} for i, n in enumerate(types) if n not in ("Price", "Side")],
        "types": [{"name": name, "type": kind} for name, kind in types.items()],
    }


def test_a_typed_view_of_every_form_of_event(db: str) -> None:
    idl = load_idl(forms())
    spec = bootstrap.spec("forms", forms()["address"], 1, idl, ())
    bootstrap.ensure(db, (spec,))
    plain = {"slot": 9, "owner": SOME, "price": 7, "side": "Sell", "hash": "0aff", "more": [1], "ratio": "NaN"}
    absent = {**plain, "owner": None, "price": None}
    held = [
        ("Aliased", plain),
        ("Plain", absent),
        ("Pair", [5, True]),
        ("Choice", {"B": [3]}),
        ("Choice", "A"),
        ("Wide", {"f0": 1}),
        ("N\ufffdl", {"a\ufffd'b": 8}),
    ]
    held += [(LONG + "a", {FIELD: 1, FIELD + "g": 2}), (LONG + "b", {FIELD: 3, FIELD + "g": 4})]
    with database.connect(db) as conn:
        (generation,) = [s.schema for s in catalogue.states(conn).values()]
        for number, (name, data) in enumerate(held):
            conn.execute(
                f"INSERT INTO {generation}.decoded (position, slot, transaction_index, event_index, signature, program, name, data)"  # type: ignore[arg-type]
                " VALUES (%s, 1, 0, %s, 's', %s, %s, %s)",
                (number, number, spec.address, name, Jsonb(data)),
            )
    typed = 'SELECT slot_2, owner, price, side, hash, more, ratio FROM forms_events."{}"'
    for name, data in held[:2]:
        assert rows(db, typed.format(name)) == [tuple(data.values())]
    assert rows(
        db, "SELECT count(*) FROM forms_events.\"Aliased\" WHERE owner = %s AND side = 'Sell' AND price > 6", SOME
    ) == [(1,)]
    assert rows(db, 'SELECT data FROM forms_events."Pair"') == [([5, True],)]
    assert rows(db, 'SELECT data FROM forms_events."Choice" ORDER BY position') == [({"B": [3]},), ("A",)]
    assert rows(db, 'SELECT data FROM forms_events."Wide"') == [({"f0": 1},)]
    assert rows(db, """SELECT "a'b" FROM forms_events."N\ufffdl\"""") == [(8,)]
    for view, first, second in ((LONG[:63], 1, 2), (LONG[:61] + "_2", 3, 4)):
        assert rows(db, f'SELECT "{FIELD[:63]}", "{FIELD[:61]}_2" FROM forms_events."{view}"') == [(first, second)]


def longer(name: str) -> bytes:
    """The program's IDL after its newest release: one byte more in an event."""
    document = five.document(name)
    swap = next(t for t in document["types"] if t["name"] == "SwapEvent")
    swap["type"]["fields"].append({"name": "version", "type": "u8"})
    return json.dumps(document).encode()


def test_an_old_event_is_short_for_a_new_idl_and_decodes_with_the_old_one(db: str) -> None:
    number, address = fill(db, "amm"), five.program("amm")
    old, new = (five.FOLDER / "amm.json").read_bytes(), longer("amm")
    follow(db, bootstrap.spec("amm", address, number, load_idl(new), ()))
    decoded = "SELECT count(*) FROM events.decoded WHERE name = 'SwapEvent'"
    open_letters = "SELECT count(*) FROM ledger.dead_letters WHERE resolved_at IS NULL"
    assert rows(db, decoded) == [(0,)]
    before = rows(db, open_letters)[0][0]
    assert before > 5

    key = address_bytes(address)
    versions = [IdlVersion(key, 0, old), IdlVersion(key, 1_000, new)]
    follow(db, bootstrap.spec("amm", address, number, merged(versions), (), ProgramRegistry(versions)))
    # The event that is short for the old one too stays a letter.
    assert rows(db, open_letters) == [(1,)]
    assert rows(db, decoded) == [(before - 1,)]
    assert rows(db, 'SELECT DISTINCT version FROM amm_events."SwapEvent"') == [(None,)]


# ---- the daemon ----


class Chain:
    """A development node whose voting program can be deployed anew and can publish an IDL."""

    def __init__(self) -> None:
        config = DevNodeConfig(slot_ms=200, programs={artifact.PROGRAM_ID: artifact.SO_PATH})
        self.node = DevNode(config)
        self.program = Pubkey.from_string(str(artifact.PROGRAM_ID))

    def settings(self, dsn: str, idl: Any) -> Settings:
        program = ProgramSetting(name="voting", address=str(artifact.PROGRAM_ID), idl=idl)
        return Settings(
            database_url=dsn,
            rpc_url=self.node.rpc_url,
            ws_url=self.node.ws_url,
            metrics_port=0,
            idle_poll_s=0.5,
            upgrades_poll_s=0.2,
            programs=(program,),
        )

    def deploy(self, slot: int) -> None:
        """As the loader does: the slot in the first bytes of the code's account."""
        machine = self.node.chain.machine
        held = machine.account(self.program)
        assert held is not None
        place = Pubkey.from_bytes(chain_idl.programdata_address(bytes(held.data)) or b"")
        code = machine.account(place)
        assert code is not None
        data = bytes(code.data)
        self._put(place, data[:4] + slot.to_bytes(8, "little") + data[12:], code)

    async def confirmed(self) -> None:
        """What was put is visible at confirmed."""
        slot = self.node.chain.working.slot
        assert await until(lambda: self.node.chain.slot_at(Commitment.CONFIRMED) >= slot)

    def publish(self, document: bytes) -> None:
        """In the place of Anchor 1.0: an account of the metadata program."""
        import struct
        import zlib

        content = zlib.compress(document)
        head = bytes([2]) + bytes(self.program) + bytes(32) + b"\1\1" + b"idl".ljust(16, b"\0") + bytes([1, 2, 1, 0])
        data = (head + struct.pack("<I", len(content))).ljust(96, b"\0") + content
        like = self.node.chain.machine.account(self.program)
        assert like is not None
        self._put(Pubkey.from_bytes(chain_idl.metadata_address(bytes(self.program))), data, like)

    def _put(self, place: Pubkey, data: bytes, like: Any) -> None:
        from solders.account import Account

        account = Account(lamports=10**10, data=data, owner=like.owner, executable=False, rent_epoch=like.rent_epoch)
        self.node.chain.put_account(place, account)


def recorded(dsn: str) -> list[tuple[int, str]]:
    return rows(dsn, "SELECT slot_from, source FROM ledger.idls ORDER BY added_at")


def test_the_daemon_records_each_idl_with_the_slot_from_which_it_holds(db: str, tmp_path: Path) -> None:
    old = artifact.IDL_PATH.read_bytes()
    document = json.loads(old)
    document["types"][0]["docs"] = ["changed"]
    new = json.dumps(document).encode()
    path = tmp_path / "idl.json"

    async def story() -> None:
        chain = Chain()
        async with chain.node:
            path.write_bytes(old)
            await prepare(chain.settings(db, str(path)), migrate=True)
            await prepare(chain.settings(db, str(path)), migrate=True)
            assert recorded(db) == [(0, "file idl.json, deployed in 0")]
            chain.deploy(777)
            await chain.confirmed()
            path.write_bytes(new)
            ready = await prepare(chain.settings(db, str(path)), migrate=True)
            assert recorded(db)[1:] == [(777, "file idl.json, deployed in 777")]
            registry = ready.specs[0].registry
            key = bytes(chain.program)
            assert [v.document for v in (registry.version_at(key, 776), registry.version_at(key, 777))] == [old, new]
            # A command that asks no node reads with the same versions, from the record.
            again = await prepare(chain.settings(db, str(path)), migrate=False, node=False)
            assert again.specs[0].digest == ready.specs[0].digest
            # Several in the settings hold as these say, whatever is recorded.
            several = (IdlSetting(path=str(path), from_slot=50), IdlSetting(path="builtin:community_voting"))
            said = await prepare(chain.settings(db, several), migrate=True)
            assert [v.slot_first for v in said.specs[0].registry.versions(key)] == [0, 50]

    asyncio.run(story())
    status = collect(db)
    assert [(i["program"], i["slot_from"], i["deployed_slot"]) for i in status["idls"]][:2] == [
        ("voting", 0, 0),
        ("voting", 777, 777),
    ]
    assert [(d["program"], d["slot"]) for d in status["deployments"]] == [("voting", 777)]


async def until(ready: Callable[[], bool], seconds: float = 120) -> bool:
    for _ in range(int(seconds / 0.05)):
        if await asyncio.to_thread(ready):
            return True
        await asyncio.sleep(0.05)
    return False


def test_an_upgrade_is_noticed_and_the_idl_on_the_chain_followed(db: str, capfd: pytest.CaptureFixture[str]) -> None:
    from prometheus_client import REGISTRY

    first = artifact.IDL_PATH.read_bytes()
    document = json.loads(first)
    document["events"].append({"name": "Brandnew", "discriminator": [1, 2, 3, 4, 5, 6, 7, 8]})
    document["types"].append({"name": "Brandnew", "type": {"kind": "struct", "fields": [{"name": "x", "type": "u8"}]}})
    view = "SELECT count(*) FROM projections.views WHERE schema = 'voting_events' AND name = 'Brandnew'"

    def upgrades(what: str) -> float:
        return REGISTRY.get_sample_value("indexer_program_upgrades_total", {"program": "voting", "what": what}) or 0.0

    async def story() -> None:
        chain = Chain()
        async with chain.node:
            chain.publish(first)
            await chain.confirmed()
            daemon = Daemon(chain.settings(db, "chain"), RunOptions())
            running = asyncio.create_task(daemon.run())
            before = upgrades("upgraded")
            assert await until(lambda: daemon.state.leader and daemon.state.sealed > 0)
            await asyncio.sleep(0.6)
            assert rows(db, view) == [(0,)]
            chain.deploy(5)
            assert await until(lambda: upgrades("upgraded") == before + 1)
            chain.publish(json.dumps(document).encode())
            assert await until(lambda: rows(db, view) == [(1,)])
            sealed = daemon.state.sealed
            assert await until(lambda: daemon._projector is not None and daemon._projector.has_projected(sealed))
            daemon._on_signal(signal.SIGTERM)
            assert await running == 0
            settings = chain.settings(db, "chain")
        # The node is gone: a rebuild reads with what was recorded.
        ready = await prepare(settings, migrate=False, node=False)
        assert [v.slot_first for v in ready.specs[0].registry.versions(bytes(chain.program))] == [0, 5]
        assert "Brandnew" in [layout.name for layout in ready.specs[0].idl.events]

    asyncio.run(story())
    assert recorded(db) == [(0, "chain, deployed in 0"), (5, "chain, deployed in 5")]
    said = capfd.readouterr().err
    assert "program_upgraded" in said
    assert "program_idl_changed" in said
