"""`indexer rebuild`: fold the ledger into fresh tables, print the row differences, swap."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from programs.errors import UserError

if TYPE_CHECKING:
    from indexer.cli.output import Tell
    from projections.rebuild import Report, TableDifference, Waiting

_EPILOG = """examples:
  indexer rebuild --dry-run
  indexer rebuild voting
  indexer rebuild voting --as-of-slot 250000000 --schema past
"""


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = sub.add_parser(
        "rebuild",
        help="fold the ledger into fresh tables, print the row differences, swap",
        description="Build tables beside the live ones, compare them row for row, and swap in one transaction; readers do not wait.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="what to rebuild (default: events and every projection)"
    )
    parser.add_argument("--dry-run", action="store_true", help="compare only; exit code 1 when something differs")
    parser.add_argument("--as-of-slot", type=int, metavar="N", help="the state after slot N, beside; needs --schema")
    parser.add_argument("--schema", metavar="S", help="where the views of --as-of-slot go; must not exist")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """0 done (dry run: nothing differs), 1 dead letters, or differences in a dry run."""
    if (args.as_of_slot is None) != (args.schema is None):
        raise UserError("--as-of-slot and --schema belong together; give both")
    if (args.schema is not None and not 0 < len(args.schema.encode()) < 64) or str(args.schema).startswith("pg_"):
        raise UserError(
            f"--schema {args.schema}: no name that a schema can have; give one of 1 to 63 bytes that does not begin with pg_"
        )
    if args.as_of_slot is not None and args.as_of_slot < 0:
        raise UserError(f"--as-of-slot = {args.as_of_slot}: give a slot of 0 or more")
    if args.as_of_slot is not None and args.dry_run:
        raise UserError("--dry-run and --as-of-slot exclude each other; --as-of-slot changes no live table")
    from indexer.cli._projections import document, prepared
    from indexer.cli.output import progress
    from projections import rebuild

    settings, specs = prepared(args)
    known = rebuild.names(specs)
    names = args.names or [n for n in known if args.as_of_slot is None or n != "events"]
    for name in names:
        if name != "events":
            rebuild.find(specs, name)
        elif args.as_of_slot is not None:
            raise UserError("events: --as-of-slot needs a projection; events carry their slot already")
    if args.as_of_slot is not None and len(names) > 1:
        raise UserError(f"--as-of-slot takes one projection; name one of {', '.join(names)}")
    as_of = None if args.as_of_slot is None else (args.as_of_slot, args.schema)
    reports = []
    for name in names:
        with progress(f"rebuild {name}", "transactions") as tell:
            reports.append(
                rebuild.rebuild(
                    settings.need_database(),
                    specs,
                    name,
                    dry_run=args.dry_run,
                    as_of=as_of,
                    progress=tell,
                    # Told before the swap: who does not like them can still end the command.
                    compared=None if args.json else _tell(name),
                    waits=_waits(tell),
                )
            )
    if args.json:
        print(document({"projections": [dataclasses.asdict(r) for r in reports]}))
    else:
        _show(reports, args)
    differ = any(not d.equal for r in reports for d in r.differences)
    return 1 if any(r.dead_letters for r in reports) or (args.dry_run and differ) else 0


def _waits(tell: Tell) -> Callable[[Waiting], None]:
    return lambda waiting: tell.waits(str(waiting))


def _tell(name: str) -> Callable[[tuple[TableDifference, ...]], None]:
    from indexer.cli.output import unheard

    def tell(found: tuple[TableDifference, ...]) -> None:
        # Who only wanted the first lines did not ask that the swap be left out.
        with unheard():
            _differences(name, found)
            sys.stdout.flush()

    return tell


def _differences(name: str, found: tuple[TableDifference, ...]) -> None:
    print(f"{name}: the new tables against those that serve now")
    for d in found:
        print(f"  {d.table:<16} {d.rows:>10,} rows  +{d.added} -{d.removed} ~{d.changed}")
        for key, old, new in d.examples:
            names = sorted(n for n in {**(old or {}), **(new or {})} if (old or {}).get(n) != (new or {}).get(n))
            print(f"    {key}: {'only new' if old is None else 'only old' if new is None else ', '.join(names)}")


def _show(reports: Sequence[Report], args: argparse.Namespace) -> None:
    for report in reports:
        how = f"built in schema {args.schema}" if args.schema else "swapped" if report.swapped else "compared only"
        print(f"{report.projection}: {report.transactions:,} transactions, {how}, {report.dead_letters} dead letters")
