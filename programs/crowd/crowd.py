"""The crowd: communities as lanes, each with its own wallets and its own random numbers, all within one rate.

What a wallet does depends on the seed alone; in which order transactions of different wallets land is the node's affair, and nothing
here depends on it. The right answer is folded from the landed transactions in the chain's own order: see `model`.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from solders.compute_budget import set_compute_unit_limit
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import Transaction

from programs.community_voting import artifact
from programs.crowd.lane import Lane, Over
from programs.crowd.model import Model, differences, read_model
from programs.crowd.node import Node, NotLanded
from programs.errors import EXIT_UNREACHABLE, EXIT_WRONG, UserError

LAMPORTS_A_WALLET: Final = 5_000_000_000
UNITS_MIN: Final = 200_000
FUND_SECONDS_MAX: Final = 90.0
TRANSFERS_A_TRANSACTION: Final = 15
MAKE_UP_SECONDS_MAX: Final = 0.1
WALLETS_A_COMMUNITY: Final = 24


@dataclass(slots=True)
class Result:
    """What a run did: landed and succeeded, landed and failed, never landed, each by instruction, and for how long."""

    succeeded: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slot_first: int = 0
    slot_last: int = 0

    @property
    def landed(self) -> int:
        """Transactions on the chain, failed ones included."""
        return self.succeeded.total() + self.failed.total()

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "landed": self.landed,
            "succeeded": self.succeeded.total(),
            "failed": self.failed.total(),
            "lost": self.lost.total(),
            "landed_per_second": round(self.landed / self.seconds, 1) if self.seconds else 0.0,
            "seconds": round(self.seconds, 2),
            "slot_first": self.slot_first,
            "slot_last": self.slot_last,
            "succeeded_by_instruction": dict(sorted(self.succeeded.items())),
            "failed_by_instruction": dict(sorted(self.failed.items())),
            "errors": dict(self.errors.most_common()),
        }


class _Pace:
    """At most `rate` turns a second, evenly; what a lane rests on goes before votes. A late turn is not made up for by a burst."""

    def __init__(self, rate: float) -> None:
        self._gap = 1.0 / rate
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._serial = 0
        self._some = asyncio.Event()

    async def turn(self, urgent: bool) -> None:
        """Wait for the next turn."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serial += 1
        heapq.heappush(self._waiting, (0 if urgent else 1, self._serial, future))
        self._some.set()
        await future

    async def give(self) -> None:
        """Give turns until cancelled."""
        due = time.monotonic()
        while True:
            await self._some.wait()
            now = time.monotonic()
            due = max(due + self._gap, now - MAKE_UP_SECONDS_MAX)
            if due > now:
                await asyncio.sleep(due - now)
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)
            if not self._waiting:
                self._some.clear()

    def end(self) -> None:
        """Let everybody go; they see that the time is over."""
        for _, _, future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting = []
        self._some.clear()


class Crowd:
    """Wallets from a seed. `wallets` counts all of them; they are spread over communities of about 24."""

    def __init__(self, seed: int = 0, wallets: int = 96) -> None:
        if wallets < 8:
            raise UserError(f"wallets: {wallets} is too few for a community that uses every instruction; use 8 or more")
        self.seed = seed
        self.wallets = [
            Keypair.from_seed(hashlib.sha256(f"crowd {seed} {number}".encode()).digest()) for number in range(wallets)
        ]
        self.result = Result()
        self._pace = _Pace(1.0)
        self._ends = 0.0
        self._serial = 0
        self._node: Node | None = None

    @property
    def node(self) -> Node:
        """The node of the present run; UserError outside of one."""
        if self._node is None:
            raise UserError("the crowd is not running", EXIT_WRONG)
        return self._node

    async def run(
        self,
        url: str,
        rate: float = 50.0,
        seconds: float = 30.0,
        funder: Keypair | None = None,
        progress: Callable[[Result], None] | None = None,
    ) -> Result:
        """Use the chain at `rate` transactions a second for `seconds`; wallets are funded first, by airdrop or from `funder`.

        `progress` is called about once a second. UserError where the node cannot be reached or the wallets cannot be funded.
        """
        if rate <= 0 or seconds <= 0:
            raise UserError(f"rate, seconds: {rate:g}, {seconds:g} must both be positive")
        node = self._node = Node(url)
        self.result = Result()
        try:
            await node.open()
            await self._fund(funder)
            self.result.slot_first = await node.call("getSlot", {"commitment": "confirmed"})
            self._pace = _Pace(rate)
            started = time.monotonic()
            self._ends = started + seconds
            beside = [
                asyncio.create_task(work) for work in (self._report(started, progress), self._pace.give(), self._end())
            ]
            try:
                await self._live(self.result.slot_first)
            finally:
                for task in beside:
                    task.cancel()
            self.result.seconds = time.monotonic() - started
            self.result.slot_last = await node.call("getSlot", {"commitment": "confirmed"})
        finally:
            await node.close()
            self._node = None
        return self.result

    async def read_model(self, url: str, result: Result | None = None) -> tuple[Model, list[str]]:
        """The right answer for a run (the last one by default), folded from the blocks, and how the chain's accounts differ from it."""
        run = result or self.result
        node = Node(url)
        try:
            model = await read_model(node, run.slot_first, run.slot_last)
            return model, await differences(node, model)
        finally:
            await node.close()

    async def _report(self, started: float, progress: Callable[[Result], None] | None) -> None:
        while progress is not None:
            await asyncio.sleep(1.0)
            self.result.seconds = time.monotonic() - started
            progress(self.result)

    async def _end(self) -> None:
        await asyncio.sleep(max(0.0, self._ends - time.monotonic()))
        self._pace.end()

    async def _live(self, slot: int) -> None:
        count = max(1, len(self.wallets) // WALLETS_A_COMMUNITY)
        # Ids hold the slot, so that a second run of the same seed on the same chain founds new communities.
        lanes = [
            Lane(self, number, self.wallets[number::count], slot * 10_000 + number * 10) for number in range(count)
        ]
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(lane.live())

    async def _fund(self, funder: Keypair | None) -> None:
        poor = await self._poor()
        if funder is None:
            calls = [("requestAirdrop", [str(key), LAMPORTS_A_WALLET]) for key in poor]
            for at in range(0, len(calls), 20):
                for answer in await self.node.batch(calls[at : at + 20]):
                    if "error" in answer:
                        raise UserError(
                            f"url: {self.node.url} gives no airdrops ({answer['error'].get('message')}); name a funded --keypair",
                            EXIT_WRONG,
                        )
        else:
            for at in range(0, len(poor), TRANSFERS_A_TRANSACTION):
                some = poor[at : at + TRANSFERS_A_TRANSACTION]
                gifts = [
                    transfer(TransferParams(from_pubkey=funder.pubkey(), to_pubkey=key, lamports=LAMPORTS_A_WALLET))
                    for key in some
                ]
                failure = await self._submit(funder, gifts)
                if failure is not None:
                    raise UserError(
                        f"keypair: {funder.pubkey()} cannot fund the crowd ({failure}); give it more SOL", EXIT_WRONG
                    )
        until = time.monotonic() + FUND_SECONDS_MAX
        while await self._poor():
            if time.monotonic() > until:
                raise UserError(f"url: {self.node.url}: the wallets' money did not come in time", EXIT_UNREACHABLE)
            await asyncio.sleep(0.3)

    async def _poor(self) -> list[Pubkey]:
        keys = [wallet.pubkey() for wallet in self.wallets]
        poor: list[Pubkey] = []
        for at in range(0, len(keys), 100):
            some = keys[at : at + 100]
            options = {"commitment": "confirmed", "encoding": "base64", "dataSlice": {"offset": 0, "length": 0}}
            found = (await self.node.call("getMultipleAccounts", [str(key) for key in some], options))["value"]
            poor += [k for k, a in zip(some, found, strict=True) if a is None or a["lamports"] < LAMPORTS_A_WALLET // 5]
        return poor

    async def act(
        self, name: str, signer: Keypair, instruction: Instruction, until: float | None = None, urgent: bool = True
    ) -> str | None:
        """Send one instruction when its turn comes. None: it landed and succeeded; else the error's name, or "NotLanded".

        "TooLate", and nothing sent, where the turn comes after `until` of the chain's time.
        """
        if not self.over:
            await self._pace.turn(urgent)
        if self.over:
            raise Over
        if until is not None and self.node.chain_time() >= until:
            return "TooLate"
        try:
            err = await self._submit(signer, [instruction])
        except NotLanded as reason:
            self.result.lost[name] += 1
            self.result.errors[f"NotLanded: {reason}"[:80]] += 1
            return "NotLanded"
        if err is None:
            self.result.succeeded[name] += 1
            return None
        said = error_name(err)
        self.result.failed[name] += 1
        self.result.errors[said] += 1
        return said

    def _submit(self, signer: Keypair, instructions: Sequence[Instruction]) -> asyncio.Future[Any]:
        # The limit differs each time, so that no two transactions are the same bytes, which the chain would take for one.
        self._serial += 1
        unique = set_compute_unit_limit(UNITS_MIN + self._serial % 1_000_000)
        message = Message.new_with_blockhash([unique, *instructions], signer.pubkey(), self.node.blockhash)
        transaction = Transaction([signer], message, self.node.blockhash)
        return self.node.submit(str(transaction.signatures[0]), bytes(transaction))

    @property
    def over(self) -> bool:
        """Whether the time of the run is over."""
        return time.monotonic() >= self._ends


_ERROR_NAMES: Final = {error["code"]: error["name"] for error in artifact.load_idl_json()["errors"]}


def error_name(err: Any) -> str:
    """The program's own name of a transaction's `err`, else the cluster's words."""
    if isinstance(err, dict) and isinstance(err.get("InstructionError"), list):
        what = err["InstructionError"][1]
        if isinstance(what, dict) and "Custom" in what:
            return str(_ERROR_NAMES.get(what["Custom"], f"Custom {what['Custom']}"))
        return str(what)
    return str(err)
