"""Every instruction does what it says, fits a packet, costs what it may cost; addresses and discriminators are what anchorpy computes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from anchorpy.program.core import Program
from anchorpy.provider import Provider
from anchorpy_core.idl import Idl
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction

from programs.community_voting import artifact
from programs.community_voting import instructions as voting
from programs.community_voting.client import explain_eligibility
from programs.community_voting.instructions import CODEC, PROGRAM, QuestionParams, Settings
from tests.unit.program.vm import PACKET_BYTES_MAX, START, World

# anchorpy's own use of a library that warns.
pytestmark = pytest.mark.filterwarnings("ignore:The `repr_ns` argument")

UNITS_MAX = 60_000
SALT = b"s" * 32


def life(world: World) -> None:
    """Every instruction at least once; ends with one closed open question (0), one closed sealed one (1), one cancelled (2)."""
    w = world.found()
    w.do("update_community", w.founder, w.community, Settings("Park", join_policy="Approval"))
    for wallet in (w.out, w.stranger):
        w.do("join", wallet, w.community)
    w.do("approve", w.moderator, w.community, w.out.pubkey())
    w.do("reject", w.moderator, w.community, w.stranger.pubkey())
    first = w.ask(quorum=2)
    w.do("cast_vote", w.b, w.community, first, [0, 2], True)
    w.do("cast_vote", w.c, w.community, first, [1])
    w.do("change_vote", w.c, w.community, first, [0])
    w.do("cast_vote", w.out, w.community, first, [2])
    w.do("withdraw_vote", w.out, first)
    second = w.ask(ballot_kind="Sealed")
    w.do("commit_vote", w.b, w.community, second, voting.commitment([2], SALT, w.b.pubkey(), second))
    w.do("change_commitment", w.b, w.community, second, voting.commitment([1, 0], SALT, w.b.pubkey(), second))
    w.do("commit_vote", w.c, w.community, second, b"?" * 32)
    third = w.ask()
    w.do("cancel_question", w.moderator, w.community, third)
    w.at(START + 100)
    w.do("close_question", w.stranger, w.community, first)
    w.do("reveal_vote", w.b, second, [1, 0], SALT)
    w.at(START + 200)
    w.do("close_question", w.b, w.community, second)
    w.do("reclaim_vote", w.b, first)
    w.do("leave", w.c, w.community)
    w.do("remove", w.moderator, w.community, w.out.pubkey())
    w.do("transfer_authority", w.founder, w.community, w.b.pubkey())


@pytest.fixture(scope="module")
def lived() -> World:
    world = World()
    life(world)
    return world


def question(world: World, index: int) -> dict[str, Any]:
    found = world.data(voting.question_address(world.community, index))
    assert found is not None
    return found


def standing(world: World, wallet: Keypair) -> dict[str, Any]:
    found = world.data(voting.member_address(world.community, wallet.pubkey()))
    assert found is not None
    return dict(found["standing"])


def test_an_open_question_ends_with_its_winner(lived: World) -> None:
    found = question(lived, 0)
    assert (found["tallies"], found["ballots_cast"]) == ([2, 0, 1], 2)
    assert (found["status"], found["outcome"], found["winners"]) == ("Closed", "Winner", "00")
    assert found["settled_at"] == START + 100


def test_a_sealed_question_counts_what_was_revealed(lived: World) -> None:
    found = question(lived, 1)
    assert (found["tallies"], found["ballots_cast"], found["ballots_revealed"]) == ([1, 1, 0], 2, 1)
    assert (found["outcome"], found["winners"]) == ("Tie", "0001")


def test_a_cancelled_question_stays_undecided(lived: World) -> None:
    found = question(lived, 2)
    assert (found["status"], found["outcome"], found["winners"]) == ("Cancelled", "Undecided", "")


def test_counters_and_standings_agree(lived: World) -> None:
    community = lived.data(lived.community)
    assert community is not None
    wallets = (lived.founder, lived.moderator, lived.b, lived.c, lived.out, lived.stranger)
    standings = [standing(lived, wallet) for wallet in wallets]
    statuses = [found["status"] for found in standings]
    assert statuses == ["Active", "Active", "Active", "Left", "Removed", "Removed"]
    assert community["counts"] == {
        "active_members": 3, "pending_members": 0, "questions": 3, "open_questions": 0, "activations": 5,
    }  # fmt: skip
    assert community["authority"] == str(lived.b.pubkey())
    assert standing(lived, lived.b)["role"] == "Admin"
    assert standing(lived, lived.b)["active_since"] == START
    assert (standing(lived, lived.stranger)["activation"], standing(lived, lived.stranger)["active_since"]) == (0, 0)


def test_votes_come_and_go(lived: World) -> None:
    first, second = (voting.question_address(lived.community, at) for at in (0, 1))
    assert lived.data(voting.vote_address(first, lived.b.pubkey())) is None  # reclaimed
    assert lived.data(voting.vote_address(first, lived.out.pubkey())) is None  # withdrawn
    changed = lived.data(voting.vote_address(first, lived.c.pubkey()))
    assert changed is not None
    assert (changed["selections"], changed["changes"], changed["anonymous"]) == ("00", 1, False)
    revealed = lived.data(voting.vote_address(second, lived.b.pubkey()))
    assert revealed is not None
    assert (revealed["selections"], revealed["revealed"], revealed["changes"]) == ("0100", True, 1)


@pytest.mark.parametrize(
    ("votes", "quorum", "outcome", "winners"),
    [
        ([], 0, "NoQuorum", ""),
        ([[0]], 2, "NoQuorum", ""),
        ([[0]], 1, "Winner", "00"),
        ([[0], [1]], 2, "Tie", "0001"),
        ([[2], [2, 1], [0]], 3, "Winner", "02"),
    ],
)
def test_outcomes(votes: list[list[int]], quorum: int, outcome: str, winners: str) -> None:
    world = World().found()
    address = world.ask(quorum=quorum)
    for wallet, selections in zip((world.b, world.c, world.moderator), votes, strict=False):
        world.do("cast_vote", wallet, world.community, address, selections)
    world.at(START + 100)
    world.do("close_question", world.stranger, world.community, address)
    assert (question(world, 0)["outcome"], question(world, 0)["winners"]) == (outcome, winners)


def test_reclaiming_gives_the_rent_back() -> None:
    world = World().found()
    address = world.ask()
    world.do("cast_vote", world.b, world.community, address, [0])
    vote = world.svm.get_account(voting.vote_address(address, world.b.pubkey()))
    assert vote is not None
    world.do("cancel_question", world.founder, world.community, address)
    before = world.svm.get_balance(world.b.pubkey())
    world.do("reclaim_vote", world.b, address)
    assert world.svm.get_balance(world.b.pubkey()) == before + vote.lamports - 5_000


def test_a_dissolved_community_lets_ballots_be_reclaimed() -> None:
    world = World().found()
    address = world.ask()
    world.do("cast_vote", world.b, world.community, address, [0])
    world.do("cancel_question", world.founder, world.community, address)
    world.do("dissolve_community", world.founder, world.community)
    world.do("reclaim_vote", world.b, address)
    assert world.data(voting.vote_address(address, world.b.pubkey())) is None


def test_every_instruction_is_used_and_its_compute_units_bounded(lived: World) -> None:
    world = World().found()
    world.do("dissolve_community", world.founder, world.community)
    names = {instruction["name"] for instruction in artifact.load_idl_json()["instructions"]}
    units = {**world.units, **lived.units}
    assert set(units) == names
    print("\ninstruction            compute units (most)")
    for name in sorted(units):
        print(f"{name:22} {max(units[name]):>8,}")
    assert max(max(found) for found in units.values()) < UNITS_MAX


def test_close_emits_by_self_cpi_and_all_else_by_log() -> None:
    world = World().found()
    address = world.ask()
    assert any(line.startswith("Program data: ") for line in world.last.logs())
    data = next(line for line in world.last.logs() if line.startswith("Program data: ")).split(": ")[1]
    assert CODEC.decode_event(base64.b64decode(data)).name == "QuestionCreated"
    world.at(START + 100)
    closed = world.do("close_question", world.b, world.community, address)
    assert not any(line.startswith("Program data: ") for line in closed.logs())
    (inner,) = [item for group in closed.inner_instructions() for item in group]
    raw = bytes(inner.instruction().data)
    event = CODEC.decode_event(raw[8:])
    assert (event.name, event.data["outcome"], event.trailing) == ("QuestionClosed", "NoQuorum", 0)


def largest() -> dict[str, Any]:
    """The longest form of what has a length."""
    a, b, c, q = (Pubkey.new_unique() for _ in range(4))
    settings = Settings("n" * 64, "d" * 256, "Closed", 1, 366 * 86_400, 10)
    options = tuple(f"{at}" * 40 for at in range(10))
    params = QuestionParams("t" * 256, options, 2**62, "Sealed", 10, True, 2**32 - 1, "MembersBefore", 2**62, 2**62)
    every = list(range(10))
    return {
        "create_community": voting.create_community(a, 2**64 - 1, settings),
        "update_community": voting.update_community(a, c, settings),
        "create_question": voting.create_question(a, c, 2**32 - 1, params),
        "cast_vote": voting.cast_vote(a, c, q, every, True),
        "change_vote": voting.change_vote(a, c, q, every, True),
        "reveal_vote": voting.reveal_vote(a, q, every, SALT),
        "invite": voting.invite(a, c, b),
        "change_role": voting.change_role(a, c, b, "Admin"),
    }


@pytest.mark.parametrize(("name", "instruction"), largest().items())
def test_the_largest_instruction_fits_a_packet(name: str, instruction: Any) -> None:
    signer = instruction.accounts[0].pubkey
    payer = Pubkey.new_unique()
    budget = [set_compute_unit_limit(200_000), set_compute_unit_price(10**9)]
    message = Message([*budget, instruction], payer)
    transaction = Transaction.new_unsigned(message)
    assert signer in message.account_keys
    assert message.header.num_required_signatures == 2
    assert len(bytes(transaction)) <= PACKET_BYTES_MAX


@pytest.fixture(scope="module")
def anchor() -> Program:
    return Program(Idl.from_json(artifact.LEGACY_IDL_PATH.read_text()), PROGRAM, Provider.readonly())


def test_accounts_decode_as_anchorpy_decodes_them(lived: World, anchor: Program) -> None:
    kinds = set()
    for key in lived.seen:
        account = lived.svm.get_account(key)
        if account is None or account.owner != PROGRAM or account.executable:
            continue
        ours = CODEC.decode_account(bytes(account.data))
        theirs = anchor.coder.accounts.decode(bytes(account.data))
        kinds.add(ours.name)
        assert type(theirs).__name__ == ours.name
        for name, value in ours.data.items():
            assert _same(getattr(theirs, name, None), value), (ours.name, name)
    assert kinds == {"Community", "Member", "Question", "Vote"}


def _same(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, dict):
        return all(_same(getattr(theirs, name), value) for name, value in ours.items())
    if isinstance(theirs, bytes):
        return theirs.hex() == ours
    if isinstance(theirs, Pubkey):
        return str(theirs) == ours
    if isinstance(ours, str) and not isinstance(theirs, str):
        return bytes(theirs).hex() == ours if isinstance(theirs, list) else type(theirs).__name__ == ours
    return bool(list(theirs) == ours if isinstance(ours, list) else theirs == ours)


def test_instructions_are_the_bytes_that_anchorpy_makes(anchor: Program) -> None:
    wallet, community, other, address = (Pubkey.new_unique() for _ in range(4))
    accounts = {
        "voter": wallet,
        "member": voting.member_address(community, wallet),
        "question": address,
        "vote": voting.vote_address(address, wallet),
        "system_program": voting.SYSTEM_PROGRAM,
    }
    from anchorpy.program.context import Context

    theirs = anchor.instruction["cast_vote"](bytes([2, 1]), True, ctx=Context(accounts=accounts))
    assert theirs == voting.cast_vote(wallet, community, address, [2, 1], True)
    role = anchor.type["Role"].Moderator()
    managed = {
        "actor": wallet,
        "community": community,
        "actor_member": voting.member_address(community, wallet),
        "member": voting.member_address(community, other),
    }
    theirs = anchor.instruction["change_role"](role, ctx=Context(accounts=managed))
    assert theirs == voting.change_role(wallet, community, other, "Moderator")


def test_the_older_idl_is_generated_from_the_present_one() -> None:
    assert json.loads(artifact.LEGACY_IDL_PATH.read_bytes()) == artifact.legacy_idl(artifact.load_idl_json())


def test_the_built_program_belongs_to_the_source() -> None:
    assert artifact.check() == []


def test_a_change_of_any_input_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = artifact.hashes()
    for name in honest:
        changed = {**honest, name: "0" * 64}
        monkeypatch.setattr(artifact, "hashes", lambda changed=changed: changed)
        (line,) = artifact.check()
        assert line.startswith(name)
    monkeypatch.setattr(artifact, "hashes", lambda: {**honest, "src/new.rs": "0" * 64})
    assert artifact.check() == ["src/new.rs: not in the manifest"]


def test_eligibility_says_what_the_program_does() -> None:
    """Both must agree on who may vote, for every kind of standing, before, while and after voting."""
    verdicts = set()
    for rule in ("ActiveMembers", "MembersBefore"):
        for moment in (START, START + 10, START + 100):
            world = World().found()
            asked = world.ask(opens_at=START + 10, eligibility=rule, allow_changes=False)
            world.do("join", world.out, world.community)
            world.do("leave", world.c, world.community)
            world.at(START + 10)
            world.do("cast_vote", world.moderator, world.community, asked, [0])
            world.at(moment)
            for wallet in (world.founder, world.moderator, world.b, world.c, world.out, world.stranger):
                key = wallet.pubkey()
                found = explain_eligibility(
                    world.data(asked) or {},
                    world.data(voting.member_address(world.community, key)),
                    world.data(voting.vote_address(asked, key)),
                    moment,
                )
                try:
                    world.do("cast_vote", wallet, world.community, asked, [1])
                except Exception:
                    landed = False
                else:
                    landed = True
                assert found.may_vote == landed, (rule, moment, found)
                verdicts.add(found.reason)
    assert len(verdicts) == 7, verdicts
