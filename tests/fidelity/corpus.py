"""Requests, good and bad, as plain data. `World.resolve` fills in what begins with a dollar sign: `$payer`, `$sig memo`, `$slot memo`, `$tx memo`.

A request is known by its own text, so that a recording finds it again; two equal ones cannot be in here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

# Results that are different in every run and on every node: only their shape is compared.
SHAPE_ONLY = frozenset(
    {
        *("getSlot", "getBlockHeight", "getBlockTime", "getTransactionCount", "getFirstAvailableBlock"),
        *("minimumLedgerSlot", "getBlocks", "getBlocksWithLimit", "getRecentPrioritizationFees", "getEpochInfo"),
        *("getSupply", "getRecentPerformanceSamples"),
    }
)


@dataclass(frozen=True, slots=True)
class Call:
    """One JSON-RPC call. `params` None: the request has no such member."""

    group: str
    method: str
    params: Any

    @property
    def name(self) -> str:
        """The request as text."""
        params = "" if self.params is None else json.dumps(self.params)
        return f"{self.method} {params}".strip()


def _calls(group: str, method: str, *lists: Any) -> list[Call]:
    return [Call(group, method, params) for params in lists]


_COMMITMENTS = [[{"commitment": word}] for word in ("processed", "confirmed", "finalized")]
_ODD_CONFIGS: list[Any] = [
    *([{"commitment": value}] for value in ("recent", "max", "root", "single", "singleGossip", "never", "", 1, None)),
    *([value] for value in ("confirmed", 1, -1, 1.5, True, None, [], ["confirmed"], {}, {"unknown": 1})),
    *([{"minContextSlot": value}] for value in (0, "$slot memo", 10**12, -1, 1.5, "1", None, True, 2**64)),
    [{}, {}],
    [{"commitment": "confirmed"}, 1, 2],
]
_ODD_VALUES: list[Any] = [None, True, 1, -1, 1.5, "", "0", "x" * 200, [], ["$payer"], {}, {"pubkey": "$payer"}]
_ODD_ADDRESSES: list[Any] = [
    *("1" * 31, "1" * 33, "1" * 44, "z" * 44, "z" * 45, "0" * 32, "O" * 32, "$payer ", "é" * 32),
    *("$sig memo", "$payer$payer"),
]
_ODD_SIGNATURES: list[Any] = ["1" * 63, "1" * 65, "z" * 88, "z" * 89, "0" * 88, "$payer"]
_ENCODINGS = ("base58", "base64", "base64+zstd", "jsonParsed", "binary")
_BINARY = ("base58", "base64", "base64+zstd", "binary")
_ODD_ENCODINGS = ("json", "Base64", "", 1, None, True, [], {}, "utf8")

PLACE = [
    *_calls("place", "getSlot", None, [], *_COMMITMENTS, *_ODD_CONFIGS),
    *_calls("place", "getBlockHeight", None, *_COMMITMENTS, [{"minContextSlot": 10**12}], [1], ["confirmed"]),
    *_calls("place", "getHealth", None, [], [1], [{}]),
    *_calls("place", "getVersion", None, [], [1]),
    *_calls("place", "getGenesisHash", None, [], [1]),
    *_calls("place", "getIdentity", None, [], [1]),
    *_calls("place", "getSlotLeader", None, [], [{"commitment": "confirmed"}], [1]),
    *_calls("place", "getEpochInfo", None, *_COMMITMENTS, [1], [{"minContextSlot": 10**12}]),
    *_calls("place", "getTransactionCount", None, *_COMMITMENTS, [1], [{"minContextSlot": 10**12}]),
    *_calls("place", "getFirstAvailableBlock", None, [], [1]),
    *_calls("place", "minimumLedgerSlot", None, [], [1]),
    *_calls("place", "getLatestBlockhash", None, *_COMMITMENTS, [1], ["x"], [{"minContextSlot": 10**12}]),
    *_calls(
        "place",
        "isBlockhashValid",
        *(None, [], ["$old blockhash"], ["$new blockhash", {"commitment": "processed"}], ["1" * 32]),
        *([value] for value in _ODD_VALUES),
        *([value] for value in _ODD_ADDRESSES),
        ["$old blockhash", {"minContextSlot": 10**12}],
        ["$old blockhash", 1],
    ),
    *_calls(
        "place",
        "getFeeForMessage",
        *(None, [], ["$message old"]),
        *(
            [f"$message {name}", {"commitment": "processed"}]
            for name in ("fresh", "priced", "limited", "version 0", "two", "old")
        ),
        *([value] for value in _ODD_VALUES),
        *(["AAAA"], ["!!!!"], ["A"], ["AA=="], ["A" * 1645], ["A" * 1644]),
        *(["$message fresh", 1], ["$message fresh", {"minContextSlot": 10**12}]),
    ),
    *_calls(
        "place",
        "getRecentPrioritizationFees",
        None,
        [],
        [[]],
        [["$payer"]],
        [["x"]],
        ["$payer"],
        [1],
        [["$payer"] * 129],
    ),
    *_calls(
        "place", "getMinimumBalanceForRentExemption", None, [], [0], [1], [100], [10_000_000], [10 * 1024 * 1024 + 1]
    ),
    *_calls(
        "place", "getMinimumBalanceForRentExemption", *([v] for v in (None, True, -1, 1.5, "1", [], {}, 2**64, 2**63))
    ),
    *_calls("place", "getMinimumBalanceForRentExemption", [50, {"commitment": "processed"}], [50, 1]),
    *_calls("place", "noSuchMethod", None, [], [1]),
    *_calls("place", "getslot", None),
    *_calls("place", "logsSubscribe", None, ["all"]),
    *_calls("place", "getConfirmedBlock", [1]),
    *_calls("place", "getRecentBlockhash", None),
    *_calls("place", "getStakeActivation", ["$payer"]),
]

ACCOUNTS = [
    *_calls(
        "accounts",
        "getBalance",
        *(None, [], ["$payer"], ["$friend"], ["$nobody"], ["$closed"], ["$friend", {"commitment": "processed"}]),
        *([value] for value in _ODD_VALUES),
        *([value] for value in _ODD_ADDRESSES),
        *(["$friend", *config] for config in _ODD_CONFIGS),
    ),
    *_calls(
        "accounts",
        "getAccountInfo",
        *(None, [], ["$friend"], ["$nobody"], ["$closed"], ["$big"], ["$community"], ["$program"]),
        *([value] for value in _ODD_VALUES),
        *([value] for value in _ODD_ADDRESSES),
        *(["$friend", {"encoding": word}] for word in (*_ENCODINGS, *_ODD_ENCODINGS)),
        *(["$mint", {"encoding": word}] for word in ("base58", "base64", "jsonParsed", "binary")),
        *(["$token", {"encoding": word}] for word in ("base58", "base64", "jsonParsed", "binary")),
        *(["$big", {"encoding": word}] for word in ("base58", "binary")),
        *(["$nobody", {"encoding": word}] for word in ("base58", "nonsense")),
        ["$big", {"encoding": "base58", "dataSlice": {"offset": 0, "length": 128}}],
        ["$big", {"encoding": "base58", "dataSlice": {"offset": 0, "length": 129}}],
        *(
            ["$mint", {"encoding": "base64", "dataSlice": piece}]
            for piece in (
                *({"offset": 0, "length": 8}, {"offset": 80, "length": 8}, {"offset": 90, "length": 8}),
                *({"offset": 0, "length": 0}, {"offset": 0}, {"length": 1}, {}, None, 1, [0, 8], "0", [0], [0, 8, 9]),
                *({"offset": -1, "length": 1}, {"offset": 0, "length": "1"}, {"offset": 1.5, "length": 1}),
                *({"offset": 2**63, "length": 2**63}, {"offset": 0, "length": 8, "more": 1}),
            )
        ),
        ["$mint", {"encoding": "jsonParsed", "dataSlice": {"offset": 0, "length": 4}}],
        ["$community", {"encoding": "jsonParsed", "dataSlice": {"offset": 0, "length": 48}}],
        ["$community", {"encoding": "base64", "dataSlice": {"offset": 0, "length": 48}}],
        ["$friend", {"encoding": "base64", "minContextSlot": 10**12}],
        ["$friend", {"encoding": "base64", "commitment": "nonsense"}],
        *(["$friend", value] for value in ("base64", 1, True, [], [None], None)),
        ["$friend", {"encoding": "base64"}, 3],
        *(
            [address, {"encoding": "jsonParsed"}]
            for address in (
                *("SysvarRent111111111111111111111111111111111", "11111111111111111111111111111111"),
                *("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA", "BPFLoaderUpgradeab1e11111111111111111111111"),
                "ComputeBudget111111111111111111111111111111",
            )
        ),
        [
            "SysvarC1ock11111111111111111111111111111111",
            {"encoding": "base64", "dataSlice": {"offset": 16, "length": 16}},
        ],
        ["$program", {"encoding": "base64"}],
        ["$program", {"encoding": "jsonParsed"}],
        ["SysvarC1ock11111111111111111111111111111111", {"encoding": "jsonParsed"}],
        ["$program data", {"encoding": "base64", "dataSlice": {"offset": 0, "length": 61}}],
    ),
    *_calls(
        "accounts",
        "getMultipleAccounts",
        *(None, [], [[]], [["$friend", "$nobody", "$mint"]], [["$friend"], {"encoding": "jsonParsed"}]),
        *([value] for value in ("$friend", 1, None, {}, [1], [None], ["x"], [["$friend"]])),
        *(["$friend"] * 100,),
        [["$friend"] * 101],
        [["$big"], {"encoding": "base58"}],
        [["$big"], {"encoding": "binary"}],
        [["$friend", "$big"], {"encoding": "base64", "dataSlice": {"offset": 0, "length": 4}}],
        [["$friend"], {"minContextSlot": 10**12}],
        [["$friend"], {"encoding": "nonsense"}],
        [["$friend"], 1],
    ),
    *_calls(
        "accounts",
        "getProgramAccounts",
        *(None, [], ["$nobody"], ["$nobody", {"withContext": True}], ["$nobody", {"withContext": False}]),
        *([value] for value in _ODD_VALUES),
        *([value] for value in _ODD_ADDRESSES),
        *(
            ["$program", {"encoding": "base64", "dataSlice": {"offset": 0, "length": 8}, **more}]
            for more in (
                *({}, {"withContext": True}, {"withContext": None}, {"withContext": 1}, {"sortResults": True}),
                *({"filters": []}, {"filters": None}, {"filters": {}}, {"filters": 1}, {"filters": "x"}),
                *({"sortResults": 1}, {"minContextSlot": 10**12}, {"minContextSlot": 10**12, "withContext": True}),
            )
        ),
        *(
            ["$program", {"encoding": "base64", "dataSlice": {"offset": 0, "length": 8}, "filters": [one]}]
            for one in (
                *({"memcmp": {"offset": 8, "bytes": "$community"}}, {"memcmp": {"offset": 8, "bytes": "$friend"}}),
                *({"memcmp": {"offset": 0, "bytes": "1"}}, {"memcmp": {"offset": 0, "bytes": ""}}),
                *(
                    {"memcmp": {"offset": 0, "bytes": "AA==", "encoding": "base64"}},
                    {"memcmp": {"offset": 0, "bytes": "AA"}},
                ),
                *({"memcmp": {"offset": 10**6, "bytes": "1"}}, {"memcmp": {"offset": 2**63, "bytes": "1"}}),
                *({"memcmp": {"offset": 0, "bytes": [0, 1]}}, {"memcmp": {"offset": 0, "bytes": [256]}}),
                *(
                    {"memcmp": {"offset": 0, "bytes": "1", "encoding": word}}
                    for word in ("base58", "bytes", "x", 1, None)
                ),
                *(
                    {"memcmp": {"offset": 0, "bytes": "!!", "encoding": "base64"}},
                    {"memcmp": {"offset": 0, "bytes": "0OIl"}},
                ),
                *(
                    {"memcmp": {"offset": 0}},
                    {"memcmp": {"bytes": "1"}},
                    {"memcmp": {}},
                    {"memcmp": 1},
                    {"memcmp": None},
                ),
                *({"memcmp": {"offset": -1, "bytes": "1"}}, {"memcmp": {"offset": "0", "bytes": "1"}}),
                *({"memcmp": {"offset": 0, "bytes": 7}}, {"memcmp": {"offset": 0, "bytes": None}}),
                *({"memcmp": {"offset": 0, "bytes": "1" * 129}}, {"memcmp": {"offset": 0, "bytes": "1" * 128}}),
                *({"memcmp": {"offset": 0, "bytes": "z" * 176}}, {"memcmp": {"offset": 0, "bytes": "z" * 175}}),
                *({"memcmp": {"offset": 0, "bytes": "A" * 173, "encoding": "base64"}},),
                *({"dataSize": 0}, {"dataSize": 10**9}, {"dataSize": -1}, {"dataSize": "1"}, {"dataSize": 1.5}),
                *({"dataSize": None}, {"unknown": 1}, {}, {"dataSize": 1, "memcmp": {"offset": 0, "bytes": "1"}}),
                *("tokenAccountState", "dataSize", "memcmp", "unknown", 1, None, [], {"tokenAccountState": None}),
            )
        ),
        ["$program", {"filters": [{"dataSize": 1}] * 4}],
        ["$program", {"filters": [{"dataSize": 1}] * 5}],
        ["$program", {"encoding": "nonsense"}],
        ["$program", {"filters": [{"dataSize": 1}], "encoding": "binary"}],
        ["$program"],
        ["$program", 1],
        ["$program", {"dataSlice": {"offset": 0, "length": 8}}],
        *(["$token program", {"encoding": word, "filters": [{"dataSize": 82}]}] for word in ("base64", "jsonParsed")),
        [
            "$token program",
            {"encoding": "jsonParsed", "filters": [{"dataSize": 165}, {"memcmp": {"offset": 0, "bytes": "$mint"}}]},
        ],
        [
            "$token program",
            {"encoding": "base64", "filters": ["tokenAccountState", {"memcmp": {"offset": 0, "bytes": "$mint"}}]},
        ],
    ),
    *_calls(
        "accounts",
        "getTokenAccountsByOwner",
        *(
            None,
            [],
            ["$payer"],
            ["$payer", {}],
            ["$payer", 1],
            ["$payer", None],
            ["$payer", "x"],
            [1, {"mint": "$mint"}],
        ),
        *(["$payer", {"mint": "$mint"}, {"encoding": word}] for word in (*_ENCODINGS, "nonsense")),
        *(["$payer", {"programId": "$token program"}, {"encoding": word}] for word in ("base64", "jsonParsed")),
        ["$payer", {"mint": "$mint"}],
        ["$payer", {"programId": "$program"}],
        ["$payer", {"programId": "x"}],
        ["$payer", {"mint": "$nobody"}],
        ["$payer", {"mint": "$token"}],
        ["$payer", {"mint": "x"}],
        ["$payer", {"mint": 1}],
        ["$payer", {"mint": "$mint", "programId": "$token program"}, {"encoding": "base64"}],
        ["$nobody", {"mint": "$mint"}, {"encoding": "base64"}],
        ["$payer", {"mint": "$mint"}, {"encoding": "base64", "dataSlice": {"offset": 0, "length": 32}}],
        ["$payer", {"mint": "$mint"}, {"encoding": "base64", "minContextSlot": 10**12}],
        ["$payer", {"mint": "$mint"}, 1],
    ),
    *_calls(
        "accounts",
        "getTokenAccountsByDelegate",
        *(None, ["$friend"], ["$friend", {"mint": "$mint"}, {"encoding": "base64"}]),
        ["$friend", {"programId": "$token program"}, {"encoding": "jsonParsed"}],
        ["$nobody", {"mint": "$mint"}, {"encoding": "base64"}],
    ),
    *_calls(
        "accounts",
        "getTokenAccountBalance",
        None,
        ["$token"],
        ["$friend_token"],
        ["$mint"],
        ["$nobody"],
        ["$friend"],
        ["x"],
        [1],
    ),
    *_calls("accounts", "getTokenSupply", None, ["$mint"], ["$token"], ["$nobody"], ["$friend"], ["x"], [1]),
    *_calls("accounts", "getTokenLargestAccounts", None, ["$mint"], ["$token"], ["$nobody"], ["x"]),
]

_TRANSACTIONS = (
    *(
        "memo",
        "transfer",
        "failed",
        "version 0",
        "priority",
        "big account",
        "close",
        "mint",
        "token accounts",
        "mint to",
    ),
    *("token transfer", "token transfer checked", "token medley", "with seed", "approve", "create community", "join"),
    *("create question", "cast vote", "vote again", "lookup table", "looked up"),
)
_V0 = {"maxSupportedTransactionVersion": 0}
_ODD_VERSIONS: list[Any] = [None, 0, 1, 255, 256, -1, 1.5, "0", "legacy", True]
_ODD_BLOCK_CONFIGS: list[Any] = [
    "json",
    "base64",
    "nonsense",
    1,
    True,
    [],
    None,
    {},
    {"unknown": 1},
    "jsonParsed",
    "binary",
]

LEDGER = [
    *_calls(
        "ledger",
        "getTransaction",
        *([f"$sig {name}", {"encoding": "json", **_V0}] for name in _TRANSACTIONS),
        *([f"$sig {name}", {"encoding": "jsonParsed", **_V0}] for name in _TRANSACTIONS),
        *([f"$sig {name}", {"encoding": word, **_V0}] for name in ("memo", "looked up") for word in _BINARY),
        *(["$sig memo", {"encoding": word}] for word in _ODD_ENCODINGS),
        *(["$sig memo", {"maxSupportedTransactionVersion": version}] for version in _ODD_VERSIONS),
        *(["$sig version 0", {"maxSupportedTransactionVersion": version}] for version in (None, 0, 1)),
        *(
            ["$sig memo", {"commitment": word}]
            for word in ("processed", "confirmed", "finalized", "nonsense", "recent")
        ),
        *(["$sig memo", value] for value in _ODD_BLOCK_CONFIGS),
        *(["$sig memo", {"encoding": "json", "minContextSlot": slot}] for slot in (0, 10**12)),
        *(None, [], ["$sig memo"], ["$sig version 0"], ["$unknown sig"], ["$unknown sig", {"commitment": "processed"}]),
        *([value] for value in _ODD_VALUES),
        *([value] for value in _ODD_SIGNATURES),
        ["$sig memo", "json", 1],
        ["$sig memo", {"encoding": "json"}, 1],
        ["$sig memo", "confirmed"],
    ),
    *_calls(
        "ledger",
        "getBlock",
        *(
            ["$slot memo", {"transactionDetails": d, "rewards": False, **_V0}]
            for d in ("full", "signatures", "none", "accounts")
        ),
        *(
            ["$slot looked up", {"transactionDetails": d, "rewards": False, **_V0}]
            for d in ("full", "signatures", "none", "accounts")
        ),
        *(["$slot looked up", {"encoding": w, "rewards": False, **_V0}] for w in ("json", "jsonParsed", "base64")),
        *(["$slot failed", {"transactionDetails": d, "rewards": False, **_V0}] for d in ("full", "accounts")),
        *(
            ["$slot token transfer", {"transactionDetails": "accounts", "encoding": w, "rewards": False, **_V0}]
            for w in ("json", "jsonParsed")
        ),
        *(
            ["$slot memo", {"transactionDetails": "accounts", "encoding": w, "rewards": False, **_V0}]
            for w in ("base64", "binary")
        ),
        *(["$slot memo", {"transactionDetails": "none", "rewards": value, **_V0}] for value in (True, None, 1, "x")),
        *(["$slot memo", {"transactionDetails": value, "rewards": False}] for value in ("nonsense", 1, None, "", True)),
        *(
            ["$slot memo", {"encoding": value, "transactionDetails": "none", "rewards": False}]
            for value in _ODD_ENCODINGS
        ),
        *(["$slot memo", {"encoding": value, "transactionDetails": "none", "rewards": False}] for value in _ENCODINGS),
        *(
            ["$slot memo", {"maxSupportedTransactionVersion": v, "transactionDetails": "none", "rewards": False}]
            for v in _ODD_VERSIONS
        ),
        *(
            ["$slot looked up", {"transactionDetails": d, "rewards": False}]
            for d in ("full", "signatures", "none", "accounts")
        ),
        *(
            ["$slot memo", {"transactionDetails": "none", "rewards": False, "commitment": word}]
            for word in ("processed", "confirmed", "finalized", "nonsense")
        ),
        *(["$slot memo", value] for value in ("nonsense", 1, True, [])),
        *(None, [], ["$future slot"], ["$future slot", {"commitment": "processed"}], [10**12], [2**63]),
        *([value] for value in (-1, 1.5, "1", None, True, [], {}, 2**64, "x")),
        ["$slot memo", {"transactionDetails": "none", "rewards": False, "minContextSlot": 10**12}],
    ),
    *_calls(
        "ledger",
        "getBlocks",
        *(
            None,
            [],
            ["$slot memo"],
            ["$slot memo", "$slot transfer"],
            ["$slot memo", None],
            ["$slot memo", {"commitment": "confirmed"}],
        ),
        *(
            ["$slot memo", "$slot transfer", {"commitment": word}]
            for word in ("processed", "confirmed", "finalized", "x")
        ),
        *(
            ["$slot transfer", "$slot memo"],
            [10**12],
            [10**12, 10**12 + 5],
            ["$slot memo", 10**12],
            [0, 500_001],
            [0, 500_000],
        ),
        *([value] for value in (-1, 1.5, "1", None, True, [], {}, 2**64)),
        *(["$slot memo", value] for value in (-1, 1.5, "1", True, [], {}, "x")),
        ["$slot memo", {"commitment": "processed"}],
        ["$slot memo", None, {"commitment": "processed"}],
        ["$slot memo", "$slot transfer", {"minContextSlot": 10**12}],
        ["$slot memo", "$slot transfer", 1],
    ),
    *_calls(
        "ledger",
        "getBlocksWithLimit",
        *(
            None,
            [],
            ["$slot memo"],
            ["$slot memo", 1],
            ["$slot memo", 0],
            ["$slot memo", 3, {"commitment": "confirmed"}],
        ),
        *(["$slot memo", 3, {"commitment": "processed"}], ["$slot memo", 500_001], [10**12, 3], ["$slot memo", -1]),
        *(["$slot memo", value] for value in (1.5, "1", None, True, [], {"commitment": "confirmed"})),
        *([value, 1] for value in (-1, 1.5, "1", None)),
    ),
    *_calls(
        "ledger",
        "getBlockTime",
        *(
            None,
            [],
            ["$slot memo"],
            ["$future slot"],
            [10**12],
            ["$slot memo", {"commitment": "confirmed"}],
            ["$slot memo", 1],
        ),
        *([value] for value in (-1, 1.5, "1", None, True, [], {}, 2**64)),
    ),
    *_calls(
        "ledger",
        "getSignaturesForAddress",
        *(None, [], ["$nobody"], ["$community"], ["$question"], ["$closed"], ["$token"], ["$poor"]),
        *(["$community", {"limit": limit}] for limit in (1, 2, 1000, 0, 1001, -1, 1.5, "1", None, True)),
        *(
            ["$community", {"before": f"$sig {name}"}]
            for name in ("cast vote", "create community", "vote again", "memo", "looked up")
        ),
        *(
            ["$community", {"until": f"$sig {name}"}]
            for name in ("cast vote", "create community", "vote again", "memo", "looked up")
        ),
        ["$community", {"before": "$sig vote again", "until": "$sig create community"}],
        ["$community", {"before": "$sig create community", "until": "$sig vote again"}],
        ["$community", {"before": "$sig vote again", "until": "$sig vote again"}],
        ["$community", {"before": "$sig vote again", "limit": 1}],
        *(["$community", {name: "$unknown sig"}] for name in ("before", "until")),
        *(
            ["$community", {name: value}]
            for name in ("before", "until")
            for value in ("", "x", 1, None, "$payer", "z" * 89)
        ),
        *(["$community", {"commitment": word}] for word in ("processed", "confirmed", "finalized", "nonsense")),
        *(["$community", {"minContextSlot": value}] for value in (0, 10**12, -1, "x")),
        ["$community", {"unknown": 1}],
        *(["$community", value] for value in (1, "x", None, [], True)),
        *([value] for value in _ODD_VALUES),
        *([value] for value in _ODD_ADDRESSES),
        ["$community", {}, 1],
    ),
    *_calls(
        "ledger",
        "getSignatureStatuses",
        *(
            None,
            [],
            [[]],
            [["$sig memo", "$unknown sig", "$sig failed"]],
            [["$sig memo"], {"searchTransactionHistory": True}],
        ),
        *([["$sig memo"], {"searchTransactionHistory": value}] for value in (False, None, 1)),
        *([value] for value in ("$sig memo", 1, None, {}, [1], [None], ["x"], ["$payer"], [["$sig memo"]])),
        *(
            [["$sig memo"] * 256],
            [["$sig memo"] * 257],
            [["$sig memo"], 1],
            [["$sig memo"], {}],
            [["$sig memo"], {"commitment": "x"}],
        ),
    ),
]

_ODD_BASE64 = (
    *(
        "A===",
        "AA=",
        "AAA==",
        "AB==",
        "AAB=",
        "AAAAA",
        "AAAAAA",
        "AAAAA=",
        "=",
        "==",
        "===",
        "====",
        "A=AA",
        "AAAA=",
        "AAAA=A",
    ),
    *(
        "AAAA==",
        "AAAA===",
        "AAAAA==",
        "AAAAA===",
        "AAAAAA=",
        "AAAAAA===",
        "AA==AA==",
        "AA==A",
        "A A=",
        "AAA\n",
        "AA-_",
        "é",
        "AAAé",
    ),
    *("_", "A=", "A==", "=A", "AAAAAAA", "AAAAAAA==", "gAAA", "gQAA", "f/8A", "AIAAAAA=", "AIEAAAA="),
    # Lengths that are written with needless bytes, or are too large.
    *(
        "AAAAAIAA",
        "AAAAAICAAA==",
        "AAAAAP//fw==",
        "AAAAAP//BA==",
        "AAAAAP//Aw==",
        "AAAAAICAgAA=",
        "AAAAAP8=",
        "AAAAAP//",
        "/w==",
        "/38=",
    ),
)
_B64 = {"encoding": "base64"}
_PROCESSED = {"encoding": "base64", "preflightCommitment": "confirmed"}

SENDING = [
    *_calls(
        "sending",
        "sendTransaction",
        *(None, [], ["$fresh", _PROCESSED], ["$fresh58", {"preflightCommitment": "confirmed"}]),
        ["$fresh", {"encoding": "base64", "skipPreflight": True}],
        ["$fresh version 0", _PROCESSED],
        *([f"$replay {name}", _PROCESSED] for name in ("memo", "failed")),
        ["$replay memo", {"encoding": "base64", "skipPreflight": True}],
        *(
            [f"$bad {name}", _PROCESSED]
            for name in ("unsigned", "wrong signature", "expired", "poor", "no program", "broke", "program fails")
        ),
        *(
            [f"$bad {name}", {"encoding": "base64", "skipPreflight": True}]
            for name in ("unsigned", "wrong signature", "expired", "poor", "no program")
        ),
        *(
            [f"$bad {name}", _PROCESSED]
            for name in (
                *("twice", "wrong program", "index", "signers", "header", "trailing", "short", "no table", "no keys"),
                *("readonly payer", "missing signer", "rent", "no instructions", "instruction data", "many accounts"),
            )
        ),
        *(
            [value, _B64]
            for value in ("", "A", "AA", "AAAA", "!!!!", "AA=A", "AAAA====", "AAA=", "A" * 1644, "A" * 1645, "A" * 2000)
        ),
        *([value] for value in ("", "0", "1", "111", "z" * 1683, "z" * 1684, "OIl")),
        *([value, _B64] for value in (None, True, 1, 1.5, [], {})),
        *(["$fresh", {"encoding": word}] for word in ("json", "jsonParsed", "base64+zstd", "nonsense", 1)),
        ["$fresh58", {"encoding": "binary", "preflightCommitment": "confirmed"}],
        *(
            [f"$bad cut {n}", _B64]
            for n in (*range(3), 64, 65, 66, 67, 68, 69, 100, 132, 133, 164, 165, 166, 167, 168, 169)
        ),
        *([value, _B64] for value in _ODD_BASE64),
        *([value] for value in ("é", "1é", "'", "\n", "1 1", "l", "\u0000", "\\", "\U0001f600")),
        *(["$fresh", value] for value in (1, "base64", [], True)),
        *(["$fresh", {**_PROCESSED, "preflightCommitment": word}] for word in ("nonsense", "processed", 1)),
        *(["$fresh", {**_PROCESSED, "maxRetries": value}] for value in (0, 1, -1, "1", 1.5, None)),
        *(["$fresh", {**_PROCESSED, "minContextSlot": value}] for value in (0, 10**12, -1)),
        *(["$fresh", {**_PROCESSED, "skipPreflight": value}] for value in (None, 1, "x")),
        ["$fresh", {**_PROCESSED, "skipPreflight": True, "minContextSlot": 10**12}],
    ),
    *_calls(
        "sending",
        "simulateTransaction",
        *(None, [], ["$fresh", _B64], ["$fresh58"]),
        *(["$fresh", {**_B64, "commitment": word}] for word in ("processed", "confirmed", "finalized", "nonsense")),
        *(
            ["$fresh transfer", {**_B64, "commitment": "confirmed", "innerInstructions": value}]
            for value in (True, False, 1)
        ),
        ["$fresh vote", {**_B64, "commitment": "confirmed", "innerInstructions": True}],
        ["$fresh token", {**_B64, "commitment": "confirmed", "innerInstructions": True}],
        ["$fresh member", {**_B64, "commitment": "confirmed", "innerInstructions": True}],
        *(
            ["$fresh transfer", {**_B64, "commitment": "confirmed", "accounts": spec}]
            for spec in (
                *({"addresses": ["$friend", "$nobody"]}, {"addresses": ["$friend"], "encoding": "base64"}),
                *(
                    {"addresses": ["$friend"], "encoding": "jsonParsed"},
                    {"addresses": ["$friend"], "encoding": "base58"},
                ),
                *(
                    {"addresses": ["$friend"], "encoding": "binary"},
                    {"addresses": []},
                    {"addresses": ["x"]},
                    {},
                    None,
                    1,
                ),
                *({"addresses": ["$friend"] * 4}, {"addresses": [1]}, {"addresses": ["$friend"], "encoding": "x"}),
                *({"addresses": "x"}, {"encoding": "base64"}),
            )
        ),
        *([f"$replay {name}", {**_B64, "commitment": "confirmed"}] for name in ("memo", "failed")),
        *(
            [f"$tx {name}", {**_B64, "commitment": "confirmed", "replaceRecentBlockhash": True}]
            for name in ("memo", "transfer", "failed", "looked up", "cast vote")
        ),
        *(
            [f"$bad {name}", {**_B64, "commitment": "confirmed"}]
            for name in (
                *(
                    "unsigned",
                    "wrong signature",
                    "expired",
                    "poor",
                    "no program",
                    "broke",
                    "program fails",
                    "in use",
                    "twice",
                    "wrong program",
                ),
                *(
                    "index",
                    "signers",
                    "header",
                    "trailing",
                    "short",
                    "no table",
                    "no keys",
                    "readonly payer",
                    "missing signer",
                ),
                *("rent", "no instructions", "instruction data", "forged"),
            )
        ),
        *(
            [f"$bad {name}", {**_B64, "commitment": "confirmed", "replaceRecentBlockhash": True}]
            for name in ("unsigned", "wrong signature", "expired", "poor", "forged", "no program")
        ),
        *(
            [f"$bad {name}", {**_B64, "commitment": "confirmed", "sigVerify": True}]
            for name in ("unsigned", "wrong signature", "expired", "poor", "broke", "program fails")
        ),
        ["$fresh", {**_B64, "sigVerify": True, "replaceRecentBlockhash": True}],
        ["$fresh", {**_B64, "commitment": "confirmed", "sigVerify": True}],
        *(["$fresh", {**_B64, "sigVerify": value}] for value in (None, 1, "x")),
        *(["$fresh", {**_B64, "minContextSlot": value}] for value in (0, 10**12)),
        *(["$fresh", {"encoding": word}] for word in ("json", "jsonParsed", "nonsense")),
        *([value, _B64] for value in ("", "AAAA", "!!!!", "A" * 1645, None, 1)),
        ["$fresh", 1],
        ["$fresh", {**_B64, "commitment": "confirmed", "replaceRecentBlockhash": 1}],
    ),
    *_calls(
        "sending",
        "requestAirdrop",
        *(
            None,
            [],
            ["$poor"],
            ["x", 1],
            ["$nobody2", 1_000_000],
            [1, 1],
            ["$nobody2", -1],
            ["$nobody2", "1"],
            ["$nobody2", 1.5],
        ),
        *(["$nobody2", None], ["$nobody2", 1_000_000, 1], ["$nobody2", 1_000_001, {"commitment": "confirmed"}]),
        ["$nobody2", 1_000_002, {"recentBlockhash": "x"}],
    ),
]

CLUSTER = [
    *_calls("cluster", "getEpochSchedule", None, [], [1]),
    *_calls("cluster", "getInflationGovernor", None, [{"commitment": "confirmed"}]),
    *_calls("cluster", "getInflationRate", None),
    *_calls("cluster", "getSlotLeaders", None, ["$slot memo", 2], ["$slot memo", 0], ["$slot memo", 5001], [1]),
    *_calls("cluster", "getBlock", [0, {"transactionDetails": "none", "rewards": False}]),
    *_calls("cluster", "getStakeMinimumDelegation", None),
    *_calls("cluster", "getMaxRetransmitSlot", [1]),
    *_calls("cluster", "getMaxShredInsertSlot", [1]),
    *_calls("cluster", "getSupply", None, [1], [{"excludeNonCirculatingAccountsList": True}]),
    *_calls("cluster", "getBlockCommitment", [10**12], None),
    *_calls("cluster", "getInflationReward", [["$payer"]], None, [["$payer"], {"epoch": 0}]),
    *_calls("cluster", "getLargestAccounts", [1]),
]

CALLS: list[Call] = [*PLACE, *ACCOUNTS, *LEDGER, *SENDING, *CLUSTER]
