"""`indexer devnode`: a Solana node for development on this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solders.pubkey import Pubkey

    from programs.devnode import DevNode

_EXAMPLE = """examples:
  indexer devnode                                               # ports 8899 and 8900, a slot every 400 ms
  indexer devnode --program ADDRESS=build/program.so --airdrop WALLET=100
  indexer devnode --slot-ms 0                                   # slots pass by the method devnode_advanceSlot only
  indexer devnode --fault lost-notifications=0.1 --fault forks=0.05,depth=3 --seed 7
  indexer devnode --snapshot state.bin                          # saved when it ends
  indexer devnode --restore state.bin                           # and gone on from
  indexer devnode --rpc-port 0 --ws-port 0 --json               # free ports, printed as one JSON line when ready
  indexer devnode --faults                                      # what can be made to go wrong
  solana airdrop 10 WALLET --url http://127.0.0.1:8899          # any client works: solana-py, web3.js, the Solana CLI
"""
_LAMPORTS_A_SOL = 1_000_000_000


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = sub.add_parser(
        "devnode",
        help="run a development chain: the real VM behind JSON-RPC and PubSub, with faults on demand",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rpc-port", type=int, default=8899, help="HTTP port; 0: any free one (default %(default)s)")
    parser.add_argument(
        "--ws-port", type=int, default=8900, help="WebSocket port; 0: any free one (default %(default)s)"
    )
    parser.add_argument(
        "--witness-port",
        type=int,
        metavar="PORT",
        help="a second HTTP port on the same chain, without these faults and with its own by devnode_setFault there",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument(
        "--slot-ms",
        type=float,
        default=400.0,
        help="length of a slot; 0: slots pass by devnode_advanceSlot only (default %(default)s)",
    )
    parser.add_argument(
        "--as-fast-as-possible",
        action="store_true",
        help="pass slots without a pause; a blockhash then lives for an instant",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the genesis and of all faults (default %(default)s)"
    )
    parser.add_argument(
        "--program", action="append", default=[], metavar="ADDRESS=FILE.so", help="load a program; repeatable"
    )
    parser.add_argument(
        "--airdrop",
        action="append",
        default=[],
        metavar="ADDRESS[=SOL]",
        help="give this wallet SOL at the start (100 when none are named); repeatable",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME=RATE[,key=number]",
        help="switch a fault on; repeatable",
    )
    parser.add_argument(
        "--faults", action="store_true", help="list the faults with their units and end; also with --json"
    )
    parser.add_argument(
        "--ledger-limit", type=int, default=100_000, metavar="SLOTS", help="blocks to keep (default %(default)s)"
    )
    parser.add_argument(
        "--ledger-transactions",
        type=int,
        default=250_000,
        metavar="N",
        help="transactions to keep (default %(default)s)",
    )
    parser.add_argument(
        "--log-bytes-limit",
        type=int,
        default=10_000,
        help="bytes of a transaction's log; 0: no limit (default %(default)s)",
    )
    parser.add_argument(
        "--confirmed-lag",
        type=int,
        default=0,
        metavar="SLOTS",
        help="confirmed behind the newest block (default %(default)s)",
    )
    parser.add_argument(
        "--finalized-lag",
        type=int,
        default=31,
        metavar="SLOTS",
        help="finalized behind the newest block (default %(default)s)",
    )
    parser.add_argument(
        "--ws-queue-items",
        type=int,
        default=1_000,
        help="notifications in a burst after which a client is dropped (default %(default)s)",
    )
    parser.add_argument(
        "--restore", metavar="FILE", help="go on from a snapshot: its accounts, blocks, programs and seed"
    )
    parser.add_argument(
        "--snapshot",
        metavar="FILE",
        help="write a snapshot there at the end, and when devnode_saveSnapshot asks for it",
    )
    parser.add_argument("--block-subscription", action="store_true", help="allow blockSubscribe")
    parser.add_argument(
        "--no-transaction-index", action="store_true", help="leave transactionIndex out, as nodes before 4.0 do"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line when ready")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; exit code 0."""
    import asyncio
    import json
    import signal
    from pathlib import Path

    from solders.pubkey import Pubkey

    from programs.devnode import DevNode, DevNodeConfig
    from programs.devnode.faults import KINDS, parse_fault
    from programs.errors import UserError

    if args.faults or any(text.endswith("=help") or text == "help" for text in args.fault):
        listing = {n: {"what": k.summary, "rate": k.rate_unit, "parameters": dict(k.params)} for n, k in KINDS.items()}
        if args.json:
            print(json.dumps(listing))
        else:
            for name, kind in sorted(KINDS.items()):
                print(f"{name:24} {kind.summary}\n{'':24} {kind.described()}")
        return 0
    programs: dict[str, Path | bytes] = {}
    for text in args.program:
        address, equals, file = text.partition("=")
        path = Path(file)
        if not equals or not path.is_file():
            raise UserError(f"--program {text!r}: give ADDRESS=FILE.so with a file that exists")
        try:
            programs[str(Pubkey.from_string(address))] = path
        except ValueError:
            raise UserError(f"--program {text!r}: {address!r} is not an address (32 bytes in base58)") from None
        if path.read_bytes()[:4] != b"\x7fELF":
            raise UserError(f"--program {text!r}: {file} is not an ELF file; give the built .so of the program")
    drops = [_airdrop(text) for text in args.airdrop]
    config = DevNodeConfig(
        rpc_port=args.rpc_port,
        ws_port=args.ws_port,
        witness_port=args.witness_port,
        host=args.host,
        slot_ms=args.slot_ms,
        as_fast_as_possible=args.as_fast_as_possible,
        seed=args.seed,
        confirmed_lag_slots=args.confirmed_lag,
        finalized_lag_slots=args.finalized_lag,
        ledger_slots_max=args.ledger_limit,
        ledger_transactions_max=args.ledger_transactions,
        log_bytes_max=args.log_bytes_limit or None,
        ws_queue_items_max=args.ws_queue_items,
        block_subscription=args.block_subscription,
        transaction_index=not args.no_transaction_index,
        programs=programs,
        restore=Path(args.restore) if args.restore else None,
        snapshot=Path(args.snapshot) if args.snapshot else None,
        faults=dict(parse_fault(text) for text in args.fault),
    )

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with DevNode(config) as node:
            for address, lamports in drops:
                await node.airdrop(address, lamports)
            print(json.dumps(_ready(node)) if args.json else _banner(node), flush=True)
            await node.run_until(stop)
            if config.snapshot is not None:
                node.save(config.snapshot)

    asyncio.run(serve())
    return 0


def _airdrop(text: str) -> tuple[Pubkey, int]:
    from decimal import Decimal, InvalidOperation

    from solders.pubkey import Pubkey

    from programs.errors import UserError

    address, _, amount = text.partition("=")
    try:
        lamports = int(Decimal(amount or "100") * _LAMPORTS_A_SOL)
        if not 0 < lamports < 1 << 63:
            raise ValueError
        return Pubkey.from_string(address), lamports
    except (InvalidOperation, ValueError, OverflowError):
        raise UserError(f"--airdrop {text!r}: give ADDRESS or ADDRESS=SOL, for instance WALLET=2.5") from None


def _ready(node: DevNode) -> dict[str, Any]:
    """What a program that started the node wants to know."""
    ready = {
        "rpc_url": node.rpc_url,
        "ws_url": node.ws_url,
        "genesis_hash": node.chain.genesis_hash,
        "seed": node.chain.seed,
    }
    return {**ready, "witness_url": node.witness_url} if node.witness_url else ready


def _banner(node: DevNode) -> str:
    """The same for a person."""
    config = node.config
    pace = f"every {config.slot_ms:g} ms"
    if config.as_fast_as_possible:
        pace = "as fast as possible"
    elif not config.slot_ms:
        pace = "by the method devnode_advanceSlot only"
    lines = {
        "JSON-RPC": node.rpc_url,
        "PubSub": node.ws_url,
        "Witness": node.witness_url,
        "Faucet": f"requestAirdrop, or: solana airdrop 10 WALLET --url {node.rpc_url}",
        "Slots": f"{pace}; now at {node.chain.tip.slot}, seed {node.chain.seed}",
        "Programs": ", ".join(config.programs),
        "Faults": ", ".join(f"{name} {setting['rate']:g}" for name, setting in node.faults.settings().items()),
        "Snapshot": "" if config.snapshot is None else f"{config.snapshot}, when it ends or devnode_saveSnapshot asks",
        "Stop": "Ctrl-C",
    }
    return "\n".join(f"{name:9} {value}" for name, value in lines.items() if value)
