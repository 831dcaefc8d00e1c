"""Every method with every option, each given every kind of value: requests as data, made from one table.

The corpus asks what a client may ask; this asks what nobody thought of, so that no reader of an option is left untried.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from tests.fidelity import corpus
from tests.fidelity.corpus import Call
from tests.fidelity.zoo import ZOO

# One of each JSON type, and the numbers at which readers break.
ODD: tuple[Any, ...] = (None, True, 0, -1, 1.5, 2**63, 2**64, "", "x", "1", [], [1], {}, {"x": 1})
_CONTEXT = ("commitment", "minContextSlot")
_ACCOUNT = ("encoding", "dataSlice", *_CONTEXT)
_FRESH = {"encoding": "base64", "commitment": "confirmed"}

# Method: parameters that are right, options that are right, names of the options to spoil. Objects that hold others are spoilt inside, too.
_TABLE: tuple[tuple[str, list[Any], dict[str, Any], tuple[str, ...]], ...] = (
    ("getBlockHeight", [], {}, _CONTEXT),
    ("getEpochInfo", [], {}, _CONTEXT),
    ("getLatestBlockhash", [], {}, _CONTEXT),
    ("getSlotLeader", [], {}, _CONTEXT),
    ("getTransactionCount", [], {}, _CONTEXT),
    ("getStakeMinimumDelegation", [], {}, _CONTEXT),
    ("isBlockhashValid", ["$old blockhash"], {}, _CONTEXT),
    ("getFeeForMessage", ["$message old"], {}, _CONTEXT),
    ("getAccountInfo", ["$friend"], {}, (*_ACCOUNT, "unknown")),
    ("getMultipleAccounts", [["$friend"]], {}, _ACCOUNT),
    ("getProgramAccounts", ["$nobody"], {}, ("filters", "withContext", "sortResults", *_ACCOUNT)),
    ("getTokenAccountsByOwner", ["$payer", {"mint": "$mint"}], {"encoding": "base64"}, _ACCOUNT),
    ("getTokenAccountsByDelegate", ["$friend", {"mint": "$mint"}], {"encoding": "base64"}, _ACCOUNT),
    ("getTokenAccountBalance", ["$token"], {}, ("commitment",)),
    ("getTokenSupply", ["$mint"], {}, ("commitment",)),
    ("getTokenLargestAccounts", ["$mint"], {}, ("commitment",)),
    ("getMinimumBalanceForRentExemption", [50], {}, ("commitment",)),
    (
        "getBlock",
        ["$slot memo"],
        {"transactionDetails": "none", "rewards": False},
        ("encoding", "transactionDetails", "rewards", "commitment", "maxSupportedTransactionVersion", "minContextSlot"),
    ),
    ("getBlocks", ["$slot memo", "$slot transfer"], {}, _CONTEXT),
    ("getBlocksWithLimit", ["$slot memo", 2], {}, _CONTEXT),
    (
        "getTransaction",
        ["$sig memo"],
        {},
        ("encoding", "commitment", "maxSupportedTransactionVersion", "minContextSlot"),
    ),
    ("getSignaturesForAddress", ["$poor"], {}, ("before", "until", "limit", *_CONTEXT)),
    ("getSignatureStatuses", [["$sig memo"]], {}, ("searchTransactionHistory",)),
    ("getInflationReward", [["$payer"]], {}, ("epoch", *_CONTEXT)),
    ("getInflationGovernor", [], {}, ("commitment",)),
    (
        "simulateTransaction",
        ["$tx memo"],
        {**_FRESH, "replaceRecentBlockhash": True},
        ("encoding", "sigVerify", "replaceRecentBlockhash", "innerInstructions", "accounts", *_CONTEXT),
    ),
    (
        "sendTransaction",
        ["$bad expired"],
        {"encoding": "base64", "preflightCommitment": "confirmed"},
        ("encoding", "skipPreflight", "preflightCommitment", "maxRetries", "minContextSlot"),
    ),
)


def _spoilt() -> list[Call]:
    calls = [
        Call("options", method, [*given, {**right, name: value}])
        for method, given, right, names in _TABLE
        for name, value in product(names, ODD)
    ]
    for method, given, right, _ in _TABLE:
        # The options themselves, one parameter too many, and each parameter before them.
        calls += [Call("options", method, [*given, value]) for value in ODD if value not in ({}, {"x": 1})]
        calls += [Call("options", method, [*given, right, value]) for value in (None, {}, 1)]
        calls += [
            Call("options", method, [*given[:place], value, *given[place + 1 :]])
            for place in range(len(given))
            for value in ODD
        ]
    return calls


_SLICE = {"encoding": "base64"}
_INSIDE = [
    *(
        Call("options", "getAccountInfo", ["$mint", {**_SLICE, "dataSlice": {"offset": 0, "length": 4, name: value}}])
        for name, value in product(("offset", "length"), ODD)
    ),
    *(
        Call("options", "getProgramAccounts", ["$token program", {**_SLICE, "filters": [{"memcmp": piece}]}])
        for name, value in product(("offset", "bytes", "encoding"), ODD)
        for piece in [{"offset": 10**6, "bytes": "2", name: value}]
        # Bytes that every account has would list them all.
        if piece["bytes"] != "" and not (name == "offset" and value in (0, True))
    ),
    *(
        Call("options", "getProgramAccounts", ["$token program", {**_SLICE, "filters": filters}])
        for filters in (
            # The last byte of a mint, one past its end, and across it.
            [{"dataSize": 82}, {"memcmp": {"offset": 81, "bytes": "1"}}],
            [{"dataSize": 82}, {"memcmp": {"offset": 82, "bytes": "1"}}],
            [{"dataSize": 82}, {"memcmp": {"offset": 81, "bytes": "11"}}],
            [{"dataSize": 82}, {"memcmp": {"offset": 82, "bytes": ""}}],
            [{"dataSize": 82}, {"memcmp": {"offset": 83, "bytes": ""}}],
            [{"dataSize": 82}, {"memcmp": {"offset": 44, "bytes": "BgE=", "encoding": "base64"}}],
            [{"dataSize": 82}, {"memcmp": {"offset": 44, "bytes": [6, 1]}}],
            [{"dataSize": 82}, {"memcmp": {"offset": 44, "bytes": [6, 1], "encoding": "bytes"}}],
            [{"dataSize": 82}, {"memcmp": {"offset": 44, "bytes": [6, 1], "encoding": "base64"}}],
            [{"dataSize": 82}, {"memcmp": {"offset": 44, "bytes": "BgE", "encoding": "base64"}}],
            [{"dataSize": 82}, {"memcmp": {"offset": 44, "bytes": "BgE=", "encoding": "base58"}}],
            [
                {"dataSize": 165},
                {"memcmp": {"offset": 0, "bytes": "$mint"}},
                {"memcmp": {"offset": 32, "bytes": "$payer"}},
            ],
            [
                *({"dataSize": 165}, {"memcmp": {"offset": 0, "bytes": "$mint"}}),
                *({"memcmp": {"offset": 32, "bytes": "$payer"}}, "tokenAccountState"),
            ],
            ["tokenAccountState", {"dataSize": 82}],
            [{"tokenAccountState": {}}],
        )
    ),
    *(
        Call(
            "options", "simulateTransaction", ["$tx memo", {**_FRESH, "replaceRecentBlockhash": True, "accounts": spec}]
        )
        for name, value in product(("addresses", "encoding"), ODD)
        for spec in [{"addresses": ["$friend"], name: value}]
    ),
    *(
        Call("options", "simulateTransaction", [f"$tx {name}", {**_FRESH, "replaceRecentBlockhash": True, **more}])
        for name in ("looked up", "token transfer", "failed", "version 0", "create community")
        for more in (
            {"innerInstructions": True},
            {"innerInstructions": True, "accounts": {"addresses": ["$friend", "$payer"], "encoding": "base64"}},
            {"accounts": {"addresses": ["$token", "$mint"], "encoding": "jsonParsed"}},
            {"accounts": {"addresses": ["$friend"], "encoding": "base64+zstd"}},
        )
    ),
    *(
        Call("options", "simulateTransaction", [f"$bad {name}", {**_FRESH, **more}])
        for name in (
            *("twice", "no table", "rent", "broke", "in use", "program fails", "wrong program", "trailing", "signers"),
            *("header", "no keys", "index", "readonly payer", "missing signer", "no instructions", "instruction data"),
        )
        for more in ({"replaceRecentBlockhash": True, "innerInstructions": True}, {"sigVerify": True})
    ),
    *(
        Call("options", "sendTransaction", [f"$bad {name}", {"encoding": "base64", "skipPreflight": True}])
        for name in (
            *("twice", "no table", "rent", "broke", "program fails", "wrong program", "trailing", "signers"),
            *("header", "no keys", "index", "readonly payer", "missing signer", "no instructions", "short"),
        )
    ),
    *(
        Call("options", method, [value])
        for method in ("getRecentPrioritizationFees", "getInflationReward", "getSignatureStatuses")
        for value in ([None], [[]], [{}], ["$payer", 1], ["$payer", "$payer"])
    ),
    *(
        Call("options", "getSlotLeaders", params)
        for params in ([], [0], [0, 0], [0, 2], [0, 5_001], [-1, 1], [0, "1"], [0, 1, {}], [10**12, 1], [1.5, 1])
    ),
    *(
        Call("options", "requestAirdrop", params)
        for params in (
            *(["$nobody2"], ["$nobody2", None], ["$nobody2", "1"], ["$nobody2", -1], ["$nobody2", 1.5]),
            *(["$nobody2", 2**64], ["x", 1], ["$nobody2", 1, 1], ["$nobody2", 1, {"commitment": 1}, 1]),
        )
    ),
]

# Pages of an address, cut at every place where one can be cut: the transactions that it was in, their neighbours, and what is not there.
_OF_TOKEN = ("memo", "token accounts", "mint to", "token transfer", "token medley", "approve", "looked up")
_PAGES = [
    *(
        Call("options", "getSignaturesForAddress", ["$token", {"before": f"$sig {a}", "until": f"$sig {b}"}])
        for a, b in product(_OF_TOKEN, _OF_TOKEN)
    ),
    *(
        Call("options", "getSignaturesForAddress", ["$token", {name: f"$sig {a}", "limit": limit}])
        for a, name, limit in product(_OF_TOKEN, ("before", "until"), (1, 2))
    ),
]

_OLDEST = [
    *(
        Call("options", "getBlock", [0, {"transactionDetails": d, "encoding": w, "rewards": r}])
        for d, w, r in product(
            ("full", "accounts", "signatures", "none"), ("json", "base64", "jsonParsed"), (True, False)
        )
    ),
    *(Call("options", "getBlockTime", [slot]) for slot in (0, 1)),
    *(Call("options", "getBlock", [slot, {"transactionDetails": "none", "rewards": False}]) for slot in (1, 2**64 - 1)),
    *(
        Call(
            "options", "getBlock", ["$slot looked up", {"transactionDetails": d, "encoding": w, "rewards": False, **v}]
        )
        for d, w, v in product(
            ("full", "accounts"),
            ("json", "base64", "base58", "binary", "jsonParsed"),
            ({}, {"maxSupportedTransactionVersion": 0}),
        )
    ),
]

_PARSED = [Call("options", "getTransaction", [f"$sig {name}", {"encoding": "jsonParsed"}]) for name in ZOO]
# Asked in the corpus; or complained about with a character of a signature, which is another one every time.
_LEFT_OUT = {
    *(call.name for call in corpus.CALLS),
    'simulateTransaction ["$tx memo", null]',
    'sendTransaction ["$bad expired", null]',
    'sendTransaction ["$bad expired", {"encoding": null, "preflightCommitment": "confirmed"}]',
    'simulateTransaction ["$tx memo", {"encoding": null, "commitment": "confirmed", "replaceRecentBlockhash": true}]',
}

CALLS: list[Call] = list(
    {
        call.name: call for call in (*_spoilt(), *_INSIDE, *_PAGES, *_OLDEST, *_PARSED) if call.name not in _LEFT_OUT
    }.values()
)
