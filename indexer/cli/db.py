"""`indexer db`: migrations and roles."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its verbs."""
    parser = sub.add_parser(
        "db",
        help="migrations and roles",
        description="Bring the database's schema up or down, empty it, or make the readers' role.",
        epilog="example: indexer db upgrade",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in (
        ("upgrade", "bring the schema up to this program's revision"),
        ("downgrade", "take the schema down to a revision"),
        ("current", "the revision of the database and that of this program"),
        ("reset", "drop everything of ours and create it anew; asks for the database's name"),
        ("roles", "create the readers' role and let it read the views"),
    ):
        shown = " 0003" if name == "downgrade" else ""
        verb = verbs.add_parser(name, help=text, description=text, epilog=f"example: indexer db {name}{shown}")
        if name in ("upgrade", "downgrade"):
            default = "head" if name == "upgrade" else None
            verb.add_argument(
                "revision", nargs="?" if default else None, default=default, help="head, base, or a revision's number"
            )
        if name in ("downgrade", "reset"):
            verb.add_argument("--yes", metavar="DATABASE", help="the database's name, given instead of being asked for")
        verb.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0; for `current` 1 when the database is at another revision than this program's."""
    from indexer.settings import load
    from schema import db

    dsn = load(args.config).need_database()
    db.check_dsn(dsn)
    verb = args.verb
    if verb == "upgrade":
        db.upgrade(dsn, args.revision)
    elif verb == "downgrade":
        _confirm(dsn, args.yes, "downgrade")
        db.downgrade(dsn, args.revision)
    elif verb == "reset":
        _confirm(dsn, args.yes, "reset")
        db.reset(dsn)
    elif verb == "roles":
        return _roles(dsn, args.json)
    current, head = db.revisions(dsn)
    _say(args.json, {"current": current, "head": head}, f"at revision {current or 'none'}, this program's is {head}")
    return 1 if verb == "current" and current != head else 0


def _roles(dsn: str, as_json: bool) -> int:
    from schema import db, roles

    with db.connect(dsn) as conn:
        made = roles.ensure_reader_role(conn, roles.read_schemas(conn))
    text = (
        f"role {roles.READER} reads the views"
        if made
        else (
            f"role {roles.READER} is missing and may not be created by us; as an administrator: CREATE ROLE {roles.READER} NOLOGIN"
        )
    )
    _say(as_json, {"role": roles.READER, "ready": made}, text)
    return 0 if made else 1


def _confirm(dsn: str, given: str | None, what: str) -> None:
    """UserError, exit code 2, unless the database's name is given, by option or by answer. Nothing was changed then."""
    from programs.errors import UserError
    from schema import db

    with db.connect(dsn) as conn:
        name = conn.info.dbname
    if given is None and sys.stdin.isatty():
        print(
            f"This deletes data of the database {name!r}. Type its name to go on: ", end="", file=sys.stderr, flush=True
        )
        given = sys.stdin.readline().strip()
    if given != name:
        said = "no name was given" if given is None else f"{given!r} is not its name"
        raise UserError(f"db {what}: the database is {name!r} and {said}; repeat with --yes {name}")


def _say(as_json: bool, document: dict[str, Any], text: str) -> None:
    print(json.dumps(document) if as_json else text)
