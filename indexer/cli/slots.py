"""What `backfill` and `replay` share: the range, the progress, the output."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexer.history import Result

LINE_S = 5.0


def add_range(parser: argparse.ArgumentParser, *, first: bool = False) -> None:
    """--from-slot, --to-slot, --json. `first`: the word "first" is a slot too, that of the program's first transaction."""
    kind, more = (_slot_or_first, ', or "first": that of the program\'s first transaction') if first else (int, "")
    parser.add_argument("--from-slot", type=kind, required=True, metavar="A", help=f"the first slot{more}")
    parser.add_argument("--to-slot", type=int, metavar="B", help="the last slot, included")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def _slot_or_first(text: str) -> int | None:
    try:
        return None if text == "first" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is no slot; give a number, or "first"') from None


def over_range(name: str, args: argparse.Namespace, work: Callable[..., Awaitable[Result]]) -> Result:
    """Check the range, load the settings, run with a progress bar on a terminal and a line now and then otherwise."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from indexer.log import log
    from indexer.settings import load
    from programs.collector import keep_all
    from programs.errors import UserError

    if args.from_slot is not None and args.from_slot < 0:
        raise UserError(f"--from-slot {args.from_slot} is negative; slots begin at 0")
    if None not in (args.to_slot, args.from_slot) and args.to_slot < args.from_slot:
        raise UserError(
            f"--to-slot {args.to_slot} is before --from-slot {args.from_slot}; give the later one as --to-slot"
        )
    settings = load(args.config)
    settings.need_database()
    log.configure(settings.log_level, settings.log_format)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rows]}"),
        TimeRemainingColumn(),
    )
    said = time.monotonic()
    started = said
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(name, total=None, rows="")

        def progress(done: int, total: int, rows: int) -> None:
            nonlocal said
            now = time.monotonic()
            rate = rows / max(now - started, 0.001)
            bar.update(task, completed=done, total=total, rows=f"{rows:,} transactions, {rate:,.0f}/s")
            if bar.disable and now - said > LINE_S:
                said = now
                left = (now - started) / max(done, 1) * (total - done)
                log.info(
                    name, slots=done, of=total, transactions=rows, per_second=round(rate), seconds_left=round(left)
                )

        keep_all()
        return asyncio.run(_until_terminated(work(settings, args.from_slot, args.to_slot, progress)))


async def _until_terminated(work: Awaitable[Result]) -> Result:
    """SIGTERM ends the work as an interrupt does: the lease is given back, and the next run goes on where this one was."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None


def emit(args: argparse.Namespace, document: dict[str, Any], words: str) -> None:
    """The result, for a machine or a person."""
    print(json.dumps(document) if args.json else words)
