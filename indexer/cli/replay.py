"""`indexer replay`: prove the ledger against the chain again."""

from __future__ import annotations

import argparse
from dataclasses import asdict


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    from indexer.cli.slots import add_range

    parser = sub.add_parser(
        "replay",
        help="prove the ledger against the chain again",
        description="Read every block of the range again and compare the ledger with it, contents and all: what was missing is appended late, what "
        "died is retracted, what differs is replaced by what the chain holds, the tables follow. Can be interrupted and run again. "
        "Exit code 1 when anything had to be corrected.",
        epilog="example: indexer replay --from-slot 1000 --to-slot 2000",
    )
    add_range(parser)
    parser.add_argument(
        "--listed",
        action="store_true",
        help="read only the blocks that the signature lists or the ledger name: for a long range of a quiet program; what a list hides stays hidden",
    )
    parser.add_argument(
        "--restart", action="store_true", help="begin anew where an interrupted run would be gone on with"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print what was done. 0: the ledger equals the chain; 1: it had to be corrected."""
    from functools import partial

    from indexer.cli.slots import emit, over_range
    from indexer.history import replay

    result = over_range("replay", args, partial(replay, listed=args.listed, restart=args.restart))
    equal = not (result.late or result.retracted or result.corrected)
    words = (
        "the ledger equals the chain"
        if equal
        else f"{result.late} appended late, {result.retracted} retracted, {result.corrected} with other contents replaced; the tables follow"
    )
    if result.unknown:
        words += f"; of {result.unknown} the node told less than the ledger holds"
    lines = [f"slots {result.slot_first:,}..{result.slot_last:,}, {result.compared:,} transactions compared: {words}"]
    lines += [f"  {example}" for example in result.examples]
    emit(args, {**asdict(result), "equal": equal}, "\n".join(lines))
    return 0 if equal else 1
