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
        description="Compare the ledger with the finalized chain: what was missing is appended late, what died is retracted, the tables follow. "
        "Exit code 1 when anything had to be corrected.",
        epilog="example: indexer replay --from-slot 1000 --to-slot 2000",
    )
    add_range(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print what was done. 0: the ledger equals the chain; 1: it had to be corrected."""
    from indexer.cli.slots import emit, over_range
    from indexer.history import replay

    result = over_range("replay", args, replay)
    equal = not (result.late or result.retracted)
    words = (
        "the ledger equals the chain"
        if equal
        else f"{result.late} appended late, {result.retracted} retracted; the tables follow"
    )
    emit(
        args,
        {**asdict(result), "equal": equal},
        f"slots {result.slot_first:,}..{result.slot_last:,}, {result.compared:,} transactions compared: {words}",
    )
    return 0 if equal else 1
