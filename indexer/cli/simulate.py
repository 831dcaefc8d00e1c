"""`indexer simulate`: seeded histories of a model chain against the real core."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = sub.add_parser(
        "simulate",
        help="seeded histories against the model",
        description="Drive the real sealer and auditor through seeded histories of a model chain: forks, skipped slots, phantoms, forgeries, "
        "lost and repeated notifications, incomplete lists, time-outs, crashes. An oracle compares the ledger with the chain after each.",
        epilog="example: indexer simulate --seed 1 --runs 1000",
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--runs", type=int, default=100, help="how many histories (default 100)")
    parser.add_argument("--slots", type=int, default=60, help="slots in a history (default 60)")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 1 when a history diverged; each failing seed is printed with the shortest history that still fails."""
    from rich.progress import Progress

    from indexer.simulation.run import Divergence, simulate

    totals: dict[str, int] = {}
    failed: list[dict[str, Any]] = []
    started = time.monotonic()
    with Progress(disable=not sys.stderr.isatty(), transient=True) as progress:
        for seed in progress.track(range(args.seed, args.seed + args.runs), description="histories"):
            try:
                history = simulate(seed, slots=args.slots)
            except Divergence as divergence:
                failed.append({"seed": seed, "slots": shortest(seed, args.slots), "divergence": str(divergence)})
                continue
            for name in history.__slots__:
                if name != "seed":
                    totals[name] = totals.get(name, 0) + getattr(history, name)
    seconds = time.monotonic() - started
    document = {
        "runs": args.runs,
        "failed": failed,
        "seconds": round(seconds, 3),
        "per_second": round(args.runs / seconds, 1),
        **totals,
    }
    if args.json:
        print(json.dumps(document))
    else:
        print(f"{args.runs} histories, {len(failed)} diverged, {document['per_second']} a second")
        for name, value in totals.items():
            print(f"  {name:<14}{value:>10,}")
        for failure in failed:
            print(f"  seed {failure['seed']} with --slots {failure['slots']}: {failure['divergence']}")
    return 1 if failed else 0


def shortest(seed: int, slots: int) -> int:
    """The fewest slots with which this seed still diverges."""
    from indexer.simulation.run import Divergence, simulate

    for fewer in range(1, slots):
        try:
            simulate(seed, slots=fewer)
        except Divergence:
            return fewer
    return slots
