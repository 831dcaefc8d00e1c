"""What the socket said, kept as a second witness until the stored ledger has spoken. Bounded; never a source of contents.

A notification proves nothing: simulateTransaction puts anybody's logs on the socket under a true signature and slot (seen on Agave
4.1.2). It is good for three things: to wake the sealer, to say which slots deserve a closer look, and to show forgeries.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from msgspec import Struct

from indexer.core.protocol import Slot

# 64 slots of 1,000 transactions: what falls out costs a fetch, not a row.
NOTIFICATIONS_MAX = 65_536
# Characters of them all, and of one: the runtime cuts logs at 10,000 bytes, and nodes that raise this limit do not raise it a hundredfold.
BYTES_MAX = 64 << 20
NOTE_BYTES_MAX = 1 << 20
# Different ones under one signature in one slot; two would do to show a forgery.
NOTES_OF_ONE_MAX = 16
# A preflight runs before its transaction lands, so the same signature may land some slots later with the same logs.
ECHO_SLOTS = 32
# How far the socket may be ahead of what HTTP names as the tip.
AHEAD_SLOTS_MAX = 1_000


class Notification(Struct, frozen=True):
    """One logsNotification. `err` as RawTransaction has it."""

    slot: Slot
    signature: str
    err: str | None
    logs: tuple[str, ...]


@dataclass(slots=True)
class Tally:
    """What became of notifications; each count only grows."""

    received: int = 0
    repeated: int = 0
    matched: int = 0
    phantoms: int = 0
    forgeries: int = 0
    echoes: int = 0
    dropped: int = 0
    late: int = 0


class Forgery(Struct, frozen=True):
    """A notification under the signature and slot of a stored transaction, with other contents."""

    slot: Slot
    signature: str


class NotificationBuffer:
    """Notifications by slot. `observe` on arrival; `judge` when the stored contents of a range are known; both take no time of their own."""

    def __init__(
        self, limit: int = NOTIFICATIONS_MAX, bytes_max: int = BYTES_MAX, note_bytes_max: int = NOTE_BYTES_MAX
    ) -> None:
        self.tally = Tally()
        self._limit = limit
        self._bytes_max = bytes_max
        self._note_bytes_max = note_bytes_max
        self._size = 0
        self._bytes = 0
        self._horizon: float = float("inf")
        self._by_slot: OrderedDict[Slot, dict[str, list[Notification]]] = OrderedDict()
        self._late: list[tuple[Slot, str]] = []

    def __len__(self) -> int:
        return self._size

    def observe(self, notification: Notification) -> None:
        """Keep it. An equal one (a second program's subscription, a repeat) is counted once; past a bound the oldest slot is dropped."""
        self.tally.received += 1
        weight = _weight(notification)
        if notification.slot > self._horizon or weight > self._note_bytes_max:
            # Nothing lands that far ahead of the tip, and nothing is that large; kept, such ones would push out the honest ones.
            self.tally.dropped += 1
            return
        seen = self._by_slot.setdefault(notification.slot, {}).setdefault(notification.signature, [])
        if notification in seen:
            self.tally.repeated += 1
            return
        if len(seen) >= NOTES_OF_ONE_MAX:
            self.tally.dropped += 1
            return
        seen.append(notification)
        self._size += 1
        self._bytes += weight
        while self._size > self._limit or self._bytes > self._bytes_max:
            self.tally.dropped += len(self._forget(min(self._by_slot)))

    def _forget(self, slot: Slot) -> list[Notification]:
        """Take a slot out of the buffer; what was kept of it."""
        gone = [note for notes in self._by_slot.pop(slot).values() for note in notes]
        self._size -= len(gone)
        self._bytes -= sum(map(_weight, gone))
        return gone

    def tip(self, slot: Slot) -> None:
        """The chain is at this slot: notifications more than AHEAD_SLOTS_MAX beyond it are not kept."""
        self._horizon = max(slot + AHEAD_SLOTS_MAX, 0)

    def expected(self, slot: Slot) -> int:
        """How many transactions the socket named in this slot: a guess at the size of its block."""
        return len(self._by_slot.get(slot, ()))

    def signatures(self, slot: Slot) -> Iterable[str]:
        """Signatures that the socket named in this slot."""
        return self._by_slot.get(slot, ())

    def slots(self, first: Slot, last: Slot) -> list[Slot]:
        """Slots in first..last with at least one notification, ascending."""
        return sorted([slot for slot in self._by_slot if first <= slot <= last])

    def saw(self, slot: Slot, signature: str) -> bool:
        """Whether the socket named this signature in this slot or, as it does around a slot's end, in the one before."""
        heard = self._by_slot
        return signature in heard.get(slot, ()) or signature in heard.get(Slot(slot - 1), ())

    def agreed_logs(self, slot: Slot, signature: str, err: str | None) -> tuple[str, ...] | None:
        """The logs, if everything that was heard of this signature around the slot says the same and names this slot; else None."""
        notes = [note for at in range(slot - ECHO_SLOTS, slot + 2) for note in self._at(Slot(at), signature)]
        if not notes or not any(note.slot == slot for note in notes):
            return None
        first = notes[0]
        same = all(note.logs == first.logs and note.err == err for note in notes)
        return first.logs if same and first.logs else None

    def _at(self, slot: Slot, signature: str) -> list[Notification]:
        return self._by_slot.get(slot, {}).get(signature, [])

    def judge(
        self,
        last: Slot,
        stored: Mapping[str, tuple[Slot, str | None, tuple[str, ...] | None]],
        looked_at: Callable[[Slot, str], bool] = lambda slot, signature: True,
    ) -> list[Forgery]:
        """Settle all notifications up to `last` against what is stored there (signature → slot, err, logs) and forget them.

        Equal contents in the same slot or the one before: matched. Other contents in the stored slot: a forgery. The signature in another slot: an
        echo of a preflight. A signature that is not stored: a phantom, where the slot's block was `looked_at`; elsewhere it is late, and may be
        what the list hides (`take_late`). Logs that the node did not record can't be compared: matched.
        """
        forgeries: list[Forgery] = []
        for slot in [slot for slot in self._by_slot if slot <= last]:
            named = self._by_slot[slot]
            self._forget(slot)
            for signature, notes in named.items():
                truth = stored.get(signature)
                if truth is None and not looked_at(slot, signature):
                    self.tally.late += len(notes)
                    self._late.append((slot, signature))
                    continue
                for note in notes:
                    if self._judge_one(note, truth):
                        forgeries.append(Forgery(slot, signature))
        return forgeries

    def take_late(self) -> list[tuple[Slot, str]]:
        """Notifications that came after their slot was sealed and that nothing stored explains, since the last call."""
        found, self._late = self._late, []
        return found

    def _judge_one(self, note: Notification, truth: tuple[Slot, str | None, tuple[str, ...] | None] | None) -> bool:
        if truth is None:
            self.tally.phantoms += 1
            return False
        slot, err, logs = truth
        same = logs is None or (note.logs == logs and note.err == err)
        if same and slot - 1 <= note.slot <= slot:
            self.tally.matched += 1
            return False
        if note.slot != slot:
            self.tally.echoes += 1
            return False
        self.tally.forgeries += 1
        return True


def _weight(note: Notification) -> int:
    return len(note.signature) + len(note.err or "") + sum(map(len, note.logs))
