"""The client of the voting program: sends instructions, fetches accounts, explains refusals, waits for the read side.

One method an instruction, one a kind of account. Transactions go over solana-py; accounts come decoded by the program's own IDL, in the
same JSON form as everywhere else (`anchorpy_program` gives anchorpy's view of the same program to who prefers it). This and the
command line around it are the only places that hold keys. Instructions alone, without a connection, are built by `instructions`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import httpx
from solana.exceptions import SolanaRpcException
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed
from solana.rpc.core import RPCException
from solana.rpc.types import MemcmpOpts, TxOpts
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import Transaction

from programs.codec import CodecError
from programs.community_voting import artifact
from programs.community_voting import instructions as build
from programs.community_voting.instructions import CODEC, PROGRAM, QuestionParams, Role, Settings
from programs.errors import EXIT_UNREACHABLE, EXIT_WRONG, UserError

POLL_SECONDS: Final = 0.2
CONFIRM_SECONDS_MAX: Final = 60.0

_ERRORS: Final[dict[int, tuple[str, str]]] = {
    e["code"]: (e["name"], e["msg"]) for e in artifact.load_idl_json()["errors"]
}
_CREATING: Final = frozenset({"create_community", "create_question", "cast_vote", "commit_vote"})
# Anchor's own refusals that a caller of this program can meet.
_ANCHOR_ERRORS: Final = {
    2001: ("ConstraintHasOne", "The accounts do not belong together"),
    2006: ("ConstraintSeeds", "An account is not the one that this instruction needs"),
    3007: ("AccountOwnedByWrongProgram", "An account belongs to another program"),
    3012: ("AccountNotInitialized", "An account that this needs does not exist"),
}


class VotingError(UserError):
    """The program refused: `code`, `name` and the program's own message."""

    def __init__(self, code: int, instruction: str) -> None:
        fallback = (f"Custom{code}", "An error that the program's interface does not list")
        self.code = code
        known: tuple[str, str] = _ERRORS.get(code) or _ANCHOR_ERRORS.get(code) or fallback
        self.name, self.reason = known
        super().__init__(f"{instruction}: {self.name} ({code}): {self.reason}", EXIT_WRONG)


class TransactionFailed(UserError):
    """The cluster refused the transaction, for a reason that is not the program's; or it did not land."""

    def __init__(self, instruction: str, reason: str, exit_code: int = EXIT_WRONG) -> None:
        super().__init__(f"{instruction}: {reason}", exit_code)


@dataclass(frozen=True, slots=True)
class Account:
    """A decoded account; `data` has the field names and JSON forms of the IDL."""

    address: Pubkey
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Eligible:
    """Whether a wallet may vote on a question now. `reason` says why (not), and what it may do instead."""

    may_vote: bool
    reason: str


def explain_eligibility(
    question: dict[str, Any], member: dict[str, Any] | None, vote: dict[str, Any] | None, now: int
) -> Eligible:
    """The program's rules for a first ballot, from decoded accounts; `now` in Unix seconds of the chain. Pure."""
    if question["status"] != "Open":
        return Eligible(False, f"the question is {question['status'].lower()}")
    if now < question["opens_at"]:
        return Eligible(False, f"voting begins at {question['opens_at']}")
    if now >= question["closes_at"]:
        return Eligible(False, "voting has ended")
    if member is None:
        return Eligible(False, "the wallet is not a member of the community")
    standing = member["standing"]
    if standing["status"] == "Pending":
        what = "the invitation is not accepted yet" if standing["invited"] else "the application is pending"
        return Eligible(False, what)
    if standing["status"] != "Active":
        return Eligible(False, f"the wallet's membership has ended ({standing['status'].lower()})")
    if question["eligibility"] == "MembersBefore" and standing["activation"] > question["activations_before"]:
        return Eligible(False, "the wallet became a member after the question was asked")
    if vote is not None:
        return Eligible(
            False, "the wallet has voted" + ("; it may change its vote" if question["allow_changes"] else "")
        )
    return Eligible(True, "commit a sealed ballot" if question["ballot_kind"] == "Sealed" else "cast a vote")


def custom_code(err: object) -> int | None:
    """The program's error code inside a solders transaction error, or None where there is none."""
    code = getattr(getattr(err, "err", None), "code", None)
    return code if isinstance(code, int) else None


class VotingClient:
    """Asynchronous; use as `async with VotingClient(url) as client`. Every send waits for confirmation and returns the signature.

    Raises VotingError for the program's refusals, TransactionFailed for the cluster's, UserError (exit code 3) for a node out of reach.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.rpc = AsyncClient(url, commitment=Confirmed, timeout=20)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.rpc.close()

    def anchorpy_program(self) -> Any:
        """The program as anchorpy sees it, for fetching and parsing in anchorpy's own types."""
        from anchorpy.program.core import Program
        from anchorpy.provider import Provider, Wallet
        from anchorpy_core.idl import Idl

        provider = Provider(self.rpc, Wallet.dummy())
        return Program(Idl.from_json(artifact.LEGACY_IDL_PATH.read_text()), PROGRAM, provider)

    # Sending.

    async def send(self, name: str, instruction: Instruction, *signers: Keypair) -> Signature:
        """Sign, send, confirm. The first signer pays. `name` is for messages."""
        try:
            return await self._send(name, instruction, signers)
        except (SolanaRpcException, httpx.HTTPError) as error:
            raise self._unreachable(error) from error

    async def _send(self, name: str, instruction: Instruction, signers: Sequence[Keypair]) -> Signature:
        blockhash = (await self.rpc.get_latest_blockhash(Confirmed)).value.blockhash
        message = Message.new_with_blockhash([instruction], signers[0].pubkey(), blockhash)
        transaction = Transaction(list(signers), message, blockhash)
        try:
            options = TxOpts(preflight_commitment=Confirmed)
            signature = (await self.rpc.send_raw_transaction(bytes(transaction), options)).value
        except RPCException as error:
            refusal = error.args[0] if error.args else error
            self._refuse(name, getattr(getattr(refusal, "data", None), "err", None))
            raise TransactionFailed(name, str(getattr(refusal, "message", refusal))) from error
        await self._confirmed(name, signature)
        return signature

    def _refuse(self, name: str, err: object | None) -> None:
        if err is None:
            return
        code = custom_code(err)
        if code is not None:
            # A code of 0 is the system program's: the account to be made is there already.
            raise VotingError(code, name) if code else TransactionFailed(name, "the account exists already")
        if name in _CREATING and "InvalidInstructionData" in str(err):
            # What a system program answers that does not know how to create an account with money on it.
            raise TransactionFailed(name, "the account exists already")
        raise TransactionFailed(name, str(err))

    async def _confirmed(self, name: str, signature: Signature) -> int:
        """The slot of a confirmed, successful transaction."""
        until = time.monotonic() + CONFIRM_SECONDS_MAX
        while time.monotonic() < until:
            status = (await self.rpc.get_signature_statuses([signature])).value[0]
            if status is not None and str(status.confirmation_status).rsplit(".", 1)[-1] in ("Confirmed", "Finalized"):
                self._refuse(name, status.err)
                return int(status.slot)
            await asyncio.sleep(POLL_SECONDS)
        raise TransactionFailed(
            name, f"{signature} was not confirmed within {CONFIRM_SECONDS_MAX:.0f} s", EXIT_UNREACHABLE
        )

    def _unreachable(self, error: Exception) -> UserError:
        cause = error.__cause__ or error
        return UserError(
            f"url: {self.url} does not answer ({type(cause).__name__}); is a node running there?", EXIT_UNREACHABLE
        )

    async def airdrop(self, wallet: Pubkey, lamports: int) -> Signature:
        """Test money, on clusters that give it."""
        try:
            signature = (await self.rpc.request_airdrop(wallet, lamports)).value
            await self._confirmed("airdrop", signature)
        except RPCException as error:
            raise TransactionFailed("airdrop", str(error)) from error
        except (SolanaRpcException, httpx.HTTPError) as error:
            raise self._unreachable(error) from error
        return signature

    # Instructions.

    async def create_community(self, creator: Keypair, community_id: int, settings: Settings) -> Pubkey:
        """Found a community; gives its address."""
        await self.send("create_community", build.create_community(creator.pubkey(), community_id, settings), creator)
        return build.community_address(creator.pubkey(), community_id)

    async def update_community(self, actor: Keypair, community: Pubkey, settings: Settings) -> Signature:
        """Replace the settings."""
        return await self.send("update_community", build.update_community(actor.pubkey(), community, settings), actor)

    async def transfer_authority(self, authority: Keypair, community: Pubkey, new_authority: Pubkey) -> Signature:
        """Hand the authority over."""
        instruction = build.transfer_authority(authority.pubkey(), community, new_authority)
        return await self.send("transfer_authority", instruction, authority)

    async def dissolve_community(self, authority: Keypair, community: Pubkey) -> Signature:
        """End a community."""
        return await self.send("dissolve_community", build.dissolve_community(authority.pubkey(), community), authority)

    async def join(self, wallet: Keypair, community: Pubkey) -> Signature:
        """Join, apply, or accept an invitation."""
        return await self.send("join", build.join(wallet.pubkey(), community), wallet)

    async def invite(self, actor: Keypair, community: Pubkey, wallet: Pubkey) -> Signature:
        """Invite a wallet."""
        return await self.send("invite", build.invite(actor.pubkey(), community, wallet), actor)

    async def approve(self, actor: Keypair, community: Pubkey, wallet: Pubkey) -> Signature:
        """Accept an application."""
        return await self.send("approve", build.approve(actor.pubkey(), community, wallet), actor)

    async def reject(self, actor: Keypair, community: Pubkey, wallet: Pubkey) -> Signature:
        """Turn an application down, or take an invitation back."""
        return await self.send("reject", build.reject(actor.pubkey(), community, wallet), actor)

    async def leave(self, wallet: Keypair, community: Pubkey) -> Signature:
        """Leave, take an application back, or decline an invitation."""
        return await self.send("leave", build.leave(wallet.pubkey(), community), wallet)

    async def remove(self, actor: Keypair, community: Pubkey, wallet: Pubkey) -> Signature:
        """Put a member out."""
        return await self.send("remove", build.remove(actor.pubkey(), community, wallet), actor)

    async def change_role(self, actor: Keypair, community: Pubkey, wallet: Pubkey, role: Role) -> Signature:
        """Give a member another role."""
        return await self.send("change_role", build.change_role(actor.pubkey(), community, wallet, role), actor)

    async def create_question(self, author: Keypair, community: Pubkey, params: QuestionParams) -> Pubkey:
        """Ask; gives the question's address. The index is read from the community first."""
        index = (await self.community(community)).data["counts"]["questions"]
        instruction = build.create_question(author.pubkey(), community, index, params)
        await self.send("create_question", instruction, author)
        return build.question_address(community, index)

    async def cancel_question(self, actor: Keypair, question: Pubkey) -> Signature:
        """Call a question off."""
        community = await self._community_of(question)
        return await self.send("cancel_question", build.cancel_question(actor.pubkey(), community, question), actor)

    async def close_question(self, actor: Keypair, question: Pubkey) -> Signature:
        """Settle a question whose time is over."""
        community = await self._community_of(question)
        return await self.send("close_question", build.close_question(actor.pubkey(), community, question), actor)

    async def cast_vote(
        self, voter: Keypair, question: Pubkey, selections: Sequence[int], anonymous: bool = False
    ) -> Signature:
        """Vote on an open-ballot question."""
        community = await self._community_of(question)
        instruction = build.cast_vote(voter.pubkey(), community, question, selections, anonymous)
        return await self.send("cast_vote", instruction, voter)

    async def change_vote(
        self, voter: Keypair, question: Pubkey, selections: Sequence[int], anonymous: bool = False
    ) -> Signature:
        """Replace the selections of a vote."""
        community = await self._community_of(question)
        instruction = build.change_vote(voter.pubkey(), community, question, selections, anonymous)
        return await self.send("change_vote", instruction, voter)

    async def withdraw_vote(self, voter: Keypair, question: Pubkey) -> Signature:
        """Take a vote or a commitment back."""
        return await self.send("withdraw_vote", build.withdraw_vote(voter.pubkey(), question), voter)

    async def commit_vote(
        self, voter: Keypair, question: Pubkey, selections: Sequence[int], salt: bytes, anonymous: bool = False
    ) -> Signature:
        """Commit to a sealed ballot. Keep `salt` (32 random bytes) and the selections: both are needed to reveal it."""
        community = await self._community_of(question)
        sealed = build.commitment(selections, salt, voter.pubkey(), question)
        instruction = build.commit_vote(voter.pubkey(), community, question, sealed, anonymous)
        return await self.send("commit_vote", instruction, voter)

    async def change_commitment(
        self, voter: Keypair, question: Pubkey, selections: Sequence[int], salt: bytes, anonymous: bool = False
    ) -> Signature:
        """Replace a commitment."""
        community = await self._community_of(question)
        sealed = build.commitment(selections, salt, voter.pubkey(), question)
        instruction = build.change_commitment(voter.pubkey(), community, question, sealed, anonymous)
        return await self.send("change_commitment", instruction, voter)

    async def reveal_vote(self, voter: Keypair, question: Pubkey, selections: Sequence[int], salt: bytes) -> Signature:
        """Open a sealed ballot."""
        instruction = build.reveal_vote(voter.pubkey(), question, selections, salt)
        return await self.send("reveal_vote", instruction, voter)

    async def reclaim_vote(self, voter: Keypair, question: Pubkey) -> Signature:
        """Get the rent of a vote on a settled question back."""
        return await self.send("reclaim_vote", build.reclaim_vote(voter.pubkey(), question), voter)

    # Accounts.

    async def community(self, address: Pubkey) -> Account:
        """UserError where there is none."""
        return self._found(await self._fetch(address, "Community"), address, "community")

    async def question(self, address: Pubkey) -> Account:
        """UserError where there is none."""
        return self._found(await self._fetch(address, "Question"), address, "question")

    async def member(self, community: Pubkey, wallet: Pubkey) -> Account | None:
        """None where the wallet never had to do with the community."""
        return await self._fetch(build.member_address(community, wallet), "Member")

    async def vote(self, question: Pubkey, voter: Pubkey) -> Account | None:
        """None where there is no vote, or its rent was reclaimed."""
        return await self._fetch(build.vote_address(question, voter), "Vote")

    async def account(self, address: Pubkey) -> Account | None:
        """Any account of the program, whatever its kind."""
        return await self._fetch(address, None)

    async def members(self, community: Pubkey) -> list[Account]:
        """All members of a community, past and pending ones too."""
        return await self._scan("Member", community)

    async def questions(self, community: Pubkey) -> list[Account]:
        """All questions of a community, in the order in which they were asked."""
        return sorted(await self._scan("Question", community), key=lambda account: int(account.data["index"]))

    async def votes(self, question: Pubkey) -> list[Account]:
        """All votes on a question whose accounts stand."""
        return await self._scan("Vote", question)

    async def _scan(self, kind: str, parent: Pubkey) -> list[Account]:
        # Members, questions and votes begin with their parent's address, behind the discriminator.
        try:
            reply = await self.rpc.get_program_accounts(
                PROGRAM, Confirmed, "base64", filters=[MemcmpOpts(offset=8, bytes=str(parent))]
            )
        except RPCException as error:
            raise TransactionFailed("accounts of " + str(parent), str(error)) from error
        except (SolanaRpcException, httpx.HTTPError) as error:
            raise self._unreachable(error) from error
        found = [self._decode(item.pubkey, item.account.data) for item in reply.value]
        return [account for account in found if account.kind == kind]

    async def _fetch(self, address: Pubkey, kind: str | None) -> Account | None:
        try:
            value = (await self.rpc.get_account_info(address, Confirmed)).value
        except (SolanaRpcException, httpx.HTTPError) as error:
            raise self._unreachable(error) from error
        if value is None or not value.data:
            return None
        if value.owner != PROGRAM:
            raise UserError(f"{address} belongs to program {value.owner}, not to the voting program", EXIT_WRONG)
        account = self._decode(address, value.data)
        if kind is not None and account.kind != kind:
            raise UserError(f"{address} is a {account.kind}, not a {kind}; give the address of a {kind}", EXIT_WRONG)
        return account

    def _decode(self, address: Pubkey, data: bytes) -> Account:
        try:
            decoded = CODEC.decode_account(bytes(data))
        except CodecError as error:
            raise UserError(
                f"{address} is not an account that this version of the program writes: {error}", EXIT_WRONG
            ) from error
        return Account(address, decoded.name, decoded.data)

    def _found(self, account: Account | None, address: Pubkey, what: str) -> Account:
        if account is None:
            raise UserError(f"{what}: there is no {what} at {address} on {self.url}", EXIT_WRONG)
        return account

    async def _community_of(self, question: Pubkey) -> Pubkey:
        return Pubkey.from_string((await self.question(question)).data["community"])

    # Questions about the state.

    async def eligibility(self, question: Pubkey, wallet: Pubkey, now: int | None = None) -> Eligible:
        """Whether the wallet may cast or commit a first ballot now, and why (not). `now` defaults to this machine's clock."""
        asked = await self.question(question)
        member = await self.member(Pubkey.from_string(asked.data["community"]), wallet)
        vote = await self.vote(question, wallet)
        moment = int(time.time()) if now is None else now
        return explain_eligibility(asked.data, member.data if member else None, vote.data if vote else None, moment)

    async def wait_until_visible(
        self, signature: Signature, dsn: str, program: str = "voting", timeout_seconds: float = 30.0
    ) -> int:
        """Wait until the read side shows everything up to the transaction's slot, and give that slot.

        `dsn` is a PostgreSQL address whose role may read `events.freshness`; `program` is the name there. UserError (exit code 3) when it
        takes longer than `timeout_seconds`.
        """
        try:
            slot = await self._confirmed("wait_until_visible", signature)
        except (SolanaRpcException, httpx.HTTPError) as error:
            raise self._unreachable(error) from error
        await wait_for_slot(dsn, slot, program, timeout_seconds)
        return slot


async def wait_for_slot(dsn: str, slot: int, program: str = "voting", timeout_seconds: float = 30.0) -> None:
    """Wait until the tables hold everything of `program` up to `slot`; errors as for `wait_until_visible`."""
    import psycopg

    shown: int | None = None
    until = time.monotonic() + timeout_seconds
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            while True:
                cursor = await connection.execute(
                    "SELECT projected_slot FROM events.freshness WHERE program = %s", (program,)
                )
                row = await cursor.fetchone()
                if row is None:
                    raise UserError(f"program: the database indexes no program {program!r}; see events.freshness")
                shown = row[0]
                if shown is not None and shown >= slot:
                    return
                if time.monotonic() > until:
                    break
                await asyncio.sleep(POLL_SECONDS / 4)
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"dsn: the read side cannot be asked: {reason}", EXIT_UNREACHABLE) from error
    raise UserError(
        f"slot {slot} is not visible after {timeout_seconds:g} s (the tables are at slot {shown}); is the indexer running?",
        EXIT_UNREACHABLE,
    )
