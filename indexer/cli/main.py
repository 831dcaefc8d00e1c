"""The command line. Each command is a module beside this one; this file only finds it, runs it and turns errors into exit codes."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from programs.errors import UserError

# In the order of the help page.
COMMANDS = (
    "run",
    "backfill",
    "replay",
    "rebuild",
    "verify",
    "reconcile",
    "status",
    "doctor",
    "dead_letters",
    "explain",
    "decode",
    "idl",
    "db",
    "devnode",
    "demo",
    "simulate",
)
EPILOG = """exit codes:
  0  done and well
  1  done, and something is wrong (differences, dead letters, unhealthy)
  2  wrong usage or configuration; nothing was changed
  3  a needed service could not be reached in time
  130, 143  ended by a signal
"""


def version() -> str:
    """The version in pyproject.toml, of the installed package or of the tree that is run in place."""
    try:
        return metadata.version("community-voting-indexer")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        return str(tomllib.loads(project.read_text())["project"]["version"])


def parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    top = argparse.ArgumentParser(
        prog="indexer",
        description="A Solana indexer that proves it missed nothing, and the read models of a community-voting program.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"indexer {version()}")
    sub = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        try:
            module = importlib.import_module(f"indexer.cli.{name}")
        except ModuleNotFoundError as missing:
            if missing.name != f"indexer.cli.{name}":
                raise
            continue
        module.register(sub)
    for child in sub.choices.values():
        if not any("--config" in action.option_strings for action in child._actions):
            child.add_argument("--config", metavar="FILE", help="TOML file with settings (also INDEXER_CONFIG)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.func(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; nothing is wrong with us.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def entry() -> None:
    """Console script."""
    code = main()
    # The interpreter's last collections walk everything that was ever imported; a process that was told to end should end.
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    entry()
