"""Every instruction of the voting program, built offline: no connection, no key, no clock.

Addresses are solders `Pubkey`s. Amounts of time are seconds, times are Unix seconds, lengths of texts count UTF-8 bytes. The bounds of the
program are not repeated here: what is too long or wrong is refused by the program, with its own words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from programs.codec import ProgramCodec, compile_idl
from programs.community_voting import artifact
from programs.idl import load_idl

PROGRAM: Final = Pubkey.from_string(artifact.PROGRAM_ID)
SYSTEM_PROGRAM: Final = Pubkey.default()
CODEC: Final[ProgramCodec] = compile_idl(load_idl(artifact.IDL_PATH.read_bytes()))

JoinPolicy = Literal["Open", "Approval", "Closed"]
Role = Literal["Member", "Moderator", "Admin"]
BallotKind = Literal["Open", "Sealed"]
Eligibility = Literal["ActiveMembers", "MembersBefore"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What admins may change in a community; `voting_period_*` bound the time between opening and closing a question."""

    name: str
    description: str = ""
    join_policy: JoinPolicy = "Open"
    voting_period_min: int = 1
    voting_period_max: int = 30 * 86_400
    max_options: int = 10


@dataclass(frozen=True, slots=True)
class QuestionParams:
    """A question as it is asked. `opens_at` 0 means now; `reveal_until` is 0 for open ballots."""

    text: str
    options: tuple[str, ...]
    closes_at: int
    ballot_kind: BallotKind = "Open"
    max_selections: int = 1
    allow_changes: bool = True
    quorum: int = 0
    eligibility: Eligibility = "ActiveMembers"
    opens_at: int = 0
    reveal_until: int = 0


@lru_cache(maxsize=65_536)
def _address(*seeds: bytes) -> Pubkey:
    # Finding a PDA hashes until an address is off the curve; a crowd asks for the same ones again and again.
    return Pubkey.find_program_address(seeds, PROGRAM)[0]


def community_address(creator: Pubkey, community_id: int) -> Pubkey:
    """`["community", creator, id]`; `community_id` is a u64 that the creator chooses."""
    return _address(b"community", bytes(creator), community_id.to_bytes(8, "little"))


def member_address(community: Pubkey, wallet: Pubkey) -> Pubkey:
    """`["member", community, wallet]`."""
    return _address(b"member", bytes(community), bytes(wallet))


def question_address(community: Pubkey, index: int) -> Pubkey:
    """`["question", community, index]`; `index` is the community's count of questions when it was asked."""
    return _address(b"question", bytes(community), index.to_bytes(4, "little"))


def vote_address(question: Pubkey, voter: Pubkey) -> Pubkey:
    """`["vote", question, voter]`."""
    return _address(b"vote", bytes(question), bytes(voter))


EVENT_AUTHORITY: Final = _address(b"__event_authority")


def commitment(selections: Sequence[int], salt: bytes, voter: Pubkey, question: Pubkey) -> bytes:
    """What a sealed ballot commits to: sha256 over selections, 32-byte salt, voter, question. ValueError for another length of salt."""
    if len(salt) != 32:
        raise ValueError(f"salt: {len(salt)} bytes, must be 32")
    return hashlib.sha256(bytes(selections) + salt + bytes(voter) + bytes(question)).digest()


_METAS: Final = {
    name: tuple((meta["name"], meta.get("signer", False), meta.get("writable", False)) for meta in accounts)
    for name, accounts in ((i["name"], i["accounts"]) for i in artifact.load_idl_json()["instructions"])
}
_FIXED: Final = {"system_program": SYSTEM_PROGRAM, "event_authority": EVENT_AUTHORITY, "program": PROGRAM}
_BARE: Final = {
    i["name"]: CODEC.encode_instruction(i["name"], {})
    for i in artifact.load_idl_json()["instructions"]
    if not i["args"]
}


def _build(name: str, arguments: dict[str, Any] | None = None, /, **accounts: Pubkey) -> Instruction:
    metas = [AccountMeta(accounts.get(n) or _FIXED[n], signer, writable) for n, signer, writable in _METAS[name]]
    data = _BARE[name] if arguments is None else CODEC.encode_instruction(name, arguments)
    return Instruction(PROGRAM, data, metas)


def create_community(creator: Pubkey, community_id: int, settings: Settings) -> Instruction:
    """Found a community; the creator becomes authority and first admin. Signer and payer: creator."""
    community = community_address(creator, community_id)
    return _build(
        "create_community",
        {"id": community_id, "settings": asdict(settings)},
        creator=creator,
        community=community,
        member=member_address(community, creator),
    )


def update_community(actor: Pubkey, community: Pubkey, settings: Settings) -> Instruction:
    """Replace the settings (admins)."""
    return _build(
        "update_community",
        {"settings": asdict(settings)},
        actor=actor,
        community=community,
        actor_member=member_address(community, actor),
    )


def transfer_authority(authority: Pubkey, community: Pubkey, new_authority: Pubkey) -> Instruction:
    """Hand the authority to another active member."""
    new_member = member_address(community, new_authority)
    return _build("transfer_authority", authority=authority, community=community, new_member=new_member)


def dissolve_community(authority: Pubkey, community: Pubkey) -> Instruction:
    """End a community without open questions, for good."""
    return _build("dissolve_community", authority=authority, community=community)


def join(wallet: Pubkey, community: Pubkey) -> Instruction:
    """Join, apply, or accept an invitation. Signer and payer: wallet."""
    return _build("join", wallet=wallet, community=community, member=member_address(community, wallet))


def invite(actor: Pubkey, community: Pubkey, wallet: Pubkey) -> Instruction:
    """Invite a wallet (moderators). Signer and payer: actor."""
    return _build(
        "invite",
        actor=actor,
        community=community,
        actor_member=member_address(community, actor),
        wallet=wallet,
        member=member_address(community, wallet),
    )


def _manage(
    name: str, actor: Pubkey, community: Pubkey, wallet: Pubkey, arguments: dict[str, Any] | None
) -> Instruction:
    return _build(
        name,
        arguments,
        actor=actor,
        community=community,
        actor_member=member_address(community, actor),
        member=member_address(community, wallet),
    )


def approve(actor: Pubkey, community: Pubkey, wallet: Pubkey) -> Instruction:
    """Accept an application (moderators)."""
    return _manage("approve", actor, community, wallet, None)


def reject(actor: Pubkey, community: Pubkey, wallet: Pubkey) -> Instruction:
    """Turn an application down, or take an invitation back (moderators)."""
    return _manage("reject", actor, community, wallet, None)


def remove(actor: Pubkey, community: Pubkey, wallet: Pubkey) -> Instruction:
    """Put an active member out (somebody of a higher role)."""
    return _manage("remove", actor, community, wallet, None)


def change_role(actor: Pubkey, community: Pubkey, wallet: Pubkey, role: Role) -> Instruction:
    """Give an active member another role (admins; the authority where the role of admin is concerned)."""
    return _manage("change_role", actor, community, wallet, {"role": role})


def leave(wallet: Pubkey, community: Pubkey) -> Instruction:
    """Leave, take an application back, or decline an invitation."""
    return _build("leave", wallet=wallet, community=community, member=member_address(community, wallet))


def create_question(author: Pubkey, community: Pubkey, index: int, params: QuestionParams) -> Instruction:
    """Ask (active members); `index` must be the community's present count of questions. Signer and payer: author."""
    return _build(
        "create_question",
        {"params": asdict(params)},
        author=author,
        community=community,
        author_member=member_address(community, author),
        question=question_address(community, index),
    )


def cancel_question(actor: Pubkey, community: Pubkey, question: Pubkey) -> Instruction:
    """Call a question off before voting ends (author, moderators)."""
    member = member_address(community, actor)
    return _build("cancel_question", actor=actor, community=community, actor_member=member, question=question)


def close_question(actor: Pubkey, community: Pubkey, question: Pubkey) -> Instruction:
    """Settle a question whose time is over (anyone)."""
    return _build("close_question", actor=actor, community=community, question=question)


def _ballot(name: str, voter: Pubkey, community: Pubkey, question: Pubkey, arguments: dict[str, Any]) -> Instruction:
    return _build(
        name,
        arguments,
        voter=voter,
        member=member_address(community, voter),
        question=question,
        vote=vote_address(question, voter),
    )


def cast_vote(
    voter: Pubkey, community: Pubkey, question: Pubkey, selections: Sequence[int], anonymous: bool = False
) -> Instruction:
    """Vote on an open-ballot question. `anonymous` is a wish about display: the chain itself is public. Signer and payer: voter."""
    arguments = {"selections": bytes(selections).hex(), "anonymous": anonymous}
    return _ballot("cast_vote", voter, community, question, arguments)


def change_vote(
    voter: Pubkey, community: Pubkey, question: Pubkey, selections: Sequence[int], anonymous: bool = False
) -> Instruction:
    """Replace the selections of a vote, where the question allows it."""
    arguments = {"selections": bytes(selections).hex(), "anonymous": anonymous}
    return _ballot("change_vote", voter, community, question, arguments)


def commit_vote(
    voter: Pubkey, community: Pubkey, question: Pubkey, committed: bytes, anonymous: bool = False
) -> Instruction:
    """Commit to a sealed ballot; `committed` comes from `commitment`. Keep the salt: nothing can restore it."""
    return _ballot("commit_vote", voter, community, question, {"commitment": committed.hex(), "anonymous": anonymous})


def change_commitment(
    voter: Pubkey, community: Pubkey, question: Pubkey, committed: bytes, anonymous: bool = False
) -> Instruction:
    """Replace a commitment, where the question allows it."""
    arguments = {"commitment": committed.hex(), "anonymous": anonymous}
    return _ballot("change_commitment", voter, community, question, arguments)


def withdraw_vote(voter: Pubkey, question: Pubkey) -> Instruction:
    """Take a vote or commitment back; its rent returns to the voter."""
    return _build("withdraw_vote", voter=voter, question=question, vote=vote_address(question, voter))


def reveal_vote(voter: Pubkey, question: Pubkey, selections: Sequence[int], salt: bytes) -> Instruction:
    """Open a sealed ballot between `closes_at` and `reveal_until`."""
    arguments = {"selections": bytes(selections).hex(), "salt": salt.hex()}
    return _build("reveal_vote", arguments, voter=voter, question=question, vote=vote_address(question, voter))


def reclaim_vote(voter: Pubkey, question: Pubkey) -> Instruction:
    """Close the account of a vote whose question is settled; its rent returns to the voter."""
    return _build("reclaim_vote", voter=voter, question=question, vote=vote_address(question, voter))
