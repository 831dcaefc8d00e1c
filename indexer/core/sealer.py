"""The sealer: proves slot ranges complete, with contents from the stored ledger, and only then moves the checkpoint.

One `tick` is one routine (see protocol.py). Its order is the proof:
1. Target T: the slot that woke us, or the confirmed tip. A *served block* for T is the barrier: when a node serves getBlock(T), the writes
   of T and of everything before it are in its signature index. Without that barrier the last slots of a list may be incomplete.
2. Lists, newest first, of every program down to its last seal (walk.py) and to the last row that the ledger holds (join.py), ordered by
   (slot, transaction_index). A list that does not come down to it again and again is left aside, and every block is read instead.
3. Contents of every listed transaction from getBlock or getTransaction, checked against the list: same slot, same err. Whatever the block
   of a slot shows and the list does not is added: the block is the truth.
4. Slots where the socket named signatures that the list lacks are looked at in their block: either a phantom, or a list that hides something.
   A second endpoint's lists (witness.py) are compared with the first's: where they differ, both blocks decide, and have to agree.
5. The node must have every block between the last seal and the barrier (blocks.without_hole): one that lacks some has lists without them.
6. `Append`: rows, seals and checkpoint in one transaction. Only its success moves the cursor.
Nothing of this takes contents from a notification, unless `trust_socket_contents` says that nobody else can call the node. Where a step can't
be proven the routine ends `Unproven` and the checkpoint stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from indexer.core import blocks, nulls, places
from indexer.core.hints import AccountWrites, Hints
from indexer.core.join import joined
from indexer.core.members import keys_known
from indexer.core.notifications import Forgery, NotificationBuffer
from indexer.core.protocol import (
    BLOCK_CLEANED_UP,
    SAW_BLOCK,
    SAW_LIST,
    SAW_SECOND_ENDPOINT,
    SAW_SOCKET,
    SAW_TRANSACTION,
    Address,
    Append,
    AskWitness,
    Block,
    Commitment,
    Content,
    Details,
    Done,
    Failure,
    GetBlock,
    GetSlot,
    GetTransactions,
    Halted,
    Held,
    Listed,
    Pause,
    Range,
    Reply,
    Request,
    Routine,
    Row,
    SealPlan,
    Slot,
    Together,
    Unproven,
)
from indexer.core.walk import PAGE_MAX, SideBySide, SignatureWalk, WalkBroken
from indexer.core.witness import Absence, WitnessLists, WitnessTally
from programs.transaction import RawTransaction

STORED_MAX = 8_192
# What a getTransaction reply is worth in bytes, when whole blocks are weighed against single transactions.
TRANSACTION_BYTES = 4_000
# Before the first whole block was seen.
BLOCK_BYTES_GUESS = 64_000
TRUNCATION_MARK = "Log truncated"
NOWHERE = Slot(-1)
_NOBODY: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True)
class SealPolicy:
    """Bounds and choices.

    `block_hits_min`: from so many transactions in a slot on, one getBlock is asked instead of single ones; 0 chooses by cost: a call counts as
    `call_bytes`, which is what providers make of it, and the bytes of a block are learned from the blocks that came.
    `witness`: whether there is a second endpoint. `witness_hold`: no seal without it; else a seal without it is counted.
    """

    commitment: Commitment = "confirmed"
    block_hits_min: int = 8
    call_bytes: int = 50_000
    trust_socket_contents: bool = False
    witness: bool = False
    witness_hold: bool = False
    witness_attempts: int = 8
    witness_pause_s: float = 0.25
    rows_max: int = 1000
    blocks_together_max: int = 4
    transactions_together_max: int = 50
    barrier_attempts: int = 40
    content_attempts: int = 20
    pause_s: float = 0.05
    pause_s_max: float = 1.0
    page_min: int = 64
    # After so many rounds in which a list did not join the ledger, blocks are read instead, so many slots a round.
    unjoined_max: int = 3
    by_block_slots_max: int = 16
    # The share of slots whose blocks are compared with the lists, at most so many in a round; which ones, only who knows the salt can tell. For
    # sealing at finalized, which no audit follows.
    sample: float = 0.0
    samples_max: int = 256
    salt: bytes = b""


@dataclass(slots=True)
class SealTally:
    """Counts that only grow; the edge turns them into metrics."""

    ticks: int = 0
    unproven: int = 0
    rows: int = 0
    blocks_full: int = 0
    blocks_light: int = 0
    single_transactions: int = 0
    list_pages: int = 0
    list_missed: int = 0
    list_invented: int = 0
    truncated: int = 0
    logs_unknown: int = 0
    trusted: int = 0
    unfit_blocks: int = 0
    lists_unjoined: int = 0
    by_block: int = 0
    sampled: int = 0


@dataclass(slots=True)
class _Chunk:
    """Slots up to `upper` with what the lists say of them, on their way to one append. `second` is the witness's; None without one.

    `mentioned_by` has the place of a signature as its key: after a fork the same one may land in another slot.
    """

    upper: Slot
    listed: dict[Slot, dict[str, Listed]]
    mentioned_by: dict[tuple[Slot, str], set[Address]] = field(default_factory=dict)
    second: dict[Slot, dict[str, Listed]] | None = None
    # Places whose contents are at hand and need no fetch.
    settled: set[tuple[int, str]] = field(default_factory=set)
    # Every block of the slots was read; the lists are left aside.
    by_block: bool = False
    # Slots of which a sampled block holds what no list names.
    doubted: set[Slot] = field(default_factory=set)

    def disputed(self) -> list[Slot]:
        """Slots of which the two endpoints' lists tell different things."""
        if self.second is None:
            return []
        return [s for s in sorted({*self.listed, *self.second}) if _told(self.listed, s) != _told(self.second, s)]


class Sealer:
    """Owns the cursors: per program the last slot that is sealed. Not thread-safe; one routine at a time."""

    def __init__(
        self,
        cursors: Mapping[Address, Slot],
        policy: SealPolicy,
        notifications: NotificationBuffer | None = None,
        hints: Hints | None = None,
    ) -> None:
        if not cursors:
            raise ValueError("a sealer needs at least one program")
        self.tally = SealTally()
        self.notifications = notifications if notifications is not None else NotificationBuffer()
        self._policy = policy
        self._cursors = dict(cursors)
        self._blocks: dict[Slot, Block] = {}
        self._parents: dict[Slot, Slot] = {}
        # Slots of this round that are shown to have no block.
        self._empty: set[Slot] = set()
        self.hints = hints if hints is not None else Hints()
        self.writes = AccountWrites(cursors)
        self._forgeries: list[Forgery] = []
        self._recent_rows = 0
        self._tip = Slot(-1)
        # A notification may come after its slot was sealed, a forgery above all: it is judged against what was stored lately.
        self._stored: OrderedDict[str, tuple[Slot, str | None, tuple[str, ...] | None]] = OrderedDict()
        # It holds all rows of a program above the first, but for slots up to the second.
        self._since = dict(cursors)
        self._forgotten = NOWHERE
        # Up to here the node was seen to have every block, in this round; and the rounds in a row in which it was not.
        self._whole_upto = NOWHERE
        self._holes = 0
        # One slot of so many is a sample; so many are left in this round; up to here each slot is one, because a list was caught.
        self._stratum = 1
        self._samples_left = 0
        self._alert_last = NOWHERE
        self.witness = WitnessTally()
        self._absence = Absence()
        self._block_bytes = float(BLOCK_BYTES_GUESS)
        self._patience = nulls.Patience()
        # The last row of each program that a list has named.
        self._last_listed: dict[Address, Held] = {}
        # Programs of which there is no such row near; the ledger is not asked again until one is appended.
        self._nothing_listed: set[Address] = set()
        self._unjoined = 0

    @property
    def cursors(self) -> Mapping[Address, Slot]:
        """The last sealed slot of each program."""
        return dict(self._cursors)

    @property
    def sealed(self) -> Slot:
        """Everything up to this slot is sealed for every program."""
        return min(self._cursors.values())

    @property
    def tip(self) -> Slot:
        """The highest slot whose block was served."""
        return self._tip

    @property
    def block_bytes(self) -> int:
        """What a whole block costs, as learned so far."""
        return int(self._block_bytes)

    def admit(self, address: Address, cursor: Slot) -> None:
        """Take over a program that was sealed up to `cursor` elsewhere. Between two ticks only."""
        if address in self._cursors:
            raise ValueError(f"{address} is sealed here already")
        self._cursors[address] = cursor
        self._since[address] = cursor
        self.writes.admit(address, max(self._cursors.values()))

    def take_forgeries(self) -> list[Forgery]:
        """Forgeries found since the last call, for the alarm."""
        found, self._forgeries = self._forgeries, []
        return found

    def tick(self, hint: Slot | None = None, upto: Slot | None = None) -> Routine:
        """Seal as far as can be proven: to `hint`, a slot that a notification named, or to the tip. Not beyond `upto`.

        The hint is only a hint: a slot that is not confirmed is not served at this commitment, and the tip is asked for instead.
        """
        self.tally.ticks += 1
        self._blocks.clear()
        self._parents.clear()
        self._empty.clear()
        self._whole_upto = NOWHERE
        self._samples_left = self._policy.samples_max
        before = self.sealed
        try:
            outcome = yield from self._tick(hint, upto)
        except WalkBroken as broken:
            outcome = Unproven(broken.reason)
        finally:
            self._blocks.clear()
        if isinstance(outcome, Unproven):
            self.tally.unproven += 1
        if self.sealed == before:
            # Sealing may stand still for long, and what is said of sealed slots must not wait for it.
            self._settle_heard(self.sealed)
        return outcome

    # ---- 1. target and barrier ----

    def _tick(self, hint: Slot | None, upto: Slot | None) -> Routine:
        target = hint
        if target is None or target <= self.sealed or (upto is not None and target > upto):
            reply = yield GetSlot(self._policy.commitment)
            if isinstance(reply, Failure):
                return Unproven(f"the tip can't be read: {reply.message}")
            target = Slot(_integer(reply))
        tip = target
        if upto is not None:
            target = Slot(min(target, upto))
        if target <= self.sealed:
            return Done(self.sealed)
        barrier = yield from self._barrier(tip)
        if not isinstance(barrier, Block):
            return barrier
        tip = barrier.slot
        self._tip = Slot(max(self._tip, tip))
        # A hint that has no block is left aside: the barrier is the tip then.
        target = tip if upto is None else Slot(min(tip, upto))
        if target <= self.sealed:
            return Done(self.sealed)
        return (yield from self._seal_to(target, tip))

    def _barrier(self, tip: Slot) -> Generator[Request, Reply, Block | Unproven]:
        """The block of the tip, or of a newer tip: a slot of a forged hint never gets a block, so after a while the node's own tip is asked."""
        slot = tip
        failure = Failure("not asked")
        for attempt in range(self._policy.barrier_attempts):
            reply = yield GetBlock(slot, self._details(slot), self._policy.commitment)
            if isinstance(reply, Block):
                if self._keep(reply, slot):
                    return reply
                return Unproven(f"the block that was served for slot {slot} does not fit there")
            assert isinstance(reply, Failure)
            failure = reply
            if failure.code is None:
                break  # the edge has retried already
            yield self._pause(attempt, "barrier")
            if attempt % 4 == 3:
                fresh = yield GetSlot(self._policy.commitment)
                if not isinstance(fresh, Failure):
                    slot = Slot(_integer(fresh))
        return Unproven(f"no block is served for the tip, slot {slot}: {failure.message}")

    def _details(self, slot: Slot) -> Details:
        expected = self.notifications.expected(slot)
        # A slot whose contents are the socket's is read whole at finality: where the barrier is asked for anyway, whole it saves that call.
        if self._whole_is_cheaper(expected) or (expected and self._policy.trust_socket_contents):
            return "full"
        return "signatures" if expected else "none"

    def _whole_is_cheaper(self, hits: int) -> bool:
        policy = self._policy
        if policy.block_hits_min:
            return hits >= policy.block_hits_min
        return hits * (policy.call_bytes + TRANSACTION_BYTES) >= policy.call_bytes + self._block_bytes

    def _keep(self, block: Block, slot: Slot) -> bool:
        """Hold on to a served block; False when it can't be the one of its slot. A parent is older, and two replies tell the same number."""
        known = self._blocks.get(slot)
        fits = block.slot == slot and (block.parent_slot < slot or slot == 0) and block.parent_slot >= 0
        if known is not None and None not in (known.transactions, block.transactions):
            fits = fits and known.transactions == block.transactions
        if not fits:
            self._blocks.pop(slot, None)
            self.tally.unfit_blocks += 1
            return False
        self._parents[block.slot] = block.parent_slot
        if block.contents is not None:
            self.tally.blocks_full += 1
            if block.size:
                self._block_bytes += (block.size - self._block_bytes) * 0.2
        else:
            self.tally.blocks_light += 1
        if block.contents is not None or block.signatures is not None:
            self._blocks[block.slot] = block
        return True

    def _no_hole(self, tip: Slot) -> Generator[Request, Reply, Unproven | Halted | None]:
        """Whether the node has every block between the last seal and the tip; asked once a round, and not at all where they were all served in it."""
        if self._whole_upto >= tip:
            return None
        failed = yield from blocks.without_hole(self.sealed, tip, self._policy.commitment, self._parents)
        if failed is None:
            self._holes = 0
            self._whole_upto = tip
        elif isinstance(failed, blocks.Hole):
            self._holes += 1
            if self._holes < blocks.HOLES_MAX:
                return Unproven(failed.reason)
        return failed

    # ---- 2. lists ----

    def _seal_to(self, target: Slot, tip: Slot) -> Routine:
        behind = [address for address, cursor in self._cursors.items() if cursor < target]
        if self._policy.sample > 0:
            # Spread over the whole stretch, however long it is.
            few = -(-(target - self.sealed) // max(1, self._policy.samples_max))
            self._stratum = max(1, round(1 / self._policy.sample), few)
        hint = max(self._policy.page_min, min(PAGE_MAX, 2 * self._recent_rows + self._policy.page_min))
        walks = {
            address: SignatureWalk(address, self._cursors[address], target, self._policy.commitment, hint, tip)
            for address in behind
        }
        for walk in walks.values():
            yield from walk.descend()
        witness = yield from self._call_witness(behind, target, tip, hint)
        if isinstance(witness, Unproven):
            return witness
        self.tally.list_pages += sum(walk.pages_read for walk in walks.values())
        unjoined = yield from self._join(walks, target, tip)
        if isinstance(unjoined, Halted):
            return unjoined  # the blocks of another chain fit together as well as its list
        if unjoined is not None:
            self.tally.lists_unjoined += 1
            self._unjoined += 1
            if self._unjoined < self._policy.unjoined_max:
                return unjoined
            return (yield from self._seal_by_block(walks, target, tip, witness))
        self._unjoined = 0
        lists = SideBySide(walks, target)
        rows = 0
        while self.sealed < target:
            upper, listed = yield from lists.ascend()
            chunk = _Chunk(upper, {})
            for address, entries in listed.items():
                for entry in entries:
                    chunk.listed.setdefault(entry.slot, {})[entry.signature] = entry
                    chunk.mentioned_by.setdefault((entry.slot, entry.signature), set()).add(address)
            if witness is not None:
                second = yield from witness.upto(upper)
                if isinstance(second, str):
                    missing = self._without_witness(second)
                    if missing is not None:
                        return missing
                    witness = None
                else:
                    chunk.second = second
            outcome = yield from self._seal_chunk(chunk, tip)
            if not isinstance(outcome, Done):
                return outcome
            rows += outcome.rows
        self._recent_rows = rows
        return Done(self.sealed, rows)

    def _join(
        self, walks: Mapping[Address, SignatureWalk], target: Slot, tip: Slot
    ) -> Generator[Request, Reply, Unproven | Halted | None]:
        for address, walk in walks.items():
            # What this sealer has sealed it knows: an entry there that it has no row of was missing in the list then, the very first one above all,
            # which had nothing to join.
            mine = max(self._since[address], self._forgotten)
            for slot, signature in walk.beneath:
                if slot > mine and signature not in self._stored:
                    self.hints.give("list", slot, signature)
            if address in self._nothing_listed:
                continue
            known = self._last_listed.get(address)
            row = yield from joined(walk, self._cursors[address], tip, self._policy.commitment, known)
            if isinstance(row, Unproven | Halted):
                return row
            if row is None:
                self._nothing_listed.add(address)
                continue
            self._last_listed[address] = row
            for slot, signature in walk.above(row):
                if signature not in self._stored:
                    self.hints.give("list", slot, signature)
        return None

    def _seal_by_block(
        self, walks: Mapping[Address, SignatureWalk], target: Slot, tip: Slot, witness: WitnessLists | None
    ) -> Routine:
        """Seal some slots whatever the first endpoint's lists say: every block of them is read, from a served one down, parent by parent. A row that
        a list names all the same says so: the next list may join there."""
        sealed = self.sealed
        top = lowest = Slot(min(target, sealed + self._policy.by_block_slots_max))
        reply = yield GetBlock(top, "full", self._policy.commitment)
        if isinstance(reply, Failure) and reply.code is None:
            return Unproven(f"the block of slot {top} can't be read: {reply.message}")
        if not isinstance(reply, Block):
            # A slot without one, or so it seems. However many there are: the next block's parent tells.
            after = yield from blocks.behind(top, tip, self._policy.commitment)
            if after is None:
                return Unproven(f"no block is served of slots {top}..{tip}, and the lists are incomplete")
            self._parents[after.slot] = after.parent_slot
            lowest = after.parent_slot
        found = yield from blocks.read_down(lowest, sealed, self._policy.commitment, self._policy.content_attempts)
        if not isinstance(found, list):
            return found
        for block in found:
            if not self._keep(block, block.slot):
                return Unproven(f"the block that was served for slot {block.slot} does not fit there")
        self.tally.by_block += len(found)
        chunk = _Chunk(top, {}, by_block=True)
        known = [entry for walk in walks.values() for entry in walk.known(top)]
        without = [(entry.slot, entry.signature) for entry in known if entry.slot not in self._blocks]
        wrong = yield from places.passed_over(without, self._policy.commitment)
        if wrong is not None:
            return wrong
        for address, walk in walks.items():
            for entry in walk.known(top):
                if entry.slot in self._blocks:
                    chunk.listed.setdefault(entry.slot, {})[entry.signature] = entry
                    chunk.mentioned_by.setdefault((entry.slot, entry.signature), set()).add(address)
        if witness is not None:
            second = yield from witness.upto(top)
            if isinstance(second, str):
                missing = self._without_witness(second)
                if missing is not None:
                    return missing
            else:
                chunk.second = second
        return (yield from self._seal_chunk(chunk, tip))

    def _call_witness(
        self, behind: list[Address], target: Slot, tip: Slot, hint: int
    ) -> Generator[Request, Reply, WitnessLists | Unproven | None]:
        """The witness's lists, None when the round goes on without it."""
        policy = self._policy
        if not policy.witness or not (policy.witness_hold or self._absence.ask_now()):
            self.witness.absent += policy.witness
            return None
        lists = WitnessLists({a: self._cursors[a] for a in behind}, target, tip, policy.commitment, hint)
        why = yield from lists.open(policy.witness_attempts, policy.witness_pause_s)
        if why is None:
            self._absence.heard()
            return lists
        return self._without_witness(why)

    def _without_witness(self, why: str) -> Unproven | None:
        if self._policy.witness_hold:
            return Unproven(f"the second endpoint can't be asked: {why}")
        self.witness.absent += 1
        self._absence.missed()
        return None

    # ---- 3. contents ----

    def _seal_chunk(self, chunk: _Chunk, tip: Slot) -> Routine:
        total = 0
        # A block that was read whole is the truth of its slot, also where the lists say nothing of it.
        read = [slot for slot in self._blocks if self._has_contents(slot) and self.sealed < slot <= chunk.upper]
        yield from self._sample(chunk)
        slots = sorted({*chunk.listed, *self._suspicious(chunk), *chunk.disputed(), *chunk.doubted, *read})
        while True:
            group: list[Slot] = []
            hits = 0
            while slots and (not group or hits + len(chunk.listed.get(slots[0], ())) <= self._policy.rows_max):
                hits += len(chunk.listed.get(slots[0], ()))
                group.append(slots.pop(0))
            upper = Slot(slots[0] - 1) if slots else chunk.upper
            contents = yield from self._contents(group, chunk)
            if not isinstance(contents, list):
                return contents
            # Asked after the lists, and after the contents, whose blocks tell their parents.
            lacking = None if chunk.by_block else (yield from self._no_hole(tip))
            if lacking is not None:
                return lacking
            rows = tuple(contents)
            plan = SealPlan(self._ranges(upper), rows, tip, self._policy.commitment)
            reply = yield Append(plan)
            if isinstance(reply, Failure):
                return Unproven(f"the ledger refused the append: {reply.message}")
            self._committed(upper, rows)
            total += len(rows)
            if not slots:
                return Done(self.sealed, total)

    def _sample(self, chunk: _Chunk) -> Generator[Request, Reply, None]:
        """Compare the blocks of some slots with the lists. What one holds and no list names makes the slot doubted: it is read whole."""
        looked: set[Slot] = set()
        while not chunk.by_block:
            chosen = [s for s in self._drawn(chunk.upper) if s not in looked and not self._has_contents(s)]
            chosen = chosen[: self._samples_left]
            if not chosen:
                return
            looked.update(chosen)
            self._samples_left -= len(chosen)
            shown = yield from blocks.mentioned(chosen, self._policy.commitment)
            self.tally.sampled += len(shown)
            for slot, block in shown.items():
                open_ = {address for address, cursor in self._cursors.items() if cursor < slot}
                named = chunk.listed.get(slot, {})
                if any(name not in named and not open_.isdisjoint(of) for name, of in block.mentions or ()):
                    chunk.doubted.add(slot)
                    self._alert_last = Slot(slot + blocks.ALERT_SLOTS)

    def _drawn(self, upper: Slot) -> list[Slot]:
        """The sampled slots between the last seal and `upper`: one of so many, evenly spread, and behind a find every one."""
        if self._policy.sample <= 0:
            return []
        wide = self._stratum
        drawn = {
            Slot(at * wide + int(blocks.draw(at, self._policy.salt) * wide))
            for at in range((self.sealed + 1) // wide, upper // wide + 1)
        }
        drawn.update(Slot(at) for at in range(self.sealed + 1, min(upper, self._alert_last) + 1))
        return sorted(slot for slot in drawn if self.sealed < slot <= upper)

    def _ranges(self, upper: Slot) -> tuple[Range, ...]:
        return tuple(
            Range(address, Slot(cursor + 1), upper)
            for address, cursor in sorted(self._cursors.items())
            if cursor < upper
        )

    def _committed(self, upper: Slot, rows: tuple[Row, ...]) -> None:
        ahead = max(self._cursors.values())
        for address, cursor in self._cursors.items():
            self._cursors[address] = Slot(max(cursor, upper))
        self.tally.rows += len(rows)
        self.tally.logs_unknown += sum(row.raw.logs is None for row in rows)
        self.tally.truncated += sum(row.raw.logs is not None and "Log truncated" in row.raw.logs for row in rows)
        listed: dict[Address, RawTransaction] = {}
        for row in rows:
            raw = row.raw
            self._stored[raw.signature] = (Slot(raw.slot), raw.err, raw.logs)
            if row.witnesses & SAW_LIST:
                for address in row.programs:
                    listed[address] = raw
        for address, raw in listed.items():
            self._last_listed[address] = Held(0, Slot(raw.slot), raw.transaction_index, raw.signature, raw.err)
            self._nothing_listed.discard(address)
        while len(self._stored) > STORED_MAX:
            _, (gone, *_) = self._stored.popitem(last=False)
            self._forgotten = Slot(max(self._forgotten, gone))
        self._settle_heard(upper, rows, ahead)
        for slot in [slot for slot in self._blocks if slot <= upper]:
            del self._blocks[slot]

    def _settle_heard(self, upper: Slot, rows: tuple[Row, ...] = (), ahead: Slot = NOWHERE) -> None:
        """What the socket said of slots that are sealed is judged; what neither these rows nor others explain becomes a hint. `ahead`: up to where
        some program was sealed before. A block that was read below it was not read for that one."""
        self._forgeries.extend(self.notifications.judge(upper, self._stored, self._looked_at))
        for slot, signature in self.notifications.take_late():
            self.hints.give("notification", slot, signature)
        for slot in self.writes.sealed(upper, ((Slot(row.raw.slot), row.programs) for row in rows)):
            if slot <= ahead or not self._has_contents(slot):
                self.hints.give("account", slot)

    def _looked_at(self, slot: Slot, signature: str) -> bool:
        """Whether this round knows that the slot holds no such transaction of the programs. A block that holds it shows the contrary: it was read for
        its signatures before the notification came, or for another program than the one whose transaction this is, which was sealed further."""
        block = self._blocks.get(slot)
        if block is None:
            return slot in self._empty
        if block.contents is None:
            return signature not in (block.signatures or ())
        return all(content.raw.signature != signature for content in block.contents)

    def _suspicious(self, chunk: _Chunk) -> list[Slot]:
        """Slots of the chunk in which the socket named a signature that no list names in any slot of the chunk."""
        slots = self.notifications.slots(Slot(self.sealed + 1), chunk.upper)
        if not slots:
            return []
        named = {signature for _, signature in chunk.mentioned_by}
        return [slot for slot in slots if not named.issuperset(self.notifications.signatures(slot))]

    def _contents(self, slots: list[Slot], chunk: _Chunk) -> Generator[Request, Reply, list[Row] | Unproven | Halted]:
        disputed = set(chunk.disputed()).intersection(slots)
        doubted = disputed | chunk.doubted.intersection(slots)
        rows = self._trusted(slots, chunk, doubted)
        chunk.settled = {(row.raw.slot, row.raw.signature) for row in rows}
        whole, single = self._choose(slots, chunk, doubted)
        failed = yield from self._fetch_blocks([slot for slot in whole if not self._has_contents(slot)], "full")
        if failed is not None:
            return failed
        group = set(slots)
        light = [slot for slot in self._suspicious(chunk) if slot in group and slot not in self._blocks]
        failed = yield from self._fetch_blocks(light, "signatures", skipped_is_empty=True)
        if failed is not None:
            return failed
        hidden = self._hidden(slots, chunk)
        if hidden:
            failed = yield from self._fetch_blocks([slot for slot in hidden if not self._has_contents(slot)], "full")
            if failed is not None:
                return failed
            whole.extend(slot for slot in hidden if slot not in whole)
            single = [slot for slot in single if slot not in whole]
        failed = yield from self._settle(sorted(disputed), chunk)
        if failed is not None:
            return failed
        failed = yield from self._denied(whole, chunk)
        if failed is not None:
            return failed
        found = yield from self._fetch_single(single, chunk)
        if not isinstance(found, list):
            return found
        rows = [row for row in rows if row.raw.slot not in whole]
        rows.extend(found)
        for slot in whole:
            rows.extend(self._from_block(slot, chunk))
        rows = [row for row in rows if row.programs]
        if not chunk.by_block:
            wrong = yield from places.elsewhere(
                [row for row in rows if not row.witnesses & SAW_LIST], self._policy.commitment
            )
            if wrong is not None:
                return wrong
        before = rows
        if self._patience.asks:
            rows = yield from nulls.fill(rows, self._policy.commitment)
        if not self._patience.accepts(before, rows):
            first = next(row.raw for row in rows if row.raw.logs is None)
            return Unproven(
                f"the node gives no logs for {first.signature} in slot {first.slot}, though it gives others"
            )
        rows.sort(key=lambda row: (row.raw.slot, row.raw.transaction_index))
        for one, other in pairwise(rows):
            if (one.raw.slot, one.raw.transaction_index) == (other.raw.slot, other.raw.transaction_index):
                return Unproven(
                    f"{one.raw.signature} and {other.raw.signature} are both said to be at slot {other.raw.slot},"
                    f" index {other.raw.transaction_index}"
                )
        return rows

    def _trusted(self, slots: list[Slot], chunk: _Chunk, doubted: set[Slot]) -> list[Row]:
        """Rows from the socket, where an operator trusts it: the list confirms the place and the outcome, and every notification says the same."""
        rows: list[Row] = []
        if not self._policy.trust_socket_contents:
            return rows
        for slot in slots:
            if slot in doubted or self._has_contents(slot):
                continue
            for entry in chunk.listed.get(slot, {}).values():
                logs = self.notifications.agreed_logs(slot, entry.signature, entry.err)
                if logs is None or entry.transaction_index is None or TRUNCATION_MARK in logs:
                    continue
                programs = frozenset(chunk.mentioned_by[slot, entry.signature])
                place = (slot, entry.transaction_index, entry.signature)
                raw = RawTransaction(*place, None, entry.err, b"", logs, None, (), None)
                saw = SAW_LIST | SAW_SOCKET | self._second_bit(slot, entry.signature, chunk)
                rows.append(Row(raw, programs, saw))
        self.tally.trusted += len(rows)
        return rows

    def _settle(self, slots: list[Slot], chunk: _Chunk) -> Generator[Request, Reply, Unproven | None]:
        """Where the lists differ, both endpoints' blocks are compared: what both hold is true, and what only one holds can't be decided."""
        assert chunk.second is not None or not slots
        for slot in slots:
            self.witness.disputed += 1
            theirs: Reply = None
            for attempt in range(self._policy.witness_attempts):
                theirs = yield AskWitness(GetBlock(slot, "full", self._policy.commitment))
                if isinstance(theirs, Block) or (isinstance(theirs, Failure) and theirs.code is None):
                    break
                yield self._pause(attempt, "witness")
            if not isinstance(theirs, Block) or theirs.contents is None:
                if self._policy.witness_hold:
                    return Unproven(f"the endpoints list slot {slot} differently, and the second serves no block", True)
                self.witness.absent += 1
                continue
            ours = self._watched_in(self._blocks[slot])
            other = self._watched_in(theirs)
            if ours != other:
                odd = sorted(set(ours.items()) ^ set(other.items()), key=str)[0][0]
                return Unproven(f"the endpoints' blocks of slot {slot} differ, first in {odd}", True)
            assert chunk.second is not None
            told = chunk.second.setdefault(slot, {})
            self.witness.missed += len(other.keys() - told.keys())
            for index, signature in enumerate(other):
                told.setdefault(signature, Listed(signature, slot, index, other[signature]))
        return None

    def _watched_in(self, block: Block) -> dict[str, str | None]:
        return {
            content.raw.signature: content.raw.err
            for content in block.contents or ()
            if any(address in self._cursors for address in content.programs)
        }

    def _denied(self, slots: list[Slot], chunk: _Chunk) -> Generator[Request, Reply, Unproven | None]:
        """A listed transaction that its block lacks is asked for by name. Only what nobody holds in that slot is the list's invention. One that the
        block holds at another place than the list says tells of a block that was cut, or of a fork between the two answers."""
        doubtful: list[Listed] = []
        for slot in slots:
            contents = self._blocks[slot].contents or ()
            there = {content.raw.signature: content.raw.transaction_index for content in contents}
            moved = [
                entry.signature
                for entry in chunk.listed.get(slot, {}).values()
                if entry.transaction_index is not None
                and there.get(entry.signature, entry.transaction_index) != entry.transaction_index
            ]
            if moved:
                return Unproven(f"the block of slot {slot} holds {moved[0]} at another place than the list")
            doubtful.extend(entry for entry in chunk.listed.get(slot, {}).values() if entry.signature not in there)
        for start in range(0, len(doubtful), self._policy.transactions_together_max):
            part = doubtful[start : start + self._policy.transactions_together_max]
            reply = yield GetTransactions(tuple(entry.signature for entry in part), self._policy.commitment)
            if not isinstance(reply, tuple):
                return Unproven(f"{part[0].signature} is listed, but its block lacks it and it can't be asked for")
            for entry, content in zip(part, reply, strict=True):
                if isinstance(content, Content) and content.raw.slot == entry.slot and self._members(content, chunk):
                    return Unproven(
                        f"the block of slot {entry.slot} lacks {entry.signature}, which the node holds there"
                    )
        return None

    def _choose(self, slots: list[Slot], chunk: _Chunk, doubted: set[Slot]) -> tuple[list[Slot], list[Slot]]:
        """Which slots are read as whole blocks, which as single transactions. Without an index in the list only the block knows the order."""
        whole: list[Slot] = []
        single: list[Slot] = []
        for slot in slots:
            entries = chunk.listed.get(slot)
            if slot in doubted or self._has_contents(slot):
                whole.append(slot)
                continue
            open_ = [entry for entry in (entries or {}).values() if (slot, entry.signature) not in chunk.settled]
            if not open_:
                continue
            unordered = any(entry.transaction_index is None for entry in open_)
            (whole if unordered or self._whole_is_cheaper(len(open_)) else single).append(slot)
        return whole, single

    def _has_contents(self, slot: Slot) -> bool:
        block = self._blocks.get(slot)
        return block is not None and block.contents is not None

    def _hidden(self, slots: list[Slot], chunk: _Chunk) -> list[Slot]:
        """Slots whose block holds a signature that the socket named and the list lacks: the list hides it, the block does not."""
        found = []
        for slot in slots:
            block = self._blocks.get(slot)
            if block is None or block.signatures is None or block.contents is not None:
                continue
            unlisted = {s for s in self.notifications.signatures(slot) if (slot, s) not in chunk.mentioned_by}
            if not unlisted.isdisjoint(block.signatures):
                found.append(slot)
        return found

    def _fetch_blocks(
        self, slots: list[Slot], details: Details, skipped_is_empty: bool = False
    ) -> Generator[Request, Reply, Unproven | Halted | None]:
        missing = list(slots)
        for attempt in range(self._policy.content_attempts):
            again: list[Slot] = []
            why = ""
            for start in range(0, len(missing), self._policy.blocks_together_max):
                part = missing[start : start + self._policy.blocks_together_max]
                replies = yield Together(tuple(GetBlock(slot, details, self._policy.commitment) for slot in part))
                assert isinstance(replies, tuple)
                for slot, reply in zip(part, replies, strict=True):
                    if isinstance(reply, Block):
                        if not self._keep(reply, slot):
                            again.append(slot)
                            why = "what was served does not fit there"
                        continue
                    assert isinstance(reply, Failure)
                    if reply.code == BLOCK_CLEANED_UP:
                        return blocks.pruned(slot, reply.message)
                    if skipped_is_empty and reply.code is not None and (yield from self._is_skipped(slot)):
                        # A slot without a block holds nothing, whatever the socket said of it.
                        self._empty.add(slot)
                        continue
                    again.append(slot)
                    why = reply.message
            if not again:
                return None
            missing = again
            yield self._pause(attempt, "block")
        return Unproven(f"the block of slot {missing[0]} is not served: {why}")

    def _is_skipped(self, slot: Slot) -> Generator[Request, Reply, bool]:
        """Whether the chain went by the slot. A refusal may mean a skip or a block that is not served yet; the parent of a block behind it tells."""
        if any(parent < slot < at for at, parent in self._parents.items()):
            return True
        for at in range(slot + 1, max(self._parents, default=slot) + 1):
            after = Slot(at)
            if after not in self._parents:
                reply = yield GetBlock(after, "none", self._policy.commitment)
                if not isinstance(reply, Block) or not self._keep(reply, after):
                    continue
            return self._parents[after] < slot
        return False

    def _fetch_single(
        self, slots: list[Slot], chunk: _Chunk
    ) -> Generator[Request, Reply, list[Row] | Unproven | Halted]:
        settled = chunk.settled
        entries = [e for slot in slots for e in chunk.listed[slot].values() if (slot, e.signature) not in settled]
        rows: list[Row] = []
        for start in range(0, len(entries), self._policy.transactions_together_max):
            part = entries[start : start + self._policy.transactions_together_max]
            for attempt in range(self._policy.content_attempts):
                reply = yield GetTransactions(tuple(entry.signature for entry in part), self._policy.commitment)
                if isinstance(reply, Failure):
                    if reply.code is None:
                        return Unproven(f"transactions can't be read: {reply.message}")
                    if reply.code == BLOCK_CLEANED_UP:
                        break  # waiting brings it back no more; the block will say the same
                    yield self._pause(attempt, "transaction")
                    continue
                assert isinstance(reply, tuple)
                again = []
                for entry, content in zip(part, reply, strict=True):
                    row = self._agreed(entry, content, chunk)
                    if row is None:
                        again.append(entry)
                    else:
                        rows.append(row)
                if not again:
                    part = []
                    break
                part = again
                yield self._pause(attempt, "transaction")
            if part:
                # Patience is over. The block decides: it holds what the list names, or the list invents.
                late = sorted({entry.slot for entry in part})
                failed = yield from self._fetch_blocks(late, "full")
                if failed is None:
                    failed = yield from self._denied(late, chunk)
                if failed is not None:
                    return failed
                had = {(row.raw.slot, row.raw.signature) for row in rows} | settled
                for slot in late:
                    rows.extend(r for r in self._from_block(slot, chunk) if (slot, r.raw.signature) not in had)
        self.tally.single_transactions += len(entries)
        return rows

    def _agreed(self, entry: Listed, content: object, chunk: _Chunk) -> Row | None:
        if not isinstance(content, Content):
            return None
        raw = content.raw
        if raw.signature != entry.signature or raw.slot != entry.slot or raw.err != entry.err:
            return None
        if entry.transaction_index is None or (content.indexed and raw.transaction_index != entry.transaction_index):
            return None
        if raw.transaction_index != entry.transaction_index:
            raw = replace(raw, transaction_index=entry.transaction_index)
        saw = SAW_LIST | SAW_TRANSACTION | self._socket_bit(entry.slot, entry.signature)
        return Row(raw, self._members(content, chunk), saw | self._second_bit(entry.slot, entry.signature, chunk))

    def _members(self, content: Content, chunk: _Chunk) -> frozenset[Address]:
        """The programs that this row is of: mentioned, and not sealed up to its slot. The transaction's own keys decide, where they are all known;
        else the list is believed. A program that was sealed further has its row already, this one is the others'."""
        raw = content.raw
        slot = Slot(raw.slot)
        open_ = frozenset([address for address, cursor in self._cursors.items() if cursor < slot])
        claimed = open_ & chunk.mentioned_by.get((slot, raw.signature), _NOBODY)
        mentioned = open_ & content.programs
        return mentioned if claimed <= mentioned or keys_known(raw) else mentioned | claimed

    def _from_block(self, slot: Slot, chunk: _Chunk) -> list[Row]:
        """The block is the truth of its slot: what the list lacks is added, what the list alone names is left out; both are counted."""
        contents = self._blocks[slot].contents
        assert contents is not None
        listed = chunk.listed.get(slot, {})
        rows = []
        seen: set[str] = set()
        for content in contents:
            signature = content.raw.signature
            seen.add(signature)
            mine = self._members(content, chunk)
            if not mine:
                continue
            if signature not in listed and not chunk.by_block:
                self.tally.list_missed += 1
            saw = SAW_BLOCK | (SAW_LIST if signature in listed else 0) | self._socket_bit(slot, signature)
            rows.append(Row(content.raw, mine, saw | self._second_bit(slot, signature, chunk)))
        self.tally.list_invented += len(listed.keys() - seen)
        return rows

    def _second_bit(self, slot: Slot, signature: str, chunk: _Chunk) -> int:
        if chunk.second is None or signature not in chunk.second.get(slot, ()):
            return 0
        self.witness.compared += 1
        return SAW_SECOND_ENDPOINT

    def _socket_bit(self, slot: Slot, signature: str) -> int:
        return SAW_SOCKET if self.notifications.saw(slot, signature) else 0

    def _pause(self, attempt: int, why: str) -> Pause:
        return Pause(min(self._policy.pause_s * 1.3**attempt, self._policy.pause_s_max), why)


def _told(lists: Mapping[Slot, Mapping[str, Listed]], slot: Slot) -> dict[str, str | None]:
    return {entry.signature: entry.err for entry in lists.get(slot, {}).values()}


def _integer(reply: Reply) -> int:
    assert isinstance(reply, int)
    return reply
