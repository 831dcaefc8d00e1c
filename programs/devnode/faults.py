"""Faults by name: each has a rate, parameters and a random stream of its own, and counts what it did.

A stream of its own keeps runs with one seed comparable: switching one fault on does not move the dice of another. The engine decides; the
layers above it act.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from programs.devnode.errors import REFUSAL_CODES
from programs.errors import UserError


@dataclass(frozen=True, slots=True)
class FaultKind:
    """What a fault does, and its parameters with their defaults."""

    summary: str
    params: Mapping[str, float] = field(default_factory=dict)
    rate_max: float = 1.0
    # What the rate counts: a chance in 0..1 for each of these.
    each: str = "notification"

    @property
    def rate_unit(self) -> str:
        """What a rate of this fault means."""
        return self.each if self.rate_max > 1 else f"chance for each {self.each}"

    def described(self) -> str:
        """The unit of the rate and of every parameter, with defaults."""
        units = (f"{key}={value:g} ({_UNITS[key]})" for key, value in self.params.items())
        return "; ".join([f"rate: {self.rate_unit}", *units])


_UNITS = {
    "ms": "milliseconds",
    "slots": "slots",
    "depth": "blocks",
    "retry_after_s": "seconds",
    "everywhere": "0 or 1",
    "reland": "0 or 1",
    "null": "0 or 1",
    "code": "32009, 32010, 32011 or 32019",
}
_SLOT, _REQUEST = "slot", "HTTP request"
_KINDS: dict[str, FaultKind] = {
    "phantom-logs": FaultKind("a logs notification for a signature that never lands, beside a true one"),
    "forged-logs": FaultKind(
        "after a true logs notification, another under its signature and slot with other contents"
    ),
    "forged-logs-only": FaultKind("a true logs notification is replaced by one with other contents"),
    "wrong-slot-logs": FaultKind("a logs notification names the slot before the one in which its transaction landed"),
    "lost-notifications": FaultKind("a notification is not sent"),
    "repeated-notifications": FaultKind("a notification is sent twice"),
    "reordered-notifications": FaultKind("the notifications of one burst are shuffled", each="burst of a subscription"),
    "delayed-notifications": FaultKind("a notification is sent later", {"ms": 500.0}),
    "lost-slots": FaultKind("all confirmed logs, account and program notifications of a slot are not sent", each=_SLOT),
    "truncated-logs": FaultKind(
        "the logs of a notification are cut as at the byte limit; the stored ones are whole", each="transaction"
    ),
    "closed-sockets": FaultKind("every WebSocket is closed with a close frame", each=_SLOT),
    "dropped-sockets": FaultKind("every WebSocket is cut without a close frame", each=_SLOT),
    "silent-sockets": FaultKind("the sockets stay open and hear nothing any more", {"slots": 25.0}, each=_SLOT),
    "incomplete-lists": FaultKind(
        "getSignaturesForAddress lacks entries of the last slots", {"slots": 4.0}, each="transaction"
    ),
    "null-transactions": FaultKind(
        "getTransaction answers null for a while after the transaction landed", {"slots": 3.0}, each="transaction"
    ),
    "late-blocks": FaultKind(
        "getBlock answers -32014, with null=1 null, for a while after the slot was confirmed",
        {"slots": 3.0, "null": 0.0},
        each="block",
    ),
    "null-logs": FaultKind(
        "meta.logMessages and meta.innerInstructions are null in a reply", each="transaction in a reply"
    ),
    "http-429": FaultKind(
        "status 429; with retry_after_s > 0 a Retry-After header", {"retry_after_s": 0.0}, each=_REQUEST
    ),
    "rpc-429": FaultKind("status 200 with a JSON-RPC error of code 429", each=_REQUEST),
    "timeouts": FaultKind("a request is never answered, and its connection hangs", {"ms": 30_000.0}, each=_REQUEST),
    "slow-bodies": FaultKind("a reply arrives in small pieces", {"ms": 300.0}, each=_REQUEST),
    "cut-bodies": FaultKind("the connection ends in the middle of a reply", each=_REQUEST),
    "garbage": FaultKind("a reply is no JSON", each=_REQUEST),
    "balancer": FaultKind("a request is answered by a node that is behind", {"slots": 8.0}, each="call"),
    "unhealthy": FaultKind("getHealth answers that the node is behind", {"slots": 50.0}, each="call"),
    "refusals": FaultKind(
        "history is refused as by a node that has none (32011), whose long-term storage lacks a slot (32009) or is out of reach (32019), "
        "or, for accounts of a program, whose index leaves it out (32010)",
        {"code": 32_019.0},
        each="call of a method that the code is of",
    ),
    "pruned-history": FaultKind(
        "history older than the given number of slots is forgotten", {"slots": 64.0}, each=_SLOT
    ),
    "hidden-signatures": FaultKind(
        "chosen signatures are missing from lists for good; everywhere=1 hides them from blocks and lookups too",
        {"everywhere": 0.0},
        each="transaction",
    ),
    "invented-signatures": FaultKind("getSignaturesForAddress holds a signature that does not exist", each="list"),
    "clock-skew": FaultKind(
        "the chain's clock is off by up to this many seconds, either way; drawn anew every so many slots (0: once)",
        {"slots": 0.0},
        rate_max=1e9,
        each="seconds at most",
    ),
    "skipped-slots": FaultKind("the next slots have no block", {"slots": 1.0}, each=_SLOT),
    "forks": FaultKind(
        "the newest blocks die; reland=1 lets their transactions land again", {"depth": 2.0, "reland": 1.0}, each=_SLOT
    ),
}
KINDS: Mapping[str, FaultKind] = MappingProxyType(_KINDS)
# What one node can do to those who ask it over HTTP, without anything happening to the chain or to the sockets.
_HTTP_NAMES = (
    *("incomplete-lists", "null-transactions", "late-blocks", "null-logs", "hidden-signatures", "invented-signatures"),
    *("refusals", "http-429", "rpc-429", "timeouts", "slow-bodies", "cut-bodies", "garbage", "balancer", "unhealthy"),
)
HTTP_KINDS: Mapping[str, FaultKind] = MappingProxyType({name: _KINDS[name] for name in _HTTP_NAMES})


@dataclass(frozen=True, slots=True)
class _Setting:
    rate: float
    params: Mapping[str, float]


def parse_fault(text: str) -> tuple[str, str]:
    """NAME=VALUE as given on a command line. UserError when it is not of that form."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"fault {text!r} has no value: write NAME=RATE, for instance lost-notifications=0.1")
    return name.strip(), value.strip()


class FaultEngine:
    """Rates, dice and counters of the faults in `kinds`. Not one method does I/O."""

    def __init__(self, seed: int, kinds: Mapping[str, FaultKind] = KINDS) -> None:
        self._seed = seed
        self._kinds = kinds
        self._settings: dict[str, _Setting] = {}
        self._dice: dict[str, random.Random] = {}
        self.counts: Counter[str] = Counter()
        self._chosen: set[str] = set()

    def set(self, name: str, rate: float, **params: float) -> None:
        """Switch a fault on at a rate (0 switches it off). UserError names an unknown fault, rate or parameter."""
        kind = self._kinds.get(name)
        if kind is None:
            where = "unknown fault" if name not in KINDS else "not a fault of this port:"
            raise UserError(f"{where} {name!r}; there are: {', '.join(sorted(self._kinds))}")
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= kind.rate_max:
            raise UserError(f"fault {name}: {rate!r} is no rate: give a number from 0 to {kind.rate_max:g}")
        unknown = set(params) - set(kind.params)
        if unknown:
            known = ", ".join(sorted(kind.params)) or "none"
            raise UserError(f"fault {name}: unknown parameter {sorted(unknown)[0]!r}; it has: {known}")
        for key, value in params.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
                raise UserError(f"fault {name}: {key}={value!r} is not a number from 0 to 1e9")
            if key == "code" and -value not in REFUSAL_CODES:
                raise UserError(f"fault {name}: {key}={value:g} is none of: {_UNITS['code']}")
        self._settings[name] = _Setting(float(rate), {**kind.params, **params})

    def set_text(self, name: str, value: str) -> None:
        """`value` is RATE or RATE,key=number,…"""
        rate_text, *rest = value.split(",")
        params: dict[str, float] = {}
        try:
            rate = float(rate_text)
            for part in rest:
                key, _, number = part.partition("=")
                params[key.strip()] = float(number)
        except ValueError:
            raise UserError(f"fault {name}: cannot read {value!r}: write RATE or RATE,parameter=number") from None
        self.set(name, rate, **params)

    def clear(self) -> None:
        """Switch everything off; counters stay."""
        self._settings.clear()
        self._chosen.clear()

    def settings(self) -> dict[str, dict[str, float]]:
        """What is on: name -> rate and parameters."""
        return {name: {"rate": s.rate, **s.params} for name, s in sorted(self._settings.items()) if s.rate > 0}

    def rate(self, name: str) -> float:
        """The rate of a fault, 0 when off."""
        setting = self._settings.get(name)
        return 0.0 if setting is None else setting.rate

    def param(self, name: str, key: str) -> float:
        """A parameter of a fault, its default when nobody set it."""
        setting = self._settings.get(name)
        return KINDS[name].params[key] if setting is None else setting.params[key]

    def dice(self, name: str) -> random.Random:
        """The random stream of one fault."""
        dice = self._dice.get(name)
        if dice is None:
            dice = self._dice[name] = random.Random(f"{self._seed}/{name}")
        return dice

    def strikes(self, name: str) -> bool:
        """Throw the dice; a hit is counted."""
        rate = self.rate(name)
        if rate <= 0.0 or self.dice(name).random() >= rate:
            return False
        self.counts[name] += 1
        return True

    def chooses(self, name: str, key: str) -> bool:
        """As `strikes`, but the same key always gets the same answer."""
        if not self.would_choose(name, key):
            return False
        self.counts[name] += 1
        return True

    def would_choose(self, name: str, key: str) -> bool:
        """What `chooses` would answer; nothing is counted."""
        if key in self._chosen and name == "hidden-signatures":
            return True
        rate = self.rate(name)
        if rate <= 0.0:
            return False
        digest = hashlib.blake2b(f"{self._seed}/{name}/{key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") / 2**64 < rate

    def save(self) -> dict[str, Any]:
        """Dice and counters as plain values; what is switched on is not part of it."""
        dice = {name: [state[0], list(state[1]), state[2]] for name, d in self._dice.items() if (state := d.getstate())}
        return {"seed": self._seed, "dice": dice, "counts": dict(self.counts), "chosen": sorted(self._chosen)}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """The other way: from here on the dice fall as they would have fallen."""
        self._seed = saved["seed"]
        for name, (version, numbers, gauss) in saved["dice"].items():
            self.dice(name).setstate((version, tuple(numbers), gauss))
        self.counts = Counter(saved["counts"])
        self._chosen = set(saved["chosen"])

    def hide(self, signature: str) -> None:
        """Hide one signature by name, whatever the rate of hidden-signatures is."""
        self._chosen.add(signature)
