"""`indexer dead-letters`: what was parked and why."""

from __future__ import annotations

import argparse
import dataclasses
import sys

_EPILOG = """examples:
  indexer dead-letters list
  indexer dead-letters retry
  indexer dead-letters discard 17 --reason "written by a test program"
"""


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = sub.add_parser(
        "dead-letters",
        help="what was parked and why: list, show, retry, discard",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser(
        "list", help="the open ones, oldest first", epilog="example: indexer dead-letters list --all"
    )
    listing.add_argument("--all", action="store_true", help="the resolved ones too")
    show = verbs.add_parser("show", help="one, with its bytes", epilog="example: indexer dead-letters show 17")
    verbs.add_parser(
        "retry", help="apply all that is open, in order, after a fix", epilog="example: indexer dead-letters retry"
    )
    discard = verbs.add_parser(
        "discard", help="leave one out for good", epilog='example: indexer dead-letters discard 17 --reason "…"'
    )
    discard.add_argument("--reason", required=True, help="why; it is kept")
    for verb in (show, discard):
        verb.add_argument("id", type=int)
    for verb in verbs.choices.values():
        verb.add_argument("--json", action="store_true", help="JSON on stdout")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """0 nothing is parked, or done; 1 something is parked still."""
    from indexer.cli._projections import document, prepared
    from indexer.cli.output import table
    from projections import dead_letters

    settings, specs = prepared(args)
    dsn = settings.need_database()
    if args.verb == "list":
        letters = dead_letters.listed(dsn, resolved=args.all)
        if args.json:
            for x in letters:
                print(document(dataclasses.asdict(x)))
        elif letters:
            table(
                ("id", "projection", "slot", "event", "why", "scope", "error"),
                [
                    (x.id, x.projection, x.slot, x.event_name or "?", x.reason, x.scope or None, x.error)
                    for x in letters
                ],
            )
        else:
            print("nothing is parked", file=sys.stderr)
        if len(letters) == dead_letters.LISTED_MAX:
            print(f"these are the first {len(letters):,}; there may be more", file=sys.stderr)
        return 1 if any(x.resolved_at is None for x in letters) else 0
    if args.verb == "show":
        letter = dataclasses.asdict(dead_letters.shown(dsn, args.id))
        print(document(letter) if args.json else "\n".join(f"{name}: {value}" for name, value in letter.items()))
        return 0
    if args.verb == "retry":
        applied, left = dead_letters.retry(dsn, specs)
        print(document({"applied": applied, "left": left}) if args.json else f"{applied} applied, {left} left")
        return 1 if left else 0
    dead_letters.discard(dsn, specs, args.id, args.reason)
    print(document({"discarded": args.id}) if args.json else f"{args.id} discarded")
    return 0
