"""The command line. Each command is a module beside this one; this file only finds it, runs it and turns errors into exit codes."""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import os
import sys
import tomllib
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from indexer.cli.output import discard, unheard
from indexer.log import printable
from programs.errors import EXIT_WRONG, UserError

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
        _takes_config(child, None)
    return top


def _takes_config(command: argparse.ArgumentParser, default: object) -> None:
    """Give a command and its verbs `--config`. A verb has no default: it would replace what was given before the verb."""
    if not any("--config" in action.option_strings for action in command._actions):
        text = "TOML file with settings (also INDEXER_CONFIG)"
        command.add_argument("--config", metavar="FILE", default=default, help=text)
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _takes_config(verb, argparse.SUPPRESS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _streams()
    try:
        arguments = parser().parse_args(argv)
        code = int(arguments.func(arguments))
        with unheard():
            sys.stdout.flush()
        return code
    except UserError as error:
        return _told(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; nothing is wrong with us.
        discard()
        return 0
    except Exception as error:
        return _unforeseen(error)


def _streams() -> None:
    """Output that any terminal and any locale takes: what has no letter there is written as an escape. A stream that the caller closed becomes
    the null device, so that nothing of ours lands in a file that was opened in its place."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the life of the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _unforeseen(error: Exception) -> int:
    """What no command foresaw, in one line. INDEXER_LOG_LEVEL=debug shows where it came from."""
    if os.environ.get("INDEXER_LOG_LEVEL", "").lower() == "debug":
        traceback.print_exc()
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        discard()
        return _told(UserError(f"the output can't be written: {error.strerror}", EXIT_WRONG))
    if any(base.__module__.partition(".")[0] in ("psycopg", "sqlalchemy") for base in type(error).__mro__):
        from schema.db import trouble

        return _told(trouble(error))
    text = (str(error).strip().splitlines() or [""])[0][:300]
    return _told(
        UserError(f"unforeseen {type(error).__name__}: {text}; INDEXER_LOG_LEVEL=debug shows where", EXIT_WRONG)
    )


def _told(error: UserError) -> int:
    print(f"error: {printable(str(error))}", file=sys.stderr)
    return error.exit_code


def entry() -> None:
    """Console script."""
    code = main()
    # The interpreter's last collections walk everything that was ever imported; a process that was told to end should end.
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    entry()
