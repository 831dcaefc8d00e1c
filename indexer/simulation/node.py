"""What a node says of the chain, over HTTP and on the socket, faults included. Time stands still while it answers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from msgspec import Struct

from indexer.core.notifications import Notification
from indexer.core.protocol import (
    BLOCK_CLEANED_UP,
    BLOCK_NOT_AVAILABLE,
    LONG_TERM_SLOT_SKIPPED,
    MIN_CONTEXT_SLOT_NOT_REACHED,
    SLOT_SKIPPED,
    TRANSACTION_NOT_FOUND,
    Address,
    Block,
    Content,
    Failure,
    GetBlock,
    GetBlocks,
    GetFirstAvailable,
    GetSlot,
    GetTransactions,
    Listed,
    ListSignatures,
    Reply,
    Request,
    Slot,
)
from indexer.simulation.chain import GENESIS, Branch, ModelBlock, ModelChain, slot_of
from indexer.simulation.dice import Dice

LAG_SLOTS_MAX = 4
DELAY_SLOTS_MAX = 16
OUTAGE_SLOTS_MAX = 6
PRUNED_KEEP_SLOTS = 14
# After so many refusals the transaction, or the block, is there.
NULLS_MAX = 3


class _View(Struct, frozen=True):
    """What one node behind the balancer sees while it answers."""

    branch: Branch
    confirmed: Slot
    finalized: Slot

    def upper(self, commitment: str) -> Slot:
        return self.confirmed if commitment == "confirmed" else self.finalized


class ModelSocket:
    """Turns what was executed into what the subscriber hears."""

    def __init__(self, chain: ModelChain, dice: Dice) -> None:
        self._chain = chain
        self._dice = dice
        self._late: list[tuple[Slot, Notification]] = []
        self._gone_until = Slot(0)

    def hear(self, block: ModelBlock | None) -> list[Notification]:
        """The notifications that arrive now that the chain is at its tip, with `block` or without."""
        dice, tip = self._dice, self._chain.tip
        said = [note for due, note in self._late if due <= tip]
        self._late = [(due, note) for due, note in self._late if due > tip]
        if self._gone_until < tip and dice.strike("closed_socket"):
            self._gone_until = Slot(tip + dice.stream("closed_socket").randint(1, OUTAGE_SLOTS_MAX))
        if tip <= self._gone_until and not dice.calm:
            # Nothing is sent again after a reconnect.
            return []
        if block is not None and block.contents and not dice.strike("lost_slot"):
            said.extend(note for content in block.contents for note in self._of(content, tip))
        if dice.strike("phantom"):
            said.append(Notification(tip, f"phantom{tip}", None, ("Program log: never",)))
        if len(said) > 1 and dice.strike("reordered"):
            dice.stream("reordered").shuffle(said)
        return said

    def accounts(self, block: ModelBlock | None) -> list[Address]:
        """Programs of which the socket tells, at the tip, that an account has changed."""
        dice = self._dice
        if self._chain.tip <= self._gone_until and not dice.calm:
            return []
        did = {program for content in (() if block is None else block.contents) for program in content.programs}
        said = [program for program in sorted(did) if not dice.strike("account_lost")]
        if dice.strike("account_alone"):
            said.extend(program for program in self._chain.branch.programs if program not in did)
        return said

    def _of(self, content: Content, tip: Slot) -> list[Notification]:
        dice, raw = self._dice, content.raw
        if dice.strike("lost"):
            return []
        if dice.strike("forged_only"):
            return [forgery(raw.slot, raw.signature)]
        slot = Slot(raw.slot - 1) if dice.strike("wrong_slot") else Slot(raw.slot)
        note = Notification(slot, raw.signature, raw.err, raw.logs or ())
        if dice.strike("delayed"):
            self._late.append((Slot(tip + dice.stream("delayed").randint(1, DELAY_SLOTS_MAX)), note))
            return []
        said = [note]
        if dice.strike("repeated"):
            said.append(note)
        if dice.strike("forged"):
            said.append(forgery(raw.slot, raw.signature))
        return said


FORGED_LOGS = ("Program data: Zm9yZ2Vk",)


def forgery(slot: int, signature: str) -> Notification:
    """What an attacker makes the node say of a transaction that landed."""
    return Notification(Slot(slot), signature, None, FORGED_LOGS)


class ModelNode:
    """Answers requests about the chain as the nodes behind one balancer would at this moment."""

    def __init__(self, chain: ModelChain, dice: Dice) -> None:
        self.chain = chain
        self.hidden: set[str] = set()
        self._judged_hidden: set[str] = set()
        self._dice = dice
        self._barrier = Slot(-1)
        self._nulls: dict[str, int] = {}
        self._refused: dict[Slot, int] = {}
        self._invented = 0
        # Whether the ledger holds a row of this program that every list has to reach; a list that is cut before there is one deceives anybody.
        self.joinable: Callable[[Address], bool] = lambda address: False
        self._cuts = dice.on("cut_list")
        self._plain_view = (GENESIS, _View(chain.branch, chain.confirmed(), chain.finalized()))
        self._answers: dict[type[Request], Callable[[Any, _View], Reply]] = {
            GetSlot: lambda request, view: int(view.upper(request.commitment)),
            GetFirstAvailable: lambda request, view: int(chain.first_available),
            GetBlock: self._block,
            GetBlocks: self._blocks,
            ListSignatures: self._list,
            GetTransactions: self._transactions,
        }

    def answer(self, request: Request) -> Reply:
        """One request."""
        dice = self._dice
        if dice.strike("timeout"):
            return Failure("no answer in 20 s (5 attempts)")
        if dice.strike("rate_limited"):
            return Failure("HTTP 429 (5 attempts)")
        return self._answers[type(request)](request, self._view())

    def _view(self) -> _View:
        chain, dice = self.chain, self._dice
        if chain.stale is not None and dice.strike("stale_fork"):
            branch = chain.stale
            return _View(branch, branch.highest(chain.confirmed()), branch.highest(chain.finalized()))
        at, view = self._plain_view
        if at != chain.tip:
            view = _View(chain.branch, chain.confirmed(), chain.finalized())
            self._plain_view = (chain.tip, view)
        if view.confirmed > 1 and dice.strike("lagging_node"):
            lag = dice.stream("lagging_node").randint(1, LAG_SLOTS_MAX)
            branch = view.branch
            return _View(branch, branch.highest(view.confirmed - lag), branch.highest(view.finalized - lag))
        return view

    def _blocks(self, request: GetBlocks, view: _View) -> tuple[Slot, ...]:
        first, last = request.slot_first, min(request.slot_last, view.upper(request.commitment))
        return tuple(s for s in view.branch.slots if first <= s <= last and not self.chain.lacks(s))

    def _transactions(self, request: GetTransactions, view: _View) -> tuple[Content | None, ...]:
        upper = view.upper(request.commitment)
        return tuple([self._transaction(signature, view.branch, upper) for signature in request.signatures])

    def _block(self, request: GetBlock, view: _View) -> Block | Failure:
        slot = request.slot
        if slot > view.upper(request.commitment):
            return Failure("not available", BLOCK_NOT_AVAILABLE)
        if slot < self.chain.first_available:
            return Failure("cleaned up", BLOCK_CLEANED_UP)
        if self.chain.lacks(slot):
            return Failure("skipped, or missing due to ledger jump", SLOT_SKIPPED)
        block = view.branch.blocks.get(slot)
        if block is None:
            return Failure("skipped", LONG_TERM_SLOT_SKIPPED)
        if self._refused.get(slot, 0) < NULLS_MAX and self._dice.strike("block_late"):
            self._refused[slot] = self._refused.get(slot, 0) + 1
            return Failure("not available", BLOCK_NOT_AVAILABLE)
        self._barrier = max(self._barrier, slot)
        signatures = tuple(c.raw.signature for c in block.contents) if request.details == "signatures" else None
        contents = block.contents if request.details == "full" else None
        if request.details == "accounts":
            mentions = tuple((c.raw.signature, c.programs) for c in block.contents)
            return Block(slot, block.parent, None, None, None, len(mentions), 0, mentions)
        return Block(slot, block.parent, None, signatures, contents)

    def _list(self, request: ListSignatures, view: _View) -> tuple[Listed, ...] | Failure:
        upper = view.upper(request.commitment)
        if request.min_context_slot is not None and upper < request.min_context_slot:
            return Failure("min context slot", MIN_CONTEXT_SLOT_NOT_REACHED)
        if request.barrier is not None and self.chain.lacks(request.barrier):
            # The edge asks an endpoint for the barrier before it asks it for a list.
            return Failure(f"it has not served the barrier, slot {request.barrier}")
        branch = view.branch
        entries = branch.entries[request.address]
        end = bisect_right(entries, upper, key=slot_of)
        if request.before is not None:
            place = branch.places[request.address].get(request.before)
            if place is not None and place < end:
                end = place
            elif branch.indexed:
                return Failure("transaction not found", TRANSACTION_NOT_FOUND)
            elif self._dice.stream("old_node").random() < 0.5:
                # Older nodes know no such error: they answer with an empty page, or with the newest one.
                return ()
        if not branch.indexed:
            self._dice.strike("old_node")
        if self._plain():
            found = tuple(reversed(entries[max(0, end - request.limit) : end]))
        else:
            found = tuple(self._shown(entries, end, request.limit))
        if found and self._cuts and self.joinable(request.address) and self._dice.strike("cut_list"):
            return found[:1] if request.before is not None else ()
        if found and len(found) < request.limit and self._dice.strike("invented"):
            return self._with_invented(found)
        return found

    def _plain(self) -> bool:
        """Whether a list is shown as it is."""
        dice, chain = self._dice, self.chain
        cut = chain.first_available or chain.indexed_from or chain.hole is not None
        return not cut and not self.hidden and not dice.on("hidden") and not dice.on("incomplete_list")

    def _shown(self, entries: list[Listed], end: int, limit: int) -> list[Listed]:
        dice, chain, hidden = self._dice, self.chain, self.hidden
        first = max(chain.first_available, chain.indexed_from)
        hiding, whole = dice.on("hidden"), not dice.on("incomplete_list")
        judged, barrier, hole = self._judged_hidden, self._barrier, chain.hole
        found: list[Listed] = []
        for at in range(end - 1, -1, -1):
            entry = entries[at]
            slot, signature = entry.slot, entry.signature
            if slot < first or len(found) == limit:
                break
            if signature in hidden or (hole is not None and hole[0] <= slot <= hole[1]):
                continue
            if hiding and signature not in judged:
                judged.add(signature)
                if dice.strike("hidden"):
                    hidden.add(signature)
                    continue
            # Without a served block at or above the slot its index writes may be under way still.
            if not whole and slot > barrier and dice.strike("incomplete_list"):
                continue
            found.append(entry)
        return found

    def _with_invented(self, found: tuple[Listed, ...]) -> tuple[Listed, ...]:
        self._invented += 1
        at = self._dice.stream("invented").randrange(len(found))
        beside = found[at]
        index = None if beside.transaction_index is None else beside.transaction_index + 40
        return (*found[:at], Listed(f"invented{self._invented}", beside.slot, index, None), *found[at:])

    def _transaction(self, signature: str, branch: Branch, upper: Slot) -> Content | None:
        content = branch.by_signature.get(signature)
        if content is None or content.raw.slot > upper or self.chain.lacks(content.raw.slot):
            return None
        if self._nulls.get(signature, 0) < NULLS_MAX and self._dice.strike("null_transaction"):
            self._nulls[signature] = self._nulls.get(signature, 0) + 1
            return None
        if not branch.indexed:
            # Before 4.0 a single transaction does not say its place in the block.
            return Content(replace(content.raw, transaction_index=0), content.programs, indexed=False)
        return content


class SecondNode:
    """The witness: a node of its own on the same chain. It can be down, lag, or lack entries of its index; what it says is true."""

    def __init__(self, chain: ModelChain, dice: Dice) -> None:
        self.hidden: set[str] = set()
        self._judged: set[str] = set()
        self._chain = chain
        self._dice = dice

    def answer(self, request: Request) -> Reply:
        """One request."""
        chain, dice = self._chain, self._dice
        if dice.strike("witness_down"):
            return Failure("no answer in 20 s (5 attempts)")
        confirmed, finalized = chain.confirmed(), chain.finalized()
        if confirmed > 1 and dice.strike("witness_lags"):
            lag = dice.stream("witness_lags").randint(1, LAG_SLOTS_MAX)
            confirmed, finalized = chain.branch.highest(confirmed - lag), chain.branch.highest(finalized - lag)
        view = _View(chain.branch, confirmed, finalized)
        match request:
            case GetBlock(slot, details, commitment):
                block = view.branch.blocks.get(slot)
                if block is None or slot > view.upper(commitment):
                    return Failure("not available", BLOCK_NOT_AVAILABLE)
                return Block(slot, block.parent, None, None, block.contents if details == "full" else None)
            case ListSignatures(address, commitment, limit, before, height):
                return self._list(view.branch, address, view.upper(commitment), limit, before, height)
            case GetTransactions(signatures, commitment):
                found = [view.branch.by_signature.get(signature) for signature in signatures]
                return tuple(c if c is not None and c.raw.slot <= view.upper(commitment) else None for c in found)
            case _:
                raise TypeError(f"not a question for a witness: {request}")

    def _list(
        self, branch: Branch, address: Address, upper: Slot, limit: int, before: str | None, height: Slot | None
    ) -> tuple[Listed, ...] | Failure:
        if height is not None and upper < height:
            return Failure("min context slot", MIN_CONTEXT_SLOT_NOT_REACHED)
        entries = branch.entries[address]
        end = bisect_right(entries, upper, key=slot_of)
        if before is not None:
            place = branch.places[address].get(before)
            if place is None or place >= end:
                return Failure("transaction not found", TRANSACTION_NOT_FOUND)
            end = place
        found: list[Listed] = []
        for at in range(end - 1, -1, -1):
            entry = entries[at]
            if entry.signature not in self._judged:
                self._judged.add(entry.signature)
                if self._dice.strike("witness_hides"):
                    self.hidden.add(entry.signature)
            if entry.signature not in self.hidden:
                found.append(entry)
                if len(found) == limit:
                    break
        return tuple(found)
