"""`python -m programs.community_voting`: the voting program for people."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from solders.keypair import Keypair
from solders.pubkey import Pubkey

from programs.community_voting.client import Account, VotingClient
from programs.community_voting.instructions import QuestionParams, Settings, community_address
from programs.errors import UserError

_EXAMPLE = """example:
  python -m programs.community_voting airdrop --sol 10
  python -m programs.community_voting create-community --id 1 --name "Friends of the park"
  python -m programs.community_voting create-question COMMUNITY "Shall we plant a tree?" --option Yes --option No --open-for 3600
  python -m programs.community_voting cast-vote QUESTION --select 0
  python -m programs.community_voting show QUESTION

The chain is public: --anonymous is a wish about display only. For secrecy until closing ask with --sealed.
"""

Answer = dict[str, Any]
Handler = Callable[[VotingClient, Keypair, argparse.Namespace], Awaitable[Answer]]


def _address(text: str) -> Pubkey:
    try:
        return Pubkey.from_string(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address (base58 of 32 bytes)") from None


def _salt(text: str) -> bytes:
    try:
        salt = bytes.fromhex(text)
    except ValueError:
        salt = b""
    if len(salt) != 32:
        raise argparse.ArgumentTypeError("must be 64 hexadecimal digits, as commit-vote printed them")
    return salt


def _u64(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 2^64 - 1")
    return int(text)


def _option_index(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 255:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of an option; the first is 0")
    return int(text)


async def _create_community(client: VotingClient, key: Keypair, a: argparse.Namespace) -> Answer:
    settings = Settings(**{field.name: getattr(a, field.name) for field in fields(Settings)})
    return {"community": str(await client.create_community(key, a.id, settings))}


async def _update_community(client: VotingClient, key: Keypair, a: argparse.Namespace) -> Answer:
    # What is not named stays as it is.
    present = (await client.community(a.community)).data["settings"]
    named = {f.name: getattr(a, f.name) for f in fields(Settings) if getattr(a, f.name) is not None}
    return _signed(await client.update_community(key, a.community, Settings(**{**present, **named})))


async def _create_question(client: VotingClient, key: Keypair, a: argparse.Namespace) -> Answer:
    closes_at = int(a.opens_at or time.time()) + a.open_for
    params = QuestionParams(
        text=a.text,
        options=tuple(a.option),
        closes_at=closes_at,
        ballot_kind="Sealed" if a.sealed else "Open",
        max_selections=a.max_selections,
        allow_changes=not a.final,
        quorum=a.quorum,
        eligibility="MembersBefore" if a.members_before else "ActiveMembers",
        opens_at=a.opens_at,
        reveal_until=closes_at + a.reveal_for if a.sealed else 0,
    )
    return {"question": str(await client.create_question(key, a.community, params)), "closes_at": closes_at}


async def _commit_vote(client: VotingClient, key: Keypair, a: argparse.Namespace) -> Answer:
    salt = a.salt or secrets.token_bytes(32)
    send = client.commit_vote if a.command == "commit-vote" else client.change_commitment
    signature = await send(key, a.question, a.select, salt, a.anonymous)
    return {
        "signature": str(signature),
        "selections": a.select,
        "salt": salt.hex(),
        "note": "keep selections and salt to reveal",
    }


async def _show(client: VotingClient, _: Keypair, a: argparse.Namespace) -> Answer:
    account = await client.account(a.address)
    if account is None:
        raise UserError(f"address: there is no account at {a.address} on {client.url}", 1)
    shown = _shown(account)
    if account.kind == "Community":
        shown["questions"] = [_shown(question) for question in await client.questions(a.address)]
        shown["members"] = [_shown(member) for member in await client.members(a.address)]
    return shown


def _shown(account: Account) -> Answer:
    data = dict(account.data)
    if account.kind == "Vote" and data["anonymous"]:
        # The voter asked not to be shown beside the selections, and the vote's address would tell.
        return {"kind": "Vote", **data, "voter": None}
    return {"kind": account.kind, "address": str(account.address), **data}


async def _eligibility(client: VotingClient, key: Keypair, a: argparse.Namespace) -> Answer:
    found = await client.eligibility(a.question, a.wallet or key.pubkey())
    return {"may_vote": found.may_vote, "reason": found.reason}


async def _airdrop(client: VotingClient, key: Keypair, a: argparse.Namespace) -> Answer:
    signature = await client.airdrop(a.wallet or key.pubkey(), round(a.sol * 1_000_000_000))
    return {"wallet": str(a.wallet or key.pubkey()), "signature": str(signature)}


async def _address_of(_: VotingClient, key: Keypair, a: argparse.Namespace) -> Answer:
    answer = {"wallet": str(key.pubkey())}
    return answer if a.id is None else {**answer, "community": str(community_address(key.pubkey(), a.id))}


def _signed(signature: object) -> Answer:
    return {"signature": str(signature)}


def _plain(method: str, *arguments: str) -> Handler:
    """A command that is a method of the client with these arguments."""

    async def handler(client: VotingClient, key: Keypair, a: argparse.Namespace) -> Answer:
        return _signed(await getattr(client, method)(key, *(getattr(a, name) for name in arguments)))

    return handler


def _settings(parser: argparse.ArgumentParser, required: bool) -> None:
    defaults = Settings("")

    def default(name: str) -> Any:
        return getattr(defaults, name) if required else None

    parser.add_argument("--name", required=required, help="1 to 64 bytes")
    parser.add_argument("--description", default=default("description"), help="up to 256 bytes")
    parser.add_argument("--join-policy", choices=("Open", "Approval", "Closed"), default=default("join_policy"))
    parser.add_argument("--voting-period-min", type=int, metavar="SECONDS", default=default("voting_period_min"))
    parser.add_argument("--voting-period-max", type=int, metavar="SECONDS", default=default("voting_period_max"))
    parser.add_argument("--max-options", type=int, default=default("max_options"), help="2 to 10")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m programs.community_voting",
        description="Use the community voting program.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--url", default="http://127.0.0.1:8899", help="JSON-RPC address (default %(default)s)")
    common.add_argument(
        "--keypair",
        metavar="FILE",
        default="~/.config/solana/id.json",
        help="the wallet that signs (default %(default)s)",
    )
    common.add_argument("--json", action="store_true", help="one JSON document on stdout")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str, handler: Handler, *addresses: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, parents=[common])
        for address in addresses:
            added.add_argument(address, type=_address, metavar=address.upper())
        added.set_defaults(handler=handler)
        return added

    create = command("create-community", "found a community", _create_community)
    create.add_argument("--id", type=_u64, required=True, help="a number of your choice, one a community")
    _settings(create, required=True)
    _settings(command("update-community", "replace settings", _update_community, "community"), required=False)
    hand = _plain("transfer_authority", "community", "wallet")
    command("transfer-authority", "hand the authority to a member", hand, "community", "wallet")
    command("dissolve-community", "end a community, for good", _plain("dissolve_community", "community"), "community")
    command("join", "join, apply, or accept an invitation", _plain("join", "community"), "community")
    command("leave", "leave, or take an application back", _plain("leave", "community"), "community")
    for name, text in (
        ("invite", "invite a wallet"),
        ("approve", "accept an application"),
        ("reject", "turn an application down, or take an invitation back"),
        ("remove", "put a member out"),
    ):
        command(name, text, _plain(name, "community", "wallet"), "community", "wallet")
    give = _plain("change_role", "community", "wallet", "role")
    role = command("change-role", "give a member another role", give, "community", "wallet")
    role.add_argument("role", choices=("Member", "Moderator", "Admin"))
    ask = command("create-question", "ask a question", _create_question, "community")
    ask.add_argument("text", help="1 to 256 bytes")
    ask.add_argument(
        "--option", action="append", required=True, metavar="TEXT", help="2 to 10 times; up to 40 bytes each"
    )
    ask.add_argument(
        "--open-for", type=int, default=3600, metavar="SECONDS", help="voting period (default %(default)s)"
    )
    ask.add_argument("--opens-at", type=int, default=0, metavar="UNIX", help="default: now")
    ask.add_argument("--max-selections", type=int, default=1, help="default %(default)s")
    ask.add_argument("--quorum", type=int, default=0, help="ballots that a decision needs (default %(default)s)")
    ask.add_argument("--final", action="store_true", help="votes cannot be changed or withdrawn")
    ask.add_argument("--members-before", action="store_true", help="only who was a member before may vote")
    ask.add_argument("--sealed", action="store_true", help="sealed ballots: commit, then reveal")
    ask.add_argument(
        "--reveal-for", type=int, default=3600, metavar="SECONDS", help="with --sealed (default %(default)s)"
    )
    command("cancel-question", "call a question off", _plain("cancel_question", "question"), "question")
    command("close-question", "settle a question whose time is over", _plain("close_question", "question"), "question")
    for name, text in (("cast-vote", "vote"), ("change-vote", "replace your selections")):
        vote = command(name, text, _plain(name.replace("-", "_"), "question", "select", "anonymous"), "question")
        vote.add_argument("--anonymous", action="store_true", help="a wish about display; the chain is public")
        vote.add_argument(
            "--select", type=_option_index, action="append", required=True, metavar="N", help="option; repeatable"
        )
    for name, text in (("commit-vote", "commit to a sealed ballot"), ("change-commitment", "replace a sealed ballot")):
        seal = command(name, text, _commit_vote, "question")
        seal.add_argument("--anonymous", action="store_true", help="a wish about display; the chain is public")
        seal.add_argument(
            "--select", type=_option_index, action="append", required=True, metavar="N", help="option; repeatable"
        )
        seal.add_argument("--salt", type=_salt, metavar="HEX", help="default: random, printed")
    reveal = command(
        "reveal-vote", "open a sealed ballot", _plain("reveal_vote", "question", "select", "salt"), "question"
    )
    reveal.add_argument("--select", type=_option_index, action="append", required=True, metavar="N")
    reveal.add_argument("--salt", type=_salt, required=True, metavar="HEX")
    command("withdraw-vote", "take your vote back", _plain("withdraw_vote", "question"), "question")
    command("reclaim-vote", "get the rent of a settled vote back", _plain("reclaim_vote", "question"), "question")
    command("show", "show an account; a community with its members and questions", _show, "address")
    may = command("eligibility", "may a wallet vote, and why (not)", _eligibility, "question")
    may.add_argument("--wallet", type=_address, help="default: your own")
    drop = command("airdrop", "test money, where the cluster gives it", _airdrop)
    drop.add_argument("--sol", type=float, default=1.0)
    drop.add_argument("--wallet", type=_address, help="default: your own")
    whose = command("address", "your wallet's address, and your community's", _address_of)
    whose.add_argument("--id", type=_u64, help="of the community")
    new = command("keygen", "write a new wallet to --keypair", _address_of)
    new.set_defaults(id=None)
    return parser


def _keypair(arguments: argparse.Namespace) -> Keypair:
    path = Path(arguments.keypair).expanduser()
    if arguments.command == "keygen":
        if path.exists():
            raise UserError(f"keypair: {path} exists and is not overwritten; name another file")
        key = Keypair()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(list(bytes(key))))
        return key
    if arguments.command == "show" and not path.exists():
        return Keypair()
    try:
        return Keypair.from_bytes(bytes(json.loads(path.read_text())))
    except FileNotFoundError:
        raise UserError(f"keypair: there is no {path}; make one with `keygen --keypair {path}`") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"keypair: {path} holds no key ({type(error).__name__}); use a file of solana-keygen"
        ) from error


def _print(answer: Any, indent: int = 0) -> None:
    """`name: value` lines, nested by two blanks."""
    pad = " " * indent
    for name, value in answer.items():
        if isinstance(value, dict):
            print(f"{pad}{name}:")
            _print(value, indent + 2)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{pad}{name}:")
            for item in value:
                print(f"{pad}  -")
                _print(item, indent + 4)
        else:
            print(f"{pad}{name}: {value}")


async def _run(arguments: argparse.Namespace) -> Answer:
    key = _keypair(arguments)
    async with VotingClient(arguments.url) as client:
        handler: Handler = arguments.handler
        return await handler(client, key, arguments)


def main(words: list[str] | None = None) -> int:
    """Exit codes as for every command: 0, 1 refused, 2 wrong usage, 3 out of reach."""
    arguments = _parser().parse_args(words)
    try:
        answer = asyncio.run(_run(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    if arguments.json:
        print(json.dumps(answer))
    else:
        _print(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
