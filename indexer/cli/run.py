"""`indexer run`: the daemon."""

from __future__ import annotations

import argparse
import asyncio
import json


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = sub.add_parser(
        "run",
        help="the daemon: subscribe, seal, project, audit, serve metrics and health",
        description="Follow the chain until SIGTERM. A second one on the same database waits as a standby.",
        epilog="example: INDEXER_DATABASE_URL=postgresql://localhost/voting indexer run --until-slot 5000",
    )
    parser.add_argument("--until-slot", type=int, metavar="N", help="end after slot N is sealed and projected")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--ingest-only", action="store_true", help="seal, and leave projecting to another process")
    split.add_argument("--project-only", action="store_true", help="project what another process seals")
    parser.add_argument(
        "--commitment", choices=("confirmed", "finalized"), help="what is sealed first (default confirmed)"
    )
    parser.add_argument("--metrics-port", type=int, help="0 picks a free port")
    parser.add_argument("--json", action="store_true", help="one JSON document at the end")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0 after SIGTERM, 130 after SIGINT, 129 after SIGHUP, 1 when --until-slot can't be reached, 2 and 3 as everywhere."""
    from indexer.app import Daemon, RunOptions
    from indexer.core.protocol import Slot
    from indexer.log import log
    from indexer.settings import load
    from programs.collector import keep_all
    from programs.errors import UserError

    if args.until_slot is not None and args.until_slot < 0:
        raise UserError(f"--until-slot {args.until_slot} is negative; give the slot to stop after")
    overrides = {name: value for name in ("commitment", "metrics_port") if (value := getattr(args, name)) is not None}
    settings = load(args.config, **overrides)
    settings.need_database()
    log.configure(settings.log_level, settings.log_format)
    until = None if args.until_slot is None else Slot(args.until_slot)
    daemon = Daemon(settings, RunOptions(not args.project_only, not args.ingest_only, until, own_process=True))
    keep_all()
    code = asyncio.run(daemon.run())
    if args.json:
        state = daemon.state
        print(
            json.dumps(
                {
                    "sealed_slot": state.sealed,
                    "tip_slot": _read(state.tip),
                    "finalized_slot": _read(state.finalized),
                    "rows": state.rows,
                }
            )
        )
    return code


def _read(slot: int) -> int | None:
    """A slot that was read from the node; nothing was when everything asked for was there already."""
    return None if slot < 0 else slot
