"""Of which programs a transaction is: its own keys decide, where they are all known; else a signature list is believed."""

from __future__ import annotations

from programs.transaction import RawTransaction, TransactionError, parse_wire


def keys_known(raw: RawTransaction) -> bool:
    """Whether all keys of the transaction are at hand: written in it, or loaded from tables and given by the node."""
    if raw.loaded:
        return True
    try:
        message = parse_wire(raw.wire)
    except TransactionError:
        return False
    return message.version is None and message.static_keys is not None
