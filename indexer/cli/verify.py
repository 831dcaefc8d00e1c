"""`indexer verify`: the ledger against its own seals and digests."""

from __future__ import annotations

import argparse
import json


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = sub.add_parser(
        "verify",
        help="the ledger against its own seals and digests",
        description="Recompute every digest and chain, check that positions and seals have no hole, and that nothing may be changed.",
        epilog="example: indexer verify --from-slot 250000000 --json",
    )
    parser.add_argument("--from-slot", type=int, metavar="A", help="look at rows and seals from this slot on")
    parser.add_argument("--to-slot", type=int, metavar="B", help="look at rows and seals up to this slot")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0 when everything fits, 1 when something does not."""
    from indexer.cli.output import progress
    from indexer.settings import load
    from programs.errors import UserError
    from schema import db
    from schema.verify import verify

    for name, slot in (("--from-slot", args.from_slot), ("--to-slot", args.to_slot)):
        if slot is not None and not 0 <= slot < 1 << 63:
            raise UserError(f"{name} {slot} is no slot; give a number from 0 on")
    if args.from_slot is not None and args.to_slot is not None and args.from_slot > args.to_slot:
        raise UserError(f"--from-slot {args.from_slot} lies after --to-slot {args.to_slot}; swap them")
    dsn = load(getattr(args, "config", None)).need_database()
    db.check_schema(dsn)

    with db.connect(dsn) as conn, progress("verify", "transactions") as tell:
        row = conn.execute("SELECT position FROM ledger.checkpoints WHERE name = 'ledger'").fetchone()
        total = int(row[0] or 0) if row is not None else 0
        report = verify(conn, args.from_slot, args.to_slot, progress=lambda rows: tell(rows, max(rows, total)))
    if args.json:
        document = {
            "ok": report.ok,
            "rows": report.rows,
            "seals": report.seals,
            "last_position": report.last_position,
            "differences_total": report.differences_total,
            "differences": report.differences,
        }
        print(json.dumps(document))
    else:
        for line in report.differences:
            print(line)
        if report.differences_total > len(report.differences):
            print(f"… and {report.differences_total - len(report.differences)} more")
        verdict = "everything fits" if report.ok else f"{report.differences_total} differences"
        print(f"{report.rows} rows, {report.seals} seals, last position {report.last_position}: {verdict}")
    return 0 if report.ok else 1
