"""The whole of it under faults: a story on the development node, the real indexer, every fault alone and then all of them together.

After each fault the tables must equal the story's model, which is folded from the chain's own blocks; the ledger must equal a walk of
all blocks; and every fault must have struck. At the end of a seed the tables are compared with the accounts, and the ledger with itself.

`python -m tests.integration.devnode.campaign --seeds 30` runs it at length; the suite runs a short portion of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import httpx

from indexer import startup
from indexer.app import Daemon, RunOptions
from indexer.log import log
from indexer.settings import BUILTIN_IDL, ProgramSetting, Settings
from programs.community_voting import artifact
from programs.crowd.model import Model, read_model
from programs.crowd.node import Node
from programs.crowd.story import Story, decoded_transaction
from programs.devnode.chain import Commitment
from programs.devnode.config import DevNodeConfig
from programs.devnode.faults import KINDS
from programs.devnode.node import DevNode
from projections.reconcile import reconcile
from schema import db as database
from schema import reads
from schema.verify import verify

GENESIS_UNIX_S = 1_800_000_000
FINALIZED_LAG = 8
STEPS = 10
STEPS_MAX = 200
STEP_S = 0.012
NEAR_SLOTS = 2
SETTLED_SECONDS_MAX = 120.0
# Alone a fault must strike. In a mixture one may shelter another: who is never answered never sees a null.
IDLE_SHARE_MAX = 0.1

# Each at a rate that strikes often within a few slots, with times short enough for a test. Nothing is left out but what names its reason here:
# `hidden-signatures` stays in lists only, for a node that denies a transaction everywhere is believed where nobody else is asked.
ALONE: dict[str, str] = {
    "phantom-logs": "0.5",
    "forged-logs": "0.5",
    "forged-logs-only": "0.5",
    "wrong-slot-logs": "0.4",
    "lost-notifications": "0.5",
    "repeated-notifications": "0.5",
    "reordered-notifications": "0.8",
    "delayed-notifications": "0.5,ms=40",
    "lost-slots": "0.5",
    "truncated-logs": "0.5",
    "closed-sockets": "0.15",
    "dropped-sockets": "0.15",
    "silent-sockets": "0.3,slots=5",
    "incomplete-lists": "0.5,slots=4",
    "null-transactions": "0.5,slots=3",
    "null-logs": "0.3",
    "late-blocks": "0.4,slots=3",
    "http-429": "0.2",
    "rpc-429": "0.2",
    "timeouts": "0.1,ms=150",
    "slow-bodies": "0.3,ms=20",
    "cut-bodies": "0.2",
    "garbage": "0.2",
    "balancer": "0.3,slots=4",
    "unhealthy": "0.5",
    "hidden-signatures": "0.3",
    "invented-signatures": "0.3",
    "clock-skew": "3",
    "skipped-slots": "0.3,slots=2",
    "forks": "0.15,depth=3",
    "refusals": "0.2",
    "pruned-history": "0.3,slots=1200",
}
assert set(ALONE) == set(KINDS), set(KINDS) ^ set(ALONE)


def weakened(value: str) -> str:
    """The same fault at a quarter of its rate: all of them together would leave nothing that works."""
    rate, *rest = value.split(",")
    return ",".join([str(float(rate) / 4), *rest])


# A list that hides a signature for good is found out by the socket, or by a block that is read for another reason. Where the socket is made to lie
# and to lose at the same time, only another node can tell. So all of them together come twice: without this one, and with it and a witness.
_MOST: dict[str, str] = {name: weakened(value) for name, value in ALONE.items() if name != "hidden-signatures"}
_EVERY: dict[str, str] = {name: weakened(value) for name, value in ALONE.items()}
TOGETHER, WITNESSED = "all together", "all together, with a witness"


@dataclass(slots=True)
class Phase:
    """What one phase did and found. `wrong` is empty when everything is as it must be."""

    name: str
    seconds: float = 0.0
    transactions: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Stage:
    """One seed: node, daemon and story, in one process. `run` plays the phases and returns what each found.

    `has_witness` False takes the witness away from the phase that has one. `lingers`: faults stay until what happened under them is final to
    the daemon, or it says that it cannot prove it. `settings` are the daemon's, beside its own.
    """

    def __init__(
        self, dsn: str, seed: int, *, has_witness: bool = True, lingers: bool = False, **settings: Any
    ) -> None:
        self.dsn, self.seed = dsn, seed
        self.has_witness, self.lingers, self.more = has_witness, lingers, settings
        self.story = Story(seed)
        self.node = DevNode(
            DevNodeConfig(
                slot_ms=0,
                seed=seed,
                genesis_unix_s=GENESIS_UNIX_S,
                finalized_lag_slots=FINALIZED_LAG,
                witness_port=0,
                programs={artifact.PROGRAM_ID: artifact.SO_PATH},
            )
        )
        # Called after each phase.
        self.tell: Callable[[Phase], None] | None = None
        self.base = Model()
        self.read_to = -1
        self.landed = 0

    async def run(self, phases: dict[str, dict[str, str]]) -> list[Phase]:
        """Play `name → faults` one after another. Only in the phase that says so does the daemon ask a witness."""
        async with self.node:
            client = Node(self.node.rpc_url)
            found: list[Phase] = []
            try:
                for wallet in self.story.wallets:
                    self.node.chain.airdrop(wallet.pubkey(), 10**12)
                await self.node.advance()
                for has_witness in (False, True):
                    chosen = {name: faults for name, faults in phases.items() if (name == WITNESSED) is has_witness}
                    if chosen:
                        async with self._daemon(has_witness and self.has_witness) as daemon:
                            found += [
                                await self._phase(name, faults, daemon, client) for name, faults in chosen.items()
                            ]
                found.append(await self._at_the_end(self._settings(False)))
            finally:
                await client.close()
            return found

    @contextlib.asynccontextmanager
    async def _daemon(self, has_witness: bool) -> AsyncIterator[Daemon]:
        daemon = Daemon(self._settings(has_witness), RunOptions())
        running = asyncio.create_task(daemon.run())
        try:
            assert await self._until(lambda: daemon.state.leader, 120), "no leader"
            yield daemon
        finally:
            daemon._on_signal(signal.SIGTERM)
            await running

    async def _phase(self, name: str, faults: dict[str, str], daemon: Daemon, client: Node) -> Phase:
        phase = Phase(name)
        started = time.monotonic()
        await self._play(phase, faults, daemon, client)
        phase.seconds = time.monotonic() - started
        if self.tell is not None:
            self.tell(phase)
        return phase

    def _settings(self, has_witness: bool) -> Settings:
        return Settings(
            database_url=self.dsn,
            rpc_url=self.node.rpc_url,
            ws_url=self.node.ws_url,
            witness_url=self.node.witness_url if has_witness else "",
            witness="hold" if has_witness else "count",
            metrics_port=0,
            idle_poll_s=0.25,
            finality_poll_s=0.25,
            rpc_timeout_s=2.0,
            log_level="error",
            **{"accounts_poll_s": 1.0, **self.more},
            programs=(ProgramSetting(name="voting", idl=BUILTIN_IDL, projections=("voting",)),),
        )

    async def _until(self, ready: Any, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    # ---- a phase ----

    async def _play(self, phase: Phase, faults: dict[str, str], daemon: Daemon, client: Node) -> None:
        node = self.node
        before = Counter(node.faults.counts)
        for name, value in faults.items():
            node.faults.set_text(name, value)
        for step in range(STEPS_MAX):
            struck = node.faults.counts - before
            if step >= STEPS and all(struck[name] for name in faults):
                break
            self._slot(phase)
            await node.advance(skip=self.story.rng.choice((0, 0, 0, 1, 8)))
            if struck_forks := node.faults.counts["forks"] - before["forks"]:
                phase.struck["forks"] = struck_forks
                self.story.model = self._refolded()
            if "unhealthy" in faults:
                await _get_health(node.rpc_url)
            await asyncio.sleep(STEP_S)
            if step >= STEPS:
                # A daemon that backs off, or has no processor to itself, needs time rather than slots: what strikes at the tip
                # strikes nobody who is behind it, and more slots would leave it further behind.
                await self._until(lambda tip=node.chain.tip.slot: daemon.state.sealed >= tip - NEAR_SLOTS, STEP_S * 40)
        if self.lingers:
            await node.advance(FINALIZED_LAG + 2)
            await self._until_final(lambda: bool(daemon.state.unproven))
        phase.struck = node.faults.counts - before
        node.faults.clear()
        idle = [name for name in faults if not phase.struck[name]]
        if len(idle) > len(faults) * IDLE_SHARE_MAX:
            phase.wrong.append(f"never struck: {', '.join(idle)}")
        await node.advance(FINALIZED_LAG + 2)
        await self._settle(phase, daemon)
        await self._compare(phase, client)

    def _slot(self, phase: Phase) -> None:
        chain = self.node.chain
        now = chain.working.unix_s
        for _ in range(self.story.rng.randint(0, 6)):
            act = self.story.next(now)
            transaction = self.story.transaction(act, chain.tip.blockhash)
            refused = chain.submit(transaction, bytes(transaction))
            assert refused is None, (act.name, refused)
            stored = chain.find(str(transaction.signatures[0]))
            assert stored is not None
            if stored.err is None:
                self.story.landed(act, now)
            phase.transactions += 1

    def _refolded(self) -> Model:
        """The model of what is left after a fork: what was settled, and the living blocks since."""
        model = copy.deepcopy(self.base)
        chain = self.node.chain
        for bank in [*chain.banks_between(self.read_to + 1, chain.tip.slot), chain.working]:
            for stored in bank.transactions:
                if stored.err is None:
                    for name, data, accounts in decoded_transaction(stored.parsed()):
                        model.apply(name, data, accounts, bank.unix_s)
        return model

    async def _settle(self, phase: Phase, daemon: Daemon) -> None:
        if await self._until_final():
            return
        final = self.node.chain.slot_at(Commitment.FINALIZED)
        with database.connect(self.dsn) as connection:
            row = connection.execute("SELECT * FROM events.freshness").fetchone()
        phase.wrong.append(f"not settled at slot {final}: {row}; reasons {daemon.reasons()}, {daemon.state.unproven}")

    async def _until_final(self, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the daemon has everything that is final now; False when it has not in time. Returns early when `given_up` says so."""
        final = self.node.chain.slot_at(Commitment.FINALIZED)

        with database.connect(self.dsn) as connection:

            def settled() -> bool:
                row = connection.execute("SELECT projected_slot, finalized_slot FROM events.freshness").fetchone()
                return row is not None and all(slot is not None and slot >= final for slot in row)

            return await self._until(lambda: settled() or given_up(), SETTLED_SECONDS_MAX)

    async def _compare(self, phase: Phase, client: Node) -> None:
        final = self.node.chain.slot_at(Commitment.FINALIZED)
        first = self.read_to + 1
        self.base = await read_model(client, first, final, self.base)
        self.read_to = final
        self.story.model = copy.deepcopy(self.base)
        walked = await walk(client, first, final)
        phase.wrong += await asyncio.to_thread(ledger_differences, self.dsn, first, final, walked)
        phase.wrong += await asyncio.to_thread(table_differences, self.dsn, self.base)

    async def _at_the_end(self, settings: Settings) -> Phase:
        phase = Phase("at the end")
        started = time.monotonic()
        prepared = await startup.prepare(settings, migrate=False, node=False)
        report = await asyncio.to_thread(reconcile, self.dsn, prepared.specs, [self.node.rpc_url])
        phase.wrong += [f"reconcile: {difference}" for difference in report.differences]
        if not report.rows:
            phase.wrong.append("reconcile compared nothing")

        def check() -> Any:
            with database.connect(self.dsn) as connection:
                letters = connection.execute(
                    "SELECT count(*) FROM ledger.dead_letters WHERE resolved_at IS NULL"
                ).fetchone()
                return verify(connection), letters

        verified, letters = await asyncio.to_thread(check)
        phase.wrong += [f"verify: {line}" for line in verified.differences]
        if letters != (0,):
            phase.wrong.append(f"open dead letters: {letters}")
        phase.seconds = time.monotonic() - started
        return phase


async def _get_health(url: str) -> None:
    # Whatever else is broken may break this call; the loop makes another one.
    async with httpx.AsyncClient(timeout=2, verify=False) as http:
        with contextlib.suppress(httpx.HTTPError):
            await http.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "getHealth"})


Walked = list[tuple[int, int, str, tuple[str, ...]]]


async def walk(client: Node, slot_first: int, slot_last: int) -> Walked:
    """Every transaction of the program in these slots, from the blocks: the ledger's rival, sharing none of its code."""
    rows: Walked = []
    level = {"commitment": "confirmed"}
    for slot in await client.call("getBlocks", slot_first, slot_last, level):
        options = {**level, "encoding": "json", "rewards": False, "maxSupportedTransactionVersion": 0}
        block = await client.call("getBlock", slot, options)
        for index, entry in enumerate(block["transactions"]):
            if artifact.PROGRAM_ID in entry["transaction"]["message"]["accountKeys"]:
                rows.append((slot, index, entry["transaction"]["signatures"][0], tuple(entry["meta"]["logMessages"])))
    return rows


def ledger_differences(dsn: str, slot_first: int, slot_last: int, walked: Walked) -> list[str]:
    """Rows of the ledger, in chain order, against the walk."""
    with database.connect(dsn) as connection:
        rows = [
            (row.raw.slot, row.raw.transaction_index, row.raw.signature, row.raw.logs or ())
            for row in reads.iter_chain_order(connection, slot_first, slot_last, None)
        ]
    if rows == walked:
        return []
    missing, extra = [row for row in walked if row not in rows], [row for row in rows if row not in walked]
    return [
        f"ledger {slot_first}..{slot_last}: {len(rows)} rows, {len(walked)} walked; missing {missing[:2]}, extra {extra[:2]}"
    ]


KEYS = {"communities": "community", "members": "member", "questions": "question", "votes": "vote"}


def table_differences(dsn: str, model: Model) -> list[str]:
    """The views against the model, row by row and field by field."""
    wrong: list[str] = []
    with database.connect(dsn) as connection:
        for table, expected in model.expected().items():
            cursor = connection.execute(f"SELECT * FROM voting.{table}".encode())
            names = [column.name for column in cursor.description or ()]
            actual = {row[names.index(KEYS[table])]: dict(zip(names, row, strict=True)) for row in cursor}
            wrong += [f"{table} {key}: only in the model" for key in sorted(set(expected) - set(actual))]
            wrong += [f"{table} {key}: only in the table" for key in sorted(set(actual) - set(expected))]
            for key in sorted(set(expected) & set(actual)):
                wrong += _row_differences(f"{table} {key}", expected[key], actual[key])
    return wrong


def _row_differences(where: str, expected: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    # A view shows less than the model knows, never a field under another name.
    shown = {name: _plain(value) for name, value in actual.items() if name in expected}
    wanted = {name: list(v) if isinstance(v := expected[name], tuple) else v for name in shown}
    for name, value in actual.items():
        if isinstance(value, datetime) or value is None:
            wanted[name] = wanted.get(name) or None
    if wanted.get("anonymous"):
        wanted["voter"] = None
    return [f"{where}.{n}: {shown[n]!r} in the table, {wanted[n]!r} expected" for n in shown if shown[n] != wanted[n]]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return int(value.timestamp())
    return int(value) if isinstance(value, Decimal) else value


def phases(names: list[str] | None = None) -> dict[str, dict[str, str]]:
    """Every fault alone (or those named), then all together, then the same once more with hidden signatures and a witness."""
    chosen = ALONE if names is None else {name: ALONE[name] for name in names}
    alone = {name: {name: value} for name, value in chosen.items()}
    return {**alone, TOGETHER: _MOST, WITNESSED: _EVERY}


def main() -> int:
    """0 when every seed is right in every phase."""
    from schema.embedded import EmbeddedPostgres

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30, help="how many (default %(default)s)")
    parser.add_argument("--first", type=int, default=1, help="the first one (default %(default)s)")
    parser.add_argument("--fault", action="append", help="only this one alone, and then all; repeatable")
    parser.add_argument("--verbose", action="store_true", help="one line a phase on stderr")
    parser.add_argument("--json", action="store_true", help="one JSON line a seed")
    arguments = parser.parse_args()
    wrong = 0
    log.configure("error", "json")
    with EmbeddedPostgres() as server:
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            with database.connect(server.dsn) as admin:
                admin.execute(f"CREATE DATABASE seed_{seed} ENCODING 'UTF8' TEMPLATE template0".encode())
            dsn = server.dsn_for("postgres", f"seed_{seed}")
            database.upgrade(dsn)
            started = time.monotonic()
            stage = Stage(dsn, seed)
            if arguments.verbose:
                stage.tell = lambda phase: print(
                    f"{phase.seconds:6.1f} s  {phase.name}  {phase.wrong[:1]}", file=sys.stderr, flush=True
                )
            found = asyncio.run(stage.run(phases(arguments.fault)))
            wrong += sum(bool(phase.wrong) for phase in found)
            report(seed, found, time.monotonic() - started, arguments.json)
            with database.connect(server.dsn) as admin:
                admin.execute(f"DROP DATABASE seed_{seed} WITH (FORCE)".encode())
    return 1 if wrong else 0


def report(seed: int, found: list[Phase], seconds: float, as_json: bool) -> None:
    """What a seed did: differences on stderr, the figures on stdout."""
    for phase in found:
        for line in phase.wrong[:3]:
            print(f"seed {seed}, {phase.name}: {line}", file=sys.stderr, flush=True)
    struck = sum((phase.struck for phase in found), Counter())
    figures = {
        "seed": seed,
        "seconds": round(seconds, 1),
        "transactions": sum(phase.transactions for phase in found),
        "strikes": struck.total(),
        "phases": len(found),
        "wrong": sum(bool(phase.wrong) for phase in found),
        "slowest": max((round(phase.seconds, 1), phase.name) for phase in found),
    }
    print(json.dumps(figures) if as_json else "  ".join(f"{k} {v}" for k, v in figures.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
