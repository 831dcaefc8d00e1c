"""Every rule of the program broken once: its own error code, and not a byte of any account changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from solders.keypair import Keypair

from programs.community_voting import instructions as voting
from programs.community_voting.instructions import QuestionParams, Settings
from tests.unit.program.vm import CODES, START, Refused, World

Attempt = tuple[Any, ...]  # instruction's name, signer, arguments
Case = Callable[[Any], Attempt]
CASES: list[tuple[str, str, Case]] = []
SALT = b"s" * 32
PARAMS = QuestionParams("Tree?", ("Yes", "No"), START + 100)


def breaks(error: str) -> Callable[[Case], Case]:
    def add(case: Case) -> Case:
        CASES.append((error, case.__name__, case))
        return case

    return add


def _create(**settings: Any) -> Case:
    return lambda w: ("create_community", w.stranger, 9, replace(Settings("Park"), **settings))


def _ask(**params: Any) -> Case:
    return lambda w: ("create_question", w.founder, w.community, 0, replace(PARAMS, **params))


for _error, _name, _case in [
    ("NameLength", "empty_name", _create(name="")),
    ("NameLength", "long_name", _create(name="é" * 32 + "x")),
    ("DescriptionLength", "long_description", _create(description="d" * 257)),
    ("PeriodLimits", "no_least_period", _create(voting_period_min=0)),
    ("PeriodLimits", "crossed_periods", _create(voting_period_min=11, voting_period_max=10)),
    ("PeriodLimits", "period_beyond_a_year", _create(voting_period_max=366 * 86_400 + 1)),
    ("OptionLimit", "one_option_allowed", _create(max_options=1)),
    ("OptionLimit", "eleven_options_allowed", _create(max_options=11)),
    ("NameLength", "update_too", lambda w: ("update_community", w.founder, w.community, Settings(""))),
    ("TextLength", "empty_text", _ask(text="")),
    ("TextLength", "long_text", _ask(text="t" * 257)),
    ("OptionCount", "one_option", _ask(options=("Yes",))),
    ("OptionCount", "eleven_options", _ask(options=tuple("abcdefghijk"))),
    ("OptionLength", "empty_option", _ask(options=("Yes", ""))),
    ("OptionLength", "long_option", _ask(options=("Yes", "n" * 41))),
    ("OptionRepeated", "same_option", _ask(options=("Yes", "No", "Yes"))),
    ("MaxSelections", "no_selections_allowed", _ask(max_selections=0)),
    ("MaxSelections", "more_selections_than_options", _ask(max_selections=3)),
    ("OpensAt", "opens_in_the_past", _ask(opens_at=START - 1)),
    ("OpensAt", "opens_in_two_years", _ask(opens_at=START + 366 * 86_400 + 1)),
    ("VotingPeriod", "closes_at_once", _ask(closes_at=START)),
    ("VotingPeriod", "closes_too_late", _ask(closes_at=START + 30 * 86_400 + 1)),
    ("VotingPeriod", "closing_overflows", _ask(closes_at=-(2**63))),
    ("RevealUntil", "reveal_of_open_ballots", _ask(reveal_until=START + 200)),
    ("RevealUntil", "no_time_to_reveal", _ask(ballot_kind="Sealed", reveal_until=START + 100)),
    ("RevealUntil", "years_to_reveal", _ask(ballot_kind="Sealed", reveal_until=START + 101 + 366 * 86_400)),
    ("AlreadyActive", "join_twice", lambda w: ("join", w.b, w.community)),
    ("AlreadyActive", "invite_a_member", lambda w: ("invite", w.moderator, w.community, w.b.pubkey())),
    ("RoleTooLow", "update_by_moderator", lambda w: ("update_community", w.moderator, w.community, Settings("X"))),
    ("RoleTooLow", "invite_by_member", lambda w: ("invite", w.b, w.community, w.out.pubkey())),
    ("RoleTooLow", "remove_by_member", lambda w: ("remove", w.b, w.community, w.c.pubkey())),
    ("RoleTooLow", "role_by_moderator", lambda w: ("change_role", w.moderator, w.community, w.b.pubkey(), "Moderator")),
    ("NotAuthority", "transfer_by_other", lambda w: ("transfer_authority", w.b, w.community, w.c.pubkey())),
    ("NotAuthority", "dissolve_by_other", lambda w: ("dissolve_community", w.moderator, w.community)),
    ("SameAuthority", "transfer_to_self", lambda w: ("transfer_authority", w.founder, w.community, w.founder.pubkey())),
    ("IsAuthority", "authority_leaves", lambda w: ("leave", w.founder, w.community)),
    ("IsAuthority", "authority_removed", lambda w: ("remove", w.moderator, w.community, w.founder.pubkey())),
    (
        "IsAuthority",
        "authority_degraded",
        lambda w: ("change_role", w.founder, w.community, w.founder.pubkey(), "Member"),
    ),
    ("SameRole", "same_role", lambda w: ("change_role", w.founder, w.community, w.b.pubkey(), "Member")),
    ("NoApplication", "approve_a_member", lambda w: ("approve", w.moderator, w.community, w.b.pubkey())),
    ("NothingPending", "reject_a_member", lambda w: ("reject", w.moderator, w.community, w.b.pubkey())),
]:
    CASES.append((_error, _name, _case))


def _policy(w: Any, policy: str) -> None:
    w.do("update_community", w.founder, w.community, Settings("Park", join_policy=policy))


def _gone(w: Any, wallet: Keypair) -> None:
    w.do("leave", wallet, w.community)


@breaks("JoinClosed")
def closed_door(w: Any) -> Attempt:
    _policy(w, "Closed")
    return "join", w.out, w.community


@breaks("AlreadyPending")
def apply_twice(w: Any) -> Attempt:
    _policy(w, "Approval")
    w.do("join", w.out, w.community)
    return "join", w.out, w.community


@breaks("AlreadyPending")
def invite_an_applicant(w: Any) -> Attempt:
    _policy(w, "Approval")
    w.do("join", w.out, w.community)
    return "invite", w.founder, w.community, w.out.pubkey()


@breaks("AlreadyInvited")
def invite_twice(w: Any) -> Attempt:
    w.do("invite", w.founder, w.community, w.out.pubkey())
    return "invite", w.moderator, w.community, w.out.pubkey()


@breaks("NoApplication")
def approve_an_invitation(w: Any) -> Attempt:
    w.do("invite", w.founder, w.community, w.out.pubkey())
    return "approve", w.moderator, w.community, w.out.pubkey()


@breaks("WasRemoved")
def come_back_uninvited(w: Any) -> Attempt:
    w.do("remove", w.moderator, w.community, w.b.pubkey())
    return "join", w.b, w.community


@breaks("NotAMember")
def leave_twice(w: Any) -> Attempt:
    _gone(w, w.b)
    return "leave", w.b, w.community


@breaks("TargetNotActive")
def remove_who_left(w: Any) -> Attempt:
    _gone(w, w.b)
    return "remove", w.moderator, w.community, w.b.pubkey()


@breaks("TargetNotActive")
def transfer_to_who_left(w: Any) -> Attempt:
    _gone(w, w.b)
    return "transfer_authority", w.founder, w.community, w.b.pubkey()


@breaks("TargetNotActive")
def role_of_who_left(w: Any) -> Attempt:
    _gone(w, w.b)
    return "change_role", w.founder, w.community, w.b.pubkey(), "Moderator"


@breaks("NotActive")
def moderator_who_left(w: Any) -> Attempt:
    _gone(w, w.moderator)
    return "invite", w.moderator, w.community, w.out.pubkey()


@breaks("NotActive")
def vote_of_who_left(w: Any) -> Attempt:
    question = w.ask()
    _gone(w, w.b)
    return "cast_vote", w.b, w.community, question, [0]


@breaks("NotActive")
def question_of_who_left(w: Any) -> Attempt:
    _gone(w, w.b)
    return "create_question", w.b, w.community, 0, PARAMS


@breaks("RoleTooLow")
def moderator_removes_moderator(w: Any) -> Attempt:
    w.do("change_role", w.founder, w.community, w.b.pubkey(), "Moderator")
    return "remove", w.moderator, w.community, w.b.pubkey()


@breaks("NotAuthority")
def admin_makes_admin(w: Any) -> Attempt:
    w.do("change_role", w.founder, w.community, w.b.pubkey(), "Admin")
    return "change_role", w.b, w.community, w.c.pubkey(), "Admin"


@breaks("RoleTooLow")
def cancel_by_other_member(w: Any) -> Attempt:
    return "cancel_question", w.b, w.community, w.ask()


@breaks("QuestionsOpen")
def dissolve_with_questions(w: Any) -> Attempt:
    w.ask()
    return "dissolve_community", w.founder, w.community


DISSOLVED = {
    "update_community": lambda w: ("update_community", w.founder, w.community, Settings("X")),
    "transfer_authority": lambda w: ("transfer_authority", w.founder, w.community, w.b.pubkey()),
    "dissolve_community": lambda w: ("dissolve_community", w.founder, w.community),
    "join": lambda w: ("join", w.out, w.community),
    "invite": lambda w: ("invite", w.founder, w.community, w.out.pubkey()),
    "approve": lambda w: ("approve", w.founder, w.community, w.b.pubkey()),
    "reject": lambda w: ("reject", w.founder, w.community, w.b.pubkey()),
    "leave": lambda w: ("leave", w.b, w.community),
    "remove": lambda w: ("remove", w.founder, w.community, w.b.pubkey()),
    "change_role": lambda w: ("change_role", w.founder, w.community, w.b.pubkey(), "Admin"),
    "create_question": lambda w: ("create_question", w.founder, w.community, 0, PARAMS),
}


def _after_the_end(attempt: Case) -> Case:
    def case(w: Any) -> Attempt:
        w.do("dissolve_community", w.founder, w.community)
        return attempt(w)

    return case


CASES += [("Dissolved", f"dissolved_{name}", _after_the_end(attempt)) for name, attempt in DISSOLVED.items()]


@breaks("VotingNotBegun")
def vote_too_early(w: Any) -> Attempt:
    return "cast_vote", w.b, w.community, w.ask(opens_at=START + 10), [0]


@breaks("VotingEnded")
def vote_too_late(w: Any) -> Attempt:
    question = w.ask()
    w.at(START + 100)
    return "cast_vote", w.b, w.community, question, [0]


@breaks("VotingEnded")
def commit_too_late(w: Any) -> Attempt:
    question = w.ask(ballot_kind="Sealed")
    w.at(START + 100)
    return "commit_vote", w.b, w.community, question, b"c" * 32


@breaks("VotingEnded")
def cancel_too_late(w: Any) -> Attempt:
    question = w.ask()
    w.at(START + 100)
    return "cancel_question", w.founder, w.community, question


@breaks("VotingEnded")
def withdraw_too_late(w: Any) -> Attempt:
    question = w.ask()
    w.do("cast_vote", w.b, w.community, question, [0])
    w.at(START + 100)
    return "withdraw_vote", w.b, question


@breaks("QuestionNotOpen")
def vote_on_a_cancelled_question(w: Any) -> Attempt:
    question = w.ask()
    w.do("cancel_question", w.moderator, w.community, question)
    return "cast_vote", w.b, w.community, question, [0]


@breaks("QuestionNotOpen")
def close_twice(w: Any) -> Attempt:
    question = w.ask()
    w.at(START + 100)
    w.do("close_question", w.b, w.community, question)
    return "close_question", w.b, w.community, question


@breaks("TooEarlyToClose")
def close_a_second_early(w: Any) -> Attempt:
    question = w.ask()
    w.at(START + 99)
    return "close_question", w.founder, w.community, question


@breaks("TooEarlyToClose")
def close_while_revealing(w: Any) -> Attempt:
    question = w.ask(ballot_kind="Sealed")
    w.at(START + 199)
    return "close_question", w.founder, w.community, question


@breaks("BallotSealed")
def open_vote_on_sealed_question(w: Any) -> Attempt:
    return "cast_vote", w.b, w.community, w.ask(ballot_kind="Sealed"), [0]


@breaks("BallotOpen")
def commit_on_open_question(w: Any) -> Attempt:
    return "commit_vote", w.b, w.community, w.ask(), b"c" * 32


@breaks("SelectionCount")
def no_selection(w: Any) -> Attempt:
    return "cast_vote", w.b, w.community, w.ask(), []


@breaks("SelectionCount")
def too_many_selections(w: Any) -> Attempt:
    return "cast_vote", w.b, w.community, w.ask(), [0, 1, 2]


@breaks("SelectionUnknown")
def unknown_selection(w: Any) -> Attempt:
    return "cast_vote", w.b, w.community, w.ask(), [3]


@breaks("SelectionRepeated")
def repeated_selection(w: Any) -> Attempt:
    return "cast_vote", w.b, w.community, w.ask(), [1, 1]


@breaks("NotEligible")
def member_since_after_the_question(w: Any) -> Attempt:
    question = w.ask(eligibility="MembersBefore")
    w.do("join", w.out, w.community)
    return "cast_vote", w.out, w.community, question, [0]


@breaks("NotEligible")
def member_with_a_break_since_the_question(w: Any) -> Attempt:
    question = w.ask(eligibility="MembersBefore")
    _gone(w, w.b)
    w.do("join", w.b, w.community)
    return "cast_vote", w.b, w.community, question, [0]


@breaks("ChangesNotAllowed")
def change_a_final_vote(w: Any) -> Attempt:
    question = w.ask(allow_changes=False)
    w.do("cast_vote", w.b, w.community, question, [0])
    return "change_vote", w.b, w.community, question, [1]


@breaks("ChangesNotAllowed")
def withdraw_a_final_vote(w: Any) -> Attempt:
    question = w.ask(allow_changes=False)
    w.do("cast_vote", w.b, w.community, question, [0])
    return "withdraw_vote", w.b, question


@breaks("ChangesNotAllowed")
def change_a_final_commitment(w: Any) -> Attempt:
    question = w.ask(ballot_kind="Sealed", allow_changes=False)
    w.do("commit_vote", w.b, w.community, question, b"c" * 32)
    return "change_commitment", w.b, w.community, question, b"d" * 32


def _committed(w: Any) -> Any:
    question = w.ask(ballot_kind="Sealed")
    w.do("commit_vote", w.b, w.community, question, voting.commitment([1], SALT, w.b.pubkey(), question))
    return question


@breaks("RevealNotBegun")
def reveal_too_early(w: Any) -> Attempt:
    question = _committed(w)
    w.at(START + 99)
    return "reveal_vote", w.b, question, [1], SALT


@breaks("RevealEnded")
def reveal_too_late(w: Any) -> Attempt:
    question = _committed(w)
    w.at(START + 200)
    return "reveal_vote", w.b, question, [1], SALT


@breaks("CommitmentMismatch")
def reveal_something_else(w: Any) -> Attempt:
    question = _committed(w)
    w.at(START + 100)
    return "reveal_vote", w.b, question, [2], SALT


@breaks("CommitmentMismatch")
def reveal_with_another_salt(w: Any) -> Attempt:
    question = _committed(w)
    w.at(START + 100)
    return "reveal_vote", w.b, question, [1], b"t" * 32


@breaks("AlreadyRevealed")
def reveal_twice(w: Any) -> Attempt:
    question = _committed(w)
    w.at(START + 100)
    w.do("reveal_vote", w.b, question, [1], SALT)
    return "reveal_vote", w.b, question, [1], SALT


@breaks("NotSettled")
def reclaim_from_an_open_question(w: Any) -> Attempt:
    question = w.ask()
    w.do("cast_vote", w.b, w.community, question, [0])
    return "reclaim_vote", w.b, question


@breaks("Overflow")
def a_ballot_too_many(w: Any) -> Attempt:
    question = w.ask()
    w.put(question, "Question", ballots_cast=2**32 - 1)
    return "cast_vote", w.b, w.community, question, [0]


@breaks("Overflow")
def a_tally_too_high(w: Any) -> Attempt:
    question = w.ask()
    w.put(question, "Question", tallies=[2**32 - 1, 0, 0])
    return "cast_vote", w.b, w.community, question, [0]


@breaks("Overflow")
def a_question_too_many(w: Any) -> Attempt:
    counts = {"active_members": 4, "pending_members": 0, "questions": 2**32 - 1, "open_questions": 0, "activations": 4}
    w.put(w.community, "Community", counts=counts)
    return "create_question", w.founder, w.community, 2**32 - 1, PARAMS


@pytest.mark.parametrize(("error", "case"), [(e, c) for e, _, c in CASES], ids=[f"{e}-{n}" for e, n, _ in CASES])
def test_a_broken_rule_has_its_code_and_changes_nothing(error: str, case: Case) -> None:
    world = World().found()
    name, signer, *arguments = case(world)
    instruction = getattr(voting, name)(signer.pubkey(), *arguments)
    world.seen.update(meta.pubkey for meta in instruction.accounts)
    before = world.state(signer)
    with pytest.raises(Refused) as refused:
        world.send(instruction, signer)
    assert refused.value.code == CODES[error], refused.value
    assert world.state(signer) == before


def test_every_error_of_the_interface_is_broken_above() -> None:
    assert {error for error, _, _ in CASES} == set(CODES)


def test_one_vote_a_wallet() -> None:
    world = World().found()
    question = world.ask()
    world.do("cast_vote", world.b, world.community, question, [0])
    before = world.state(world.b)
    with pytest.raises(Refused) as refused:
        world.do("cast_vote", world.b, world.community, question, [1])
    # Anchor creates accounts with an instruction that this VM's system program is too old to know: there the refusal
    # of an address that exists is InvalidInstructionData, on a cluster it is the system program's error 0.
    assert refused.value.code == 0 or "InvalidInstructionData" in refused.value.said
    assert world.state(world.b) == before


@pytest.mark.parametrize("name", ["reclaim_vote", "withdraw_vote", "reveal_vote"])
def test_nobody_touches_the_vote_of_another(name: str) -> None:
    world = World().found()
    question = world.ask()
    world.do("cast_vote", world.b, world.community, question, [0])
    extra = ([0], SALT) if name == "reveal_vote" else ()
    honest = getattr(voting, name)(world.c.pubkey(), question, *extra)
    metas = honest.accounts
    metas[2] = type(metas[2])(voting.vote_address(question, world.b.pubkey()), metas[2].is_signer, metas[2].is_writable)
    before = world.state(world.c)
    with pytest.raises(Refused) as refused:
        world.send(type(honest)(honest.program_id, honest.data, metas), world.c)
    assert refused.value.code == 2006  # Anchor's ConstraintSeeds
    assert world.state(world.c) == before
