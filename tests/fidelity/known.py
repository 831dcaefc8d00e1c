"""The differences between the development node and a real one that are known and stay, with the row of README.md that gives the reason.

Each is as narrow as can be: which requests, and what in their replies. A difference that is not here fails the suite, and so does an
entry here that no longer makes any difference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_TOKEN_CASES = r"\$(sig|tx) (mint|token|approve)|\$slot token|\$fresh token"
_VOTING_CASES = r"\$(sig|tx) (create|join|cast|vote)|\$fresh vote|\$bad in use"
_IN_USE_CASES = (
    r"vote again|\$tx create community|getSignaturesForAddress \[\"\$question\"\]|\$tx cast vote|\$bad in use"
)


@dataclass(frozen=True, slots=True)
class Known:
    """Requests whose text matches `requests` may differ where the path in the reply matches `where`. `row` stands in README.md."""

    row: str
    requests: str
    where: str

    def covers(self, request: str, path: str) -> bool:
        """Whether this difference is expected."""
        return re.search(self.requests, request) is not None and re.search(self.where, path) is not None


KNOWN = (
    Known("sysvar accounts hold 1 lamport", r"^getAccountInfo \[\"Sysvar", r"\.lamports$"),
    Known("sysvar accounts hold 1 lamport", r"\$sig token accounts", r"\.(pre|post)Balances"),
    Known(
        "SPL Token, Associated Token and lookup-table programs are LiteSVM's copies",
        _TOKEN_CASES,
        r"\.(computeUnitsConsumed|costUnits|unitsConsumed|loadedAccountsDataSize|logMessages|logs|(pre|post)Balances)",
    ),
    Known("SPL Token, Associated Token and lookup-table programs are LiteSVM's copies", r"\[\"Tokenkeg", r"\.value\."),
    Known(
        "a call into the system program costs 54 compute units more",
        _VOTING_CASES,
        r"\.(computeUnitsConsumed|costUnits|unitsConsumed|logMessages|logs)",
    ),
    Known("an instruction that the machine's version lacks", _IN_USE_CASES, r"\.(err|status)\b|\.(logMessages|logs)"),
    Known("base64+zstd frames are not compressed", r"base64\+zstd", r"\.data\[0\]$"),
    Known(
        "getSupply, getLargestAccounts, getBlockCommitment and others",
        r"^get(Supply|LargestAccounts|BlockCommitment)\b",
        r"^\.(error|result|shape)",
    ),
    Known("a member that stands twice in a request", r'"jsonrpc":"2.0","jsonrpc"|"id":1,"id":2', r"error|id$"),
    Known("no files and no supply by GET", r"^newcomer: (genesis archive|snapshot archive|supply)$", r"\.replies"),
    Known(
        "what is no upgrade on the socket's port is told so",
        r"^newcomer: (get( health)? from the websocket port|upgrade (of version 8|without (a version|a key|a host|"
        r"connection)|with a short key|to something else))$",
        r"\.(replies|then)",
    ),
    Known(
        "a request of more than 4,096 bytes in fragments closes the socket", r"^too_much_in_fragments$", r"^\[[345]\]$"
    ),
    Known("the number -0", r"\[-0\]", r"error"),
)


def differences(expected: Any, got: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The leaves in which two JSON values differ: path, expected, got. Whole lists where the lengths differ."""
    if isinstance(expected, dict) and isinstance(got, dict):
        found = []
        for name in [*expected, *(name for name in got if name not in expected)]:
            found += differences(expected.get(name, "<absent>"), got.get(name, "<absent>"), f"{path}.{name}")
        return found
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        pairs = enumerate(zip(expected, got, strict=True))
        return [leaf for place, (a, b) in pairs for leaf in differences(a, b, f"{path}[{place}]")]
    # 1, 1.0 and true are three things to a client.
    return [] if expected == got and type(expected) is type(got) else [(path, expected, got)]


def unexpected(request: str, expected: Any, got: Any, used: set[Known]) -> list[str]:
    """A line for each difference that is not known; known ones are noted in `used`."""
    lines = []
    for path, wanted, seen in differences(expected, got):
        covering = [known for known in KNOWN if known.covers(request, path)]
        used.update(covering)
        if not covering:
            lines.append(
                f"{request[:200]}\n    {path or '.'}\n      recorded: {wanted!r:.600}\n      got:      {seen!r:.600}"
            )
    return lines
