"""`indexer explain`: the events that made a row."""

from __future__ import annotations

import argparse
import dataclasses


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = sub.add_parser(
        "explain",
        help="the events that made a row, with slot and signature",
        epilog="example:\n  indexer explain voting.questions 9xQeWvG816bUx9EPjHmaT23yvVM2ZWbrrpZb9PusVFin",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", metavar="TABLE", help="such as voting.questions")
    parser.add_argument(
        "key", metavar="KEY", nargs="+", help="the row's key: an address, or a value for each column of the key"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """0 explained, 1 there is no such row, 2 there is no such table."""
    from indexer.cli._projections import document, prepared
    from projections.explain import explain

    settings, specs = prepared(args)
    steps = explain(settings.need_database(), specs, args.table, args.key)
    if args.json:
        print(
            document({"table": args.table, "key": " ".join(args.key), "steps": [dataclasses.asdict(s) for s in steps]})
        )
        return 0
    for step in steps:
        print(f"slot {step.slot}  {step.time or '-'}  {step.event}  {step.signature}")
        for name, (old, new) in step.changes.items():
            print(f"    {name}: {new!r}" if step.made else f"    {name}: {old!r} -> {new!r}")
    return 0
