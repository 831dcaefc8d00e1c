"""The core's counts as metrics: it counts, and knows nothing of who reads the numbers."""

from __future__ import annotations

from indexer import metrics
from indexer.core.finality import Auditor
from indexer.core.hints import Hints
from indexer.core.sealer import Sealer


class _Growth:
    """Counts that only grow, and how much since they were last read."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def _new(self, name: str, value: int) -> int:
        grown = value - self._last.get(name, 0)
        self._last[name] = value
        return grown


class Reporter(_Growth):
    """Turns the sealer's growing counts into metrics."""

    def publish(self, sealer: Sealer) -> None:
        """Add what has come since the last call."""
        tally, notes = sealer.tally, sealer.notifications.tally
        metrics.LIST_MISSED.inc(self._new("list_missed", tally.list_missed))
        metrics.LIST_INVENTED.inc(self._new("list_invented", tally.list_invented))
        metrics.TRUNCATED.inc(self._new("truncated", tally.truncated))
        metrics.LOGS_UNKNOWN.inc(self._new("logs_unknown", tally.logs_unknown))
        metrics.FETCHED.labels(route="block").inc(self._new("blocks_full", tally.blocks_full))
        metrics.FETCHED.labels(route="block_light").inc(self._new("blocks_light", tally.blocks_light))
        metrics.FETCHED.labels(route="transaction").inc(self._new("single", tally.single_transactions))
        metrics.FORGERIES.inc(self._new("forgeries", notes.forgeries))
        metrics.PHANTOMS.inc(self._new("phantoms", notes.phantoms))
        for fate in ("received", "repeated", "matched", "phantoms", "forgeries", "echoes", "dropped", "late"):
            metrics.NOTIFICATIONS.labels(fate=fate).inc(self._new(f"note_{fate}", getattr(notes, fate)))
        metrics.BUFFERED.set(len(sealer.notifications))
        witness = sealer.witness
        metrics.WITNESS_COMPARED.inc(self._new("witness_compared", witness.compared))
        metrics.WITNESS_MISSED.inc(self._new("witness_missed", witness.missed))
        metrics.WITNESS_ABSENT.inc(self._new("witness_absent", witness.absent))
        metrics.WITNESS_DISPUTED.inc(self._new("witness_disputed", witness.disputed))
        metrics.TRUSTED.inc(self._new("trusted", tally.trusted))
        metrics.UNFIT_BLOCKS.inc(self._new("unfit_blocks", tally.unfit_blocks))
        metrics.BLOCK_BYTES.set(sealer.block_bytes)
        metrics.LISTS_UNJOINED.labels(commitment="confirmed").inc(self._new("unjoined", tally.lists_unjoined))
        metrics.FETCHED.labels(route="by_block").inc(self._new("by_block", tally.by_block))


class AuditReporter(_Growth):
    """Turns the auditor's and the hints' growing counts into metrics."""

    def publish(self, auditor: Auditor, hints: Hints) -> None:
        """Add what has come since the last call."""
        tally = auditor.tally
        metrics.AUDIT_FORGED.inc(self._new("forged", tally.forged))
        metrics.AUDIT_SAMPLED.inc(self._new("sampled", tally.sampled))
        metrics.LIST_MISSED.inc(self._new("list_missed", tally.list_missed))
        metrics.LIST_WRONG.inc(self._new("list_wrong", tally.list_wrong))
        metrics.HIDDEN.inc(self._new("hidden", tally.hidden))
        metrics.PHANTOMS.inc(self._new("phantoms", tally.phantoms))
        metrics.NOTIFICATIONS.labels(fate="phantoms").inc(self._new("note_phantoms", tally.phantoms))
        metrics.LISTS_UNJOINED.labels(commitment="finalized").inc(self._new("unjoined", tally.lists_unjoined))
        for kind in ("notification", "account", "list"):
            for what in ("given", "followed", "dropped"):
                count = getattr(hints.tally, what)[kind]
                metrics.HINTS.labels(kind=kind, fate=what).inc(self._new(f"{kind}_{what}", count))
        metrics.HINTS_WAITING.set(len(hints))
