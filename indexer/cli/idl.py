"""`indexer idl check|show|fetch`: what an IDL says, what is wrong with it, and what the chain holds."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from programs.errors import EXIT_UNREACHABLE, EXIT_WRONG, UserError

if TYPE_CHECKING:
    from programs.chain_idl import ChainIdl
    from programs.codec import Kind
    from programs.idl import Idl

_EPILOG = """examples:
  indexer idl check voting.json
  indexer idl show voting.json --json
  indexer idl fetch ADDRESS --url http://127.0.0.1:8899 --output voting.json
"""
_FETCH_SECONDS = 20.0


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sub.add_parser(
        "idl",
        help="validate an IDL, show what it would index, fetch it from the chain",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="check|show|fetch")
    for verb, text, function in (
        ("check", "name every problem with its JSON path; exit code 1 when one is an error", _check),
        ("show", "list events, accounts and instructions with their fields", _show),
    ):
        command = verbs.add_parser(
            verb, help=text, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.add_argument(
            "file",
            metavar="FILE",
            help="the IDL (of Anchor or Codama, also compressed or as the account that holds it), or builtin:community_voting",
        )
        command.add_argument("--json", action="store_true", help="one JSON document")
        command.set_defaults(func=function)
    fetch = verbs.add_parser(
        "fetch",
        help="read the IDL from the chain",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fetch.add_argument("address", metavar="ADDRESS", help="the program")
    fetch.add_argument("--url", default=None, help="the node's HTTP URL (default: the setting rpc_url)")
    fetch.add_argument("--output", metavar="FILE", help="write the IDL here (default: stdout)")
    fetch.add_argument("--json", action="store_true", help="the IDL is JSON in any case")
    fetch.set_defaults(func=_fetch)


def _check(args: argparse.Namespace) -> int:
    from programs.codec import compile_idl

    idl = _read(args.file)
    problems = [{"path": p.path, "severity": p.severity, "message": p.message} for p in idl.problems]
    for kind, name, reason in compile_idl(idl).unservable():
        problems.append({"path": _path(idl, kind, name), "severity": "error", "message": f"{kind} {name!r}: {reason}"})
    wrong = any(problem["severity"] == "error" for problem in problems)
    if args.json:
        print(
            json.dumps(
                {"name": idl.name, "format": "legacy" if idl.legacy else "0.30", "ok": not wrong, "problems": problems}
            )
        )
    else:
        for problem in problems:
            print(f"{problem['path']}: {problem['severity']}: {problem['message']}")
        counts = f"{len(idl.events)} events, {len(idl.accounts)} accounts, {len(idl.instructions)} instructions"
        print(f"{idl.name}: {counts}; {len(problems)} problems")
    return EXIT_WRONG if wrong else 0


def _show(args: argparse.Namespace) -> int:
    from programs.codec import compile_idl
    from programs.codec.describe import describe

    idl = _read(args.file)
    codec = compile_idl(idl)
    document: dict[str, Any] = {
        "name": idl.name,
        "version": idl.version,
        "address": idl.address,
        "format": "legacy" if idl.legacy else "0.30",
    }
    kinds: dict[Kind, Any] = {"event": idl.events, "account": idl.accounts, "instruction": idl.instructions}
    for kind, items in kinds.items():
        document[f"{kind}s"] = [
            {
                "name": item.name,
                "discriminator": item.discriminator.hex(),
                "layout": describe(codec.layout(kind, item.name)),
            }
            for item in items
        ]
    if args.json:
        print(json.dumps(document))
        return 0
    print(f"{idl.name} {idl.version} {idl.address or '(no address)'} ({document['format']} format)")
    for plural in ("events", "accounts", "instructions"):
        for item in document[plural]:
            print(f"  {plural[:-1]} {item['name']} [{item['discriminator']}] {_text(item['layout'])}")
    return 0


def _text(layout: Any) -> str:
    """A layout in one line, as a person would write it."""
    if isinstance(layout, dict):
        return "{" + ", ".join(f"{name}: {_text(inner)}" for name, inner in layout.items()) + "}"
    if isinstance(layout, list):
        return "(" + ", ".join(_text(inner) for inner in layout) + ")"
    return str(layout)


def _fetch(args: argparse.Namespace) -> int:
    from programs.base58 import address_bytes
    from programs.chain_idl import ChainIdlError
    from programs.urls import shown

    named, urls = _endpoints(args)
    try:
        program = address_bytes(args.address)
    except ValueError as error:
        raise UserError(f"ADDRESS: {error}; give the program's address") from None
    try:
        found = _fetched(program, named, urls)
    except ChainIdlError as error:
        raise UserError(f"ADDRESS {args.address}: {error}", EXIT_WRONG) from None
    if found is None:
        places = ", ".join(map(shown, urls))
        raise UserError(
            f"ADDRESS {args.address}: no IDL on the chain at {places}; give it as a file instead", EXIT_WRONG
        )
    if args.output:
        try:
            with open(args.output, "wb") as file:
                file.write(found.document)
        except OSError as error:
            raise UserError(
                f"--output {args.output}: {error.strerror or error}; give a path that can be written"
            ) from None
    else:
        sys.stdout.write(found.document.decode("utf-8", "replace"))
        sys.stdout.write("\n")
    print(f"from account {found.address} ({found.place})", file=sys.stderr)
    return 0


def _endpoints(args: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """What names the nodes, and their URLs in order of preference. UserError (2) when they are none."""
    from indexer.settings import endpoints, load

    if args.url is None:
        return "INDEXER_RPC_URL", load(args.config).rpc_urls
    try:
        return "--url", endpoints(args.url)
    except ValueError as error:
        raise UserError(f"--url: {error}") from None


def _fetched(program: bytes, named: str, urls: Sequence[str]) -> ChainIdl | None:
    """The program's IDL, read from the first endpoint that answers. UserError (3) when none does."""
    import asyncio

    from indexer.core.protocol import Failure
    from indexer.edges.parse import Watched
    from indexer.edges.rpc import RpcClient, RpcPolicy
    from programs import chain_idl

    async def fetch() -> ChainIdl | None:
        async with RpcClient(urls, Watched(()), RpcPolicy(deadline_s=_FETCH_SECONDS)) as rpc:

            async def account(address: str) -> bytes | None:
                data = await rpc.get_account(address)
                if isinstance(data, Failure):
                    raise UserError(f"{named}: {data.message}; check that it runs and serves it", EXIT_UNREACHABLE)
                return data

            return await chain_idl.fetch(program, account)

    return asyncio.run(fetch())


def _read(name: str) -> Idl:
    from indexer.cli.decode import read_idl

    return read_idl(name, "FILE")


def _path(idl: Idl, kind: str, name: str) -> str:
    items: tuple[Any, ...] = {"event": idl.events, "account": idl.accounts}.get(kind, idl.instructions)
    return next((str(item.path) for item in items if item.name == name), "$")
