"""Subscriptions: who hears what when the chain moves. No I/O: happenings in, deliveries out.

Habits of the real node that are kept: equal subscriptions share one id, and a second one of a connection is the first one again; a logs
subscription reads a bank's log collector when the bank reaches the commitment, so it hears simulations too; a program subscription
never hears of a closed account; nobody hears of what happened before the subscription, unless
somebody else listened for the same when it ran.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from solders.account import Account
from solders.pubkey import Pubkey
from solders.signature import Signature

from programs.devnode import jsonrpc
from programs.devnode import params as take
from programs.devnode.account_views import account_filters, account_object, same_filters
from programs.devnode.chain import Chain
from programs.devnode.errors import RpcError, invalid_params, method_not_found
from programs.devnode.faults import FaultEngine
from programs.devnode.happenings import Commitment, ForkDied, Happening, Moved, SlotStarted
from programs.devnode.ledger import Bank, LogEntry
from programs.devnode.method import commitment_of
from programs.devnode.params import ACCOUNT_INFO, Parameters, Struct, optional, text, texts, unsigned, wrong_type
from programs.devnode.rpc import RpcService
from programs.devnode.rpc_ledger import status_floor
from programs.devnode.vm import SYSTEM_PROGRAM

_to_json = msgspec.json.encode
_LOGS_CONFIG = Struct("RpcTransactionLogsConfig", {"commitment": take.lenient_commitment})
_SIGNATURE_CONFIG = Struct(
    "RpcSignatureSubscribeConfig",
    {"commitment": take.lenient_commitment, "enableReceivedNotification": optional(take.boolean)},
)
_BLOCK_CONFIG = Struct(
    "RpcBlockSubscribeConfig",
    {
        "commitment": take.lenient_commitment,
        "encoding": optional(take.TRANSACTION_ENCODING),
        "transactionDetails": optional(take.one_of("full", "signatures", "none", "accounts")),
        "showRewards": optional(take.boolean),
        "maxSupportedTransactionVersion": optional(take.version),
    },
)


def _logs_filter(value: Any) -> str | list[str]:
    """Everything, everything with votes, or what mentions the addresses of a list."""
    name, inner, has_inner = take.single(value)
    known = ("all", "allWithVotes", "mentions")
    if name not in known:
        raise take.unknown_variant(name, known)
    if name != "mentions":
        if inner is not None:
            raise wrong_type(inner, "unit")
        return name
    if not has_inner:
        raise invalid_params("Invalid params: invalid type: unit variant, expected newtype variant.")
    return texts(inner)


def _block_filter(value: Any) -> str | list[str]:
    """Every block, or those that mention one address."""
    name, inner, has_inner = take.single(value)
    known = ("all", "mentionsAccountOrProgram")
    if name not in known:
        raise take.unknown_variant(name, known)
    if name == "all":
        return name
    if not has_inner:
        raise invalid_params("Invalid params: invalid type: unit variant, expected newtype variant.")
    return [text(inner)]


_KINDS: dict[str, Parameters] = {
    "logs": Parameters((_logs_filter,), (_LOGS_CONFIG,)),
    "account": Parameters((text,), (ACCOUNT_INFO,)),
    "program": Parameters((text,), (take.PROGRAM_ACCOUNTS,)),
    "signature": Parameters((text,), (_SIGNATURE_CONFIG,)),
    "slot": Parameters(),
    "root": Parameters(),
    "slotsUpdates": Parameters(),
    "block": Parameters((_block_filter,), (_BLOCK_CONFIG,)),
    "vote": Parameters(),
}
_UNSUBSCRIBE = Parameters((unsigned,))
_FAULTED_KINDS = frozenset({"logs", "account", "program"})
# Logs in a cut log: the cut falls before this share of its lines.
_TRUNCATED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Delivery:
    """One notification for some connections, `delay_ms` from now. `slot` is the slot that it speaks of."""

    connections: frozenset[int]
    payload: bytes
    slot: int
    delay_ms: float = 0.0


@dataclass(slots=True)
class Subscription:
    """One shared subscription. `tell` gives its results for a bank that has reached `commitment`."""

    id: int
    kind: str
    key: bytes
    commitment: Commitment
    options: dict[str, Any]
    target: Any
    filters: list[Callable[[Account], bool]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)


class PubSub:
    """The registry of subscriptions over one chain."""

    def __init__(self, chain: Chain, rpc: RpcService, faults: FaultEngine) -> None:
        self._chain = chain
        self._rpc = rpc
        self._faults = faults
        self._by_id: dict[int, Subscription] = {}
        self._by_key: dict[bytes, Subscription] = {}
        self._next_id = 0
        # How many logs subscriptions there are: of everything (None), and of each address.
        self._listeners: Counter[Pubkey | None] = Counter()
        chain.listens = self._listens

    # --- requests --------------------------------------------------------------------------------------------------

    def answer(self, connection: int, frame: str | bytes) -> tuple[bytes, list[Delivery]]:
        """The reply to one frame (empty: none), and notifications that are due at once."""
        due: list[Delivery] = []

        def perform(method: str, params: Any) -> Any:
            result, more = self._dispatch(connection, method, params)
            due.extend(more)
            return result

        if frame in ("[]", b"[]"):
            return b"", due
        return jsonrpc.answer(frame, perform), due

    def _dispatch(self, connection: int, method: str, params: Any) -> tuple[Any, list[Delivery]]:
        for kind, parameters in _KINDS.items():
            # As on a node whose operator did not switch them on; nobody votes here in any case.
            is_off = kind == "vote" or (kind == "block" and not self._chain.config.block_subscription)
            if method == f"{kind}Subscribe":
                values = parameters.read(params)
                if is_off:
                    break
                subscription = self._subscribe(connection, kind, values)
                return subscription.id, self._already_there(subscription)
            if method == f"{kind}Unsubscribe":
                (number,) = _UNSUBSCRIBE.read(params)
                if is_off:
                    break
                return self._unsubscribe(connection, number), []
        raise method_not_found()

    def _subscribe(self, connection: int, kind: str, values: list[Any]) -> Subscription:
        options = dict(values[1] or {}) if values else {}
        filters = _filters(options) if kind == "program" else []
        target = self._target(kind, values[0]) if values else None
        shared = {name: options.get(name) for name in ("dataSlice", "transactionDetails", "showRewards")}
        shared["encoding"] = options.get("encoding") or "binary"
        shared["withContext"] = bool(options.get("withContext"))
        shared["filters"] = same_filters(options.get("filters"))
        commitment = commitment_of(options)
        key = _to_json([kind, str(target), int(commitment), shared])
        subscription = self._by_key.get(key)
        if subscription is None:
            subscription = Subscription(self._next_id, kind, key, commitment, options, target, filters)
            self._next_id += 1
            self._by_key[key] = self._by_id[subscription.id] = subscription
            self._count_listener(subscription, 1)
        subscription.connections.add(connection)
        return subscription

    @staticmethod
    def _target(kind: str, value: Any) -> Any:
        if isinstance(value, list):
            return _mention(value)
        if kind in ("logs", "block"):
            return value
        if kind == "signature":
            try:
                return str(Signature.from_string(value))
            except ValueError:
                raise invalid_params("Invalid Request: Invalid signature provided") from None
        try:
            return Pubkey.from_string(value)
        except ValueError:
            raise invalid_params("Invalid Request: Invalid pubkey provided") from None

    def _unsubscribe(self, connection: int, subscription_id: int) -> bool:
        subscription = self._by_id.get(subscription_id)
        if subscription is None or connection not in subscription.connections:
            raise invalid_params("Invalid subscription id.")
        self._leave(subscription, connection)
        return True

    def _leave(self, subscription: Subscription, connection: int) -> None:
        subscription.connections.discard(connection)
        if not subscription.connections and self._by_id.pop(subscription.id, None) is not None:
            self._by_key.pop(subscription.key, None)
            self._count_listener(subscription, -1)

    def _count_listener(self, subscription: Subscription, change: int) -> None:
        if subscription.kind == "logs":
            address = subscription.target if isinstance(subscription.target, Pubkey) else None
            self._listeners[address] += change
            if not self._listeners[address]:
                del self._listeners[address]

    def _listens(self, keys: Iterable[Pubkey]) -> frozenset[Pubkey] | None:
        """Which of a run's keys anybody listens for, at whatever commitment; None when its logs are wanted by nobody."""
        listeners = self._listeners
        heard = frozenset(key for key in keys if key in listeners) if listeners else frozenset()
        return heard if heard or None in listeners else None

    def forget(self, connection: int) -> None:
        """The connection is gone."""
        for subscription in [s for s in self._by_id.values() if connection in s.connections]:
            self._leave(subscription, connection)

    def go_on_with(self, chain: Chain) -> None:
        """Speak of another chain from now on. Nobody's subscriptions outlive the change."""
        self._chain = chain
        self._by_id.clear()
        self._by_key.clear()
        self._listeners.clear()
        chain.listens = self._listens

    @property
    def count(self) -> int:
        """Living subscriptions."""
        return len(self._by_id)

    # --- notifications ---------------------------------------------------------------------------------------------

    def deliveries(self, happenings: Iterable[Happening]) -> list[Delivery]:
        """What subscribers hear of these happenings, in order."""
        out: list[Delivery] = []
        for happening in happenings:
            if isinstance(happening, SlotStarted):
                result = {"slot": happening.slot, "parent": happening.parent, "root": happening.root}
                out.extend(self._plain("slot", happening.slot, _to_json(result)))
                update = {"type": "createdBank", "slot": happening.slot, "parent": happening.parent}
                out.extend(self._update(update))
            elif isinstance(happening, Moved):
                out.extend(self._moved(happening))
            elif isinstance(happening, ForkDied):
                for bank in happening.banks:
                    out.extend(self._update({"type": "dead", "slot": bank.slot, "err": "fork died"}))
        return out

    def _plain(self, kind: str, slot: int, result: bytes) -> Iterator[Delivery]:
        for subscription in self._of_kind(kind):
            yield self._delivery(subscription, slot, result)

    def _update(self, update: dict[str, Any]) -> Iterator[Delivery]:
        stamped = {**update, "timestamp": self._chain.working.unix_s * 1_000}
        return self._plain("slotsUpdates", update["slot"], _to_json(stamped))

    def _of_kind(self, kind: str) -> list[Subscription]:
        return [subscription for subscription in self._by_id.values() if subscription.kind == kind]

    @staticmethod
    def _delivery(subscription: Subscription, slot: int, result: bytes, delay_ms: float = 0.0) -> Delivery:
        method = f"{subscription.kind}Notification".encode()
        payload = b'{"jsonrpc":"2.0","method":"%s","params":{"result":%s,"subscription":%d}}' % (
            method,
            result,
            subscription.id,
        )
        return Delivery(frozenset(subscription.connections), payload, slot, delay_ms)

    def _moved(self, moved: Moved) -> Iterator[Delivery]:
        for bank in moved.banks:
            has_news = bool(bank.transactions or bank.collector)
            is_lost = moved.commitment is Commitment.CONFIRMED and has_news and self._faults.strikes("lost-slots")
            if moved.commitment is Commitment.PROCESSED:
                failed = sum(1 for row in bank.transactions if row.err is not None)
                count = len(bank.transactions)
                stats = {
                    "maxTransactionsPerEntry": min(count, 1),
                    "numFailedTransactions": failed,
                    "numSuccessfulTransactions": count - failed,
                    "numTransactionEntries": count,
                }
                yield from self._update({"type": "frozen", "slot": bank.slot, "stats": stats})
                yield from self._update({"type": "completed", "slot": bank.slot})
            elif moved.commitment is Commitment.CONFIRMED:
                yield from self._update({"type": "optimisticConfirmation", "slot": bank.slot})
            else:
                yield from self._plain("root", bank.slot, str(bank.slot).encode())
                yield from self._update({"type": "root", "slot": bank.slot})
            for subscription in list(self._by_id.values()):
                if subscription.commitment is not moved.commitment or (is_lost and subscription.kind in _FAULTED_KINDS):
                    continue
                yield from self._tell(subscription, bank)

    def _tell(self, subscription: Subscription, bank: Bank) -> list[Delivery]:
        kind = subscription.kind
        if kind == "logs":
            results = [
                (bank.slot, value)
                for entry in list(bank.collector)
                for value in self._log_values(subscription, entry, bank)
            ]
        elif kind == "account":
            results = [(bank.slot, value) for value in self._account_values(subscription, bank)]
        elif kind == "program":
            results = [(bank.slot, value) for value in self._program_values(subscription, bank)]
        elif kind == "signature":
            return self._signature(subscription, bank.slot)
        elif kind == "block":
            results = [(bank.slot, self._block_value(subscription, bank))]
        else:
            return []
        out: list[Delivery] = []
        for slot, value in results:
            result = b'{"context":{"slot":%d},"value":%s}' % (slot, value)
            out.extend(
                self._faulted(subscription, slot, result)
                if kind in _FAULTED_KINDS
                else [self._delivery(subscription, slot, result)]
            )
        if len(out) > 1 and kind in _FAULTED_KINDS and self._faults.strikes("reordered-notifications"):
            self._faults.dice("reordered-notifications").shuffle(out)
        return out

    def _faulted(self, subscription: Subscription, slot: int, result: bytes) -> Iterator[Delivery]:
        faults = self._faults
        if faults.strikes("lost-notifications"):
            return
        if subscription.kind == "logs" and slot > 0 and faults.strikes("wrong-slot-logs"):
            result = result.replace(b'"slot":%d' % slot, b'"slot":%d' % (slot - 1), 1)
        delay_ms = faults.param("delayed-notifications", "ms") if faults.strikes("delayed-notifications") else 0.0
        delivery = self._delivery(subscription, slot, result, delay_ms)
        yield delivery
        if faults.strikes("repeated-notifications"):
            yield delivery

    # --- values ----------------------------------------------------------------------------------------------------

    def _log_values(self, subscription: Subscription, entry: LogEntry, bank: Bank) -> Iterator[bytes]:
        if isinstance(subscription.target, Pubkey) and subscription.target not in entry.mentions:
            return
        faults = self._faults
        logs: list[str] = list(entry.logs)
        if logs and faults.chooses("truncated-logs", entry.signature):
            logs = [*logs[: int(len(logs) * _TRUNCATED_SHARE)], "Log truncated"]
        true = _to_json({"signature": entry.signature, "err": entry.err, "logs": logs})
        is_forgeable = entry.err is None and bool(bank.transactions)
        if not (is_forgeable and faults.strikes("forged-logs-only")):
            yield true
        else:
            yield self._forged(entry, bank, "forged-logs-only")
        if is_forgeable and faults.strikes("forged-logs"):
            yield self._forged(entry, bank, "forged-logs")
        if is_forgeable and faults.strikes("phantom-logs"):
            phantom = str(Signature.from_bytes(faults.dice("phantom-logs").randbytes(64)))
            yield _to_json({"signature": phantom, "err": None, "logs": list(entry.logs)})

    def _forged(self, entry: LogEntry, bank: Bank, fault: str) -> bytes:
        """Logs of another run of the same block under this signature; where there is no other, the same events twice over."""
        others = [
            row.logs
            for row in bank.transactions
            if row.err is None and row.signature != entry.signature and tuple(row.logs) != entry.logs
        ]
        logs = self._faults.dice(fault).choice(others) if others else [*entry.logs, *entry.logs]
        return _to_json({"signature": entry.signature, "err": None, "logs": logs})

    def _shown(self, subscription: Subscription, account: Account, slot: int) -> bytes:
        options = subscription.options
        encoding = options.get("encoding") or "binary"
        # The slice that was asked for makes another subscription and cuts nothing: so it is before Agave 4.4.
        return _to_json(
            account_object(account, encoding, None, lambda mint: self._chain.account(mint, slot), strict=False)
        )

    def _account_values(self, subscription: Subscription, bank: Bank) -> Iterator[bytes]:
        if subscription.target in bank.journal:
            yield self._shown(subscription, self._account(subscription.target, bank.slot), bank.slot)

    def _account(self, address: Pubkey, slot: int) -> Account:
        """The account; one that is gone belongs to the system program, with nothing in it."""
        return self._chain.account(address, slot) or Account(0, b"", SYSTEM_PROGRAM)

    def _program_values(self, subscription: Subscription, bank: Bank) -> Iterator[bytes]:
        for address in bank.journal:
            account = self._account(address, bank.slot)
            if account.owner != subscription.target:
                continue
            if all(passes(account) for passes in subscription.filters):
                yield b'{"pubkey":"%s","account":%s}' % (
                    str(address).encode(),
                    self._shown(subscription, account, bank.slot),
                )

    def _signature(self, subscription: Subscription, slot: int) -> list[Delivery]:
        stored = self._chain.find(subscription.target)
        if stored is None or not status_floor(self._chain) <= stored.slot <= slot:
            return []
        result = b'{"context":{"slot":%d},"value":{"err":%s}}' % (slot, _to_json(stored.err))
        delivery = self._delivery(subscription, slot, result)
        # It speaks once; then it is no more.
        self._by_id.pop(subscription.id, None)
        self._by_key.pop(subscription.key, None)
        return [delivery]

    def _already_there(self, subscription: Subscription) -> list[Delivery]:
        return (
            self._signature(subscription, self._chain.slot_at(subscription.commitment))
            if subscription.kind == "signature"
            else []
        )

    def _block_value(self, subscription: Subscription, bank: Bank) -> bytes:
        options = {
            "commitment": "confirmed",
            "rewards": bool(subscription.options.get("showRewards")),
            "maxSupportedTransactionVersion": subscription.options.get("maxSupportedTransactionVersion", 0),
        }
        for name in ("encoding", "transactionDetails"):
            if name in subscription.options:
                options[name] = subscription.options[name]
        block = _to_json(self._rpc.call("getBlock", [bank.slot, options]))
        return b'{"slot":%d,"block":%s,"err":null}' % (bank.slot, block)


def _filters(options: dict[str, Any]) -> list[Callable[[Account], bool]]:
    try:
        return account_filters(options.get("filters"))
    except RpcError as error:
        # Read as a part of the parameters here, and named so.
        raise invalid_params(f"Invalid params: {error.message}") from None


def _mention(addresses: list[str]) -> Pubkey:
    if len(addresses) != 1:
        raise invalid_params("Invalid Request: Only 1 address supported")
    try:
        return Pubkey.from_string(addresses[0])
    except ValueError:
        raise invalid_params("Invalid Request: Invalid mentions provided") from None
