"""`indexer status`: where everything stands."""

from __future__ import annotations

import argparse
import json
from typing import Any

from indexer.cli.output import table


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = sub.add_parser(
        "status",
        help="where everything stands",
        description="Sealed, projected and tip slots of each program, the ledger, dead letters and the writer. Exit code 1 when something is wrong.",
        epilog="example: indexer status --json",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the status; 0 all well, 1 something is wrong."""
    from indexer.settings import load
    from indexer.status import collect, problems

    settings = load(args.config)
    document = collect(settings.need_database())
    wrong = problems(document, settings.ready_lag_slots)
    if args.json:
        print(json.dumps({**document, "problems": wrong}, default=str))
    else:
        show(document, wrong)
    return 1 if wrong else 0


def show(document: dict[str, Any], wrong: list[str]) -> None:
    """For a person."""
    columns = ("program", "sealed_slot", "projected_slot", "tip_slot", "finalized_slot", "lag_slots", "lag_seconds")
    table([c.replace("_", " ") for c in columns], [[row[c] for c in columns] for row in document["programs"]])
    print()
    fields = ("projection", "position", "slot")
    table(fields, [[row[c] for c in fields] for row in document["projections"]])
    print()
    ledger = document["ledger"]
    print(
        f"ledger  {ledger['position']:,} transactions, {ledger['seals']:,} seals, {ledger['late_rows']:,} late, "
        f"{ledger['retractions']:,} retracted"
    )
    for deployment in document["deployments"]:
        given = [i for i in document["idls"] if i["program"] == deployment["program"]]
        known = given[-1]["deployed_slot"] if given else None
        if known is not None and known < deployment["slot"]:
            print(
                f"idl     {deployment['program']}: deployed anew in slot {deployment['slot']:,}; its IDL is older"
                f" (from slot {given[-1]['slot_from']:,}, {given[-1]['source']})"
            )
    writer = document["writer"]
    alive = "" if writer is None else "alive" if writer["alive"] else "gone"
    print("writer  none" if writer is None else f"writer  {writer['holder']} (epoch {writer['epoch']}, {alive})")
    for line in wrong:
        print(f"wrong   {line}")
