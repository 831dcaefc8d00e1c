"""The built program in the real VM, with a clock that the test sets."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from solders.account import Account
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction

from programs.community_voting import artifact
from programs.community_voting import instructions as voting
from programs.community_voting.instructions import CODEC, PROGRAM, QuestionParams, Settings

START = 1_800_000_000
CODES = {error["name"]: error["code"] for error in artifact.load_idl_json()["errors"]}
PACKET_BYTES_MAX = 1_232


class Refused(Exception):
    """A transaction failed; `code` is the program's, or None where another part of the chain refused."""

    def __init__(self, said: str, logs: list[str]) -> None:
        super().__init__(said + "\n" + "\n".join(logs))
        found = re.search(r"InstructionErrorCustom\((\d+)\)|Custom\((\d+)\)", said)
        self.code = int(found.group(1) or found.group(2)) if found else None
        self.said = said


class World:
    """A chain with one community: founder (authority), a moderator, members b and c, and two wallets outside."""

    def __init__(self) -> None:
        self.svm = LiteSVM()
        self.svm.add_program_from_file(PROGRAM, str(artifact.SO_PATH))
        self.units: dict[str, list[int]] = defaultdict(list)
        self.seen: set[Pubkey] = set()
        self.last: Any = None
        self.at(START)
        names = ("founder", "moderator", "b", "c", "out", "stranger")
        self.founder, self.moderator, self.b, self.c, self.out, self.stranger = (self.wallet(name) for name in names)
        self.community = voting.community_address(self.founder.pubkey(), 1)
        self.questions = 0

    def wallet(self, name: str) -> Keypair:
        """A funded wallet, the same every time."""
        key = Keypair.from_seed(name.encode().ljust(32, b"."))
        self.svm.airdrop(key.pubkey(), 10**11)
        return key

    def at(self, moment: int) -> None:
        """Set the chain's clock."""
        clock = self.svm.get_clock()
        clock.unix_timestamp = moment
        self.svm.set_clock(clock)

    def send(self, instruction: Instruction, signer: Keypair) -> Any:
        """Run it; the transaction's metadata, or Refused."""
        self.svm.expire_blockhash()
        self.seen.update(meta.pubkey for meta in instruction.accounts)
        transaction = Transaction([signer], Message([instruction], signer.pubkey()), self.svm.latest_blockhash())
        assert len(bytes(transaction)) <= PACKET_BYTES_MAX
        outcome = self.svm.send_transaction(transaction)
        if "Failed" in type(outcome).__name__:
            raise Refused(str(outcome.err()), outcome.meta().logs())  # type: ignore[union-attr]
        self.last = outcome
        name = CODEC.decode_instruction(bytes(instruction.data)).name
        self.units[name].append(outcome.compute_units_consumed())  # type: ignore[union-attr]
        return outcome

    def do(self, name: str, signer: Keypair, *arguments: Any) -> Any:
        """Build by name with the signer first, and run."""
        return self.send(getattr(voting, name)(signer.pubkey(), *arguments), signer)

    def state(self, payer: Keypair) -> dict[Pubkey, tuple[bytes, str, int] | None]:
        """Every account that any instruction named. The payer's money is left out: a failed transaction costs its fee."""
        found: dict[Pubkey, tuple[bytes, str, int] | None] = {}
        for key in self.seen:
            account = self.svm.get_account(key)
            lamports = 0 if account is None or key == payer.pubkey() else account.lamports
            found[key] = None if account is None else (bytes(account.data), str(account.owner), lamports)
        return found

    def data(self, address: Pubkey) -> dict[str, Any] | None:
        """A decoded account, or None where there is none."""
        account = self.svm.get_account(address)
        if account is None or not account.data:
            return None
        decoded: dict[str, Any] = CODEC.decode_account(bytes(account.data)).data
        return decoded

    def put(self, address: Pubkey, kind: str, **changes: Any) -> None:
        """Overwrite fields of an account: states that would take billions of transactions to reach."""
        account = self.svm.get_account(address)
        assert account is not None
        data = CODEC.decode_account(bytes(account.data)).data
        encoded = CODEC.encode_account(kind, {**data, **changes}).ljust(len(account.data), b"\0")
        self.svm.set_account(address, Account(account.lamports, encoded, account.owner))

    def found(self, **settings: Any) -> World:
        """Make the community and its people."""
        self.do("create_community", self.founder, 1, Settings(**{"name": "Park", **settings}))
        for wallet in (self.moderator, self.b, self.c):
            self.do("invite", self.founder, self.community, wallet.pubkey())
            self.do("join", wallet, self.community)
        self.do("change_role", self.founder, self.community, self.moderator.pubkey(), "Moderator")
        return self

    def ask(self, **params: Any) -> Pubkey:
        """Ask a question of three options that is open for 100 s, and for sealed ballots revealed for 100 more."""
        clock = self.svm.get_clock().unix_timestamp
        sealed = params.get("ballot_kind") == "Sealed"
        full = {"text": "Tree?", "options": ("Yes", "No", "Later"), "closes_at": clock + 100,
                "max_selections": 2, "reveal_until": clock + 200 if sealed else 0, **params}  # fmt: skip
        self.do("create_question", self.founder, self.community, self.questions, QuestionParams(**full))
        question = voting.question_address(self.community, self.questions)
        self.questions += 1
        return question
