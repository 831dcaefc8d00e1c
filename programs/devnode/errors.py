"""JSON-RPC errors with the codes and words of Agave 4.1.2 (as answered by its test validator)."""

from __future__ import annotations

from typing import Any

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602


class RpcError(Exception):
    """An answer that is an error object: `code`, `message` and, for some codes, `data`."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def as_object(self) -> dict[str, Any]:
        """The value of the reply's `error` field."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            body["data"] = self.data
        return body


def invalid_params(message: str) -> RpcError:
    """-32602 with the given words."""
    return RpcError(INVALID_PARAMS, message)


def invalid_request(message: str = "Invalid request") -> RpcError:
    """-32600."""
    return RpcError(INVALID_REQUEST, message)


def method_not_found() -> RpcError:
    """-32601."""
    return RpcError(METHOD_NOT_FOUND, "Method not found")


def block_cleaned_up(slot: int, first_available: int) -> RpcError:
    """-32001: the block was pruned."""
    message = f"Block {slot} cleaned up, does not exist on node. First available block: {first_available}"
    return RpcError(-32001, message)


def preflight_failure(reason: str, simulation: dict[str, Any]) -> RpcError:
    """-32002: the transaction failed in its preflight run; `data` is the simulation's result."""
    return RpcError(-32002, f"Transaction simulation failed: {reason}", simulation)


def block_not_available(slot: int) -> RpcError:
    """-32004: not yet there, or skipped and not final."""
    return RpcError(-32004, f"Block not available for slot {slot}")


def block_status_not_yet(slot: int) -> RpcError:
    """-32014: confirmed, and not written yet."""
    return RpcError(-32014, f"Block status not yet available for slot {slot}")


def slot_skipped(slot: int) -> RpcError:
    """-32007: no block at a finalized slot."""
    return RpcError(-32007, f"Slot {slot} was skipped, or missing due to ledger jump to recent snapshot")


# Codes of other nodes than this one: those with long-term storage, without any history, with indexes that leave some programs out.
_REFUSALS = {
    -32009: "Slot {subject} was skipped, or missing in long-term storage",
    -32010: "{subject} excluded from account secondary indexes; this RPC method unavailable for key",
    -32011: "Transaction history is not available from this node",
    -32019: "Failed to query long-term storage; please try again",
}
REFUSAL_CODES = tuple(_REFUSALS)


def refusal(code: int, subject: object) -> RpcError:
    """One of REFUSAL_CODES, about the slot or the address that was asked for."""
    return RpcError(code, _REFUSALS[code].format(subject=subject))


def node_unhealthy(slots_behind: int) -> RpcError:
    """-32005: behind the cluster by `slots_behind`."""
    return RpcError(-32005, f"Node is behind by {slots_behind} slots", {"numSlotsBehind": slots_behind})


def no_snapshot() -> RpcError:
    """-32008: the node has made no snapshot."""
    return RpcError(-32008, "No snapshot")


def unsupported_version(version: int) -> RpcError:
    """-32015: the client did not say that it can read this transaction version."""
    return RpcError(
        -32015,
        f"Transaction version ({version}) is not supported by the requesting client. Please try the request again with the "
        f'following configuration parameter: "maxSupportedTransactionVersion": {version}',
    )


def min_context_slot(context_slot: int) -> RpcError:
    """-32016: the node has not reached the slot that the client demands."""
    return RpcError(-32016, "Minimum context slot has not been reached", {"contextSlot": context_slot})


def transaction_not_found(signature: str) -> RpcError:
    """-32020: `before` or `until` is unknown."""
    return RpcError(-32020, f"Transaction {signature} not found")
