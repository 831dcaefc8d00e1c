"""`indexer simulate`: seeded histories of a model chain against the real core."""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import sys
import time
from collections import Counter
from typing import Any

from programs.errors import UserError

TRANSCRIPT_LINES = 40


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = sub.add_parser(
        "simulate",
        help="seeded histories against the model",
        description="Drive the real sealer and auditor through seeded histories of a model chain: forks, skipped slots, phantoms, forgeries, "
        "lost and repeated notifications, incomplete lists, lagging nodes, time-outs, crashes, lost leases. An oracle judges each commit and, "
        "at the end, the ledger against the chain. A failing seed is printed with a short history that still fails.",
        epilog="example: indexer simulate --seed 1 --runs 1000",
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--runs", type=int, default=100, help="how many histories (default 100)")
    parser.add_argument(
        "--slots", type=int, default=60, help="slots and transactions in a history, at least (default 60)"
    )
    parser.add_argument(
        "--only", metavar="FAULT:N,…", help="leave out all other strikes, as a shrunk history says ('none' for all)"
    )
    parser.add_argument("--transcript", action="store_true", help="tell what happens, on stderr")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 1 when a history diverged; each failing seed is printed with a short history that still fails."""
    if args.runs < 1 or args.slots < 1:
        raise UserError(f"--runs {args.runs}, --slots {args.slots}: give 1 or more of each")
    document, failed = play(args)
    if args.json:
        print(json.dumps(document))
    else:
        _show(document)
        for failing in failed:
            print(f"seed {failing.seed} diverged; a short history: {failing.command}\n  {failing.divergence}")
            for line in failing.transcript[-TRANSCRIPT_LINES:]:
                print(f"    {line}")
    return 1 if failed else 0


def play(args: argparse.Namespace) -> tuple[dict[str, Any], list[Any]]:
    """Run the histories; the report, and the failing ones made short."""
    from dataclasses import asdict

    from rich.progress import Progress

    from indexer.simulation.run import Divergence, Simulation
    from indexer.simulation.shrink import shrink
    from programs.collector import collect_seldom

    only = None if args.only is None else read_only(args.only)
    totals: Counter[str] = Counter()
    strikes: Counter[str] = Counter()
    failed = []
    digest = hashlib.sha256()
    least = [sys.maxsize, sys.maxsize]
    tell = (lambda line: print(line, file=sys.stderr)) if args.transcript else None
    started, busy = time.monotonic(), time.process_time()
    # Nothing of a history is in a cycle, and looking for some is a tenth of the time.
    thresholds = gc.get_threshold()
    collect_seldom()
    with Progress(disable=not sys.stderr.isatty() or args.transcript, transient=True) as progress:
        for seed in progress.track(range(args.seed, args.seed + args.runs), description="histories"):
            try:
                history = Simulation(seed, slots=args.slots, only=only, tell=tell).run()
            except Divergence as divergence:
                digest.update(f"{seed} {divergence}".encode())
                failed.append(shrink(seed, slots=args.slots, only=only))
                continue
            digest.update(bytes.fromhex(history.digest))
            strikes += history.strikes
            least = [min(least[0], history.slots), min(least[1], history.transactions)]
            totals.update({name: value for name, value in asdict(history).items() if isinstance(value, int)})
    gc.set_threshold(*thresholds)
    seconds, cpu = time.monotonic() - started, time.process_time() - busy
    del totals["seed"]
    return {
        "runs": args.runs,
        "failed": [{**asdict(failing), "command": failing.command} for failing in failed],
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "per_second": round(args.runs / seconds, 1),
        "per_cpu_second": round(args.runs / cpu, 1),
        "slots_min": least[0],
        "transactions_min": least[1],
        "digest": digest.hexdigest(),
        **totals,
        "strikes": dict(sorted(strikes.items())),
    }, failed


def read_only(text: str) -> frozenset[tuple[str, int]]:
    """The strikes of `--only`. UserError names what can't be read."""
    from indexer.simulation.dice import FAULTS, FILLED

    found = set()
    for part in [] if text == "none" else text.split(","):
        name, _, number = part.partition(":")
        if name not in FAULTS and name != FILLED:
            raise UserError(f"--only {part!r}: there is no such fault; there are: {', '.join(FAULTS)}")
        if not number.isdigit():
            raise UserError(f"--only {part!r}: write FAULT:N, N being which of its throws strikes")
        found.add((name, int(number)))
    return frozenset(found)


def _show(document: dict[str, Any]) -> None:
    rates = f"{document['per_second']} a second, {document['per_cpu_second']} a CPU second"
    print(
        f"{document['runs']} histories, {len(document['failed'])} diverged, {rates}, digest {document['digest'][:16]}"
    )
    for name, value in document.items():
        if isinstance(value, int) and name != "runs":
            print(f"  {name:<18}{value:>12,}")
    print("  strikes")
    for name, value in document["strikes"].items():
        print(f"    {name:<16}{value:>12,}")
