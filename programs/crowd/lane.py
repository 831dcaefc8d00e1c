"""A lane of the crowd: one community with its own wallets and its own random numbers, founded, filled, asked and voted in."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from programs.community_voting import instructions as voting
from programs.community_voting.instructions import QuestionParams, Settings
from programs.errors import EXIT_WRONG, UserError

if TYPE_CHECKING:
    from programs.crowd.crowd import Crowd

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


class Over(Exception):
    """The time of the run is over; unwinds a lane."""


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
        with contextlib.suppress(Over):
            await self._found()
            asking = [self._ask_always(lane) for lane in range(2)]
            await self._together([*asking, self._membership_always()])

    async def _together(self, work: Sequence[Awaitable[Any]]) -> list[Any]:
        """All of them; afterwards Over, when any of them met the end."""
        results = await asyncio.gather(*work, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, Over):
                raise result
        if any(isinstance(result, Over) for result in results):
            raise Over
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
            if said == "ProgramAccountNotFound":
                raise UserError(
                    "the program is not deployed on this chain; load it (indexer devnode --program ADDRESS=FILE.so) or give another --url",
                    EXIT_WRONG,
                )
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
                raise Over
            await asyncio.sleep(0.1)
