"""`python -m programs.crowd`: the crowd from the command line."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from solders.keypair import Keypair

from programs.crowd.crowd import Crowd, Result
from programs.errors import UserError

_EXAMPLE = """example:
  python -m programs.crowd --url http://127.0.0.1:8899 --rate 100 --seconds 30 --seed 1
"""


def _show(result: Result) -> None:
    """One line a second, on stderr."""
    print(
        f"{result.seconds:5.0f} s  landed {result.landed}  failed {result.failed.total()}  lost {result.lost.total()}"
        f"  {result.landed / max(result.seconds, 0.001):.0f}/s",
        file=sys.stderr,
        flush=True,
    )


def main() -> int:
    """0: done; 1: nothing landed, or the chain refused what it must not; 2, 3 as for every command."""
    parser = argparse.ArgumentParser(
        prog="python -m programs.crowd",
        description="A seeded crowd of wallets that uses the voting program on any Solana node.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default="http://127.0.0.1:8899", help="JSON-RPC address (default %(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="transactions a second at most (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="for how long (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which crowd (default %(default)s)")
    parser.add_argument("--wallets", type=int, default=96, help="how many wallets (default %(default)s)")
    parser.add_argument("--keypair", metavar="FILE", help="a funded wallet that pays, where there are no airdrops")
    parser.add_argument(
        "--check", action="store_true", help="afterwards compare the accounts with the crowd's own model"
    )
    parser.add_argument("--json", action="store_true", help="the result as one JSON document on stdout")
    arguments = parser.parse_args()
    try:
        funder = _keypair(arguments.keypair) if arguments.keypair else None
        crowd = Crowd(arguments.seed, arguments.wallets)
        result = asyncio.run(crowd.run(arguments.url, arguments.rate, arguments.seconds, funder, _show))
        wrong = asyncio.run(crowd.read_model(arguments.url))[1] if arguments.check else []
    except (UserError, ExceptionGroup) as error:
        first = _first(error)
        if first is None:
            raise
        print(f"error: {first}", file=sys.stderr)
        return first.exit_code
    except KeyboardInterrupt:
        return 130
    for line in wrong:
        print(f"difference: {line}", file=sys.stderr)
    if arguments.check and not wrong:
        print("the accounts are what the model says", file=sys.stderr)
    if arguments.json:
        print(json.dumps(result.as_json()))
    else:
        for name, value in result.as_json().items():
            print(f"{name}: {value}")
    return 0 if result.landed and not wrong else 1


def _first(error: Exception) -> UserError | None:
    """What to tell of an error; of those of many wallets at once the first. None when one of them is no user's."""
    if isinstance(error, ExceptionGroup):
        found = [_first(part) for part in error.exceptions]
        return None if None in found else found[0]
    return error if isinstance(error, UserError) else None


def _keypair(path: str) -> Keypair:
    try:
        return Keypair.from_bytes(bytes(json.loads(Path(path).read_text())))
    except (OSError, ValueError) as error:
        raise UserError(
            f"keypair: {path} holds no key ({type(error).__name__}); use a file of solana-keygen"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
