"""JSON-RPC methods over a chain: bytes of a request in, bytes of a reply out. No I/O; the wall clock is an argument of the service.

Shapes, codes and words are those of Agave 4.1.2, taken from its replies. The methods themselves are in the modules that are named `rpc_…`.
"""

from __future__ import annotations

from typing import Any

from programs.devnode import jsonrpc, rpc_accounts, rpc_cluster, rpc_ledger, rpc_sending, rpc_tokens
from programs.devnode.chain import OLD_READS_SLOTS_MAX, Chain
from programs.devnode.errors import RpcError, method_not_found, refusal
from programs.devnode.faults import FaultEngine
from programs.devnode.method import METHODS, Context, Handler

# Imported for the methods that they register.
_MODULES = (rpc_accounts, rpc_cluster, rpc_ledger, rpc_sending, rpc_tokens)
_BLOCKS = frozenset({"getBlock", "getBlockTime"})
_HISTORY = _BLOCKS | {"getTransaction", "getSignaturesForAddress"}
_SCANS = frozenset({"getProgramAccounts", "getTokenAccountsByOwner", "getTokenAccountsByDelegate"})
# Which methods each code of the fault "refusals" is an answer to.
_REFUSED = {-32009: _BLOCKS, -32010: _SCANS, -32011: _HISTORY, -32019: _HISTORY}


class RpcService:
    """All methods over one chain. `extra` holds methods that the composition adds (the control methods)."""

    def __init__(self, chain: Chain, faults: FaultEngine) -> None:
        self.chain = chain
        self.faults = faults
        self.extra: dict[str, Handler] = {}

    def _refuse(self, method: str, params: Any) -> None:
        """Raise what another kind of node says to this method, where the fault for it strikes."""
        code = -int(self.faults.param("refusals", "code"))
        if method in _REFUSED[code] and self.faults.strikes("refusals"):
            raise refusal(code, params[0] if isinstance(params, list) and params else "")

    def answer(self, body: bytes) -> bytes:
        """The reply to the body of one HTTP request; empty when nothing in it asks for an answer."""
        return jsonrpc.answer(body, self.call)

    def call(self, method: str, params: Any) -> Any:
        """The result of one method: `params` is a list, an object (which no method takes), or None. RpcError when it has none."""
        known = METHODS.get(method)
        control = self.extra.get(method) if known is None else None
        if known is None and control is None:
            raise method_not_found()
        self._refuse(method, params)
        lag = 0
        if known is not None and method != "sendTransaction" and self.faults.strikes("balancer"):
            slots = min(OLD_READS_SLOTS_MAX, max(1, int(self.faults.param("balancer", "slots"))))
            lag = self.faults.dice("balancer").randint(1, slots)
        ctx = Context(self.chain, self.faults, lag)
        try:
            return (
                known(ctx, params)
                if known is not None
                else control and control(ctx, params if isinstance(params, list) else [])
            )
        except RpcError:
            raise
        except Exception as error:
            # What no reader foresaw is a fault of this node: it answers, says what tripped it, and goes on. The fuzz tests look for it.
            raise RpcError(-32603, f"Internal error: {type(error).__name__}: {error}") from error
