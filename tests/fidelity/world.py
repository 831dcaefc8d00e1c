"""The same small history on every node: transfers, memos, failures, tokens, a lookup table, a community that votes.

All keys come from fixed seeds, so that addresses, fees and balances are the same on every node; signatures, blockhashes, slots and
times are not, and `World` knows each of them by a name of ours. `World.normal` puts these names into a reply, so that replies of two
nodes, or of today and of the day of a recording, can be compared as they are.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from dataclasses import dataclass, field
from typing import Any

from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.system_program import (
    CreateAccountParams,
    CreateAccountWithSeedParams,
    TransferParams,
    create_account,
    create_account_with_seed,
    transfer,
)
from solders.transaction import VersionedTransaction
from spl.token import instructions as token
from spl.token.constants import ASSOCIATED_TOKEN_PROGRAM_ID, TOKEN_PROGRAM_ID

from programs.base58 import encode as base58_encode
from programs.community_voting import instructions as voting
from programs.community_voting.instructions import PROGRAM, QuestionParams, Settings
from tests.fidelity.nodes import Node
from tests.fidelity.zoo import ZOO

SOL = 10**9
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
VOTE_PROGRAM = "Vote111111111111111111111111111111111111111"
COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
LOADER = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
LOOKUP_TABLES = Pubkey.from_string("AddressLookupTab1e1111111111111111111111111")
SYSTEM = Pubkey.default()
UNKNOWN_SIGNATURE = base58_encode(hashlib.sha512(b"never sent").digest())
# A blockhash that no chain ever had.
OLD_BLOCKHASH = str(Hash.hash(b"never made"))
_LAND_SECONDS_MAX = 40.0
_RESEND_SECONDS = 0.4

# Numbers that no two runs share. Where one is a slot that the world knows, its name is shown instead.
_SLOT_KEYS = frozenset({"slot"})
_NUMBER_KEYS = frozenset(
    {
        *("blockHeight", "lastValidBlockHeight", "blockTime", "slotIndex", "transactionCount", "transactionIndex"),
        *(
            "recentSlot",
            "bumpSeed",
            "unixTimestamp",
            "epochStartTimestamp",
            "confirmations",
            "parentSlot",
            "contextSlot",
        ),
    }
)
# Their slots may be those of others too.
_LANDS_ANYWHERE = frozenset({"version 0"})
_SIGNATURE = re.compile("[1-9A-HJ-NP-Za-km-z]{86,88}")
_HASH_KEYS = frozenset({"blockhash", "previousBlockhash", "recentBlockhash"})


def keypair(name: str) -> Keypair:
    """The key of an actor, the same in every run."""
    return Keypair.from_seed(hashlib.sha256(f"fidelity/{name}".encode()).digest())


@dataclass
class World:
    """A node's history by names. `signatures`, `slots` and `wires` have the same keys: the names of the transactions."""

    node: Node
    signatures: dict[str, str] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    wires: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    spender: Keypair = field(default_factory=lambda: keypair("dreamer"))
    # Transactions made on demand so far: no two of them are equal.
    made: int = 0

    payer = keypair("payer")
    # Who pays for what the requests of the corpus send, and for what they only simulate: the first one's balance moves.
    sender = keypair("sender")
    dreamer = keypair("dreamer")
    # Who pays for what socket scenarios do, so that they leave the others' balances alone.
    speaker = keypair("speaker")
    # Who pays for transactions of version 0, which land when they will.
    versioned = keypair("versioned")
    # Who would pay for what the options are tried on: nothing of it ever lands, so this balance stays.
    ponderer = keypair("ponderer")
    # Who pays for what never runs.
    keeper = keypair("keeper")
    friend = keypair("friend")
    poor = keypair("poor")
    nobody = keypair("nobody").pubkey()
    mint = keypair("mint")
    big = keypair("big")
    closed = keypair("closed")
    community = voting.community_address(keypair("payer").pubkey(), 1)
    question = voting.question_address(community, 0)
    token_account = token.get_associated_token_address(keypair("payer").pubkey(), keypair("mint").pubkey())
    friend_token = token.get_associated_token_address(keypair("friend").pubkey(), keypair("mint").pubkey())

    # --- making it -------------------------------------------------------------------------------------------------

    def blockhash(self) -> Hash:
        """The newest confirmed blockhash."""
        latest = self.node.call("getLatestBlockhash", {"commitment": "confirmed"})
        return Hash.from_string(latest["value"]["blockhash"])

    def sign(
        self,
        *instructions: Instruction,
        signers: tuple[Keypair, ...] = (),
        blockhash: Hash | None = None,
        payer: Keypair | None = None,
    ) -> VersionedTransaction:
        """A legacy transaction that `payer` pays for."""
        payers = (payer or self.payer, *signers)
        message = Message.new_with_blockhash(instructions, payers[0].pubkey(), blockhash or self.blockhash())
        return VersionedTransaction(message, list(payers))

    def post(self, transaction: VersionedTransaction, *, preflight: bool = False) -> str:
        """Send; the signature."""
        options = {"encoding": "base64", "skipPreflight": not preflight, "preflightCommitment": "confirmed"}
        signature: str = self.node.call("sendTransaction", encoded(transaction), options)
        return signature

    def landed(self, signature: str, commitment: str = "confirmed", *, wire: bytes = b"") -> int:
        """Wait until it has landed (failed or not); its slot. `wire` is sent again where a leader has lost it."""
        until = time.monotonic() + _LAND_SECONDS_MAX
        again = time.monotonic() + _RESEND_SECONDS
        while time.monotonic() < until:
            if wire and time.monotonic() > again:
                again += _RESEND_SECONDS
                self.post(VersionedTransaction.from_bytes(wire))
            (status,) = self.node.call("getSignatureStatuses", [signature])["value"]
            if status is not None and status["confirmationStatus"] in (commitment, "finalized"):
                return int(status["slot"])
            time.sleep(0.03)
        raise AssertionError(f"{self.node.name}: {signature} did not become {commitment}")

    def keep(self, name: str, transaction: VersionedTransaction) -> None:
        """Send, wait, and remember under a name."""
        self.post(transaction)
        self.remember(name, str(transaction.signatures[0]), bytes(transaction))

    def remember(self, name: str, signature: str, wire: bytes) -> None:
        """Know this transaction by a name; waits until it is confirmed."""
        self.signatures[name], self.wires[name] = signature, wire
        self.slots[name] = self.landed(signature, wire=wire)
        self.names[signature] = f"<signature {name}>"
        if wire:
            self.names[base64.b64encode(wire).decode()] = f"<{name} as base64>"
            self.names[base58_encode(wire)] = f"<{name} as base58>"

    def build(self) -> World:
        """The whole history, finalized at its end."""
        call = self.node.call
        self.names[UNKNOWN_SIGNATURE] = "<unknown signature>"
        self.names[call("getIdentity")["identity"]] = "<identity>"
        self.names[call("getGenesisHash")] = "<genesis hash>"
        wallets = {
            "payer": (self.payer, 100),
            "friend": (self.friend, 10),
            "sender": (self.sender, 9),
            "dreamer": (self.dreamer, 9),
            "speaker": (self.speaker, 9),
            "versioned": (self.versioned, 9),
            "keeper": (self.keeper, 9),
            "ponderer": (self.ponderer, 9),
        }
        asked = {
            name: call("requestAirdrop", str(wallet.pubkey()), sols * SOL) for name, (wallet, sols) in wallets.items()
        }
        for name, signature in asked.items():
            self.remember(f"fund {name}", signature, b"")
        payer, friend = self.payer.pubkey(), self.friend.pubkey()
        self.keep("memo", self.sign(memo("a first memo")))
        self.keep("transfer", self.sign(send(payer, friend, SOL), memo("with a memo")))
        self.keep("failed", self.sign(send(payer, friend, 1_000_000 * SOL)))
        # A real node takes its time over these: they are waited for at the end.
        version_0 = self._version_0([memo("version 0")])
        self.post(version_0)
        self.keep("priority", self.sign(unit_price(1_000_000), send(payer, friend, 1)))
        self._accounts()
        self._tokens()
        self._voting()
        self._lookup_table()
        self._zoo()
        self.remember("version 0", str(version_0.signatures[0]), bytes(version_0))
        for name in ("looked up", "version 0", list(ZOO)[-1]):
            self.landed(self.signatures[name], "finalized")
        return self

    def _version_0(
        self, instructions: list[Instruction], *tables: AddressLookupTableAccount, payer: Keypair | None = None
    ) -> VersionedTransaction:
        signer = payer or self.versioned
        message = MessageV0.try_compile(signer.pubkey(), instructions, list(tables), self.blockhash())
        return VersionedTransaction(message, [signer])

    def _accounts(self) -> None:
        payer = self.payer.pubkey()
        make_big = CreateAccountParams(
            from_pubkey=payer, to_pubkey=self.big.pubkey(), lamports=2 * SOL, space=300, owner=SYSTEM
        )
        self.keep("big account", self.sign(create_account(make_big), signers=(self.big,)))
        self.keep("open", self.sign(send(payer, self.closed.pubkey(), SOL)))
        self.keep("close", self.sign(send(self.closed.pubkey(), payer, SOL), signers=(self.closed,)))

    def _tokens(self) -> None:
        payer, mint, friend = self.payer.pubkey(), self.mint.pubkey(), self.friend.pubkey()
        rent = self.node.call("getMinimumBalanceForRentExemption", 82)
        make = CreateAccountParams(from_pubkey=payer, to_pubkey=mint, lamports=rent, space=82, owner=TOKEN_PROGRAM_ID)
        # InitializeMint2: 6 decimals, the payer as authority, none to freeze.
        start = Instruction(TOKEN_PROGRAM_ID, bytes((20, 6)) + bytes(payer) + b"\0", [AccountMeta(mint, False, True)])
        self.keep("mint", self.sign(create_account(make), start, signers=(self.mint,)))
        own, other = (token.create_associated_token_account(payer, owner, mint) for owner in (payer, friend))
        self.keep("token accounts", self.sign(own, other))
        issue = token.MintToParams(TOKEN_PROGRAM_ID, mint, self.token_account, payer, 5_000_000)
        self.keep("mint to", self.sign(token.mint_to(issue)))
        give = token.TransferParams(TOKEN_PROGRAM_ID, self.token_account, self.friend_token, payer, 1_250_000)
        self.keep("token transfer", self.sign(token.transfer(give)))
        checked = token.TransferCheckedParams(
            TOKEN_PROGRAM_ID, self.token_account, mint, self.friend_token, payer, 250_000, 6
        )
        self.keep("token transfer checked", self.sign(token.transfer_checked(checked)))
        own_mint = (TOKEN_PROGRAM_ID, mint, self.token_account, payer)
        more = token.mint_to_checked(token.MintToCheckedParams(*own_mint, 5, 6))
        burn = token.burn(token.BurnParams(TOKEN_PROGRAM_ID, self.token_account, mint, payer, 2))
        less = token.burn_checked(token.BurnCheckedParams(TOKEN_PROGRAM_ID, mint, self.token_account, payer, 3, 6))
        lend = token.approve_checked(
            token.ApproveCheckedParams(TOKEN_PROGRAM_ID, self.token_account, mint, friend, payer, 9, 6)
        )
        back = token.revoke(token.RevokeParams(TOKEN_PROGRAM_ID, self.token_account, payer))
        kind = token.AuthorityType.CLOSE_ACCOUNT
        hand = token.set_authority(
            token.SetAuthorityParams(TOKEN_PROGRAM_ID, self.token_account, kind, payer, (), friend)
        )
        self.keep("token medley", self.sign(more, burn, less, lend, back, hand))
        seed = "a seed"
        with_seed = CreateAccountWithSeedParams(
            from_pubkey=payer,
            to_pubkey=Pubkey.create_with_seed(payer, seed, SYSTEM),
            base=payer,
            seed=seed,
            lamports=SOL,
            space=10,
            owner=SYSTEM,
        )
        self.keep("with seed", self.sign(create_account_with_seed(with_seed)))
        allow = token.ApproveParams(TOKEN_PROGRAM_ID, self.token_account, friend, payer, 77)
        self.keep("approve", self.sign(token.approve(allow)))

    def _voting(self) -> None:
        payer = self.payer.pubkey()
        self.keep("create community", self.sign(voting.create_community(payer, 1, Settings("Fidelity", "A test"))))
        self.keep("join", self.sign(voting.join(self.friend.pubkey(), self.community), signers=(self.friend,)))
        # An hour from the node's own clock: inside every bound of the community.
        now = self.node.call("getBlockTime", self.slots["join"])
        params = QuestionParams("Are they alike?", ("yes", "no"), now + 3_600)
        ask = voting.create_question(payer, self.community, 0, params)
        self.names[base58_encode(bytes(ask.data))] = "<create question>"
        self.keep("create question", self.sign(ask))
        ballot = voting.cast_vote(payer, self.community, self.question, [0])
        self.keep("cast vote", self.sign(ballot))
        self.keep("vote again", self.sign(voting.cast_vote(payer, self.community, self.question, [1])))

    def _slot_of_a_quick_address(self, payer: Pubkey) -> int:
        """A recent slot for which the table's address is found at the first try: each try costs compute units."""
        tip = self.node.call("getSlot", {"commitment": "confirmed"})
        for slot in reversed(self.node.call("getBlocks", max(0, tip - 40), tip, {"commitment": "confirmed"})):
            if Pubkey.find_program_address([bytes(payer), slot.to_bytes(8, "little")], LOOKUP_TABLES)[1] == 255:
                return int(slot)
        raise AssertionError("no such slot")

    def _lookup_table(self) -> None:
        payer = self.payer.pubkey()
        slot = self._slot_of_a_quick_address(payer)
        table, bump = Pubkey.find_program_address([bytes(payer), slot.to_bytes(8, "little")], LOOKUP_TABLES)
        self.names[str(table)] = "<lookup table>"
        data = (0).to_bytes(4, "little") + slot.to_bytes(8, "little") + bytes((bump,))
        metas = [
            AccountMeta(table, False, True),
            AccountMeta(payer, True, False),
            AccountMeta(payer, True, True),
            AccountMeta(SYSTEM, False, False),
        ]
        entries = [self.friend.pubkey(), self.nobody, MEMO]
        grow = (2).to_bytes(4, "little") + len(entries).to_bytes(8, "little") + b"".join(map(bytes, entries))
        create, extend = (Instruction(LOOKUP_TABLES, body, metas) for body in (data, grow))
        self.names[base58_encode(data)] = "<create lookup table>"
        self.keep("lookup table", self.sign(create, extend))
        # Entries of a table can be used from the slot after.
        self.landed(self.post(self.sign(memo("another slot"))))
        ready = AddressLookupTableAccount(table, entries)
        self.keep(
            "looked up",
            self._version_0([send(self.versioned.pubkey(), self.friend.pubkey(), 5), memo("looked up")], ready),
        )

    def _zoo(self) -> None:
        """All of them sent before the first is waited for."""
        fails = send(self.keeper.pubkey(), self.keeper.pubkey(), 1_000_000 * SOL)
        made = {name: self.sign(fails, *instructions, payer=self.keeper) for name, instructions in ZOO.items()}
        for transaction in made.values():
            self.post(transaction)
        for name, transaction in made.items():
            self.remember(name, str(transaction.signatures[0]), bytes(transaction))

    # --- asking about it -------------------------------------------------------------------------------------------

    def resolve(self, value: Any) -> Any:
        """`value` of the corpus with this node's own in place of what begins with a dollar sign."""
        if isinstance(value, dict):
            return {name: self.resolve(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item) for item in value]
        if not isinstance(value, str) or not value.startswith("$"):
            return value
        kind, _, rest = value[1:].partition(" ")
        if kind == "sig":
            return self.signatures[rest]
        if kind == "slot":
            return self.slots[rest]
        if kind == "tx":
            return base64.b64encode(self.wires[rest]).decode()
        if kind == "message":
            return base64.b64encode(bytes(self.fresh(rest).message)).decode()
        if kind == "fresh":
            return encoded(self.fresh(rest))
        if kind == "fresh58":
            return base58_encode(bytes(self.fresh(rest)))
        if kind == "bad":
            return base64.b64encode(self._bad(rest)).decode()
        if kind == "replay":
            transaction = self.fresh(rest)
            self.landed(self.post(transaction))
            return encoded(transaction)
        return self._place(value)

    def _place(self, value: str) -> Any:
        places: dict[str, Any] = {
            "$payer": self.payer.pubkey(),
            "$friend": self.friend.pubkey(),
            "$poor": self.poor.pubkey(),
            "$nobody": self.nobody,
            "$nobody2": keypair("nobody else").pubkey(),
            "$mint": self.mint.pubkey(),
            "$big": self.big.pubkey(),
            "$closed": self.closed.pubkey(),
            "$token": self.token_account,
            "$friend_token": self.friend_token,
            "$community": self.community,
            "$question": self.question,
            "$program": PROGRAM,
            "$program data": Pubkey.find_program_address([bytes(PROGRAM)], LOADER)[0],
            "$token program": TOKEN_PROGRAM_ID,
            "$unknown sig": UNKNOWN_SIGNATURE,
            "$old blockhash": OLD_BLOCKHASH,
            "$payer ": f"{self.payer.pubkey()} ",
            "$payer$payer": f"{self.payer.pubkey()}{self.payer.pubkey()}",
        }
        if value == "$new blockhash":
            return str(self.blockhash())
        if value == "$future slot":
            return self.node.call("getSlot", {"commitment": "processed"}) + 1_000
        return str(places[value])

    def _sign(
        self, *instructions: Instruction, signers: tuple[Keypair, ...] = (), blockhash: Hash | None = None
    ) -> VersionedTransaction:
        return self.sign(*instructions, signers=signers, blockhash=blockhash, payer=self.spender)

    def fresh(self, kind: str) -> VersionedTransaction:
        """A transaction that was never sent before and would do well, but for "failed"."""
        self.made += 1
        # All notes have one length: what is written about it then is the same every time.
        note = memo(f"fresh {self.made:06d}")
        payer, friend = self.spender.pubkey(), self.friend.pubkey()
        if kind in ("", "fresh", "memo"):
            return self._sign(note)
        if kind == "transfer":
            return self._sign(send(payer, friend, 1_000), note)
        if kind == "version 0":
            return self._version_0([note], payer=self.spender)
        if kind == "failed":
            return self._sign(note, send(payer, friend, 1_000_000 * SOL))
        if kind == "priced":
            return self._sign(unit_price(2_000_000), send(payer, friend, 1), note)
        if kind == "limited":
            return self._sign(unit_limit(50_000), unit_price(3), note)
        if kind == "two":
            return self._sign(note, send(self.friend.pubkey(), payer, 1), signers=(self.friend,))
        if kind == "old":
            return self._sign(note, blockhash=Hash.from_string(OLD_BLOCKHASH))
        if kind == "token":
            give = token.TransferParams(TOKEN_PROGRAM_ID, self.friend_token, self.token_account, friend, 1)
            return self._sign(token.transfer(give), signers=(self.friend,))
        if kind == "vote":
            ballot = voting.cast_vote(self.friend.pubkey(), self.community, self.question, [1])
            return self._sign(ballot, signers=(self.friend,))
        if kind == "fails":
            return self._sign(voting.join(friend, self.community), signers=(self.friend,))
        assert kind == "member", kind
        return self._sign(voting.invite(payer, self.community, self.nobody))

    def _bad(self, kind: str) -> bytes:
        """Wire bytes of a transaction with something wrong about it."""
        payer, friend = self.spender.pubkey(), self.friend.pubkey()
        note = memo(f"bad {kind}")
        good = self._sign(note)
        wire = bytes(good)
        if kind == "unsigned":
            return b"\1" + bytes(64) + wire[65:]
        if kind == "wrong signature":
            return wire[:10] + bytes((wire[10] ^ 1,)) + wire[11:]
        if kind == "forged":
            # Another memo under the signature of one that landed.
            return self.wires["memo"][:65] + bytes(self._sign(memo("a first mema")).message)
        if kind == "expired":
            return bytes(self.fresh("old"))
        if kind == "trailing":
            return wire + b"\0"
        if kind.startswith("cut "):
            return wire[: int(kind[4:])]
        if kind == "short":
            return wire[:-1]
        if kind == "index":
            return wire[: -len(note.data) - 3] + b"\x09" + wire[-len(note.data) - 2 :]
        if kind in ("header", "readonly payer"):
            at = 65 + (0 if kind == "header" else 1)
            return wire[:at] + (b"\x09" if kind == "header" else b"\x01") + wire[at + 1 :]
        if kind == "signers":
            return b"\2" + wire[1:65] + bytes(64) + wire[65:]
        if kind == "no keys":
            return b"\1" + bytes(64) + b"\1\0\0\0" + bytes(32) + b"\0"
        if kind == "no table":
            table = AddressLookupTableAccount(keypair("no table").pubkey(), [friend])
            return bytes(self._version_0([send(payer, friend, 1)], table, payer=self.spender))
        made: dict[str, tuple[list[Instruction], tuple[Keypair, ...]]] = {
            "broke": ([send(payer, friend, 1_000_000 * SOL)], ()),
            "no program": ([Instruction(self.nobody, b"", [])], ()),
            "wrong program": ([Instruction(friend, b"", [])], ()),
            "no instructions": ([], ()),
            "program fails": ([voting.cast_vote(payer, self.community, self.question, [0])], ()),
            "in use": ([voting.create_community(self.payer.pubkey(), 1, Settings("Again"))], (self.payer,)),
            "instruction data": ([Instruction(SYSTEM, b"\xff", [])], ()),
            "rent": ([send(payer, keypair("too poor to live").pubkey(), 1)], ()),
            "missing signer": ([Instruction(SYSTEM, send(friend, payer, 1).data, [_meta(friend), _meta(payer)])], ()),
        }
        if kind in made:
            instructions, signers = made[kind]
            return bytes(self._sign(*instructions, signers=signers))
        if kind == "poor":
            message = Message.new_with_blockhash([note], self.poor.pubkey(), self.blockhash())
            return bytes(VersionedTransaction(message, [self.poor]))
        if kind == "twice":
            # The memo program's key, written over with the payer's.
            return wire.replace(bytes(MEMO), bytes(payer))
        assert kind == "many accounts", kind
        metas = [AccountMeta(keypair(f"account {n}").pubkey(), False, False) for n in range(30)]
        return bytes(self._sign(Instruction(MEMO, b"many", metas)))

    # --- comparing it ----------------------------------------------------------------------------------------------

    def normal(self, value: Any) -> Any:
        """`value` with names in place of what differs from run to run."""
        return self._normal(value, "")

    def _normal(self, value: Any, key: str) -> Any:
        if isinstance(value, dict):
            if key == "context" and "slot" in value:
                # Where a read happened, not what it read.
                return {**value, "slot": "<slot>"}
            if "leaderScheduleEpoch" in value:
                # The clock, which shows the slot in which it is read.
                value = {**value, "slot": -1}
            if key == "rewards":
                # A leader gets the fees of votes, too: as many as there happened to be.
                value = {**value, "lamports": "<number>", "postBalance": "<number>"}
            return {name: self._normal(item, name) for name, item in value.items()}
        if isinstance(value, list):
            items = [item for item in value if not self._is_noise(item, key)]
            return [self._normal(item, key) for item in items]
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int):
            return self._number(value, key)
        if isinstance(value, str):
            return self._text(value, key)
        return value

    def _is_noise(self, item: Any, key: str) -> bool:
        """The votes of a real cluster: whole transactions of a block, and signatures that are none of ours."""
        if key == "transactions" and isinstance(item, dict):
            return VOTE_PROGRAM in str(item) or self._is_wire_vote(item)
        return key == "signatures" and isinstance(item, str) and len(item) > 60 and item not in self.names

    @staticmethod
    def _is_wire_vote(item: dict[str, Any]) -> bool:
        body = item.get("transaction")
        if not (isinstance(body, list) and len(body) == 2 and body[1] == "base64"):
            return isinstance(body, str | list)
        return bytes(Pubkey.from_string(VOTE_PROGRAM)) in base64.b64decode(body[0])

    def _number(self, value: int, key: str) -> Any:
        if key in _SLOT_KEYS:
            known = [name for name, slot in self.slots.items() if slot == value and name not in _LANDS_ANYWHERE]
            return f"<slot of {known[0]}>" if known else "<slot>"
        return "<number>" if key in _NUMBER_KEYS else value

    def _text(self, value: str, key: str) -> str:
        if value in self.names:
            return self.names[value]
        if _SIGNATURE.fullmatch(value):
            return "<signature>"
        if key in _HASH_KEYS:
            return "<blockhash>"
        for real, name in self.names.items():
            if len(real) > 30 and real in value:
                value = value.replace(real, name)
        if value.startswith("Program data: "):
            # Events hold times and slots; what stays the same is how long they are.
            return f"Program data: <{len(base64.b64decode(value.split()[2]))} bytes>"
        value = re.sub(r"\bfresh \d{6}\b", "fresh <number>", value)
        value = re.sub(r"insufficient lamports \d+", "insufficient lamports <number>", value)
        return re.sub(r"\b([Ss]lot:?|[Bb]lock:?) \d+", r"\1 <slot>", value)


def memo(text: str) -> Instruction:
    """A memo without signers."""
    return Instruction(MEMO, text.encode(), [])


def send(source: Pubkey, target: Pubkey, lamports: int) -> Instruction:
    """A transfer of lamports."""
    return transfer(TransferParams(from_pubkey=source, to_pubkey=target, lamports=lamports))


def unit_price(micro_lamports: int) -> Instruction:
    """ComputeBudgetInstruction::SetComputeUnitPrice."""
    return Instruction(COMPUTE_BUDGET, b"\x03" + micro_lamports.to_bytes(8, "little"), [])


def unit_limit(units: int) -> Instruction:
    """ComputeBudgetInstruction::SetComputeUnitLimit."""
    return Instruction(COMPUTE_BUDGET, b"\x02" + units.to_bytes(4, "little"), [])


def _meta(address: Pubkey) -> AccountMeta:
    return AccountMeta(address, False, True)


def encoded(transaction: VersionedTransaction) -> str:
    """Base64 of the wire form."""
    return base64.b64encode(bytes(transaction)).decode()


__all__ = ["ASSOCIATED_TOKEN_PROGRAM_ID", "PROGRAM", "TOKEN_PROGRAM_ID", "World", "encoded", "keypair", "memo", "send"]
