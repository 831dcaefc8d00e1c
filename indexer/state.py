"""What the daemon's loops know of themselves, and what follows from it for /readyz."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from indexer.core.protocol import Halted, Outcome, Slot, Unproven
from indexer.core.watchdog import Watchdog

# A round that is not proven is tried again; when none was for so long, /readyz says why.
UNPROVEN_SHOWN_S = 10.0
# The comparison at finalized comes every twenty seconds or so.
AUDIT_UNPROVEN_SHOWN_S = 60.0
NO_SLOT = Slot(-1)
_FAILING_REMEDY = "mend what the detail names (space, rights, time-outs); the indexer goes on by itself"


@dataclass(slots=True)
class State:
    """Written by the loops, read by the HTTP server and the log."""

    started: bool = False
    leader: bool = False
    halted: Halted | None = None
    audit_halted: Halted | None = None
    catch_up_halted: Halted | None = None
    audit_unproven: str | None = None
    audit_unproven_since: float | None = None
    differences: int = 0
    unproven: str | None = None
    unproven_since: float | None = None
    disputed: bool = False
    catching_up: dict[str, int] = field(default_factory=dict)
    tip: Slot = NO_SLOT
    sealed: Slot = NO_SLOT
    finalized: Slot = NO_SLOT
    socket: bool = False
    database_down: bool = False
    rows: int = 0
    failed_tasks: dict[str, str] = field(default_factory=dict)

    def audit(self, outcome: Outcome, now_s: float) -> None:
        """What the last comparison at finalized came to."""
        self.audit_halted = outcome if isinstance(outcome, Halted) else None
        self.audit_unproven = outcome.reason if isinstance(outcome, Unproven) else None
        if self.audit_unproven is None:
            self.audit_unproven_since = None
        elif self.audit_unproven_since is None:
            self.audit_unproven_since = now_s

    def reasons(
        self, now_s: float, lag_slots_max: int, failing: str | None, watchdog: Watchdog, *, ingest: bool
    ) -> list[dict[str, Any]]:
        """Why the process is not ready, the first thing to look at first; empty when it is.

        `failing`: what the database says to each try of a commit, None when it takes them. `now_s`: the monotonic clock.
        """
        if not self.started:
            return [{"reason": "starting"}]
        found: list[dict[str, Any]] = []
        if self.database_down:
            found.append({"reason": "database_down", "remedy": "see the log's database_down"})
        if failing is not None:
            # Nothing is lost by it: the checkpoint stays, and the same is tried again.
            found.append({"reason": "database_failing", "detail": failing, "remedy": _FAILING_REMEDY})
        if ingest:
            found += [*self._stopped(now_s), *self._behind(now_s, lag_slots_max, watchdog)]
        return found

    def _stopped(self, now_s: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if not self.leader:
            found.append({"reason": "standby", "detail": "another indexer holds the writer's lease"})
        halts = {"halted": self.halted, "audit_halted": self.audit_halted, "catch_up_halted": self.catch_up_halted}
        for name, halted in halts.items():
            if halted is not None:
                found.append({"reason": name, "detail": halted.reason, "remedy": halted.remedy})
        if self.disputed:
            found.append({"reason": "endpoints_disagree", "detail": self.unproven})
        elif self.unproven_since is not None and now_s - self.unproven_since > UNPROVEN_SHOWN_S:
            found.append({"reason": "unproven", "detail": self.unproven})
        since = self.audit_unproven_since
        if since is not None and now_s - since > AUDIT_UNPROVEN_SHOWN_S:
            found.append({"reason": "audit_unproven", "detail": self.audit_unproven})
        if self.differences:
            detail = f"{self.differences} differences"
            found.append({"reason": "tables_differ", "detail": detail, "remedy": "run: indexer reconcile"})
        return found

    def _behind(self, now_s: float, lag_slots_max: int, watchdog: Watchdog) -> list[dict[str, Any]]:
        if not self.leader:
            return []
        found: list[dict[str, Any]] = []
        lag = self.tip - self.sealed
        if self.tip < 0:
            found.append({"reason": "no_tip", "detail": self.unproven or "the tip was not read yet"})
        elif lag > lag_slots_max:
            detail = self.unproven or "catching up"
            found.append({"reason": "sealed_lag", "slots": lag, "limit": lag_slots_max, "detail": detail})
        still = watchdog.tip_stands_still(now_s)
        if still is not None:
            found.append({"reason": "tip_stands_still", "seconds": round(still)})
        return found
