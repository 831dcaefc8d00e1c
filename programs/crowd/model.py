"""The right answer: what the accounts and tables must be after these instructions landed in this order.

A second, independent writing of what the program does to its state. It counts where the program counts, and reads no event and no
account. Instructions that failed must not be given to it. Times are Unix seconds, as in the accounts.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any, Final

from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from programs.community_voting.instructions import CODEC, PROGRAM
from programs.crowd.node import Node, RpcError

Row = dict[str, Any]
# The node's words for a slot that has no block: skipped, or missing in long-term storage.
_NO_BLOCK: Final = frozenset({-32007, -32009})
BLOCKS_A_BATCH: Final = 8


def _bump(*seeds: bytes) -> int:
    return Pubkey.find_program_address(seeds, PROGRAM)[1]


def _raw(address: str) -> bytes:
    return bytes(Pubkey.from_string(address))


class Model:
    """State by address. `apply` what landed, in order; then ask for `accounts` or `expected`."""

    def __init__(self) -> None:
        self.communities: dict[str, Row] = {}
        self.members: dict[str, Row] = {}
        self.questions: dict[str, Row] = {}
        self.votes: dict[str, Row] = {}
        self.gone: dict[str, str] = {}
        self.applied = 0

    def apply(self, name: str, data: Mapping[str, Any], accounts: Mapping[str, str], now: int) -> None:
        """One successful instruction. KeyError where it rests on something that this model never saw made."""
        getattr(self, "_" + name)(data, accounts, now)
        self.applied += 1

    def accounts(self) -> dict[str, dict[str, Row]]:
        """Kind → address → the decoded account, for every account that must exist."""
        standing = {address: row for address, row in self.votes.items() if address not in self.gone}
        return {"Community": self.communities, "Member": self.members, "Question": self.questions, "Vote": standing}

    def expected(self) -> dict[str, dict[str, Row]]:
        """Table → address → row as the tables have it, apart from provenance; times in Unix seconds, 0 where a table has NULL."""
        communities = {
            address: {**_without(row, "settings", "counts"), **row["settings"], **row["counts"]}
            for address, row in self.communities.items()
        }
        members = {a: {**_without(row, "standing"), **row["standing"]} for a, row in self.members.items()}
        questions = {a: {**row, "winners": list(bytes.fromhex(row["winners"]))} for a, row in self.questions.items()}
        votes = {address: self._vote_row(address, row) for address, row in self.votes.items()}
        return {"communities": communities, "members": members, "questions": questions, "votes": votes}

    def _vote_row(self, address: str, row: Row) -> Row:
        gone = self.gone.get(address)
        status = "revealed" if row["revealed"] else "sealed" if row["commitment"] is not None else "cast"
        shown = {
            **row,
            "selections": list(bytes.fromhex(row["selections"])),
            "status": status,
            "reclaimed": gone == "reclaimed",
        }
        if gone == "withdrawn":
            shown.update(status="withdrawn", selections=[], commitment=None)
        return {**shown, "community": self.questions[row["question"]]["community"]}

    # Communities.

    def _create_community(self, data: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        creator, address = at["creator"], at["community"]
        self.communities[address] = {
            "creator": creator,
            "authority": creator,
            "id": data["id"],
            "settings": data["settings"],
            "counts": {
                "active_members": 0,
                "pending_members": 0,
                "questions": 0,
                "open_questions": 0,
                "activations": 0,
            },
            "dissolved": False,
            "created_at": now,
            "updated_at": now,
            "bump": _bump(b"community", _raw(creator), int(data["id"]).to_bytes(8, "little")),
        }
        self._activate(self._member(address, creator, at["member"], now), now)
        self.members[at["member"]]["standing"]["role"] = "Admin"

    def _update_community(self, data: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        self.communities[at["community"]].update(settings=data["settings"], updated_at=now)

    def _transfer_authority(self, _: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        member = self.members[at["new_member"]]
        self.communities[at["community"]].update(authority=member["wallet"], updated_at=now)
        if member["standing"]["role"] != "Admin":
            member["standing"].update(role="Admin", updated_at=now)

    def _dissolve_community(self, _: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        self.communities[at["community"]].update(dissolved=True, updated_at=now)

    # Members.

    def _member(self, community: str, wallet: str, address: str, now: int) -> Row:
        if address not in self.members:
            standing = {"role": "Member", "status": "Left", "invited": False, "created_at": now, "active_since": 0,
                        "activation": 0, "updated_at": now}  # fmt: skip
            bump = _bump(b"member", _raw(community), _raw(wallet))
            self.members[address] = {"community": community, "wallet": wallet, "standing": standing, "bump": bump}
        return self.members[address]

    def _move(self, member: Row, status: str, now: int, invited: bool = False) -> None:
        """To another status; the counters follow from the two."""
        standing, counts = member["standing"], self.communities[member["community"]]["counts"]
        for state, counter in (("Active", "active_members"), ("Pending", "pending_members")):
            counts[counter] += (status == state) - (standing["status"] == state)
        standing.update(status=status, invited=invited, updated_at=now)

    def _activate(self, member: Row, now: int) -> None:
        self._move(member, "Active", now)
        counts = self.communities[member["community"]]["counts"]
        counts["activations"] += 1
        member["standing"].update(role="Member", active_since=now, activation=counts["activations"])

    def _join(self, _: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        member = self._member(at["community"], at["wallet"], at["member"], now)
        policy = self.communities[at["community"]]["settings"]["join_policy"]
        if member["standing"]["invited"] or policy == "Open":
            self._activate(member, now)
        else:
            self._move(member, "Pending", now)
            member["standing"]["role"] = "Member"

    def _invite(self, _: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        member = self._member(at["community"], at["wallet"], at["member"], now)
        self._move(member, "Pending", now, invited=True)
        member["standing"]["role"] = "Member"

    def _approve(self, _: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        self._activate(self.members[at["member"]], now)

    def _reject(self, _: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        self._move(self.members[at["member"]], "Removed", now)

    def _leave(self, _: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        self._move(self.members[at["member"]], "Left", now)
        self.members[at["member"]]["standing"]["role"] = "Member"

    def _remove(self, _: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        self._move(self.members[at["member"]], "Removed", now)
        self.members[at["member"]]["standing"]["role"] = "Member"

    def _change_role(self, data: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        self.members[at["member"]]["standing"].update(role=data["role"], updated_at=now)

    # Questions.

    def _create_question(self, data: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        asked, counts = data["params"], self.communities[at["community"]]["counts"]
        index = counts["questions"]
        counts["questions"] += 1
        counts["open_questions"] += 1
        self.questions[at["question"]] = {
            **asked,
            "community": at["community"],
            "author": at["author"],
            "index": index,
            "activations_before": counts["activations"],
            "opens_at": asked["opens_at"] or now,
            "status": "Open",
            "tallies": [0] * len(asked["options"]),
            "ballots_cast": 0,
            "ballots_revealed": 0,
            "outcome": "Undecided",
            "winners": "",
            "created_at": now,
            "settled_at": 0,
            "bump": _bump(b"question", _raw(at["community"]), index.to_bytes(4, "little")),
        }

    def _cancel_question(self, _: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        self.questions[at["question"]].update(status="Cancelled", settled_at=now)
        self.communities[at["community"]]["counts"]["open_questions"] -= 1

    def _close_question(self, _: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        question = self.questions[at["question"]]
        self.communities[at["community"]]["counts"]["open_questions"] -= 1
        question.update(status="Closed", settled_at=now)
        best = max(question["tallies"])
        counted = question["ballots_revealed" if question["ballot_kind"] == "Sealed" else "ballots_cast"]
        if best == 0 or counted < question["quorum"]:
            question["outcome"] = "NoQuorum"
            return
        winners = [option for option, tally in enumerate(question["tallies"]) if tally == best]
        question.update(winners=bytes(winners).hex(), outcome="Tie" if len(winners) > 1 else "Winner")

    # Votes.

    def _ballot(self, at: Mapping[str, str], now: int, anonymous: bool, commitment: str | None) -> Row:
        address = at["vote"]
        self.gone.pop(address, None)
        self.votes[address] = {
            "question": at["question"],
            "voter": at["voter"],
            "selections": "",
            "commitment": commitment,
            "revealed": False,
            "anonymous": anonymous,
            "cast_at": now,
            "updated_at": now,
            "changes": 0,
            "bump": _bump(b"vote", _raw(at["question"]), _raw(at["voter"])),
        }
        self.questions[at["question"]]["ballots_cast"] += 1
        return self.votes[address]

    def _select(self, vote: Row, selections: str) -> None:
        tallies = self.questions[vote["question"]]["tallies"]
        for option in bytes.fromhex(vote["selections"]):
            tallies[option] -= 1
        for option in bytes.fromhex(selections):
            tallies[option] += 1
        vote["selections"] = selections

    def _cast_vote(self, data: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        self._select(self._ballot(at, now, data["anonymous"], None), data["selections"])

    def _change_vote(self, data: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        vote = self.votes[at["vote"]]
        self._select(vote, data["selections"])
        vote.update(anonymous=data["anonymous"], updated_at=now, changes=vote["changes"] + 1)

    def _withdraw_vote(self, _: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        vote = self.votes[at["vote"]]
        self._select(vote, "")
        vote["updated_at"] = now
        self.questions[at["question"]]["ballots_cast"] -= 1
        self.gone[at["vote"]] = "withdrawn"

    def _commit_vote(self, data: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        self._ballot(at, now, data["anonymous"], data["commitment"])

    def _change_commitment(self, data: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        vote = self.votes[at["vote"]]
        vote.update(
            commitment=data["commitment"], anonymous=data["anonymous"], updated_at=now, changes=vote["changes"] + 1
        )

    def _reveal_vote(self, data: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        vote = self.votes[at["vote"]]
        self._select(vote, data["selections"])
        vote.update(revealed=True, updated_at=now)
        self.questions[at["question"]]["ballots_revealed"] += 1

    def _reclaim_vote(self, _: Mapping[str, Any], at: Mapping[str, str], now: int) -> None:
        # The vote stands as it was: what was closed is its account.
        self.gone[at["vote"]] = "reclaimed"


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def landed(block: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """The program's successful outer instructions of a block (base64, full), in order: name, data, accounts by name."""
    for item in block["transactions"]:
        if item["meta"]["err"] is not None:
            continue
        message = VersionedTransaction.from_bytes(base64.b64decode(item["transaction"][0])).message
        keys = message.account_keys
        for instruction in message.instructions:
            if keys[instruction.program_id_index] != PROGRAM:
                continue
            decoded = CODEC.decode_instruction(bytes(instruction.data))
            metas = CODEC.account_metas(decoded.name)
            addresses = [str(keys[index]) for index in instruction.accounts]
            yield decoded.name, decoded.data, {m.name: a for m, a in zip(metas, addresses, strict=False)}


async def read_model(node: Node, slot_first: int, slot_last: int, model: Model | None = None) -> Model:
    """Fold the confirmed blocks of these slots, both ends included, onto `model`, which is changed, or onto an empty one.

    RpcError where history is not served any more.
    """
    model = model or Model()
    options = {
        "commitment": "confirmed",
        "encoding": "base64",
        "transactionDetails": "full",
        "rewards": False,
        "maxSupportedTransactionVersion": 0,
    }
    for first in range(slot_first, slot_last + 1, BLOCKS_A_BATCH):
        slots = range(first, min(first + BLOCKS_A_BATCH, slot_last + 1))
        answers = await node.batch([("getBlock", [slot, options]) for slot in slots])
        for answer in answers:
            if "error" in answer:
                if answer["error"].get("code") in _NO_BLOCK:
                    continue
                raise RpcError("getBlock", answer["error"])
            block = answer["result"]
            for name, data, accounts in landed(block):
                model.apply(name, data, accounts, block["blockTime"])
    return model


async def differences(node: Node, model: Model) -> list[str]:
    """The model against the accounts on the chain, field by field; empty when they are equal."""
    found: list[str] = []
    for kind, accounts in model.accounts().items():
        addresses = list(accounts)
        for at in range(0, len(addresses), 100):
            some = addresses[at : at + 100]
            reply = await node.call("getMultipleAccounts", some, {"commitment": "confirmed", "encoding": "base64"})
            for address, account in zip(some, reply["value"], strict=True):
                if account is None:
                    found.append(f"{kind} {address}: not on the chain")
                    continue
                actual = CODEC.decode_account(base64.b64decode(account["data"][0])).data
                for name, value in accounts[address].items():
                    if actual.get(name) != value:
                        found.append(f"{kind} {address}.{name}: {actual.get(name)!r} on the chain, {value!r} expected")
    gone = list(model.gone)
    for at in range(0, len(gone), 100):
        some = gone[at : at + 100]
        reply = await node.call("getMultipleAccounts", some, {"commitment": "confirmed", "encoding": "base64"})
        for address, account in zip(some, reply["value"], strict=True):
            if account is not None:
                found.append(f"Vote {address}: on the chain, though {model.gone[address]}")
    return found
