"""What can go wrong with the ledger, split by what the caller does about it."""

from __future__ import annotations

import psycopg

# Classes and states after which the same transaction may succeed: connection, resources (a full disk), operator, serialization,
# deadlock, lock and statement timeouts, I/O.
_RETRYABLE_CLASSES = ("08", "53", "57", "58")
_RETRYABLE_STATES = frozenset({"40001", "40P01", "55P03", "25P02", "25P03"})


class LedgerError(Exception):
    """The ledger refuses; nothing was written."""


class LeaseLost(LedgerError):
    """Another writer has the lease, or this one's is gone: stop writing."""


class LedgerConflict(LedgerError):
    """The request contradicts what is in the ledger (a gap, rows out of order or range): a defect above, never to be retried."""


class AlreadySealed(LedgerConflict):
    """A slot of the range is sealed already: after a commit whose answer was lost, read the state again."""


def retryable(error: BaseException) -> bool:
    """Whether the same work may succeed later on a new connection."""
    if isinstance(error, LedgerError):
        return False
    if not isinstance(error, psycopg.Error):
        return isinstance(error, OSError | TimeoutError)
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in _RETRYABLE_CLASSES or state in _RETRYABLE_STATES
