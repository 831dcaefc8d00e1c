"""`indexer doctor`: every misconfiguration with its remedy, without changing anything."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, whether it is well, and what was seen or must be done."""

    check: str
    well: bool
    detail: str
    exit_code: int = 0


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = sub.add_parser(
        "doctor",
        help="every misconfiguration with its remedy",
        description="Check settings, database, schema, node, programs and IDLs. Nothing is changed.",
        epilog="example: indexer doctor --json",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """0 all well; else the gravest code of the findings: 2 configuration, 3 unreachable."""
    findings = examine(args.config)
    if args.json:
        print(json.dumps({"well": all(f.well for f in findings), "findings": [asdict(f) for f in findings]}))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.well else 'BAD '} {finding.check}: {finding.detail}")
    return max((finding.exit_code for finding in findings), default=0)


def examine(config: str | None) -> list[Finding]:
    """All checks, each on its own, so that one failure does not hide the next."""
    from indexer.settings import Settings, load
    from indexer.startup import check_cluster, load_idls
    from programs.errors import UserError
    from projections import bootstrap
    from projections.catalog import resolve
    from schema import db

    found: list[Finding] = []
    loaded: list[Settings] = []

    def check(name: str, work: Callable[[], str]) -> bool:
        try:
            found.append(Finding(name, True, work()))
            return True
        except UserError as error:
            found.append(Finding(name, False, str(error), error.exit_code))
            return False

    def settings() -> str:
        loaded.append(load(config))
        loaded[0].need_database()
        return f"{len(loaded[0].watched)} program(s), {len(loaded[0].rpc_urls)} RPC endpoint(s)"

    check("settings", settings)
    if not loaded:
        return found

    def schema() -> str:
        current, head = db.revisions(loaded[0].need_database())
        if current is None:
            return "empty database; run creates the schema"
        if current != head:
            raise UserError(f"the schema is at revision {current}, this program needs {head}; run: indexer db upgrade")
        return f"revision {current}"

    def projections() -> str:
        names = [name for program in loaded[0].watched for name in program.projections]
        for name in names:
            resolve(name)
        return ", ".join(names) or "none asked for; decoded events and accounts are always there"

    def node() -> str:
        idls = asyncio.run(load_idls(loaded[0]))
        said = [f"{', '.join(idls.newest)}: deployed, with an IDL that can be read"]
        for program in loaded[0].watched:
            spec = bootstrap.spec(program.name, program.address, 0, idls.newest[program.name], program.projections)
            said += [
                f"{p} has handlers of events that it lacks: {', '.join(e)}"
                for p, e in bootstrap.strangers(spec).items()
            ]
        return "; ".join(said)

    dsn = loaded[0].database_url
    names = [program.name for program in loaded[0].watched]
    if (
        dsn
        and check("database", lambda: db.check_dsn(dsn, loaded[0].connect_timeout_s, names))
        and check("schema", schema)
        and db.revisions(dsn)[0]
    ):
        check("cluster", lambda: asyncio.run(check_cluster(loaded[0])))
    if check("projections", projections):
        check("node and programs", node)
    return found
