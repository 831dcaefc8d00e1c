"""What a JSON-RPC method is here: what it takes, what it sees of the chain, and where it is found by its name. No I/O.

Modules named `rpc_…` register their methods in `METHODS` when they are imported; `rpc` imports them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from solders.hash import Hash
from solders.pubkey import Pubkey
from solders.signature import Signature

from programs.devnode.chain import Chain
from programs.devnode.config import TRANSACTION_BYTES_MAX
from programs.devnode.encoded import base58_bytes, base64_bytes
from programs.devnode.errors import invalid_params, min_context_slot
from programs.devnode.faults import FaultEngine
from programs.devnode.happenings import Commitment
from programs.devnode.ledger import Bank
from programs.devnode.params import Parameters, Reader, text, wrong_type

API_VERSION = "4.1.2"
ENCODED_MAX = {"base58": 1683, "base64": 1644}


def need(params: list[Any], count: int = 1) -> None:
    """Demand at least `count` parameters."""
    if len(params) < count:
        raise invalid_params(f"`params` should have at least {count} argument(s)")


def text_at(params: list[Any], index: int) -> str:
    """A string parameter."""
    return text(params[index])


def options_at(params: list[Any], index: int) -> dict[str, Any]:
    """An optional object parameter of a control method."""
    value = params[index] if len(params) > index else None
    if value is not None and not isinstance(value, dict):
        raise wrong_type(value, "struct config")
    return value or {}


def commitment_of(options: dict[str, Any]) -> Commitment:
    """The commitment asked for; as on the real node an unknown word means the default, finalized."""
    word = options.get("commitment")
    return {"processed": Commitment.PROCESSED, "confirmed": Commitment.CONFIRMED}.get(str(word), Commitment.FINALIZED)


def _sized(encoded: str, length_max: int, size: int) -> bytes:
    """Base58 text of exactly `size` bytes; ValueError with the real node's word for what is wrong."""
    if len(encoded.encode()) > length_max:
        raise ValueError("WrongSize")
    try:
        raw = base58_bytes(encoded)
    except ValueError:
        raise ValueError("Invalid") from None
    if len(raw) != size:
        raise ValueError("WrongSize")
    return raw


def address_of(encoded: Any) -> Pubkey:
    """An address parameter."""
    try:
        return Pubkey.from_bytes(_sized(text(encoded), 44, 32))
    except ValueError as error:
        raise invalid_params(f"Invalid param: {error}") from None


def signature_of(encoded: str) -> str:
    """A signature parameter."""
    try:
        return str(Signature.from_bytes(_sized(encoded, 88, 64)))
    except ValueError as error:
        raise invalid_params(f"Invalid param: {error}") from None


def blockhash_of(encoded: str) -> str:
    """A blockhash parameter. ValueError with the word for what is wrong."""
    return str(Hash.from_bytes(_sized(encoded, 44, 32)))


def wire_bytes(encoded: str, encoding: str, kind: str) -> bytes:
    """Decode an encoded transaction or message, within the bounds of a packet."""
    size = len(encoded.encode())
    if size > ENCODED_MAX[encoding]:
        limits = f"max: encoded/raw {ENCODED_MAX[encoding]}/{TRANSACTION_BYTES_MAX}"
        raise invalid_params(f"{encoding} encoded {kind} too large: {size} bytes ({limits})")
    try:
        wire = base64_bytes(encoded) if encoding == "base64" else base58_bytes(encoded)
    except ValueError as error:
        raise invalid_params(f"invalid {encoding} encoding: {error}") from None
    if len(wire) > TRANSACTION_BYTES_MAX:
        raise invalid_params(f"decoded {kind} too large: {len(wire)} bytes (max: {TRANSACTION_BYTES_MAX} bytes)")
    return wire


@dataclass(frozen=True, slots=True)
class Context:
    """What one request sees: the chain as a node shows it that is `lag` slots behind the newest block."""

    chain: Chain
    faults: FaultEngine
    lag: int

    def slot(self, commitment: Commitment) -> int:
        """The newest slot of this commitment, as this node sees it."""
        slot = self.chain.slot_at(commitment)
        return slot if not self.lag else self.chain.bank_at_or_below(slot - self.lag).slot

    def bank(self, commitment: Commitment) -> Bank:
        """The bank of that slot."""
        return self.chain.bank_at_or_below(self.slot(commitment))

    def read_slot(self, options: dict[str, Any] | None) -> int:
        """The slot that a read at the asked commitment sees; -32016 when it is below minContextSlot."""
        asked = options or {}
        slot = self.slot(commitment_of(asked))
        floor = asked.get("minContextSlot")
        if floor is not None and slot < floor:
            raise min_context_slot(slot)
        return slot

    def with_context(self, slot: int, value: Any) -> dict[str, Any]:
        """A value with the slot at which it was read."""
        return {"context": {"apiVersion": API_VERSION, "slot": slot}, "value": value}


# A control method reads its parameters itself.
Handler = Callable[[Context, list[Any]], Any]


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the protocol: what it takes, and what it does with that."""

    parameters: Parameters
    handler: Callable[..., Any]

    def __call__(self, ctx: Context, params: Any) -> Any:
        return self.handler(ctx, *self.parameters.read(params))


METHODS: dict[str, Method] = {}


_Answerer = TypeVar("_Answerer", bound=Callable[..., Any])


def method(*required: Reader, extra: tuple[Reader, ...] = ()) -> Callable[[_Answerer], _Answerer]:
    """Register the decorated function under its own name; it gets the context and one value a reader."""

    def register(handler: _Answerer) -> _Answerer:
        METHODS[handler.__name__] = Method(Parameters(required, extra), handler)
        return handler

    return register


Options = dict[str, Any]
