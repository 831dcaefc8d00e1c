"""The composition root: which parts there are, who talks to whom, and in which order they start and stop.

socket ──► notifications ──► sealing loop ──► ledger ──► projection worker ──► tables
                              finality loop ──┘  ▲
                              accounts loop ─────┤        http: /metrics /healthz /readyz /status
                              catch-up loop ─────┘

Live first: programs that are far behind the others, as one that was just added, are sealed by the catch-up loop with a client of its own, and are
handed to the sealing loop once they are near.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket as socket_module
import threading
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from indexer import idls, metrics
from indexer.accounts import AccountSampler
from indexer.catchup import CatchUp, Handover, split
from indexer.core.finality import Auditor, AuditPolicy
from indexer.core.hints import Hint
from indexer.core.notifications import Notification, NotificationBuffer
from indexer.core.protocol import SAW_SOCKET, Address, Done, Halted, Outcome, SealPlan, Slot, Unproven
from indexer.core.sealer import Sealer, SealPolicy
from indexer.core.watchdog import Watchdog
from indexer.edges.driver import Driver
from indexer.edges.httpd import HttpServer
from indexer.edges.ledger import LedgerMoved, PostgresLedger, TipClock
from indexer.edges.parse import AccountChange
from indexer.edges.rpc import RpcClient, WrongCluster
from indexer.edges.socket import Listeners, SocketEdge
from indexer.log import log, one_line
from indexer.projector import ProjectorThread
from indexer.report import AuditReporter, Reporter
from indexer.settings import Settings
from indexer.startup import Prepared, prepare, rpc_client, witness_client
from indexer.state import State
from programs.errors import EXIT_UNREACHABLE, UserError
from schema import lease as leases
from schema import ledger as ledger_api
from schema.db import aconnect, trouble
from schema.errors import LeaseLost
from schema.lease import Lease

WRITER = leases.WRITER
# A burst of notifications of one slot arrives within milliseconds: waiting for it tells a big slot from a small one.
GATHER_S = 0.04
RETRY_S_MIN = 0.2
RETRY_S_MAX = 5.0
HALTED_S = 15.0
# How often hints that wait are looked at.
HINTS_POLL_S = 0.5
# With the socket's contents a seal covers two slots, for the calls' sake: the first one waits so long for the second.
SECOND_SLOT_S = 0.5
# Of the shutdown's deadline, this much is kept for what must come after the loops: the lease, the connections.
CLOSING_S = 1.0
# While no socket wakes the sealer it looks by itself: at this pace while it finds rows, then more and more seldom.
UNHEARD_S_MIN = 0.5
UNHEARD_S_MAX = 2.0
CANCEL_AGAIN_S = 0.2
# How often an end that waits for a transaction looks whether it is over.
WRITING_LOOK_S = 0.02
_GIVE_IDL = "give the new IDL with the slot from which it holds, and start again; until then the old one is used"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `indexer run` was asked for."""

    ingest: bool = True
    project: bool = True
    until_slot: Slot | None = None
    # The process is the daemon's own: it may be ended hard when the shutdown's deadline is over.
    own_process: bool = False


class Daemon:
    """`indexer run`. `run()` returns the exit code."""

    def __init__(self, settings: Settings, options: RunOptions) -> None:
        self.settings = settings
        self.options = options
        self.state = State()
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._hint: Slot | None = None
        self._processed: Slot | None = None
        self._signal = 0
        self._clock = TipClock()
        self._watchdog = Watchdog()
        self._projector: ProjectorThread | None = None
        self._finished = asyncio.Event()
        self._witness_from: Slot | None = None
        # The slot of the newest row; no row above it waits to be compared at finalized.
        self._newest_row: int = -1
        self._database: PostgresLedger | None = None
        self._handed: list[Handover] = []
        self._to_audit: list[Handover] = []
        self._deadline = float("inf")
        self._unheard_s = UNHEARD_S_MIN

    # ---- life ----

    async def run(self) -> int:
        """Until a signal, or until `--until-slot` is sealed and projected."""
        loop = asyncio.get_running_loop()
        self._heed_signals(loop)
        http = HttpServer(self.reasons, self._status)
        await http.start(self.settings.metrics_host, self.settings.metrics_port)
        log.info("listening", url=http.url)
        try:
            try:
                prepared = await self._until_stopped(prepare(self.settings, migrate=True))
            except (psycopg.Error, SQLAlchemyError, OSError) as error:
                if isinstance(error, OSError):
                    raise UserError(f"the start was cut short: {one_line(error)}", EXIT_UNREACHABLE) from None
                raise trouble(error) from None
            if prepared is None:
                return self._exit_code()
            await self._serve(prepared)
        finally:
            await http.close()
        return self._exit_code()

    async def _serve(self, prepared: Prepared) -> None:
        if self.options.project:
            self._projector = ProjectorThread(self.settings, prepared)
            self._projector.start()
        self.state.started = True
        try:
            if self.options.ingest:
                await self._lead(prepared)
            else:
                await self._project_only(prepared)
            if self.options.until_slot is not None and not self._stop.is_set():
                await self._wait_projected(prepared)
        finally:
            if self._projector is not None:
                await asyncio.to_thread(self._projector.stop, self._left())
            log.info("stopped", sealed=self.state.sealed, rows=self.state.rows)

    async def _until_stopped(self, work: Awaitable[Prepared]) -> Prepared | None:
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return None
        return task.result()

    def _heed_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """A terminal that was closed asks for an end too; not of what was started with nohup."""
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            os._exit(128 + number)  # asked twice: no more patience
        log.info("stopping", signal=signal.Signals(number).name)
        self._signal = number
        self._deadline = time.monotonic() + self.settings.shutdown_s
        # Whatever hangs, a thread in a dead database's connect above all, the process ends in time. Nothing is lost: what is not committed is
        # sealed after the next start.
        if self.options.own_process:
            last = threading.Timer(self.settings.shutdown_s, os._exit, (128 + number,))
            last.daemon = True
            last.start()
        self._stop.set()
        self._wake.set()

    def _left(self) -> float:
        """Seconds until the shutdown's deadline, less what closing needs; the whole deadline while nobody asked for an end."""
        return max(0.1, min(self.settings.shutdown_s, self._deadline - time.monotonic()) - CLOSING_S)

    def _exit_code(self) -> int:
        if self._signal in (signal.SIGINT, signal.SIGHUP):
            return 128 + self._signal
        return 1 if self.state.halted is not None and self.options.until_slot is not None else 0

    # ---- leading ----

    async def _lead(self, prepared: Prepared) -> None:
        holder = f"{socket_module.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        while not self._stop.is_set() and not self._finished.is_set():
            lease = await self._acquire(prepared, holder)
            if lease is None:
                return
            self.state.leader = True
            metrics.LEADER.set(1)
            log.info("leading", epoch=lease.epoch)
            try:
                await self._lead_once(prepared, lease)
            except LeaseLost as lost:
                metrics.LEASE_LOST.inc()
                log.error("lease_lost", error=str(lost))
            except LedgerMoved as moved:
                log.warning("ledger_moved", error=str(moved))
            except (psycopg.Error, OSError) as error:
                # The database went away between two terms; the next one begins when it is back.
                log.seldom(5.0, "error", "database_down", error=one_line(error))
                await self._sleep(1.0)
            finally:
                self.state.leader = False
                metrics.LEADER.set(0)
                await self._release(lease)

    async def _acquire(self, prepared: Prepared, holder: str) -> Lease | None:
        """The writer's lease; None at the end, or when whoever has it has sealed up to `--until-slot`."""
        said = False
        while not self._stop.is_set():
            try:
                async with await aconnect(self.settings.need_database()) as connection:
                    lease = await leases.acquire(connection, WRITER, holder, self.settings.lease_ttl_s)
                    if lease is None and await self._sealed_by_another(prepared, connection):
                        self._finished.set()
                        return None
                self.state.database_down = False
            except (psycopg.Error, OSError) as error:
                self.state.database_down = True
                log.seldom(10.0, "error", "database_down", error=one_line(error))
                lease = None
            if lease is not None:
                return lease
            if not said and not self.state.database_down:
                log.info("standby", reason="another indexer holds the writer's lease")
                said = True
            await self._sleep(min(1.0, self.settings.lease_ttl_s / 4))
        return None

    async def _sealed_by_another(self, prepared: Prepared, connection: psycopg.AsyncConnection[Any]) -> bool:
        until = self.options.until_slot
        if until is None:
            return False
        known = await ledger_api.load_state(connection)
        upto = min(known.programs[number].contiguous_slot() for number in prepared.program_ids.values())
        self.state.sealed = Slot(max(self.state.sealed, min(upto, until)))
        return upto >= until

    async def _release(self, lease: Lease) -> None:
        with contextlib.suppress(psycopg.Error, OSError, LeaseLost, TimeoutError):
            async with asyncio.timeout(CLOSING_S), await aconnect(self.settings.need_database()) as connection:
                await leases.release(connection, lease)

    async def _lead_once(self, prepared: Prepared, lease: Lease) -> None:
        """One term as the writer: everything that writes runs here, and ends here when the lease is lost."""
        settings = self.settings
        async with await aconnect(settings.need_database()) as connection:
            known = await ledger_api.load_state(connection)
        ids = prepared.program_ids
        self._handed.clear()
        self._to_audit.clear()
        addresses = tuple(Address(p.address) for p in settings.watched)
        live, behind = split({a: known.programs[ids[a]] for a in addresses})
        cursors = {a: Slot(known.programs[ids[a]].contiguous_slot()) for a in live}
        audited = {a: Slot(known.finalized_slot(ids[a], known.programs[ids[a]].program.start_slot)) for a in live}
        notifications = NotificationBuffer()
        sealer = Sealer(cursors, self._policy(), notifications)
        starts = {a: Slot(known.programs[ids[a]].program.start_slot) for a in addresses}
        auditor = Auditor(audited, AuditPolicy(settings.audit_sample, salt=secrets.token_bytes(32)), starts)
        self.state.sealed = self._newest_row = sealer.sealed
        witness = witness_client(settings, prepared)
        async with contextlib.AsyncExitStack() as stack:
            rpc = await stack.enter_async_context(rpc_client(settings, prepared))
            if witness is not None:
                await stack.enter_async_context(witness)
            highest = Slot(max(state.contiguous_slot() for state in known.programs.values()))
            database = PostgresLedger(settings.need_database(), lease, ids, self._clock, highest=highest)
            database.on_appended = self._appended
            self._database = database
            sampler = AccountSampler(addresses, rpc, database, settings.accounts_poll_s)
            edge = SocketEdge(
                settings.pubsub_url,
                addresses,
                settings.commitment,
                Listeners(
                    logs=lambda note: self._on_logs(notifications, note),
                    account=lambda change: self._on_account(sealer, sampler, change),
                    slot=self._on_slot,
                    subscribed=lambda: self._on_subscribed(sampler),
                    lost=self._wake.set,
                ),
                self._watchdog,
            )
            driver = Driver(rpc, database, witness)
            loops: dict[str, Callable[[], Awaitable[None]]] = {
                "socket": edge.run,
                "lease": lambda: self._keep(lease),
                "finality": lambda: self._finality(driver, auditor, sealer, database),
            }
            self.state.catching_up = dict.fromkeys(behind, 0)
            if behind:
                catch_up = CatchUp(
                    settings,
                    prepared,
                    lease,
                    behind,
                    lambda: sealer.sealed,
                    self._caught_up,
                    self._progress,
                    self._catch_up_halted,
                )
                loops["catch_up"] = catch_up.run
            if settings.account_updates:
                loops["accounts"] = sampler.run
            loops["upgrades"] = lambda: self._upgrades(prepared, rpc)
            if settings.reconcile_s and self.options.project:
                loops["reconcile"] = lambda: self._reconciling(prepared)
            try:
                await self._term(lambda: self._sealing(driver, sealer, edge, rpc), loops, lambda: driver.writing)
            finally:
                self._database = None
                await database.close()

    def _policy(self) -> SealPolicy:
        settings = self.settings
        pause_s = 0.25
        return SealPolicy(
            commitment=settings.commitment,
            block_hits_min=settings.block_hits_min,
            trust_socket_contents=settings.trust_socket_contents,
            witness=bool(settings.witness_url),
            witness_hold=settings.witness == "hold",
            witness_attempts=max(1, round(settings.witness_wait_s / pause_s)),
            witness_pause_s=pause_s,
        )

    def _caught_up(self, handover: Handover) -> None:
        self._handed.append(handover)

    def _catch_up_halted(self, halted: Halted | None) -> None:
        self.state.catch_up_halted = halted

    def _progress(self, address: Address, slots_left: int) -> None:
        self.state.catching_up[address] = slots_left
        for program in self.settings.watched:
            if program.address == address:
                metrics.CATCHING_UP.labels(program=program.name).set(slots_left)

    async def _term(
        self,
        sealing: Callable[[], Awaitable[None]],
        loops: dict[str, Callable[[], Awaitable[None]]],
        writing: Callable[[], bool] = lambda: False,
    ) -> None:
        """Sealing runs until it ends by itself, the others until then. The lease's loss ends all at once. `writing`: whether a transaction of
        theirs is under way."""
        others = [asyncio.create_task(self._supervised(name, work), name=name) for name, work in loops.items()]
        main = asyncio.create_task(self._supervised("sealing", sealing), name="sealing")
        try:
            while not main.done():
                done, _ = await asyncio.wait({main, *others}, return_when=asyncio.FIRST_COMPLETED, timeout=0.5)
                for task in done:
                    error = None if task.cancelled() else task.exception()
                    if error is not None:
                        raise error
                if self._stop.is_set():
                    # The transaction in hand is finished; all else in hand is asked again at the next start, and may have long to wait.
                    latest = time.monotonic() + self._left() / 2
                    while writing() and not main.done() and time.monotonic() < latest:
                        await asyncio.wait({main}, timeout=WRITING_LOOK_S)
                    break
        finally:
            await _end((main, *others))

    async def _supervised(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """The one place that logs and goes on: a loop that broke is started anew, loudly."""
        pause = 1.0
        while True:
            try:
                await work()
                return
            except (asyncio.CancelledError, LeaseLost, LedgerMoved, WrongCluster):
                raise
            except Exception as error:
                self.state.failed_tasks[name] = one_line(error)
                log.error("loop_failed", loop=name, error=one_line(error), trace=traceback.format_exc(limit=8))
                await self._sleep(pause)
                pause = min(pause * 2, 30.0)
                if self._stop.is_set():
                    return

    async def _keep(self, lease: Lease) -> None:
        """Renew the lease well before it ends. The database decides: only its refusal is a loss, its silence is not yet."""
        while True:
            await asyncio.sleep(self.settings.lease_ttl_s / 3)
            try:
                async with asyncio.timeout(self.settings.lease_ttl_s / 3):
                    async with await aconnect(self.settings.need_database()) as connection:
                        await leases.renew(connection, lease, self.settings.lease_ttl_s)
                self.state.database_down = False
            except (psycopg.Error, OSError, TimeoutError) as error:
                self.state.database_down = True
                log.seldom(5.0, "warning", "lease_not_renewed", error=one_line(error))

    # ---- listening ----

    def _on_logs(self, notifications: NotificationBuffer, note: Notification) -> None:
        notifications.observe(note)
        # A forged slot in the far future must not become the target: the slot subscription knows better.
        if (self._processed is None or note.slot <= self._processed) and (self._hint is None or note.slot > self._hint):
            self._hint = note.slot
            self._wake.set()

    def _on_account(self, sealer: Sealer, sampler: AccountSampler, change: AccountChange) -> None:
        sampler.observe(change)
        sealer.writes.wrote(change.slot, change.program)

    def _on_slot(self, slot: Slot) -> None:
        if self._processed is None or slot > self._processed:
            self._processed = slot

    def _on_subscribed(self, sampler: AccountSampler) -> None:
        self._witness_from = self._processed if self._processed is not None else self.state.tip
        self._processed = None
        sampler.wanted()
        # What was executed before the acknowledgement carries no logs: look at once.
        self._wake.set()
        log.info("subscribed", url_programs=len(self.settings.watched))

    def _appended(self, plan: SealPlan) -> None:
        witnessed = sum(bool(row.witnesses & SAW_SOCKET) for row in plan.rows)
        since = self._witness_from
        due = [row for row in plan.rows if since is not None and row.raw.slot > since + 2]
        if self.state.socket and due:
            self._watchdog.sealed(len(due), witnessed)
            metrics.SOCKET_MISSED.inc(sum(not row.witnesses & SAW_SOCKET for row in due))
        self.state.rows += len(plan.rows)
        self._newest_row = max([self._newest_row, *(row.raw.slot for row in plan.rows)])
        self.state.sealed = max(self.state.sealed, min(r.slot_last for r in plan.ranges))

    # ---- the loops ----

    async def _sealing(self, driver: Driver, sealer: Sealer, edge: SocketEdge, rpc: RpcClient) -> None:
        pause = RETRY_S_MIN
        halts = 0
        report = Reporter()
        while not self._stop.is_set():
            hint, self._hint = self._hint, None
            self._wake.clear()
            while self._handed:
                handover = self._handed.pop()
                sealer.admit(handover.address, handover.sealed)
                # Only now: what is compared at finalized is bounded by what the sealer has sealed of every program, this one included.
                self._to_audit.append(handover)
                self.state.catching_up.pop(handover.address, None)
                log.info("caught_up", program=handover.address, slot=handover.sealed)
            started, rows = time.monotonic(), self.state.rows
            outcome = await driver.drive(sealer.tick(hint, self.options.until_slot))
            metrics.TICK_SECONDS.observe(time.monotonic() - started)
            self.state.socket = edge.connected
            self._note(outcome, sealer, report)
            if self._watchdog.look_elsewhere(time.monotonic()) and rpc.shun():
                metrics.TIP_STILL.inc()
                log.warning("tip_stands_still", tip=self.state.tip, repair="the next endpoint is asked first")
            if isinstance(outcome, Done):
                pause, halts = RETRY_S_MIN, 0
                until = self.options.until_slot
                if until is not None and sealer.sealed >= until and not self.state.catching_up:
                    self._finished.set()
                    return
                await self._next_wake(sealer, self._patience(edge.connected, self.state.rows > rows))
            elif isinstance(outcome, Halted):
                halts += 1
                if halts < len(self.settings.rpc_urls) and rpc.shun():
                    # It may be this endpoint alone that has forgotten what is needed.
                    log.seldom(60.0, "warning", "another_endpoint", reason=outcome.reason)
                    await self._sleep(pause)
                    pause = min(pause * 2, HALTED_S)
                    continue
                if self.options.until_slot is not None:
                    self._finished.set()
                    return
                halts = 0
                await self._sleep(HALTED_S)
            else:
                await self._sleep(pause)
                pause = min(pause * 2, RETRY_S_MAX)

    def _patience(self, heard: bool, moved: bool) -> float:
        """Seconds to wait for a notification. `heard`: the socket is open; `moved`: the last round found rows."""
        if self.options.until_slot is not None:
            # Someone waits for a slot: look at every tip.
            return min(0.4, self.settings.idle_poll_s)
        if heard:
            self._unheard_s = UNHEARD_S_MIN
            return self.settings.idle_poll_s
        self._unheard_s = UNHEARD_S_MIN if moved else min(self._unheard_s * 1.5, UNHEARD_S_MAX)
        return min(self._unheard_s, self.settings.idle_poll_s)

    async def _next_wake(self, sealer: Sealer, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while not self._stop.is_set():
            # What came in during the round and names a slot that it sealed is no news.
            if self._hint is not None and self._hint <= sealer.sealed:
                self._hint = None
                self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, deadline - time.monotonic()))
            if self._hint is None or self._hint > sealer.sealed:
                break
        if self._hint is not None and self._hint > sealer.sealed:
            if self.settings.trust_socket_contents:
                await self._second_slot(sealer.sealed)
            await asyncio.sleep(GATHER_S)

    async def _second_slot(self, sealed: Slot) -> None:
        """Wait until the socket has named a second slot behind the last seal, for a while."""
        deadline = time.monotonic() + SECOND_SLOT_S
        while not self._stop.is_set() and self._hint is not None and self._hint < sealed + 2:
            self._wake.clear()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)

    def _note(self, outcome: Outcome, sealer: Sealer, report: Reporter) -> None:
        metrics.TICKS.labels(outcome=type(outcome).__name__.lower()).inc()
        report.publish(sealer)
        self.state.halted = outcome if isinstance(outcome, Halted) else None
        self.state.unproven = outcome.reason if isinstance(outcome, Unproven) else None
        self.state.disputed = isinstance(outcome, Unproven) and outcome.disputed
        if not isinstance(outcome, Unproven):
            self.state.unproven_since = None
        elif self.state.unproven_since is None:
            self.state.unproven_since = time.monotonic()
        metrics.STALLED.set(self.state.halted is not None)
        if isinstance(outcome, Halted):
            log.seldom(60.0, "error", "halted", reason=outcome.reason, remedy=outcome.remedy)
        elif isinstance(outcome, Unproven):
            log.seldom(5.0, "warning", "unproven", reason=outcome.reason)
        for forgery in sealer.take_forgeries():
            log.seldom(1.0, "error", "forged_notification", slot=forgery.slot, signature=forgery.signature)
        if sealer.tip >= 0:
            sealer.notifications.tip(sealer.tip)
        tip = max(self.state.tip, sealer.tip)
        if tip > self.state.tip:
            self.state.tip = tip
            self._clock.see(tip)
        self._watchdog.tip(tip, time.monotonic())
        metrics.TIP_SLOT.set(tip)
        for program in self.settings.watched:
            sealed = sealer.cursors.get(Address(program.address))
            if sealed is None:
                continue  # catching up
            metrics.CATCHING_UP.labels(program=program.name).set(0)
            metrics.SEALED_SLOT.labels(program=program.name).set(sealed)
            metrics.SEALED_LAG_SLOTS.labels(program=program.name).set(max(0, tip - sealed))

    def _audit_pause(self, finalized: Slot) -> float:
        """Seconds to the next comparison. Calls are billed: while every row was compared, half as often is enough."""
        return self.settings.finality_poll_s * (1 if finalized < self._newest_row else 2)

    async def _finality(self, driver: Driver, auditor: Auditor, sealer: Sealer, database: PostgresLedger) -> None:
        """Hints as they come, and every `finality_poll_s` the finalized chain. One after the other: both append late rows."""
        report = AuditReporter()
        due = time.monotonic() + self.settings.finality_poll_s
        while True:
            await asyncio.sleep(max(0.0, min(HINTS_POLL_S, due - time.monotonic())))
            hint = sealer.hints.take(time.monotonic())
            if hint is not None:
                await self._follow(driver, auditor, sealer, hint)
            if time.monotonic() >= due:
                due = time.monotonic() + self._audit_pause(auditor.finalized)
                await self._audit(driver, auditor, sealer, database)
                if auditor.left_off:
                    due = time.monotonic()
            report.publish(auditor, sealer.hints)

    async def _follow(self, driver: Driver, auditor: Auditor, sealer: Sealer, hint: Hint) -> None:
        """Look at a sealed slot of which something hints that the list hid a transaction."""
        outcome = await driver.drive(auditor.follow(hint, sealer.hints, sealer.cursors, self.settings.commitment))
        if isinstance(outcome, Done) and outcome.late:
            log.error(
                "hidden_transaction", slot=hint.slot, rows=outcome.late, hint=hint.kind,
                remedy="the node's signature list hides transactions; run: indexer replay, at another endpoint",
            )  # fmt: skip

    async def _audit(self, driver: Driver, auditor: Auditor, sealer: Sealer, database: PostgresLedger) -> None:
        while self._to_audit:
            handover = self._to_audit.pop()
            auditor.admit(handover.address, handover.finalized)
        hidden = auditor.tally.hidden
        outcome = await driver.drive(auditor.audit(sealer.sealed))
        if auditor.root >= 0:
            await database.set_root(auditor.root)
        self.state.finalized = auditor.finalized
        self.state.audit(outcome, time.monotonic())
        metrics.FINALIZED_SLOT.set(auditor.finalized)
        metrics.AUDIT_STALLED.set(self.state.audit_halted is not None)
        if auditor.tally.hidden > hidden:
            log.error(
                "list_hides", transactions=auditor.tally.hidden - hidden, slot=auditor.finalized,
                remedy="a sampled block shows what the node's signature list does not; run: indexer replay, at another endpoint",
            )  # fmt: skip
        if isinstance(outcome, Halted):
            log.seldom(60.0, "error", "audit_halted", reason=outcome.reason, remedy=outcome.remedy)
        elif isinstance(outcome, Unproven):
            log.seldom(30.0, "warning", "audit_unproven", reason=outcome.reason)
        elif outcome.late or outcome.retracted:
            log.error("finality_corrected", late=outcome.late, retracted=outcome.retracted, slot=outcome.slot)

    async def _reconciling(self, prepared: Prepared) -> None:
        """The tables against the accounts on the chain, every `reconcile_s` seconds."""
        from projections.reconcile import reconcile

        while True:
            await asyncio.sleep(self.settings.reconcile_s)
            try:
                report = await asyncio.to_thread(
                    reconcile, self.settings.need_database(), prepared.specs, self.settings.rpc_urls
                )
            except UserError as error:
                log.seldom(60.0, "warning", "not_reconciled", error=str(error))
                continue
            self.state.differences = len(report.differences)
            metrics.RECONCILE_DIFFERENCES.set(len(report.differences))
            if report.differences:
                log.error("tables_differ", differences=len(report.differences), remedy="run: indexer reconcile")

    async def _upgrades(self, prepared: Prepared, rpc: RpcClient) -> None:
        """Notice that a program was deployed anew or that its authors published another IDL. A new IDL is taken up where the settings say
        "chain"; elsewhere a person has to give it.
        """
        watches = {p.name: idls.Watch(prepared.deployments.get(p.name)) for p in self.settings.watched}
        for name in watches:
            for what in idls.CHANGES:
                metrics.PROGRAM_UPGRADES.labels(
                    program=name, what=what
                )  # from 0: an alert sees no increase in a series that begins at 1
        while True:
            for program in self.settings.watched:
                watch = watches[program.name]
                found = watch.notice(
                    await idls.deployed(rpc, program.address), await idls.published(rpc, program.address)
                )
                if watch.deployment is not None:
                    metrics.PROGRAM_DEPLOYED_SLOT.labels(program=program.name).set(watch.deployment)
                if not found:
                    continue
                follows = any(each.path == idls.CHAIN for each in program.idls)
                for what in found:
                    metrics.PROGRAM_UPGRADES.labels(program=program.name, what=what).inc()
                    log.warning(
                        f"program_{what}",
                        program=program.name,
                        slot=watch.deployment,
                        remedy="none: the IDL on the chain is followed" if follows else _GIVE_IDL,
                    )
                await self._renew(program.name, watch.deployment, reload=follows and "idl_changed" in found)
            await asyncio.sleep(self.settings.upgrades_poll_s)

    async def _renew(self, name: str, deployment: int | None, *, reload: bool) -> None:
        """Note the deployment for the status; with `reload` read all IDLs again and project with them."""
        if deployment is not None:
            async with await aconnect(self.settings.need_database()) as connection:
                await ledger_api.note_deployment(connection, name, deployment)
        if not reload:
            return
        prepared = await prepare(self.settings, migrate=False)
        if self._projector is not None:
            # The old tables serve until those of the new version are built: the worker begins with that.
            await asyncio.to_thread(self._projector.stop, self.settings.shutdown_s)
            self._projector = ProjectorThread(self.settings, prepared)
            self._projector.start()

    # ---- projecting ----

    async def _project_only(self, prepared: Prepared) -> None:
        if self.options.until_slot is not None:
            return
        await self._stop.wait()

    async def _wait_projected(self, prepared: Prepared) -> None:
        """`--until-slot` ends only when the tables have what was sealed."""
        while self._projector is not None and not self._stop.is_set():
            if await asyncio.to_thread(self._projector.has_projected, self.options.until_slot):
                return
            await self._sleep(0.05)

    # ---- telling ----

    def reasons(self) -> list[dict[str, Any]]:
        """Why this process is not ready; empty when it is."""
        failing = None if self._database is None else self._database.failing
        lag_max = self.settings.ready_lag_slots
        found = self.state.reasons(time.monotonic(), lag_max, failing, self._watchdog, ingest=self.options.ingest)
        if self.state.started and self._projector is not None:
            found.extend(self._projector.reasons(lag_max))
        return found

    async def _status(self) -> dict[str, Any]:
        from indexer.status import collect

        document = await asyncio.to_thread(collect, self.settings.need_database())
        document["process"] = {"leader": self.state.leader, "ready": not self.reasons(), "reasons": self.reasons()}
        return document

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel until all have ended: a cancellation that meets a wait_for whose work is just done is lost (Python before 3.12)."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
