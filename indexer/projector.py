"""The projection worker beside the event loop."""

from __future__ import annotations

import threading
import traceback
from typing import Any

import psycopg

from indexer.core.protocol import Slot
from indexer.log import log, one_line
from indexer.settings import Settings
from indexer.startup import Prepared

PAUSE_S_MIN, PAUSE_S_MAX = 1.0, 30.0
# A database that is back should not be waited for as a fault in the worker is.
DATABASE_PAUSE_S = 1.0


class ProjectorThread:
    """The projection worker beside the event loop: its own thread and connection; it stops at the end of its batch."""

    def __init__(self, settings: Settings, prepared: Prepared) -> None:
        from projections.worker import Worker

        self._worker = Worker(
            settings.need_database(),
            prepared.specs,
            waits=lambda w: log.warning("rebuild waits", projection=w.projection, on=w.on, holders=w.holders),
            lost=lambda why: log.warning("read_ahead_lost", error=why, remedy="none: reading goes on without it"),
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="projections", daemon=True)
        self._error: str | None = None

    def start(self) -> None:
        """Begin to follow the ledger."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Finish the batch in hand."""
        self._stop.set()
        self._thread.join(timeout_s)

    def has_projected(self, slot: Slot | None) -> bool:
        """Whether every projection has reached the slot."""
        return slot is None or self._worker.projected_slot() >= slot

    def reasons(self, lag_slots_max: int) -> list[dict[str, Any]]:
        """Why the tables are not ready."""
        if self._error is not None:
            return [{"reason": "projections_failed", "detail": self._error}]
        return list(self._worker.reasons(lag_slots_max))

    def _run(self) -> None:
        pause = PAUSE_S_MIN
        while not self._stop.is_set():
            try:
                self._error = None
                self._worker.run(self._stop)
                return
            except psycopg.OperationalError as error:
                self._error = one_line(error)
                log.seldom(5.0, "error", "database_down", loop="projections", error=one_line(error))
                self._stop.wait(DATABASE_PAUSE_S)
                pause = PAUSE_S_MIN
            except Exception as error:
                self._error = one_line(error)
                log.error("loop_failed", loop="projections", error=one_line(error), trace=traceback.format_exc(limit=8))
                self._stop.wait(pause)
                pause = min(pause * 2, PAUSE_S_MAX)
