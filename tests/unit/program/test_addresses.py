"""The client's addresses against those that the IDL's own seeds give, computed as anchorpy's users compute them: with its key type."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from anchorpy.program.core import Pubkey
from solders.instruction import Instruction

from programs.community_voting import artifact
from programs.community_voting import instructions as voting
from programs.community_voting.instructions import PROGRAM, QuestionParams, Settings

IDL = {entry["name"]: entry for entry in artifact.load_idl_json()["instructions"]}
WITH_ADDRESSES = sorted(name for name, entry in IDL.items() if any("pda" in a for a in entry["accounts"]))
SALT = bytes(32)


def built(name: str, signer: Pubkey, community: Pubkey, wallet: Pubkey, question: Pubkey, number: int) -> Instruction:
    """The client's instruction."""
    params = QuestionParams("?", ("a", "b"), closes_at=1)
    makers: dict[str, Callable[[], Instruction]] = {
        "create_community": lambda: voting.create_community(signer, number, Settings("n")),
        "update_community": lambda: voting.update_community(signer, community, Settings("n")),
        "create_question": lambda: voting.create_question(signer, community, number, params),
        "change_role": lambda: voting.change_role(signer, community, wallet, "Admin"),
        "cancel_question": lambda: voting.cancel_question(signer, community, question),
        "cast_vote": lambda: voting.cast_vote(signer, community, question, [0]),
        "change_vote": lambda: voting.change_vote(signer, community, question, [0]),
        "commit_vote": lambda: voting.commit_vote(signer, community, question, SALT),
        "change_commitment": lambda: voting.change_commitment(signer, community, question, SALT),
        "reveal_vote": lambda: voting.reveal_vote(signer, question, [0], SALT),
        "withdraw_vote": lambda: voting.withdraw_vote(signer, question),
        "reclaim_vote": lambda: voting.reclaim_vote(signer, question),
        "join": lambda: voting.join(signer, community),
        "leave": lambda: voting.leave(signer, community),
    }
    if name in makers:
        return makers[name]()
    made: Instruction = getattr(voting, name)(signer, community, wallet)
    return made


@pytest.mark.parametrize("name", WITH_ADDRESSES)
def test_every_derived_account_is_the_one_of_the_idls_seeds(name: str) -> None:
    rng = random.Random(name)
    for _ in range(5):
        signer, community, wallet, question = (Pubkey.from_bytes(rng.randbytes(32)) for _ in range(4))
        number = rng.randrange(2**32)
        accounts = IDL[name]["accounts"]
        instruction = built(name, signer, community, wallet, question, number)
        given = {a["name"]: meta.pubkey for a, meta in zip(accounts, instruction.accounts, strict=True)}
        # Seeds that the program reads from an account or an argument.
        read = {
            "question.community": bytes(community),
            "member.wallet": bytes(wallet),
            "new_member.wallet": bytes(wallet),
            "community.counts.questions": number.to_bytes(4, "little"),
            "id": number.to_bytes(8, "little"),
        }

        def seed(entry: dict[str, Any], given: dict[str, Pubkey] = given, read: dict[str, bytes] = read) -> bytes:
            if entry["kind"] == "const":
                return bytes(entry["value"])
            path = entry["path"]
            return read[path] if path in read else bytes(given[path])

        derived = [a for a in accounts if "pda" in a and a["name"] != "event_authority"]
        for account in derived:
            expected, _ = Pubkey.find_program_address([seed(s) for s in account["pda"]["seeds"]], PROGRAM)
            assert given[account["name"]] == expected, f"{name}.{account['name']}"


def test_the_seeds_of_every_kind_of_account_were_compared() -> None:
    compared = {a["name"] for name in WITH_ADDRESSES for a in IDL[name]["accounts"] if "pda" in a}
    assert {"community", "member", "actor_member", "new_member", "author_member", "question", "vote"} <= compared
    assert len(WITH_ADDRESSES) >= 18
