"""The crowd: communities as lanes, each with its own wallets and its own random numbers, all within one rate.

What a wallet does depends on the seed alone; in which order transactions of different wallets land is the node's affair, and nothing
here depends on it. The right answer is folded from the landed transactions in the chain's own order: see `model`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import heapq
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
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
from programs.community_voting import instructions as voting
from programs.community_voting.instructions import QuestionParams, Settings
from programs.crowd.model import Model, differences, read_model
from programs.crowd.node import Node, NotLanded
from programs.errors import EXIT_UNREACHABLE, EXIT_WRONG, UserError

LAMPORTS_A_WALLET: Final = 5_000_000_000
UNITS_MIN: Final = 200_000
FUND_SECONDS_MAX: Final = 90.0
TRANSFERS_A_TRANSACTION: Final = 15
MAKE_UP_SECONDS_MAX: Final = 0.1
WALLETS_A_COMMUNITY: Final = 24

_POLICIES: Final[tuple[voting.JoinPolicy, ...]] = ("Open", "Approval", "Closed")
_TOPICS: Final = ("the bridge", "the library", "the park", "the market", "bicycles", "the school roof", "street lights")
_CHOICES: Final = (
    "Yes",
    "No",
    "Later",
    "Half of it",
    "Only on Sundays",
    "Ask again",
    "Twice as much",
    "Let Ada decide",
)


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


class _Over(Exception):
    """The time of the run is over; unwinds a lane."""


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
            raise _Over
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


class Lane:
    """One community's life, over and over until the time is over."""

    def __init__(self, crowd: Crowd, number: int, wallets: list[Keypair], community_id: int) -> None:
        self.crowd = crowd
        self.rng = random.Random(f"{crowd.seed}/{number}")
        self.founder, *self.others = wallets
        self.community_id = community_id
        self.community = voting.community_address(self.founder.pubkey(), community_id)
        self.policy: voting.JoinPolicy = _POLICIES[number % len(_POLICIES)]
        self.members: list[Keypair] = []
        self.questions = 0
        self._asking = asyncio.Lock()
        self.moving: list[Keypair] = []
        self.moderator = self.founder

    async def live(self) -> None:
        """Found, fill, ask, vote; never raises because the time is over."""
        with contextlib.suppress(_Over):
            await self._found()
            asking = [self._ask_always(lane) for lane in range(2)]
            await self._together([*asking, self._membership_always()])

    async def _together(self, work: Sequence[Awaitable[Any]]) -> list[Any]:
        """All of them; afterwards _Over, when any of them met the end."""
        results = await asyncio.gather(*work, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, _Over):
                raise result
        if any(isinstance(result, _Over) for result in results):
            raise _Over
        return results

    async def _act(self, name: str, signer: Keypair, *arguments: Any) -> str | None:
        build: Callable[..., Instruction] = getattr(voting, name)
        return await self.crowd.act(name, signer, build(signer.pubkey(), *arguments))

    async def _vote(self, until: float, name: str, signer: Keypair, *arguments: Any) -> str | None:
        """The mass: it waits behind everything else, and comes in time or not at all."""
        build: Callable[..., Instruction] = getattr(voting, name)
        return await self.crowd.act(name, signer, build(signer.pubkey(), *arguments), until, urgent=False)

    def _settings(self, policy: voting.JoinPolicy) -> Settings:
        topic = self.rng.choice(_TOPICS)
        return Settings(f"Friends of {topic}", f"Everything about {topic}", policy, 1, 86_400, 8)

    async def _must(self, name: str, signer: Keypair, *arguments: Any) -> None:
        """Again until it lands: what follows rests on it."""
        while (said := await self._act(name, signer, *arguments)) is not None:
            if said in ("NotLanded", "TooEarlyToClose", "RevealNotBegun"):
                continue
            raise UserError(f"{name}: the chain refused it with {said}", EXIT_WRONG)

    async def _found(self) -> None:
        await self._must("create_community", self.founder, self.community_id, self._settings(self.policy))
        await self._together([self._enter(wallet) for wallet in self.others])
        moderator = self.members[0]
        await self._must("change_role", self.founder, self.community, moderator.pubkey(), "Moderator")
        # Two wallets stay out of the questions, and move in and out of the community instead.
        self.moving, self.members = self.members[-2:], [self.founder, *self.members[:-2]]
        self.moderator = moderator

    async def _enter(self, wallet: Keypair) -> None:
        key = wallet.pubkey()
        if self.policy == "Closed":
            await self._must("invite", self.founder, self.community, key)
        await self._must("join", wallet, self.community)
        if self.policy == "Approval":
            await self._must("approve", self.founder, self.community, key)
        self.members.append(wallet)

    async def _membership_always(self) -> None:
        """Wallets that come and go, roles, settings, the authority, and communities that end soon."""
        one, two = self.moving
        turn = 0
        while True:
            turn += 1
            await self._act("leave", one, self.community)
            await self._act("join", one, self.community)
            if self.policy == "Approval":
                await self._act("reject", self.moderator, self.community, one.pubkey())
                await self._act("invite", self.moderator, self.community, one.pubkey())
            if self.policy != "Open":
                await self._act("invite", self.moderator, self.community, one.pubkey())
                await self._act("join", one, self.community)
            await self._act("remove", self.moderator, self.community, two.pubkey())
            await self._act("join", two, self.community)
            await self._act("invite", self.moderator, self.community, two.pubkey())
            if turn % 2:
                await self._act("reject", self.moderator, self.community, two.pubkey())
                await self._act("invite", self.moderator, self.community, two.pubkey())
            await self._act("join", two, self.community)
            await self._act("update_community", self.founder, self.community, self._settings(self.policy))
            await self._act("change_role", self.founder, self.community, two.pubkey(), "Moderator")
            await self._act("change_role", self.founder, self.community, two.pubkey(), "Member")
            heir = self.moderator
            await self._act("transfer_authority", self.founder, self.community, heir.pubkey())
            await self._act("transfer_authority", heir, self.community, self.founder.pubkey())
            await self._short_lived(turn)
            called_off = await self._ask(self.founder, self._params("Open", 60, 0))
            await self._act("cancel_question", self.moderator, self.community, called_off)
            await self._until(int(self.crowd.node.chain_time()) + 2)

    async def _short_lived(self, turn: int) -> None:
        community = voting.community_address(self.moderator.pubkey(), self.community_id + turn)
        settings = Settings("Short-lived", "Ends at once")
        if await self._act("create_community", self.moderator, self.community_id + turn, settings) is None:
            await self._act("dissolve_community", self.moderator, community)
            await self._act("join", self.founder, community)

    async def _ask(self, asker: Keypair, params: QuestionParams) -> Pubkey:
        # The index is the community's count, so questions are asked one after the other.
        async with self._asking:
            await self._must("create_question", asker, self.community, self.questions, params)
            question = voting.question_address(self.community, self.questions)
            self.questions += 1
        return question

    async def _ask_always(self, lane: int) -> None:
        round_number = 0
        while True:
            await (self._sealed_question() if (round_number + lane) % 3 == 1 else self._open_question())
            round_number += 1

    def _params(self, kind: voting.BallotKind, opens_for: int, reveals_for: int) -> QuestionParams:
        options = tuple(self.rng.sample(_CHOICES, self.rng.randint(2, 6)))
        closes_at = int(self.crowd.node.chain_time()) + opens_for
        return QuestionParams(
            text=f"What about {self.rng.choice(_TOPICS)}?",
            options=options,
            closes_at=closes_at,
            ballot_kind=kind,
            max_selections=self.rng.randint(1, len(options)),
            allow_changes=True,
            quorum=self.rng.choice((0, 0, len(self.members) // 2, len(self.members) + 1)),
            eligibility=self.rng.choice(("ActiveMembers", "MembersBefore")),
            reveal_until=closes_at + reveals_for if reveals_for else 0,
        )

    def _choice(self, params: QuestionParams) -> list[int]:
        # Earlier options are liked better, so that there is something to see.
        count = self.rng.randint(1, params.max_selections)
        ranked = sorted(range(len(params.options)), key=lambda at: self.rng.random() * (at + 1))
        return ranked[:count]

    async def _open_question(self) -> None:
        params = self._params("Open", self.rng.randint(8, 14), 0)
        question = await self._ask(self.rng.choice(self.members), params)
        ends = params.closes_at - 2
        await self._together([self._open_voter(wallet, question, params, ends) for wallet in self.members])
        await self._until(params.closes_at)
        await self._must("close_question", self.rng.choice(self.members), self.community, question)
        voters = self.rng.sample(self.members, len(self.members) // 2)
        await self._together([self._act("reclaim_vote", wallet, question) for wallet in voters])

    async def _open_voter(self, wallet: Keypair, question: Pubkey, params: QuestionParams, ends: int) -> None:
        voted = False
        while self.crowd.node.chain_time() < ends:
            anonymous = self.rng.random() < 0.2
            chance = self.rng.random()
            if not voted:
                said = await self._vote(
                    ends, "cast_vote", wallet, self.community, question, self._choice(params), anonymous
                )
                voted = said is None
            elif chance < 0.05:
                said = await self._vote(ends, "withdraw_vote", wallet, question)
                voted = said is not None
            elif chance < 0.08:
                # A second vote: the chain refuses it, and the failed transaction is history like any other.
                await self._vote(ends, "cast_vote", wallet, self.community, question, self._choice(params), anonymous)
            else:
                await self._vote(ends, "change_vote", wallet, self.community, question, self._choice(params), anonymous)

    async def _sealed_question(self) -> None:
        params = self._params("Sealed", self.rng.randint(6, 9), self.rng.randint(6, 9))
        question = await self._ask(self.rng.choice(self.members), params)
        ballots: dict[Pubkey, tuple[list[int], bytes]] = {}
        ends = params.closes_at - 2
        await self._together([self._sealed_voter(w, question, params, ends, ballots) for w in self.members])
        await self._until(params.closes_at)
        await self._together(
            [
                self._act("reveal_vote", wallet, question, *ballots[wallet.pubkey()])
                for wallet in self.members
                if wallet.pubkey() in ballots and self.rng.random() < 0.9
            ]
        )
        await self._until(params.reveal_until)
        await self._must("close_question", self.rng.choice(self.members), self.community, question)
        await self._together([self._act("reclaim_vote", wallet, question) for wallet in self.members[::2]])

    async def _sealed_voter(
        self,
        wallet: Keypair,
        question: Pubkey,
        params: QuestionParams,
        ends: int,
        ballots: dict[Pubkey, tuple[list[int], bytes]],
    ) -> None:
        key = wallet.pubkey()
        committed = False
        while self.crowd.node.chain_time() < ends:
            selections, salt = self._choice(params), self.rng.randbytes(32)
            sealed = voting.commitment(selections, salt, key, question)
            if committed and self.rng.random() < 0.05:
                if await self._vote(ends, "withdraw_vote", wallet, question) is None:
                    committed = False
                    ballots.pop(key, None)
                continue
            name = "change_commitment" if committed else "commit_vote"
            if await self._vote(ends, name, wallet, self.community, question, sealed) is None:
                committed = True
                ballots[key] = (selections, salt)

    async def _until(self, moment: int) -> None:
        while self.crowd.node.chain_time() < moment + 0.5:
            if self.crowd.over:
                raise _Over
            await asyncio.sleep(0.1)
