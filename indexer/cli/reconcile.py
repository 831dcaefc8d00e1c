"""`indexer reconcile`: projected tables against the accounts on the chain, field by field."""

from __future__ import annotations

import argparse
import dataclasses


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = sub.add_parser(
        "reconcile",
        help="compare the tables with the accounts on the chain, field by field",
        description="Read every account of the programs and compare it with its row. Exit code 1 when something differs.",
        epilog="example:\n  indexer reconcile --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="how long the tables may take to catch up"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """0 equal, 1 something differs, 3 the node or the tables did not come in time."""
    from indexer.cli._projections import document, prepared
    from indexer.cli.output import table
    from projections.reconcile import reconcile

    settings, specs = prepared(args)
    report = reconcile(settings.need_database(), specs, settings.rpc_urls, timeout_s=args.timeout)
    if args.json:
        print(document(dataclasses.asdict(report)))
    else:
        if report.differences:
            rows = [
                (
                    d.table or d.projection,
                    d.key,
                    d.field or "(whole)",
                    d.updated_slot,
                    repr(d.in_table),
                    repr(d.on_chain),
                )
                for d in report.differences
            ]
            table(("table", "account", "field", "changed in slot", "in the table", "on the chain"), rows)
        print(
            f"slot {report.slot}: {report.accounts:,} accounts, {report.rows:,} rows, {len(report.differences):,} differences"
        )
        if report.remedy:
            print(f"remedy: {report.remedy}")
    return 1 if report.differences else 0
