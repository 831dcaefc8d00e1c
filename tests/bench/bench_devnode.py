"""The development node: how soon it is up, how fast transactions land, how fast subscribers hear of them, and what history costs.

`python -m tests.bench.bench_devnode [--json] [--transactions N] [--history N]`. The node is a process of its own; its CPU seconds
stand beside the wall's, for the client that sends to it wants a core too. Transactions are votes, signed ahead, sent by HTTP in batches of 40.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from solders.compute_budget import set_compute_unit_limit
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from programs.community_voting import artifact
from programs.community_voting import instructions as voting
from programs.community_voting.instructions import QuestionParams, Settings
from programs.devnode import DevNode, DevNodeConfig
from programs.devnode.chain import Chain
from programs.devnode.vm import Machine

BATCH = 40
IN_FLIGHT = 4
SUBSCRIBERS = 10
BLOCK_TRANSACTIONS = 200
WALLETS = 200


@contextlib.contextmanager
def node_process(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any], float]]:
    """A node with the voting program; the process, what it printed, and the seconds until it was ready."""
    command = [sys.executable, "-m", "indexer", "devnode", "--rpc-port", "0", "--ws-port", "0", "--json"]
    command += ["--program", f"{artifact.PROGRAM_ID}={artifact.SO_PATH}", *options]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield process, ready, time.perf_counter() - started
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb() -> float:
    """Resident memory of this process now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def signed(signer: Keypair, blockhash: str, *instructions: Instruction) -> VersionedTransaction:
    message = Message.new_with_blockhash(list(instructions), signer.pubkey(), Hash.from_string(blockhash))
    return VersionedTransaction(message, [signer])


Signed = list[tuple[Keypair, Instruction]]


def votes(count: int) -> tuple[list[Pubkey], Signed, Signed]:
    """Whom to fund, what prepares, and then `count` votes of some wallets on as many questions as that takes."""
    wallets = [Keypair.from_seed(b"bench %026d" % number) for number in range(WALLETS)]
    founder = wallets[0]
    questions = -(-count // WALLETS)
    community = voting.community_address(founder.pubkey(), 1)
    make = [(founder, voting.create_community(founder.pubkey(), 1, Settings("Bench")))]
    make += [(wallet, voting.join(wallet.pubkey(), community)) for wallet in wallets[1:]]
    closes = int(time.time()) + 86_400
    params = QuestionParams("Yes?", ("yes", "no"), closes)
    make += [
        (founder, voting.create_question(founder.pubkey(), community, index, params)) for index in range(questions)
    ]
    cast = [
        (
            wallet,
            voting.cast_vote(wallet.pubkey(), community, voting.question_address(community, index), [number % 2]),
        )
        for index in range(questions)
        for number, wallet in enumerate(wallets)
    ][:count]
    return [wallet.pubkey() for wallet in wallets], make, cast


async def sending(count: int) -> dict[str, Any]:
    """Landed votes a second, by HTTP."""
    addresses, make, cast = votes(count)
    with node_process("--slot-ms", "200", "--ledger-transactions", "1000000") as (process, ready, seconds):
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=IN_FLIGHT)) as http:

            async def call(calls: list[tuple[str, list[Any]]]) -> list[Any]:
                body = [{"jsonrpc": "2.0", "id": n, "method": m, "params": p} for n, (m, p) in enumerate(calls)]
                replies = (await http.post(ready["rpc_url"], json=body)).json()
                return [reply["result"] for reply in replies]

            async def blockhash() -> str:
                return str(
                    (await call([("getLatestBlockhash", [{"commitment": "confirmed"}])]))[0]["value"]["blockhash"]
                )

            async def send(pairs: list[tuple[Keypair, Instruction]]) -> float:
                latest = await blockhash()
                texts = [base64.b64encode(bytes(signed(pair[0], latest, pair[1]))).decode() for pair in pairs]
                options = {"encoding": "base64", "skipPreflight": True}
                bodies = [
                    [("sendTransaction", [text, options]) for text in texts[at : at + BATCH]]
                    for at in range(0, len(texts), BATCH)
                ]
                room = asyncio.Semaphore(IN_FLIGHT)

                async def one(body: list[tuple[str, list[Any]]]) -> None:
                    async with room:
                        await call(body)

                begun = time.perf_counter()
                await asyncio.gather(*(one(body) for body in bodies))
                return time.perf_counter() - begun

            for at in range(0, len(addresses), BATCH):
                await call([("requestAirdrop", [str(address), 10**11]) for address in addresses[at : at + BATCH]])
            await send(make)
            await asyncio.sleep(0.6)
            before, cpu = (await call([("getTransactionCount", [])]))[0], cpu_seconds(process.pid)
            wall = await send(cast)
            cpu = cpu_seconds(process.pid) - cpu
            landed = (await call([("getTransactionCount", [])]))[0] - before
            failed = await failures(call)
        assert landed == len(cast), (landed, len(cast))
        return {
            "start_seconds": round(seconds, 2),
            "transactions": landed,
            "failed": failed,
            "landed_per_second": round(landed / wall),
            "landed_per_cpu_second": round(landed / cpu),
            "cpu_us_a_transaction": round(cpu / landed * 1e6),
        }


async def failures(call: Callable[[list[tuple[str, list[Any]]]], Any]) -> int:
    """Transactions of the program that failed, among the newest thousand."""
    await asyncio.sleep(0.3)
    (rows,) = await call([("getSignaturesForAddress", [artifact.PROGRAM_ID, {"commitment": "confirmed"}])])
    return sum(row["err"] is not None for row in rows)


def where_the_time_goes(count: int) -> dict[str, Any]:
    """The same votes in this process without HTTP: microseconds a transaction of the machine, the signatures, and the rest."""
    addresses, make, cast = votes(count)
    chain = Chain(DevNodeConfig(slot_ms=0, programs={artifact.PROGRAM_ID: artifact.SO_PATH}), int(time.time()))
    chain.finish_slot(int(time.time()))
    for address in addresses:
        chain.airdrop(address, 10**11)
    for signer, instruction in make:
        transaction = signed(signer, chain.tip.blockhash, instruction)
        assert chain.submit(transaction, bytes(transaction)) is None
    chain.finish_slot(int(time.time()))
    transactions = [signed(signer, chain.tip.blockhash, instruction) for signer, instruction in cast]
    wires = [bytes(transaction) for transaction in transactions]
    spent: Counter[str] = Counter()

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            begun = time.perf_counter()
            try:
                return work(*arguments)
            finally:
                spent[name] += time.perf_counter() - begun

        return wrapped

    chain.machine.execute = timed("machine", chain.machine.execute)  # type: ignore[method-assign]
    chain.machine.account = timed("accounts", chain.machine.account)  # type: ignore[method-assign]
    begun = time.perf_counter()
    for wire in wires:
        all(VersionedTransaction.from_bytes(wire).verify_with_results())
    signatures = time.perf_counter() - begun
    begun = time.perf_counter()
    for transaction, wire in zip(transactions, wires, strict=True):
        assert chain.submit(transaction, wire) is None
    total = time.perf_counter() - begun
    us = 1e6 / len(cast)
    return {
        "in_process_us": round(total * us),
        "machine_us": round(spent["machine"] * us),
        "signatures_us": round(signatures * us),
        "accounts_us": round(spent["accounts"] * us),
        "bare_machine_us": round(bare_machine(count) * us),
    }


def bare_machine(count: int) -> float:
    """Seconds of the same votes on the machine alone, which is the floor."""
    addresses, make, cast = votes(count)
    machine = Machine(10_000)
    machine.add_program(voting.PROGRAM, artifact.SO_PATH.read_bytes())
    machine.set_clock(1, int(time.time()), 0)
    for address in addresses:
        machine._vm.airdrop(address, 10**11)
    for signer, instruction in make:
        machine._vm.send_transaction(signed(signer, str(Hash.default()), instruction))
    transactions = [signed(signer, str(Hash.default()), instruction) for signer, instruction in cast]
    begun = time.perf_counter()
    for transaction in transactions:
        machine._vm.send_transaction(transaction)
    return time.perf_counter() - begun


_LISTENERS = """
import asyncio, sys
from websockets.asyncio.client import connect
async def one(url, wanted):
    async with connect(url, max_size=None, compression=None) as socket:
        await socket.send('{"jsonrpc":"2.0","id":1,"method":"logsSubscribe","params":["all",{"commitment":"confirmed"}]}')
        await socket.recv()
        ready.append(1)
        if len(ready) == count: print("ready", flush=True)
        for _ in range(wanted): await socket.recv()
ready, url, count, wanted = [], sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
async def main(): await asyncio.gather(*(one(url, wanted) for _ in range(count)))
asyncio.run(main()); print("done", flush=True)
"""


async def listening(count: int) -> dict[str, Any]:
    """Log notifications a second to ten subscribers: from the end of a block to the last frame read, blocks of 200."""
    async with DevNode(DevNodeConfig(slot_ms=0)) as node:
        payer = Keypair()
        node.chain.airdrop(payer.pubkey(), 10**15)
        await node.advance()
        blocks = max(1, count // BLOCK_TRANSACTIONS)
        wanted = blocks * BLOCK_TRANSACTIONS
        listeners = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _LISTENERS, node.ws_url, str(SUBSCRIBERS), str(wanted), stdout=subprocess.PIPE
        )
        assert listeners.stdout is not None
        await listeners.stdout.readline()
        wall = cpu = 0.0
        for _ in range(blocks):
            fill_block(node.chain, payer)
            begun, used = time.perf_counter(), time.process_time()
            await node.advance()
            wall, cpu = wall + time.perf_counter() - begun, cpu + time.process_time() - used
        begun = time.perf_counter()
        await listeners.stdout.readline()
        wall += time.perf_counter() - begun
        assert await listeners.wait() == 0
        sent = wanted * SUBSCRIBERS
        return {
            "notifications": sent,
            "notifications_per_second": round(sent / wall),
            "notifications_per_cpu_second": round(sent / cpu),
        }


_serial = iter(range(1, 1 << 40))


def fill_block(chain: Chain, payer: Keypair, size: int = BLOCK_TRANSACTIONS) -> None:
    """Transfers, each with bytes of its own."""
    to = payer.pubkey()
    pay = transfer(TransferParams(from_pubkey=to, to_pubkey=to, lamports=1))
    for _ in range(size):
        number = next(_serial)
        transaction = signed(payer, chain.tip.blockhash, set_compute_unit_limit(1_000 + number % 1_000_000), pay)
        assert chain.submit(transaction, bytes(transaction)) is None


def history(count: int, kept: int) -> dict[str, Any]:
    """Memory after so many transactions when the newest `kept` stay."""
    chain = Chain(DevNodeConfig(slot_ms=0, ledger_transactions_max=kept), 1_700_000_000)
    payer = Keypair()
    chain.finish_slot(1_700_000_000)
    chain.airdrop(payer.pubkey(), 10**17)
    chain.finish_slot(1_700_000_000)
    before = rss_mb()
    marks: list[float] = []
    begun = time.perf_counter()
    for block in range(count // BLOCK_TRANSACTIONS):
        fill_block(chain, payer)
        chain.finish_slot(1_700_000_000 + block // 2)
        # As a node does that has told its subscribers: what has happened would keep its blocks alive.
        chain.happenings.clear()
        if (block + 1) % max(1, count // BLOCK_TRANSACTIONS // 10) == 0:
            marks.append(round(rss_mb()))
    return {
        "history_transactions": count,
        "history_kept": kept,
        "history_seconds": round(time.perf_counter() - begun, 1),
        "memory_mb_before": round(before),
        "memory_mb_by_tenths": marks,
        "memory_mb_peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "first_available": chain.first_available,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=4_000)
    parser.add_argument("--history", type=int, default=40_000, help="transactions of the memory measurement")
    parser.add_argument("--kept", type=int, default=250_000, help="of which so many are kept")
    parser.add_argument("--only", choices=("sending", "time", "listening", "history"), help="one measurement alone")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, Any] = {}
    if arguments.only in (None, "sending"):
        result |= asyncio.run(sending(arguments.transactions))
    if arguments.only in (None, "time"):
        result |= where_the_time_goes(min(arguments.transactions, 3_000))
    if arguments.only in (None, "listening"):
        result |= asyncio.run(listening(arguments.transactions))
    if arguments.only in (None, "history"):
        result |= history(arguments.history, arguments.kept)
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:30} {value}")


if __name__ == "__main__":
    main()
