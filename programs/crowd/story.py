"""A crowd without a clock: a seeded history of the voting program, one act after another, as fast as somebody lands them.

`Crowd` lives in real time, for its questions stay open for seconds. A `Story` is told to a chain whose slots pass by command: it decides what
is done next from the seed and from what has landed so far, and does no I/O. Some acts make no sense, so that failed transactions are
part of the history. After a fork give it the model of what is left, and it goes on from there.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from solders.compute_budget import set_compute_unit_limit
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from programs.community_voting import instructions as voting
from programs.community_voting.instructions import CODEC, QuestionParams, Settings
from programs.crowd.model import Model, Row

# Of a hundred acts so many are drawn without a look at whether they make sense.
SENSELESS_PERCENT: Final = 12
_TRIES: Final = 40
_UNITS_MIN: Final = 200_000
_COMMUNITY_ID: Final = 1
_POLICIES: Final[tuple[voting.JoinPolicy, ...]] = ("Open", "Approval", "Closed")
# How often each act is drawn; votes are the mass, and what ends things is rare.
_WEIGHTS: Final = {
    "join": 8,
    "leave": 1,
    "invite": 4,
    "approve": 4,
    "reject": 1,
    "remove": 1,
    "change_role": 2,
    "transfer_authority": 1,
    "update_community": 1,
    "create_community": 1,
    "dissolve_community": 1,
    "create_question": 4,
    "cancel_question": 1,
    "close_question": 5,
    "cast_vote": 14,
    "change_vote": 6,
    "withdraw_vote": 2,
    "commit_vote": 8,
    "change_commitment": 3,
    "reveal_vote": 8,
    "reclaim_vote": 5,
}


@dataclass(frozen=True, slots=True)
class Act:
    """One instruction and who signs it."""

    name: str
    signer: Keypair
    instruction: Instruction


class Story:
    """`next` decides; `landed` tells it that an act succeeded; `transaction` signs one. Times are the chain's, Unix seconds."""

    def __init__(self, seed: int, wallets: int = 14, communities: int = 2) -> None:
        self.rng = random.Random(f"story {seed}")
        self.wallets = [
            Keypair.from_seed(hashlib.sha256(f"story {seed} {number}".encode()).digest()) for number in range(wallets)
        ]
        self.founders = self.wallets[:communities]
        self.communities = [voting.community_address(f.pubkey(), _COMMUNITY_ID) for f in self.founders]
        self.model = Model()
        self._serial = 0
        self._short_lived = _COMMUNITY_ID

    def transaction(self, act: Act, blockhash: str) -> VersionedTransaction:
        """The act, signed. The unit limit differs each time, so that no two transactions are the same bytes."""
        self._serial += 1
        unique = set_compute_unit_limit(_UNITS_MIN + self._serial % 1_000_000)
        message = Message.new_with_blockhash(
            [unique, act.instruction], act.signer.pubkey(), Hash.from_string(blockhash)
        )
        return VersionedTransaction(message, [act.signer])

    def landed(self, act: Act, now: int) -> None:
        """The act succeeded in a block of this time."""
        for name, data, accounts in decoded([act.instruction]):
            self.model.apply(name, data, accounts, now)

    def next(self, now: int) -> Act:
        """What is done next."""
        for founder, community in zip(self.founders, self.communities, strict=True):
            if str(community) not in self.model.communities:
                policy = _POLICIES[self.founders.index(founder) % len(_POLICIES)]
                settings = Settings("Story", "Of people who vote", policy, 1, 86_400, 8)
                return self._act("create_community", founder, _COMMUNITY_ID, settings)
        senseless = self.rng.randrange(100) < SENSELESS_PERCENT
        names, weights = list(_WEIGHTS), list(_WEIGHTS.values())
        act = None
        for _ in range(_TRIES):
            scene = _Scene(self, self.rng.choice(self.communities), now)
            name = self.rng.choices(names, weights)[0]
            makes_sense, signer, arguments = scene.draw(name)
            act = (name, signer, arguments)
            if makes_sense or senseless:
                break
        assert act is not None
        return self._act(act[0], act[1], *act[2])

    def new_community_id(self) -> int:
        """An id that no community of this story has."""
        self._short_lived += 1
        return self._short_lived

    @staticmethod
    def _act(name: str, signer: Keypair, *arguments: Any) -> Act:
        return Act(name, signer, getattr(voting, name)(signer.pubkey(), *arguments))


class _Scene:
    """One community at one moment. `draw` gives (whether it makes sense, the signer, the instruction's arguments)."""

    def __init__(self, story: Story, community: Pubkey, now: int) -> None:
        self.story, self.rng, self.model = story, story.rng, story.model
        self.community, self.now = community, now
        self.row = self.model.communities[str(community)]
        self.signer = self.rng.choice(story.wallets)
        self.target = self.rng.choice(story.wallets)
        count = self.row["counts"]["questions"]
        self.question = voting.question_address(community, max(0, count - self.rng.randint(1, 4)))
        self.asked: Row | None = self.model.questions.get(str(self.question))

    def draw(self, name: str) -> tuple[bool, Keypair, tuple[Any, ...]]:
        if name in ("invite", "approve", "reject", "remove", "change_role", "update_community", "cancel_question"):
            self.signer = self.rng.choice(self._of_role("Admin", "Moderator") or self.story.wallets)
        drawn: tuple[bool, Keypair, tuple[Any, ...]] = getattr(self, "_" + name)()
        return drawn

    def _standing(self, wallet: Keypair) -> Row | None:
        member = self.model.members.get(str(voting.member_address(self.community, wallet.pubkey())))
        return None if member is None else member["standing"]

    def _status(self, wallet: Keypair) -> str:
        standing = self._standing(wallet)
        return "Pending+" if standing and standing["invited"] else standing["status"] if standing else "None"

    def _role(self, wallet: Keypair) -> str:
        standing = self._standing(wallet)
        return standing["role"] if standing and standing["status"] == "Active" else "None"

    def _of_role(self, *roles: str) -> list[Keypair]:
        return [wallet for wallet in self.story.wallets if self._role(wallet) in roles]

    def _is_authority(self, wallet: Keypair) -> bool:
        return bool(self.row["authority"] == str(wallet.pubkey()))

    def _vote(self, wallet: Keypair) -> Row | None:
        address = str(voting.vote_address(self.question, wallet.pubkey()))
        return None if address in self.model.gone else self.model.votes.get(address)

    # Members.

    def _join(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        wish = self._status(self.signer) in ("None", "Left", "Removed", "Pending+")
        return wish, self.signer, (self.community,)

    def _leave(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        return self._role(self.signer) == "Member" and self.rng.random() < 0.3, self.signer, (self.community,)

    def _invite(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        wish = self._status(self.target) in ("None", "Left", "Removed")
        return wish, self.signer, (self.community, self.target.pubkey())

    def _approve(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        return self._status(self.target) == "Pending", self.signer, (self.community, self.target.pubkey())

    def _reject(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        wish = self._status(self.target).startswith("Pending") and self.rng.random() < 0.3
        return wish, self.signer, (self.community, self.target.pubkey())

    def _remove(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        wish = self._role(self.target) == "Member" and self.rng.random() < 0.2
        return wish, self.signer, (self.community, self.target.pubkey())

    def _change_role(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        wish = self._is_authority(self.signer) and self._role(self.target) in ("Member", "Moderator")
        return wish, self.signer, (self.community, self.target.pubkey(), self.rng.choice(("Member", "Moderator")))

    def _transfer_authority(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        self.signer = next((w for w in self.story.wallets if self._is_authority(w)), self.signer)
        wish = self._role(self.target) != "None" and self.rng.random() < 0.3
        return wish, self.signer, (self.community, self.target.pubkey())

    # Communities.

    def _update_community(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        policy = self.rng.choice(_POLICIES)
        settings = Settings(f"Story {self.rng.randrange(1_000)}", "Told again", policy, 1, 86_400, 8)
        wish = self._role(self.signer) == "Admin" and self.rng.random() < 0.3
        return wish, self.signer, (self.community, settings)

    def _create_community(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        settings = Settings("Short-lived", "Ends soon", self.rng.choice(_POLICIES))
        return self.rng.random() < 0.25, self.signer, (self.story.new_community_id(), settings)

    def _dissolve_community(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        lasting = {str(community) for community in self.story.communities}
        open_ones = [
            (address, row)
            for address, row in self.model.communities.items()
            if address not in lasting and not row["dissolved"]
        ]
        if not open_ones:
            return False, self.signer, (voting.community_address(self.signer.pubkey(), 0),)
        address, row = self.rng.choice(open_ones)
        signer = next(w for w in self.story.wallets if str(w.pubkey()) == row["authority"])
        return True, signer, (Pubkey.from_string(address),)

    # Questions.

    def _create_question(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        options = tuple(f"option {number}" for number in range(self.rng.randint(2, 6)))
        closes_at = self.now + self.rng.randint(3, 14)
        sealed = self.rng.random() < 0.4
        params = QuestionParams(
            f"Question {self.rng.randrange(1_000)}?",
            options,
            closes_at,
            "Sealed" if sealed else "Open",
            self.rng.randint(1, len(options)),
            self.rng.random() < 0.8,
            self.rng.randrange(4),
            self.rng.choice(("ActiveMembers", "ActiveMembers", "MembersBefore")),
            0,
            closes_at + self.rng.randint(3, 12) if sealed else 0,
        )
        wish = self._role(self.signer) != "None" and self.row["counts"]["open_questions"] < 4
        return wish, self.signer, (self.community, self.row["counts"]["questions"], params)

    def _cancel_question(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        wish = self._is_open() and self.rng.random() < 0.2
        return wish, self.signer, (self.community, self.question)

    def _close_question(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        asked = self.asked
        ends = 0 if asked is None else max(asked["closes_at"], asked["reveal_until"])
        wish = asked is not None and asked["status"] == "Open" and self.now >= ends
        return wish, self.signer, (self.community, self.question)

    def _is_open(self, kind: str | None = None) -> bool:
        asked = self.asked
        return (
            asked is not None
            and asked["status"] == "Open"
            and self.now < asked["closes_at"]
            and kind in (None, asked["ballot_kind"])
        )

    # Votes.

    def _selections(self) -> list[int]:
        asked = self.asked
        if asked is None:
            return [0]
        return self.rng.sample(range(len(asked["options"])), self.rng.randint(1, asked["max_selections"]))

    def _sealed_choice(self, turn: int) -> tuple[list[int], bytes]:
        """What a wallet commits to on a question: two possible ballots, both known from the addresses, so that any of them can be revealed."""
        salt = hashlib.sha256(b"%d" % turn + bytes(self.question) + bytes(self.signer.pubkey())).digest()
        options = len(self.asked["options"]) if self.asked else 1
        return [salt[0] % options], salt

    def _may_vote(self, kind: str) -> bool:
        standing = self._standing(self.signer)
        if not self._is_open(kind) or standing is None or standing["status"] != "Active":
            return False
        assert self.asked is not None
        late = standing["activation"] > self.asked["activations_before"]
        return not (late and self.asked["eligibility"] == "MembersBefore")

    def _cast_vote(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        wish = self._may_vote("Open") and self._vote(self.signer) is None
        arguments = (self.community, self.question, self._selections(), self.rng.random() < 0.2)
        return wish, self.signer, arguments

    def _change_vote(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        wish = self._may_vote("Open") and self._vote(self.signer) is not None
        return wish, self.signer, (self.community, self.question, self._selections(), self.rng.random() < 0.2)

    def _commitment(self, turn: int) -> bytes:
        selections, salt = self._sealed_choice(turn)
        return voting.commitment(selections, salt, self.signer.pubkey(), self.question)

    def _commit_vote(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        wish = self._may_vote("Sealed") and self._vote(self.signer) is None
        return wish, self.signer, (self.community, self.question, self._commitment(0), self.rng.random() < 0.2)

    def _change_commitment(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        wish = self._may_vote("Sealed") and self._vote(self.signer) is not None
        return wish, self.signer, (self.community, self.question, self._commitment(1), self.rng.random() < 0.2)

    def _withdraw_vote(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        wish = self._is_open() and self._vote(self.signer) is not None
        return wish, self.signer, (self.question,)

    def _reveal_vote(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        asked, vote = self.asked, self._vote(self.signer)
        turn = int(vote is not None and vote["commitment"] == self._commitment(1).hex())
        is_time = asked is not None and asked["closes_at"] <= self.now < asked["reveal_until"]
        wish = is_time and vote is not None and not vote["revealed"]
        return wish, self.signer, (self.question, *self._sealed_choice(turn))

    def _reclaim_vote(self) -> tuple[bool, Keypair, tuple[Any, ...]]:
        asked = self.asked
        wish = asked is not None and asked["status"] != "Open" and self._vote(self.signer) is not None
        return wish, self.signer, (self.question,)


def decoded(instructions: list[Instruction]) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """The program's instructions among these: name, data, accounts by name, as `Model.apply` takes them."""
    for instruction in instructions:
        if instruction.program_id != voting.PROGRAM:
            continue
        found = CODEC.decode_instruction(bytes(instruction.data))
        addresses = [str(meta.pubkey) for meta in instruction.accounts]
        metas = CODEC.account_metas(found.name)
        yield found.name, found.data, {m.name: a for m, a in zip(metas, addresses, strict=False)}


def decoded_transaction(transaction: VersionedTransaction) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """As `decoded`, of a whole transaction without lookup tables."""
    message = transaction.message
    keys = message.account_keys
    for compiled in message.instructions:
        if keys[compiled.program_id_index] != voting.PROGRAM:
            continue
        found = CODEC.decode_instruction(bytes(compiled.data))
        addresses = [str(keys[index]) for index in compiled.accounts]
        metas = CODEC.account_metas(found.name)
        yield found.name, found.data, {m.name: a for m, a in zip(metas, addresses, strict=False)}
