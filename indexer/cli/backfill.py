"""`indexer backfill`: seal old slots."""

from __future__ import annotations

import argparse
from dataclasses import asdict


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    from indexer.cli.slots import add_range

    parser = sub.add_parser(
        "backfill",
        help="seal old slots",
        description="Seal what is not sealed yet of a range of old slots, beside a running daemon. Can be interrupted and run again.",
        epilog="example: indexer backfill --from-slot 250000000",
    )
    add_range(parser, first=True)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print what was done."""
    from indexer.cli.slots import emit, over_range
    from indexer.history import backfill

    result = over_range("backfill", args, backfill)
    if result.slot_first is None:
        words = "nothing to seal: what was asked for is sealed already, or left to live sealing"
    else:
        words = f"sealed slots {result.slot_first:,}..{result.slot_last:,}: {result.rows:,} transactions"
    emit(args, asdict(result), words)
    return 0
