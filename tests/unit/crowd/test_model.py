"""The crowd's model against the program itself, in the VM: random histories, every account equal, field by field."""

from __future__ import annotations

import random
from typing import Any

import pytest

from programs.community_voting import instructions as voting
from programs.community_voting.instructions import CODEC, PROGRAM, QuestionParams, Settings
from programs.crowd.crowd import Crowd, error_name
from programs.crowd.model import Model
from programs.errors import UserError
from tests.unit.program.test_instructions import life
from tests.unit.program.vm import START, Refused, World

SALT = b"s" * 32


class Watched(World):
    """Gives a model every instruction that succeeds."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.failures = 0

    def send(self, instruction: Any, signer: Any) -> Any:
        outcome = super().send(instruction, signer)
        decoded = CODEC.decode_instruction(bytes(instruction.data))
        metas = CODEC.account_metas(decoded.name)
        accounts = {m.name: str(a.pubkey) for m, a in zip(metas, instruction.accounts, strict=True)}
        self.model.apply(decoded.name, decoded.data, accounts, self.svm.get_clock().unix_timestamp)
        return outcome

    def attempt(self, name: str, signer: Any, *arguments: Any) -> None:
        try:
            self.do(name, signer, *arguments)
        except Refused:
            self.failures += 1

    def on_chain(self) -> dict[str, dict[str, Any]]:
        """Kind → address → decoded account, of everything that any instruction named."""
        found: dict[str, dict[str, Any]] = {"Community": {}, "Member": {}, "Question": {}, "Vote": {}}
        for key in self.seen:
            account = self.svm.get_account(key)
            if account is not None and account.owner == PROGRAM and not account.executable and account.data:
                decoded = CODEC.decode_account(bytes(account.data))
                found[decoded.name][str(key)] = decoded.data
        return found


def test_a_whole_life_is_modelled() -> None:
    world = Watched()
    life(world)
    assert world.model.accounts() == world.on_chain()
    assert all(world.model.accounts().values())


def wander(world: Watched, rng: random.Random, steps: int) -> None:
    """Random acts of random wallets, sensible or not; time goes on."""
    wallets = [world.founder, world.moderator, world.b, world.c, world.out, world.stranger]
    now = START
    for _ in range(steps):
        signer, target = rng.choice(wallets), rng.choice(wallets).pubkey()
        count = world.model.communities[str(world.community)]["counts"]["questions"]
        question = voting.question_address(world.community, max(0, count - rng.randint(1, 3)))
        selections = rng.sample(range(3), rng.randint(1, 2))
        anonymous = rng.random() < 0.5
        sealed = rng.random() < 0.4
        committed = voting.commitment([1], SALT, signer.pubkey(), question)
        settings = Settings("Park", join_policy=rng.choice(("Open", "Open", "Open", "Approval", "Closed")))
        params = QuestionParams(
            "Tree?", ("a", "b", "c"), now + 60, "Sealed" if sealed else "Open", 2, rng.random() < 0.8, rng.randrange(3),
            rng.choice(("ActiveMembers", "MembersBefore")), 0, now + 120 if sealed else 0,
        )  # fmt: skip
        acts: list[tuple[Any, ...]] = [
            *[(name, signer, world.community) for name in ("join", "join", "join", "leave")],
            *[
                (name, signer, world.community, target)
                for name in ("invite", "invite", "approve", "approve", "reject", "remove")
            ],
            ("change_role", signer, world.community, target, rng.choice(("Member", "Moderator", "Admin"))),
            ("transfer_authority", signer, world.community, target),
            ("update_community", signer, world.community, settings),
            ("create_question", signer, world.community, count, params),
            ("create_question", signer, world.community, count, params),
            ("cancel_question", signer, world.community, question),
            ("close_question", signer, world.community, question),
            *[(n, signer, world.community, question, selections, anonymous) for n in ("cast_vote", "change_vote")] * 6,
            *[
                (n, signer, world.community, question, committed, anonymous)
                for n in ("commit_vote", "change_commitment")
            ]
            * 2,
            ("reveal_vote", signer, question, [1], SALT),
            ("reveal_vote", signer, question, [1], SALT),
            ("withdraw_vote", signer, question),
            ("reclaim_vote", signer, question),
        ]
        act = rng.choice(acts)
        # Else everybody is out soon, or votes spread over too many questions for anything to happen twice.
        if (
            act[0] not in ("leave", "remove", "transfer_authority", "create_question", "cancel_question")
            or rng.random() < 0.25
        ):
            world.attempt(*act)
        if rng.random() < 0.1:
            now += rng.randint(1, 15)
            world.at(now)


@pytest.mark.parametrize("seed", range(4))
def test_random_histories_are_modelled(seed: int) -> None:
    world = Watched()
    world.found()
    wander(world, random.Random(seed), 1_200)
    assert world.failures > 50
    assert world.model.applied > 80
    assert world.model.accounts() == world.on_chain()


def test_rows_tell_of_votes_whose_accounts_are_gone() -> None:
    world = Watched()
    life(world)
    votes = world.model.expected()["votes"]
    first = voting.question_address(world.community, 0)
    reclaimed = votes[str(voting.vote_address(first, world.b.pubkey()))]
    assert (reclaimed["status"], reclaimed["reclaimed"], reclaimed["selections"]) == ("cast", True, [0, 2])
    withdrawn = votes[str(voting.vote_address(first, world.out.pubkey()))]
    assert (withdrawn["status"], withdrawn["reclaimed"], withdrawn["selections"]) == ("withdrawn", False, [])
    assert world.model.expected()["questions"][str(first)]["winners"] == [0]


def test_errors_have_the_programs_names() -> None:
    assert error_name({"InstructionError": [1, {"Custom": 6000}]}) == "NameLength"
    assert error_name({"InstructionError": [1, {"Custom": 3012}]}) == "Custom 3012"
    assert error_name({"InstructionError": [0, "InvalidInstructionData"]}) == "InvalidInstructionData"
    assert error_name("AlreadyProcessed") == "AlreadyProcessed"


def test_a_seed_makes_the_same_wallets_and_another_seed_others() -> None:
    assert Crowd(1, 10).wallets == Crowd(1, 10).wallets
    assert not {w.pubkey() for w in Crowd(1, 10).wallets} & {w.pubkey() for w in Crowd(2, 10).wallets}


def test_too_few_wallets_are_refused() -> None:
    with pytest.raises(UserError, match="wallets: 7"):
        Crowd(1, 7)
