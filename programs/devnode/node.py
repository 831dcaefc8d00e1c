"""The development node: the chain, its edges, its clock and its control methods, put together."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

from programs.devnode import snapshot
from programs.devnode.chain import Chain
from programs.devnode.config import DevNodeConfig
from programs.devnode.errors import RpcError, invalid_params
from programs.devnode.faults import HTTP_KINDS, FaultEngine
from programs.devnode.http import HttpConnection
from programs.devnode.ledger import Bank
from programs.devnode.method import Context, Handler, address_of, need, options_at, text_at
from programs.devnode.params import unsigned
from programs.devnode.pubsub import PubSub
from programs.devnode.rpc import RpcService
from programs.devnode.sockets import SocketEdge
from programs.errors import UserError

# What block times move by when no clock runs.
_MANUAL_SLOT_MS = 400.0
_ADVANCE_MAX = 100_000


class DevNode:
    """A node in this process: `async with DevNode(DevNodeConfig(...)) as node`. With `slot_ms` 0 slots pass by `advance` only."""

    def __init__(self, config: DevNodeConfig | None = None) -> None:
        self.config = config or DevNodeConfig()
        self.faults = FaultEngine(self.config.seed)
        for name, value in self.config.faults.items():
            self.faults.set_text(name, value)
        self._genesis_unix_s = self.config.genesis_unix_s
        # Seconds, the spread that they were drawn from, and the slot at which they were.
        self._skew: tuple[int, float, int] | None = None
        saved = None if self.config.restore is None else snapshot.read(self.config.restore)
        if saved is not None:
            self.faults.restore(saved.faults)
        self.chain = Chain(self.config, self._unix_s(0), saved)
        self.rpc = RpcService(self.chain, self.faults)
        # Another node of the same cluster: the same chain, and faults of its own, none of them on at the start.
        self.witness_faults = FaultEngine(self.config.seed, HTTP_KINDS)
        self.witness = RpcService(self.chain, self.witness_faults)
        self.pubsub = PubSub(self.chain, self.rpc, self.faults)
        self.sockets = SocketEdge(self.pubsub, self.config.ws_queue_items_max)
        self._http_connections: set[HttpConnection] = set()
        self._http: list[asyncio.Server] = []
        self._clock: asyncio.Task[None] | None = None
        self._confirm_timer: asyncio.TimerHandle | None = None
        self._deaf_until_slot = 0
        self.rpc_url = ""
        self.ws_url = ""
        # Where the other view of the chain is, when `witness_port` asks for one.
        self.witness_url = ""
        self._add_control()

    async def __aenter__(self) -> DevNode:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, and start the clock. UserError when a port is taken."""
        config = self.config
        try:
            self.rpc_url = await self._listen("rpc-port", config.rpc_port, self.rpc, self.faults)
            if config.witness_port is not None:
                self.witness_url = await self._listen(
                    "witness-port", config.witness_port, self.witness, self.witness_faults
                )
            self.ws_url = await self._listen_for_sockets()
        except UserError:
            self._stop_listening()
            raise
        # What happened before anybody could subscribe is told to nobody.
        self.chain.happenings.clear()
        if config.slot_ms > 0:
            self._clock = asyncio.create_task(self._run_clock(), name="devnode clock")

    async def _listen(self, option: str, port: int, service: RpcService, faults: FaultEngine) -> str:
        """Serve JSON-RPC on this port; its address."""
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: HttpConnection(service.answer, faults, self._http_connections), self.config.host, port
            )
        except OSError as error:
            raise self._taken(option, port, error) from None
        self._http.append(server)
        return f"http://{self.config.host}:{server.sockets[0].getsockname()[1]}"

    async def _listen_for_sockets(self) -> str:
        try:
            return f"ws://{self.config.host}:{await self.sockets.start(self.config.host, self.config.ws_port)}"
        except OSError as error:
            raise self._taken("ws-port", self.config.ws_port, error) from None

    def _stop_listening(self) -> None:
        for server in self._http:
            server.close()

    def _taken(self, option: str, port: int, error: OSError) -> UserError:
        remedy = "give another, or 0 for any free one"
        return UserError(
            f"{option} {port} on {self.config.host} cannot be listened on ({error.strerror or error}): {remedy}"
        )

    async def stop(self) -> None:
        """Stop the clock and cut every connection."""
        if self._clock is not None:
            self._clock.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._clock
        if self._confirm_timer is not None:
            self._confirm_timer.cancel()
        for connection in list(self._http_connections):
            connection.abort()
        self._stop_listening()
        await self.sockets.stop()

    async def run_until(self, stop: asyncio.Event) -> None:
        """Wait for `stop`. What breaks the clock is raised here: a chain that stands still must not look like a quiet one."""
        waiting = asyncio.create_task(stop.wait())
        tasks: set[asyncio.Task[Any]] = {waiting} if self._clock is None else {waiting, self._clock}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._clock is not None and self._clock.done():
            self._clock.result()

    # --- time ------------------------------------------------------------------------------------------------------

    def _unix_s(self, slot: int) -> int:
        if self._genesis_unix_s is None:
            now = int(time.time())
        else:
            now = self._genesis_unix_s + int(slot * (self.config.slot_ms or _MANUAL_SLOT_MS) / 1_000)
        return now + self._skew_s(slot)

    def _skew_s(self, slot: int) -> int:
        """How far off the chain's clock is. Block times never go back, so a clock that is put back stands still for a while."""
        faults = self.faults
        spread = faults.rate("clock-skew")
        if not spread:
            self._skew = None
            return 0
        every = faults.param("clock-skew", "slots")
        if self._skew is None or self._skew[1] != spread or (every and slot - self._skew[2] >= every):
            self._skew = (round(faults.dice("clock-skew").uniform(-spread, spread)), spread, slot)
        faults.counts["clock-skew"] += 1
        return self._skew[0]

    async def _run_clock(self) -> None:
        loop = asyncio.get_running_loop()
        while self.config.as_fast_as_possible:
            self._tick(delay_confirm=False)
            await asyncio.sleep(0)
        slot_s = self.config.slot_ms / 1_000
        due = loop.time() + slot_s
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            # A node that was held up does not hurry to catch up: its slots were late, that is all.
            due = max(due + slot_s, loop.time())
            self._tick(delay_confirm=0 < self.config.confirm_delay_ms < self.config.slot_ms)

    def _tick(self, *, delay_confirm: bool, skip: int = 0) -> Bank:
        faults = self.faults
        if faults.strikes("skipped-slots"):
            skip += max(1, int(faults.param("skipped-slots", "slots")))
        slot = self.chain.working.slot
        self._finish_confirm()
        bank = self.chain.finish_slot(self._unix_s(slot + 1 + skip), skip=skip, confirm=not delay_confirm)
        self._publish()
        if delay_confirm:
            delay_s = self.config.confirm_delay_ms / 1_000
            self._confirm_timer = asyncio.get_running_loop().call_later(delay_s, self._finish_confirm)
        if faults.strikes("forks"):
            self.fork(int(faults.param("forks", "depth")), reland=bool(faults.param("forks", "reland")))
        if faults.strikes("pruned-history"):
            self.chain.prune_below(self.chain.tip.slot - int(faults.param("pruned-history", "slots")))
        self._socket_faults(bank.slot)
        return bank

    def _finish_confirm(self) -> None:
        timer, self._confirm_timer = self._confirm_timer, None
        if timer is not None:
            timer.cancel()
            self.chain.confirm()
            self._publish()

    def _socket_faults(self, slot: int) -> None:
        faults, sockets = self.faults, self.sockets
        if self._deaf_until_slot and slot >= self._deaf_until_slot:
            self._deaf_until_slot = 0
            sockets.hear_again()
        if not sockets.clients:
            return
        if faults.strikes("closed-sockets"):
            sockets.close_all()
        if faults.strikes("dropped-sockets"):
            sockets.drop_all()
        if not self._deaf_until_slot and faults.strikes("silent-sockets"):
            self._deaf_until_slot = slot + int(faults.param("silent-sockets", "slots"))
            sockets.deafen_all()

    def _publish(self) -> None:
        happenings = self.chain.happenings
        self.sockets.deliver(self.pubsub.deliveries(list(happenings)))
        happenings.clear()

    async def advance(self, slots: int = 1, *, skip: int = 0) -> int:
        """Finish this many slots now (`skip` slots without a block follow the last); returns the newest block's slot."""
        for index in range(slots):
            self._tick(delay_confirm=False, skip=skip if index == slots - 1 else 0)
            await asyncio.sleep(0)
        return self.chain.tip.slot

    def fork(self, depth: int, *, reland: bool = False) -> tuple[Bank, ...]:
        """Let the newest blocks die; see `Chain.fork`."""
        dead = self.chain.fork(depth, self._unix_s(self.chain.working.slot + 1), reland=reland)
        self._publish()
        return dead

    async def airdrop(self, address: Pubkey | str, lamports: int) -> str:
        """Give lamports to an address from the faucet, and finish the slot; the signature. UserError when it is no address."""
        try:
            target = Pubkey.from_string(address) if isinstance(address, str) else address
        except ValueError:
            raise UserError(f"airdrop: {address!r} is not an address (32 bytes in base58)") from None
        signature = self.chain.airdrop(target, lamports)
        await self.advance()
        return signature

    def restore(self, path: Path) -> int:
        """Go back to a snapshot, as if the node had been started with it: clients are cut, faults stay as they are set. The newest slot."""
        saved = snapshot.read(path)
        self._finish_confirm()
        self.faults.restore(saved.faults)
        chain = Chain(self.config, self._unix_s(0), saved)
        chain.happenings.clear()
        self.chain = self.rpc.chain = self.witness.chain = chain
        self.pubsub.go_on_with(chain)
        self.sockets.drop_all()
        return chain.tip.slot

    def save(self, path: Path) -> int:
        """Write the whole chain to a file, which `DevNodeConfig.restore` takes; its size in bytes. UserError when it cannot be written."""
        self._finish_confirm()
        return snapshot.write(path, self.chain.save(self.faults.save()))

    # --- control ---------------------------------------------------------------------------------------------------

    def _add_control(self) -> None:
        # Those of faults speak of the port on which they are called; the chain is one for both.
        shared: dict[str, Handler] = {
            "devnode_setFault": _control_set_fault,
            "devnode_clearFaults": _control_clear_faults,
            "devnode_faults": lambda ctx, params: ctx.faults.settings(),
            "devnode_faultCounts": lambda ctx, params: dict(sorted(ctx.faults.counts.items())),
            "devnode_hideSignature": _control_hide,
            "devnode_advanceSlot": self._control_advance,
            "devnode_fork": self._control_fork,
            "devnode_setAccount": self._control_set_account,
            "devnode_dropSockets": self._control_drop_sockets,
            "devnode_saveSnapshot": self._control_save,
            "devnode_restoreSnapshot": self._control_restore,
        }
        self.rpc.extra.update(shared)
        self.witness.extra.update(shared)

    def _control_drop_sockets(self, ctx: Context, params: list[Any]) -> int:
        clients = self.sockets.clients
        self.sockets.drop_all()
        return clients

    def _control_save(self, ctx: Context, params: list[Any]) -> dict[str, Any]:
        # The place is the operator's choice: whoever may call the node must not be able to name a file.
        if self.config.snapshot is None:
            raise invalid_params("no place for a snapshot: start the node with --snapshot FILE")
        try:
            size = self.save(self.config.snapshot)
        except UserError as error:
            raise RpcError(-32603, str(error)) from None
        return {"slot": self.chain.tip.slot, "bytes": size}

    def _control_restore(self, ctx: Context, params: list[Any]) -> dict[str, Any]:
        path = self.config.snapshot or self.config.restore
        if path is None:
            raise invalid_params("no snapshot to go back to: start the node with --snapshot FILE or --restore FILE")
        try:
            return {"slot": self.restore(path)}
        except UserError as error:
            raise RpcError(-32603, str(error)) from None

    def _control_advance(self, ctx: Context, params: list[Any]) -> int:
        slots = unsigned(params[0]) if params else 1
        skip = unsigned(params[1]) if len(params) > 1 else 0
        if not 0 < slots <= _ADVANCE_MAX or skip > _ADVANCE_MAX:
            raise invalid_params(f"slots must be 1 to {_ADVANCE_MAX}, and skip at most {_ADVANCE_MAX}")
        for index in range(slots):
            self._tick(delay_confirm=False, skip=skip if index == slots - 1 else 0)
        return self.chain.tip.slot

    def _control_fork(self, ctx: Context, params: list[Any]) -> dict[str, Any]:
        depth = unsigned(params[0]) if params else 1
        dead = self.fork(depth, reland=bool(options_at(params, 1).get("reland")))
        return {"dead": sorted(bank.slot for bank in dead), "slot": self.chain.working.slot}

    def _control_set_account(self, ctx: Context, params: list[Any]) -> bool:
        need(params, 2)
        address, fields = address_of(text_at(params, 0)), options_at(params, 1)
        try:
            data = base64.b64decode(fields.get("data", ""), validate=True)
            lamports = unsigned(fields.get("lamports", 0))
            owner = address_of(fields.get("owner", "1" * 32))
        except (TypeError, ValueError, binascii.Error):
            raise RpcError(-32602, "data must be base64 text, owner an address") from None
        self.chain.put_account(address, Account(lamports, data, owner, bool(fields.get("executable"))))
        return True


def _control_set_fault(ctx: Context, params: list[Any]) -> dict[str, Any]:
    need(params, 2)
    try:
        ctx.faults.set(text_at(params, 0), params[1], **options_at(params, 2))
    except UserError as error:
        raise invalid_params(str(error)) from None
    return ctx.faults.settings()


def _control_clear_faults(ctx: Context, params: list[Any]) -> dict[str, Any]:
    ctx.faults.clear()
    return {}


def _control_hide(ctx: Context, params: list[Any]) -> bool:
    need(params)
    ctx.faults.hide(text_at(params, 0))
    return True
