"""Histories of the voting program for the projections' tests: events encoded by the IDL into transactions, and a ledger to put them in."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from programs.base58 import address_text, encode
from programs.codec import compile_idl
from programs.idl import load_idl
from programs.transaction import RawTransaction
from projections import bootstrap
from projections.decoding import ProgramSpec
from schema import db, lease, ledger
from schema.rows import prepare_row

IDL = load_idl((Path(__file__).parents[3] / "programs/community_voting/idl.json").read_bytes())
CODEC = compile_idl(IDL)
PROGRAM = json.loads((Path(__file__).parents[3] / "programs/community_voting/idl.json").read_bytes())["address"]
COUNTS = {"active_members": 1, "pending_members": 0, "questions": 0, "open_questions": 0, "activations": 1}


def address(name: str) -> str:
    """An address for a name."""
    return address_text(hashlib.sha256(name.encode()).digest())


def transaction(
    slot: int, index: int, *events: tuple[str, dict[str, Any]] | bytes, err: str | None = None
) -> RawTransaction:
    """A transaction of the program that wrote the events by log; bytes are written as they are."""
    lines = [f"Program {PROGRAM} invoke [1]"]
    for event in events:
        data = event if isinstance(event, bytes) else CODEC.encode_event(*event)
        lines.append("Program data: " + base64.b64encode(data).decode())
    lines += [f"Program {PROGRAM} consumed 100 of 200000 compute units", f"Program {PROGRAM} success"]
    signature = encode(hashlib.sha512(f"{slot}/{index}".encode()).digest())
    return RawTransaction(slot, index, signature, 1_700_000_000 + slot, err, b"", tuple(lines), (), (), None)


def community(name: str, at: int = 100) -> tuple[str, dict[str, Any]]:
    settings = {"name": name, "description": "", "join_policy": "Open", "voting_period_min": 1, "voting_period_max": 999,
                "max_options": 10}  # fmt: skip
    wallet = address(f"{name}/founder")
    return "CommunityCreated", {"community": address(name), "timestamp": at, "creator": wallet, "authority": wallet, "id": 2**64 - 1,
                                "settings": settings, "counts": COUNTS, "bump": 255}  # fmt: skip


def renamed(name: str, to: str, at: int = 101) -> tuple[str, dict[str, Any]]:
    return "CommunityUpdated", {"community": address(name), "timestamp": at, "actor": address(f"{name}/founder"),
                                "settings": {**community(to)[1]["settings"]}}  # fmt: skip


def question(name: str, number: int, at: int = 110) -> tuple[str, dict[str, Any]]:
    return "QuestionCreated", {"community": address(name), "timestamp": at, "question": address(f"{name}/q{number}"),
                               "author": address(f"{name}/founder"), "index": number, "text": "Shall\x00we?", "options": ["yes", "no"],
                               "ballot_kind": "Open", "max_selections": 1, "allow_changes": True, "quorum": 1,
                               "eligibility": "ActiveMembers", "activations_before": 1, "opens_at": at, "closes_at": at + 500,
                               "reveal_until": 0, "counts": {**COUNTS, "questions": number + 1, "open_questions": number + 1},
                               "bump": 254}  # fmt: skip


def vote(
    name: str, number: int, voter: str, choice: int, tallies: list[int], *, anonymous: bool = False
) -> tuple[str, dict[str, Any]]:
    return "VoteCast", {"community": address(name), "timestamp": 120, "question": address(f"{name}/q{number}"),
                        "vote": address(f"{name}/q{number}/{voter}"), "voter": address(voter), "selections": bytes([choice]).hex(),
                        "anonymous": anonymous, "tallies": tallies, "ballots_cast": sum(tallies), "bump": 253}  # fmt: skip


class Ledger:
    """A ledger with the voting program, written through the real writer."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.sealed = 0

        async def prepare() -> int:
            async with await db.aconnect(dsn) as conn:
                return (await ledger.ensure_programs(conn, [("voting", PROGRAM, 1)]))[PROGRAM].id

        self.program_id = asyncio.run(prepare())

    def spec(self, *projections: str) -> ProgramSpec:
        """The program with projections by name."""
        return bootstrap.spec("voting", PROGRAM, self.program_id, IDL, projections or ("voting",))

    def _write(self, work: Any) -> None:
        async def write() -> None:
            async with await db.aconnect(self.dsn) as conn:
                held = await lease.acquire(conn, "test", "test", 30)
                assert held is not None
                await work(conn, held)
                await lease.release(conn, held)

        asyncio.run(write())

    def seal(self, *transactions: RawTransaction, slot_last: int | None = None) -> None:
        """Append and seal up to the last slot."""
        last = slot_last or max([self.sealed + 1, *(t.slot for t in transactions)])
        rows = [prepare_row(t, (self.program_id,), 4) for t in transactions]
        seal = ledger.SealRange(self.program_id, self.sealed + 1, last)
        self._write(lambda conn, held: ledger.append_seal(conn, held, [seal], rows, tip_slot=last))
        self.sealed = last

    def late(self, *transactions: RawTransaction) -> None:
        """Append what the auditor found afterwards."""
        rows = [prepare_row(t, (self.program_id,), 4) for t in transactions]
        self._write(lambda conn, held: ledger.append_late(conn, held, rows))

    def retract(self, position: int, raw: RawTransaction) -> None:
        """Take back what a dead fork held."""
        from programs.base58 import decode

        gone = ledger.Retraction(position, raw.slot, decode(raw.signature), "fork")
        self._write(lambda conn, held: ledger.append_retractions(conn, held, [gone]))
