"""What the core may ask of the outside, and what it hears back.

The core's routines are generators: they yield a request and are sent its reply. A request that failed is answered with `Failure`, a value
like any other, so that every place which asks must say what a refusal means there. Nothing here knows HTTP, sockets or PostgreSQL.

Frozen structs, for there are many of them and a frozen dataclass takes several times as long to be made. `msgspec.structs.replace` makes one with
other values.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal, NewType, TypeAlias

from msgspec import Struct

from programs.transaction import RawTransaction

Slot = NewType("Slot", int)
"""A slot number. A slot is time: it may be skipped and then has no block."""
Address = NewType("Address", str)
"""A program's address, base58."""

Commitment: TypeAlias = Literal["confirmed", "finalized"]
Details: TypeAlias = Literal["none", "signatures", "accounts", "full"]

# JSON-RPC error codes that decide something here (Agave, rpc-custom-error).
BLOCK_CLEANED_UP = -32001
BLOCK_NOT_AVAILABLE = -32004
NODE_BEHIND = -32005
SLOT_SKIPPED = -32007
LONG_TERM_SLOT_SKIPPED = -32009
NO_HISTORY = -32011
BLOCK_STATUS_NOT_YET = -32014
MIN_CONTEXT_SLOT_NOT_REACHED = -32016
TRANSACTION_NOT_FOUND = -32020
METHOD_NOT_FOUND = -32601
BLOCKS_RANGE_MAX = 500_000


# ---- requests ----


class GetSlot(Struct, frozen=True):
    """The node's highest slot at this commitment → int."""

    commitment: Commitment


class GetBlock(Struct, frozen=True):
    """→ Block. `full` carries the transactions of the watched programs, `signatures` every signature in block order, `accounts` every
    signature and which of the watched programs it mentions, at a third of the bytes of `full`."""

    slot: Slot
    details: Details
    commitment: Commitment


class ListSignatures(Struct, frozen=True):
    """One page of getSignaturesForAddress, newest first → tuple[Listed, ...]. `before` is exclusive.

    `barrier`: a slot whose block was served. The answer must come from a node that has served that block too: another one's list may lack what
    this one has written, however high its tip is.
    """

    address: Address
    commitment: Commitment
    limit: int
    before: str | None = None
    min_context_slot: Slot | None = None
    barrier: Slot | None = None


class GetTransactions(Struct, frozen=True):
    """Single transactions by signature → tuple[Content | None, ...], in the order asked; None where the node knows none (yet)."""

    signatures: tuple[str, ...]
    commitment: Commitment


class GetFirstAvailable(Struct, frozen=True):
    """The oldest block the node still has → int."""


class GetBlocks(Struct, frozen=True):
    """Which slots of a range, both ends included and at most BLOCKS_RANGE_MAX of them, have a block → tuple[Slot, ...], ascending."""

    slot_first: Slot
    slot_last: Slot
    commitment: Commitment


class Together(Struct, frozen=True):
    """Independent requests, performed side by side within the edge's bounds → tuple of their replies, in order."""

    requests: tuple[Request, ...]


class AskWitness(Struct, frozen=True):
    """The same question to the second endpoint, which shares nothing with the first → what the question's reply is."""

    request: GetBlock | ListSignatures | GetTransactions | GetSlot


class Pause(Struct, frozen=True):
    """Wait before asking again → None. `why` names the wait in metrics."""

    seconds: float
    why: str


class Append(Struct, frozen=True):
    """Rows, seals and checkpoints in one database transaction → None once committed."""

    plan: SealPlan


class ReadLedger(Struct, frozen=True):
    """What the ledger holds of a program between two slots, both included → tuple[Held, ...] in chain order, retracted rows left out."""

    address: Address
    slot_first: Slot
    slot_last: Slot


class ReadLastListed(Struct, frozen=True):
    """The program's last row at or below a slot that stands and that a signature list has named → Held | None."""

    address: Address
    slot_last: Slot


class ReadContents(Struct, frozen=True):
    """The stored contents of rows → tuple[RawTransaction, ...], in the order asked."""

    rows: tuple[Held, ...]


class AppendLate(Struct, frozen=True):
    """Rows of slots that are sealed already, marked as late, in one database transaction → None once committed."""

    rows: tuple[Row, ...]


class Correct(Struct, frozen=True):
    """Late rows, retractions and the finalized seals over a range, in one database transaction → None once committed."""

    correction: Correction


Request: TypeAlias = (
    GetSlot
    | GetBlock
    | ListSignatures
    | GetTransactions
    | GetFirstAvailable
    | GetBlocks
    | Together
    | AskWitness
    | Pause
    | Append
    | ReadLedger
    | ReadLastListed
    | ReadContents
    | AppendLate
    | Correct
)


# ---- replies ----


class Failure(Struct, frozen=True):
    """A request that did not succeed after the edge's own retries. `code` is the JSON-RPC error code, None for transport and garbage."""

    message: str
    code: int | None = None


def why_not(reply: Reply) -> str:
    """What to say of a reply that is not the one that was hoped for."""
    return reply.message if isinstance(reply, Failure) else f"unexpected answer {reply!r:.80}"


class Listed(Struct, frozen=True):
    """One line of a signature list. `transaction_index` is None on nodes before Agave 4.0; `err` as RawTransaction has it."""

    signature: str
    slot: Slot
    transaction_index: int | None
    err: str | None


class Content(Struct, frozen=True):
    """A stored transaction and which of the watched programs it mentions. `indexed` tells whether the node gave its place in the block."""

    raw: RawTransaction
    programs: frozenset[Address]
    indexed: bool = True


class Block(Struct, frozen=True):
    """A block that the node served. `contents` are those of the watched programs in block order; None unless asked for.

    `transactions` is how many the block holds in all, None when the reply does not tell. `size` is the reply's length in bytes.
    """

    slot: Slot
    parent_slot: Slot
    block_time: int | None
    signatures: tuple[str, ...] | None = None
    contents: tuple[Content, ...] | None = None
    transactions: int | None = None
    size: int = 0
    # For `accounts`: each transaction that mentions a watched program, and which.
    mentions: tuple[tuple[str, frozenset[Address]], ...] | None = None


class Held(Struct, frozen=True):
    """A row of the ledger, as far as it is compared with the chain. `unfetched_logs`: those of a row whose contents are the socket's; None for
    others. `digest`: that of its contents."""

    position: int
    slot: Slot
    transaction_index: int
    signature: str
    err: str | None
    unfetched_logs: tuple[str, ...] | None = None
    digest: bytes = b""


Reply: TypeAlias = object
Routine: TypeAlias = Generator[Request, Reply, "Outcome"]


# ---- what a routine decides ----

SAW_SOCKET = 1
SAW_LIST = 2
SAW_BLOCK = 4
SAW_TRANSACTION = 8
SAW_SECOND_ENDPOINT = 16


class Row(Struct, frozen=True):
    """A transaction on its way into the ledger; `witnesses` is the sum of the SAW_ bits."""

    raw: RawTransaction
    programs: frozenset[Address]
    witnesses: int


class Range(Struct, frozen=True):
    """A program's slots, both ends included."""

    address: Address
    slot_first: Slot
    slot_last: Slot


class SealPlan(Struct, frozen=True):
    """Proven complete: `rows`, ordered by (slot, transaction_index), are all transactions of the ranges' programs in these ranges."""

    ranges: tuple[Range, ...]
    rows: tuple[Row, ...]
    tip: Slot
    commitment: Commitment


class Correction(Struct, frozen=True):
    """What a comparison found in `ranges`: rows that were missing, rows that the chain does not hold or, `differing` by position, holds with other
    contents, which are among `late`."""

    ranges: tuple[Range, ...]
    late: tuple[Row, ...]
    foreign: tuple[Held, ...]
    differing: frozenset[int] = frozenset()


class Done(Struct, frozen=True):
    """The routine reached its aim: everything up to `slot` is committed. `rows` were appended."""

    slot: Slot
    rows: int = 0
    late: int = 0
    retracted: int = 0


class Unproven(Struct, frozen=True):
    """Nothing is wrong but the proof could not be had yet; the checkpoint did not move past what was proven. Try again later.

    `disputed`: two endpoints contradict each other, and neither can be shown to be right.
    """

    reason: str
    disputed: bool = False


class Halted(Struct, frozen=True):
    """The proof can't be had by waiting. A person must act; `remedy` says how."""

    reason: str
    remedy: str


Outcome: TypeAlias = Done | Unproven | Halted
