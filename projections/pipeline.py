"""Writing one batch while the next one is folded: the server stores rows, and this process's processor would wait for it.

One job is under way at most. Its transaction is as whole as any other: whoever folds before its end believes that it will commit, and forgets all
it did when it does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from projections.catalogue import Conn

Job = Callable[[Conn], None]
# A thread that computes holds the interpreter's lock for so long when others want it. The interpreter's own 5 ms would be waited for at each of
# the ten answers of the server that a batch needs: as long as its fold takes, and nothing would be done meanwhile.
_TURN_S = 0.0003


def take_turns() -> None:
    """Let threads that wait for the server go on soon after its answer, in this process."""
    sys.setswitchinterval(min(sys.getswitchinterval(), _TURN_S))


class Writer:
    """Performs jobs one after the other, on a thread and a connection of their own. Both begin with the first job."""

    def __init__(self, connect: Callable[[], Conn], name: str) -> None:
        self._connect = connect
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._conn: Conn | None = None
        self._job: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a job was given whose end nobody waited for."""
        return self._job is not None

    def begin(self, job: Job) -> None:
        """Perform a job, in a transaction of its own, while the caller goes on. The one before must have been waited for."""
        assert self._job is None, "one job at a time"
        self._job = self._pool.submit(self._perform, job)

    def wait(self) -> None:
        """Until the job has ended; its error is raised here, once."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        """Let the job end, whatever becomes of it, and close the connection."""
        self._job = None
        self._pool.shutdown(wait=True)
        if self._conn is not None:
            self._conn.close()

    def _perform(self, job: Job) -> None:
        if self._conn is None:
            self._conn = self._connect()
        with self._conn.transaction():
            job(self._conn)
