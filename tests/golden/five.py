"""Five programs after the shape of well-known ones, with transactions and what must come of them.

`python -m tests.golden.five` writes the files again: getTransaction results in `<name>.transactions.jsonl`, the lines that
`indexer decode --instructions` must print for them in `<name>.decoded.jsonl`, accounts with what they hold in `<name>.accounts.jsonl`. The
bytes come from the encoder below, which follows the Borsh specification and shares nothing with the software; zero-copy accounts are laid
out by hand, as Rust's reference gives `repr(C)`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from solders.pubkey import Pubkey

FOLDER = Path(__file__).with_name("idl")
NAMES = ("amm", "staking", "perp", "nft", "names")
TAG = bytes.fromhex("e445a52e51cb9a1d")
SYSTEM = "11111111111111111111111111111111"
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def address(name: str) -> str:
    return str(Pubkey.from_bytes(hashlib.sha256(name.encode()).digest()))


def base58(data: bytes) -> str:
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def unbase58(text: str) -> bytes:
    number = 0
    for letter in text:
        number = number * 58 + _ALPHABET.index(letter)
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + (number.to_bytes((number.bit_length() + 7) // 8, "big") if number else b"")


def document(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_bytes())


def program(name: str) -> str:
    idl = document(name)
    return str(idl.get("address") or idl["metadata"]["address"])


# ---- bytes, by the specification ----


def pack(written: Any, value: Any, types: dict[str, Any], scope: dict[str, Any] | None = None) -> bytes:
    """The Borsh bytes of a value of a type as an IDL writes it."""
    if isinstance(written, str):
        return _scalar(written, value)
    ((key, below),) = written.items()
    if key == "generic":
        return pack((scope or {})[below], value, types)
    if key == "option":
        return b"\0" if value is None else b"\1" + pack(below, value, types, scope)
    if key == "coption":
        return bytes(4 + 8) if value is None else struct.pack("<I", 1) + pack(below, value, types, scope)
    if key == "vec":
        return struct.pack("<I", len(value)) + b"".join(pack(below, v, types, scope) for v in value)
    if key == "array":
        return bytes.fromhex(value) if below[0] == "u8" else b"".join(pack(below[0], v, types, scope) for v in value)
    name = below if isinstance(below, str) else below["name"]
    if name == "(publicKey,u64)":
        return _scalar("pubkey", value[0]) + _scalar("u64", value[1])
    definition = types[name.rsplit("::", 1)[-1]]
    arguments = [] if isinstance(below, str) else below.get("generics", [])
    bound = {
        parameter["name"]: argument.get("type", argument.get("value"))
        for parameter, argument in zip(definition.get("generics", []), arguments, strict=True)
    }
    return body(definition["type"], value, types, bound)


def body(kind: dict[str, Any], value: Any, types: dict[str, Any], scope: dict[str, Any] | None = None) -> bytes:
    if kind["kind"] in ("type", "alias"):
        return pack(kind.get("alias", kind.get("value")), value, types, scope)
    if kind["kind"] == "enum":
        name = value if isinstance(value, str) else next(iter(value))
        index = [variant["name"] for variant in kind["variants"]].index(name)
        inside = {"kind": "struct", "fields": kind["variants"][index].get("fields", [])}
        return bytes([index]) + (b"" if isinstance(value, str) else body(inside, value[name], types, scope))
    fields = kind.get("fields", [])
    if fields and isinstance(fields[0], dict) and "name" in fields[0]:
        seen: dict[str, int] = {}
        packed = b""
        for field in fields:
            seen[field["name"]] = number = seen.get(field["name"], 0) + 1
            packed += pack(field["type"], value[field["name"] + (f"_{number}" if number > 1 else "")], types, scope)
        return packed
    return b"".join(pack(f, v, types, scope) for f, v in zip(fields, value, strict=True)) if fields else b""


def _scalar(name: str, value: Any) -> bytes:
    if name in ("pubkey", "publicKey"):
        return bytes(Pubkey.from_string(value))
    if name == "bool":
        return bytes([value])
    if name in ("f32", "f64"):
        return struct.pack("<f" if name == "f32" else "<d", float(value))
    if name in ("string", "bytes"):
        data = value.encode() if name == "string" else bytes.fromhex(value)
        return struct.pack("<I", len(data)) + data
    return int(value).to_bytes(int(name[1:]) // 8, "little", signed=name[0] == "i")


class Program:
    """The bytes of a program's events, instructions and accounts."""

    def __init__(self, name: str) -> None:
        self.name, self.idl, self.address = name, document(name), program(name)
        self.types = {t["name"]: t for t in self.idl["types"]}
        authority, _ = Pubkey.find_program_address([b"__event_authority"], Pubkey.from_string(self.address))
        self.authority = str(authority)

    def _entry(self, kind: str, name: str) -> tuple[bytes, dict[str, Any]]:
        entry = next(e for e in self.idl[f"{kind}s"] if e["name"] == name)
        given = entry.get("discriminator")
        namespace = {"event": "event", "account": "account", "instruction": "global"}[kind]
        # The fifth program's authors named their function `deposit_sol_2`, and Anchor before 0.30 forgot one underscore of it.
        spelled = {"depositSol2": "deposit_sol_2"}.get(name, name)
        return bytes(given or hashlib.sha256(f"{namespace}:{spelled}".encode()).digest()[:8]), entry

    def event(self, name: str, value: Any) -> bytes:
        prefix, entry = self._entry("event", name)
        kind = {"kind": "struct", "fields": entry["fields"]} if "fields" in entry else self.types[name]["type"]
        return prefix + body(kind, value, self.types)

    def instruction(self, name: str, value: Any) -> bytes:
        prefix, entry = self._entry("instruction", name)
        return prefix + body({"kind": "struct", "fields": entry["args"]}, value, self.types)

    def account(self, name: str, value: Any) -> bytes:
        prefix, entry = self._entry("account", name)
        return prefix + body(entry.get("type") or self.types[name]["type"], value, self.types)

    def prefix(self, kind: str, name: str) -> bytes:
        return self._entry(kind, name)[0]


# ---- transactions ----


class Transaction:
    """A getTransaction result in the making, and the lines that must come of it."""

    def __init__(self, of: Program, slot: int, *, failed: bool = False, cut: bool = False) -> None:
        self.of, self.slot, self.failed, self.cut = of, slot, failed, cut
        self.signature = base58(hashlib.sha512(f"{of.name}/{slot}".encode()).digest())
        self.keys = [address("payer"), of.address, of.authority, SYSTEM, address("router")]
        self.outer: list[dict[str, Any]] = []
        self.inner: dict[int, list[dict[str, Any]]] = {}
        self.logs: list[str] = []
        self.instructions: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []

    def call(
        self, name: str, value: Any, accounts: dict[str, str | None], events: list[Any], router: bool = False
    ) -> None:
        """One instruction and the events it writes, each (way, name, value): way is log, cpi or both. With `router` by CPI."""
        own, depth, top = self.of.address, 1, len(self.outer)
        indices = [self._key(own if a is None else a) for a in accounts.values()]
        data = base58(self.of.instruction(name, value))
        if router:
            self.outer.append(
                {
                    "programIdIndex": self._key(address("router")),
                    "accounts": [],
                    "data": base58(b"\1"),
                    "stackHeight": 1,
                }
            )
            self.logs.append(f"Program {address('router')} invoke [1]")
            depth = 2
        self.logs += [f"Program {own} invoke [{depth}]", f"Program log: Instruction: {name}"]
        entry = {"programIdIndex": self._key(own), "accounts": indices, "data": data, "stackHeight": depth}
        source: dict[str, Any] = {"outer": top}
        if router:
            self.inner.setdefault(top, []).append(entry)
            source = {"inner": [top, 0]}
        else:
            self.outer.append(entry)
        self._line(self.instructions, {"instruction": name, "data": value, "accounts": accounts, "source": source})
        for way, event, content in events:
            self._event(way, event, content, top, depth)
        self.logs += [f"Program {own} consumed 1234 of 200000 compute units", f"Program {own} success"]
        if router:
            self.logs.append(f"Program {address('router')} success")

    def _event(self, way: str, name: str, value: Any, top: int, depth: int) -> None:
        data = (
            self.of.event(name, value)
            if isinstance(value, dict) and "bytes" not in value
            else bytes.fromhex(value["bytes"])
        )
        answer = {"event": name, "data": value} if "bytes" not in value else {"event": name, "error": value["error"]}
        sources: list[dict[str, Any]] = []
        if way in ("log", "both"):
            sources.append({"log": len(self.logs)})
            self.logs.append("Program data: " + base64.b64encode(data).decode())
        if way in ("cpi", "both"):
            group = self.inner.setdefault(top, [])
            sources.append({"inner": [top, len(group)]})
            entry = {
                "programIdIndex": self._key(self.of.address),
                "accounts": [2],
                "data": base58(TAG + data),
                "stackHeight": depth + 1,
            }
            group.append(entry)
            self.logs += [f"Program {self.of.address} invoke [{depth + 1}]", f"Program {self.of.address} success"]
        for number, source in enumerate(sources):
            twin = {"twin": sources[0]} if number else {}
            self._line(self.events, {**answer, "source": source, "trailing": 0, **twin})

    def _line(self, lines: list[dict[str, Any]], line: dict[str, Any]) -> None:
        lines.append({"signature": self.signature, "slot": self.slot, "program": self.of.address, **line})

    def _key(self, text: str) -> int:
        if text not in self.keys:
            self.keys.append(text)
        return self.keys.index(text)

    def wire(self) -> bytes:
        """The transaction as it travels: one signature, a legacy message."""
        message = bytes([1, 0, 0, len(self.keys)]) + b"".join(_scalar("pubkey", key) for key in self.keys) + bytes(32)
        message += bytes([len(self.outer)])
        for entry in self.outer:
            data = unbase58(entry["data"])
            assert len(data) < 16384
            length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
            message += bytes([entry["programIdIndex"], len(entry["accounts"]), *entry["accounts"]]) + length + data
        return b"\1" + unbase58(self.signature).rjust(64, b"\0") + message

    def result(self) -> dict[str, Any]:
        logs = self.logs
        if self.cut:
            logs = [*logs[:3], "Log truncated", f"Program {self.of.address} success"]
        return {
            "slot": self.slot,
            "blockTime": 1_700_000_000 + self.slot,
            "version": "legacy",
            "transaction": {
                "signatures": [self.signature],
                "message": {
                    "accountKeys": self.keys,
                    "header": {
                        "numRequiredSignatures": 1,
                        "numReadonlySignedAccounts": 0,
                        "numReadonlyUnsignedAccounts": 0,
                    },
                    "instructions": self.outer,
                    "recentBlockhash": SYSTEM,
                },
            },
            "meta": {
                "err": {"InstructionError": [0, {"Custom": 6000}]} if self.failed else None,
                "logMessages": logs,
                "innerInstructions": [{"index": k, "instructions": v} for k, v in sorted(self.inner.items())],
                "loadedAddresses": {"writable": [], "readonly": []},
            },
        }

    def answers(self) -> list[dict[str, Any]]:
        events = [] if self.failed else self.events
        if not self.cut:
            return [*self.instructions, *events]
        # What stood in logs behind the cut is gone; what was sent as a call is not, and is no twin of anything any more.
        kept = [e for e in events if "inner" in e["source"] or e["source"]["log"] < 3]
        logged = [e["source"] for e in kept if "log" in e["source"]]
        kept = [{k: v for k, v in e.items() if k != "twin" or v in logged} for e in kept]
        return [*self.instructions, *kept, {"signature": self.signature, "incomplete": "truncated logs"}]


def history(name: str) -> list[Transaction]:
    """The program's transactions, in the order of their slots."""
    made: list[Transaction] = globals()[f"_{name}"](Program(name))
    return made


def _amm(of: Program) -> list[Transaction]:
    pool, user = address("pool"), address("user")
    accounts: dict[str, str | None] = {
        "pool": pool,
        "user": user,
        "referrer": None,
        "event_authority": of.authority,
        "program": of.address,
    }

    def swap(number: int) -> dict[str, Any]:
        price: Any = {0: 1.25, 1: "NaN", 2: "Infinity"}.get(number, number / 8)
        return {"timestamp": number - 5, "pool": pool, "user": user, "side": ("Buy", "Sell")[number % 2], "amount_in": 2**64 - 1 - number,
                "amount_out": number, "fee": 3, "tick": -number, "price_after": price, "referrer": None if number % 3 else user}  # fmt: skip

    arguments = {"amount_in": 1, "minimum_out": 0, "side": "Sell"}
    created = {"timestamp": -1, "pool": pool, "creator": user, "fee_bps": 25, "sqrt_price": 2**127 + 1}
    made = [
        Transaction(of, 10),
        Transaction(of, 11),
        Transaction(of, 12, failed=True),
        Transaction(of, 13, cut=True),
        Transaction(of, 14),
    ]
    made[0].call("create_pool", {"fee_bps": 25, "sqrt_price": 2**127 + 1},
                 {"pool": pool, "creator": user, "vaults.base": address("base"), "vaults.quote": address("quote")},
                 [("both", "CreatePoolEvent", created)])  # fmt: skip
    made[1].call("swap", arguments, accounts, [("cpi", "SwapEvent", swap(0)), ("log", "SwapEvent", swap(1))])
    made[1].call(
        "swap",
        arguments,
        {**accounts, "referrer": user},
        [("both", "SwapEvent", swap(2)), ("both", "SwapEvent", swap(2))],
        router=True,
    )
    made[2].call("swap", arguments, accounts, [("both", "SwapEvent", swap(3))])
    made[3].call(
        "swap",
        arguments,
        accounts,
        [("both", "SwapEvent", swap(4)), ("both", "SwapEvent", swap(5)), ("log", "SwapEvent", swap(6))],
    )
    broken = of.event("SwapEvent", swap(7))[:-1]
    error = f"SwapEvent.referrer: cut short, 1 byte needed, 0 left at byte {len(broken)}"
    made[4].call(
        "swap",
        arguments,
        accounts,
        [("log", "SwapEvent", {"bytes": broken.hex(), "error": error}), ("log", "SwapEvent", swap(8))],
    )
    return made


def _staking(of: Program) -> list[Transaction]:
    pool, user = address("stake"), address("staker")
    fee = {"numerator": 3, "denominator": 2**32 - 1}
    made = [Transaction(of, 20 + n) for n in range(3)]
    for number, one in enumerate(made):
        deposited = {
            "pool": pool,
            "from": user,
            "lamports": 10**9 * number,
            "shares": 2**128 - 1 - number,
            "memo": "für\u202e\ufeff" * number,
        }
        changed = {"pool": pool, "fee": fee, "epochs": "00ff" * number}
        one.call("depositSol2", {"lamports": number, "fees": fee}, {"pool": pool, "from": user},
                 [("log", "Deposited", deposited), ("log", "FeeChanged", changed)], router=number == 2)  # fmt: skip
    return made


def _perp(of: Program) -> list[Transaction]:
    user = address("trader")
    kinds: list[Any] = ["Market", {"Limit": {"price": 5, "post_only": True}}, {"Trigger": [7, "Below"]}]
    made = [Transaction(of, 30 + n) for n in range(3)]
    for number, (one, kind) in enumerate(zip(made, kinds, strict=True)):
        order = {"kind": kind, "size": -(2**63) + number, "reduce_only": number == 1}
        funding = {
            "market_index": 65535,
            "rate": -(2**127),
            "history": {"samples": [1, -1, 2**127 - 1], "next": number},
        }
        one.call("place_order", {"order": order, "limits": {"samples": [-1, 1], "next": 1}}, {"market": address("market"), "user": user},
                 [("cpi", "OrderPlaced", {"user": user, "market_index": number, "order": order, "order_id": number}),
                  ("log", "FundingPaid", funding)])  # fmt: skip
    return made


def _nft(of: Program) -> list[Transaction]:
    mint, creator = address("mint"), address("creator")
    data = [
        {"name": "Ünique #1", "symbol": "", "uri": "https://example.org/1", "seller_fee_basis_points": 500,
         "creators": [{"address": creator, "verified": True, "share": 100}], "collection": [False, mint],
         "uses": {"method": "Single", "remaining": 1, "total": 2**64 - 1}},
        {"name": "padded\u0000\u0000", "symbol": "X", "uri": "", "seller_fee_basis_points": 0, "creators": None, "collection": None, "uses": None},
    ]  # fmt: skip
    details: list[Any] = [{"V1": {"size": 9}}, None, {"V2": {"padding": "0001020304050607"}}]
    made = [Transaction(of, 40 + n) for n in range(3)]
    for number, one in enumerate(made):
        content = data[number % 2]
        events = [
            ("log", "MetadataCreated", {"mint": mint, "data": content, "details": details[number], "marker": {}}),
            ("log", "CollectionChanged",
             {"mint": mint, "before": None, "after": [True, creator], "attributes": [["hat", "réd"], ["", ""]][:number]}),
        ]  # fmt: skip
        one.call("create", {"data": content, "is_mutable": True}, {"metadata": address("metadata"), "mint": mint, "update_authority": creator},
                 events, router=number == 1)  # fmt: skip
    return made


def _names(of: Program) -> list[Transaction]:
    owner, other = address("owner"), address("other")
    made = [Transaction(of, 50), Transaction(of, 51), Transaction(of, 52)]
    made[0].call("create", {"hashed_name": "c0ffee", "space": 0}, {"name": address("name"), "owner": owner},
                 [("log", "nameCreated", {"name": "böb", "owner": owner, "parent": None, "class": 2**256 - 1})])  # fmt: skip
    made[1].call("transfer", {"new_owner": other}, {"name": address("name"), "owner": owner},
                 [("log", "nameMoved", {"name": "böb", "Name": 1, "owner": owner, "owner_2": other})])  # fmt: skip
    broken = {"bytes": "020707" + "01000000" + "61" + "05",
              "error": "nameMovedAgain.kind: type 'external::MyStruct' is nowhere defined at byte 8"}  # fmt: skip
    made[2].call("transferMany", {"count": 2}, {"owner": owner},
                 [("log", "nameMovedAgain", broken), ("log", "nameMoved", {"name": "", "Name": 0, "owner": other, "owner_2": owner})])  # fmt: skip
    return made


# ---- accounts ----


def accounts(name: str) -> list[tuple[str, str, bytes, Any]]:
    """Accounts of the program: address, name, data, and what it holds."""
    of = Program(name)
    key, raw = address("held"), hashlib.sha256(b"held").digest()
    match name:
        case "amm":
            pool = {"creator": key, "fee_bps": 1, "sqrt_price": 2**100, "reserves": [1, 2**64 - 1], "closed": False}
            return [(address("pool"), "Pool", of.account("Pool", pool) + bytes(40), pool)]
        case "staking":
            plain = {
                "manager": key,
                "totalLamports": 5,
                "fee": {"numerator": 1, "denominator": 2},
                "nextFee": None,
                "validators": [[key, 7]],
            }
            next_fee = {**plain, "nextFee": {"numerator": 3, "denominator": 4}}
            listed = {
                "count": 2,
                "entries": [
                    {"status": "Deactivating", "vote": key, "lamports": 9},
                    {"status": "Active", "vote": key, "lamports": 0},
                ],
            }
            packed = of.prefix("account", "ValidatorList") + struct.pack("<BB32sQB32sQ", 2, 1, raw, 9, 0, raw, 0)
            return [
                (address("stake"), "StakePool", of.account("StakePool", plain), plain),
                (address("stake two"), "StakePool", of.account("StakePool", next_fee), next_fee),
                (address("list"), "ValidatorList", packed, listed),
            ]
        case "perp":
            position = {"base": -5, "quote": -(2**100), "market_index": 3, "open": True}
            low, high = (-(2**100)) % 2**64, -(2**36)
            each = struct.pack("<qQqH?5x", -5, low, high, 3, True)
            user = {"authority": key, "positions": [position, position], "status": 255}
            market = {"index": 9, "funding": {"samples": [-1, 2], "next": 1}, "oracle": key, "twap": 2**127}
            one = of.prefix("account", "UserPositions") + raw + each * 2 + b"\xff" + bytes(7)
            two = of.prefix("account", "Market") + struct.pack("<HqqB7x32sQQ", 9, -1, 2, 1, raw, 0, 2**63)
            return [(address("trader"), "UserPositions", one, user), (address("market"), "Market", two, market)]
        case "nft":
            data = {
                "name": "n",
                "symbol": "s",
                "uri": "u",
                "seller_fee_basis_points": 1,
                "creators": [],
                "collection": None,
                "uses": None,
            }
            metadata = {"mint": key, "data": data, "edition_nonce": 254}
            return [(address("metadata"), "Metadata", of.account("Metadata", metadata) + bytes(100), metadata)]
        case _:
            record = {"parentName": key, "owner": key, "expires": -1, "raw": "00" * 11 + "ff"}
            return [(address("name"), "nameRecord", of.account("nameRecord", record), record)]


def files() -> dict[str, str]:
    """Every golden file of the five by name."""
    found = {}
    for name in NAMES:
        made = history(name)
        found[f"{name}.transactions.jsonl"] = _lines([one.result() for one in made])
        found[f"{name}.decoded.jsonl"] = _lines([answer for one in made for answer in one.answers()])
        found[f"{name}.accounts.jsonl"] = _lines(
            [{"address": a, "name": n, "data": d.hex(), "holds": holds} for a, n, d, holds in accounts(name)]
        )
    return found


def _lines(values: list[Any]) -> str:
    return "".join(json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n" for value in values)


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
