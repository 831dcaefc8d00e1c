"""The node as its clients meet it: over real sockets on loopback, slots by command."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from solana.rpc.async_api import AsyncClient
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from programs.devnode import DevNode, DevNodeConfig

MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
MANUAL = {"slot_ms": 0.0, "genesis_unix_s": 1_700_000_000}
SOL = 10**9


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 120))  # type: ignore[arg-type]


async def rpc(node: DevNode, method: str, *params: Any) -> Any:
    async with httpx.AsyncClient() as client:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        reply = (await client.post(node.rpc_url, json=request)).json()
    return reply.get("result", reply.get("error"))


def memo(payer: Keypair, blockhash: str, text: bytes) -> VersionedTransaction:
    message = Message.new_with_blockhash([Instruction(MEMO, text, [])], payer.pubkey(), Hash.from_string(blockhash))
    return VersionedTransaction(message, [payer])


def encoded(transaction: VersionedTransaction) -> str:
    return base64.b64encode(bytes(transaction)).decode()


async def funded(node: DevNode) -> Keypair:
    payer = Keypair()
    node.chain.airdrop(payer.pubkey(), 10 * SOL)
    await node.advance()
    return payer


async def send(node: DevNode, transaction: VersionedTransaction) -> str:
    return str(
        await rpc(
            node, "sendTransaction", encoded(transaction), {"encoding": "base64", "preflightCommitment": "confirmed"}
        )
    )


async def subscribed(socket: Any, method: str, *params: Any) -> int:
    await socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}))
    return int(json.loads(await socket.recv())["result"])


def test_a_solana_py_client_sends_and_reads_back() -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(**MANUAL)) as node:
            client = AsyncClient(node.rpc_url)
            payer = await funded(node)
            to = Keypair().pubkey()
            blockhash = (await client.get_latest_blockhash("confirmed")).value.blockhash
            instruction = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=to, lamports=SOL))
            message = Message.new_with_blockhash([instruction], payer.pubkey(), blockhash)
            from solana.rpc.types import TxOpts

            sent = await client.send_transaction(
                VersionedTransaction(message, [payer]), TxOpts(preflight_commitment="confirmed")
            )
            assert (await client.get_signature_statuses([sent.value])).value == [None]
            slot = await node.advance()
            assert (await client.get_balance(to, "confirmed")).value == SOL
            assert (await client.get_balance(to, "finalized")).value == 0
            found = (await client.get_transaction(sent.value, commitment="confirmed")).value
            assert found is not None
            assert found.slot == slot
            rows = (await client.get_signatures_for_address(to, commitment="confirmed")).value
            assert [row.signature for row in rows] == [sent.value]
            await node.advance(31)
            assert (await client.get_balance(to, "finalized")).value == SOL
            await client.close()

    run(body)


def test_logs_reach_a_subscriber_and_a_simulation_forges_them() -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(confirmed_lag_slots=1, **MANUAL)) as node, connect(node.ws_url) as socket:
            payer = await funded(node)
            await subscribed(socket, "logsSubscribe", {"mentions": [str(MEMO)]}, {"commitment": "confirmed"})
            blockhash = node.chain.tip.blockhash
            true = memo(payer, blockhash, b"vote A")
            signature = await rpc(node, "sendTransaction", encoded(true), {"encoding": "base64", "skipPreflight": True})
            slot = await node.advance()
            forged = VersionedTransaction.populate(memo(payer, blockhash, b"vote B").message, list(true.signatures))
            options = {"encoding": "base64", "commitment": "processed", "replaceRecentBlockhash": True}
            assert (await rpc(node, "simulateTransaction", encoded(forged), options))["value"]["err"] is None
            await node.advance()
            seen = [json.loads(await socket.recv())["params"]["result"] for _ in range(2)]
            assert {row["value"]["signature"] for row in seen} == {signature}
            at_slot = [row["value"]["logs"][1] for row in seen if row["context"]["slot"] == slot]
            assert any("vote A" in line for line in at_slot)
            assert any("vote B" in line for line in at_slot)
            stored = await rpc(node, "getTransaction", signature, {"commitment": "confirmed"})
            assert "vote A" in stored["meta"]["logMessages"][1]

    run(body)


def test_a_dead_fork_takes_its_accounts_and_signatures_with_it() -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(**MANUAL)) as node:
            payer = await funded(node)
            before = await rpc(node, "getBalance", str(payer.pubkey()), {"commitment": "processed"})
            signature = await send(node, memo(payer, node.chain.tip.blockhash, b"x"))
            dead_slot = await node.advance()
            node.fork(1)
            after = await rpc(node, "getBalance", str(payer.pubkey()), {"commitment": "processed"})
            assert after["value"] == before["value"]
            assert await rpc(node, "getTransaction", signature, {"commitment": "confirmed"}) is None
            assert (await rpc(node, "getBlock", dead_slot, {"commitment": "confirmed"}))["code"] == -32004

    run(body)


def test_a_relanded_transaction_keeps_its_signature_in_another_slot() -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(**MANUAL)) as node:
            payer = await funded(node)
            signature = await send(node, memo(payer, node.chain.tip.blockhash, b"x"))
            dead_slot = await node.advance()
            node.fork(1, reland=True)
            await node.advance()
            assert (await rpc(node, "getTransaction", signature, {"commitment": "confirmed"}))["slot"] > dead_slot

    run(body)


def test_a_replayed_transaction_is_refused_and_lands_once() -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(**MANUAL)) as node:
            payer = await funded(node)
            transaction = memo(payer, node.chain.tip.blockhash, b"once")
            await send(node, transaction)
            await node.advance()
            error = await rpc(
                node,
                "sendTransaction",
                encoded(transaction),
                {"encoding": "base64", "preflightCommitment": "confirmed"},
            )
            assert error["code"] == -32002
            assert error["data"]["err"] == "AlreadyProcessed"
            await rpc(node, "sendTransaction", encoded(transaction), {"encoding": "base64", "skipPreflight": True})
            await node.advance()
            rows = await rpc(node, "getSignaturesForAddress", str(MEMO), {"commitment": "confirmed"})
            assert len(rows) == 1

    run(body)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 200, -32700),
        (b"1", 200, -32700),
        (b'{"jsonrpc":"2.0","id":1}', 200, -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"nope"}', 200, -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"getSlot","params":{}}', 200, -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"getBlock","params":[9]}', 200, -32004),
        (b'{"jsonrpc":"2.0","id":1,"method":"getBlock","params":["x"]}', 200, -32602),
        (b" " * 60_000, 413, None),
    ],
)
def test_bad_requests_get_the_real_nodes_codes(body: bytes, status: int, code: int | None) -> None:
    async def check() -> None:
        async with DevNode(DevNodeConfig(**MANUAL)) as node, httpx.AsyncClient() as client:
            reply = await client.post(node.rpc_url, content=body, headers={"content-type": "application/json"})
            assert reply.status_code == status
            if code is not None:
                assert reply.json()["error"]["code"] == code

    run(check)


def test_an_oversized_frame_and_an_oversized_burst_end_the_socket_without_a_close_frame() -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(ws_queue_items_max=3, **MANUAL)) as node:
            async with connect(node.ws_url) as socket:
                await socket.send("x" * 5_000)
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
                assert closed.value.rcvd is None
            payer = await funded(node)
            async with connect(node.ws_url) as socket:
                await subscribed(socket, "logsSubscribe", "all", {"commitment": "confirmed"})
                for index in range(4):
                    node.chain.submit(t := memo(payer, node.chain.tip.blockhash, b"%d" % index), bytes(t))
                await node.advance()
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
                assert closed.value.rcvd is None
            assert node.sockets.lagging_dropped == 1

    run(body)


def test_equal_subscriptions_share_an_id_and_one_unsubscribe_ends_both() -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(**MANUAL)) as node, connect(node.ws_url) as socket:
            first = await subscribed(socket, "slotSubscribe")
            assert await subscribed(socket, "slotSubscribe") == first
            for expected in ({"result": True}, {"code": -32602}):
                await socket.send(
                    json.dumps({"jsonrpc": "2.0", "id": 2, "method": "slotUnsubscribe", "params": [first]})
                )
                reply = json.loads(await socket.recv())
                assert reply.get("result", reply.get("error", {}).get("code")) == next(iter(expected.values()))

    run(body)


@pytest.mark.parametrize("fault", ["lost-notifications", "lost-slots"])
def test_a_lost_notification_is_lost_and_counted(fault: str) -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(faults={fault: "1"}, **MANUAL)) as node, connect(node.ws_url) as socket:
            payer = await funded(node)
            await subscribed(socket, "logsSubscribe", "all", {"commitment": "confirmed"})
            await subscribed(socket, "slotSubscribe")
            await send(node, memo(payer, node.chain.tip.blockhash, b"x"))
            await node.advance()
            # The slot notification comes after the place where the logs would have been.
            assert json.loads(await socket.recv())["method"] == "slotNotification"
            assert node.faults.counts[fault] >= 1

    run(body)


def test_null_transactions_heal() -> None:
    async def body() -> None:
        async with DevNode(
            DevNodeConfig(faults={"null-transactions": "1,slots=2", "incomplete-lists": "1,slots=2"}, **MANUAL)
        ) as node:
            payer = await funded(node)
            signature = await send(node, memo(payer, node.chain.tip.blockhash, b"x"))
            await node.advance()
            assert await rpc(node, "getTransaction", signature, {"commitment": "confirmed"}) is None
            assert await rpc(node, "getSignaturesForAddress", str(MEMO), {"commitment": "confirmed"}) == []
            await node.advance(2)
            assert (await rpc(node, "getTransaction", signature, {"commitment": "confirmed"}))["slot"] > 0
            assert len(await rpc(node, "getSignaturesForAddress", str(MEMO), {"commitment": "confirmed"})) == 1
            counts = await rpc(node, "devnode_faultCounts")
            assert counts == {"incomplete-lists": 1, "null-transactions": 1}

    run(body)


def test_a_program_loads_as_a_cluster_shows_it_and_runs() -> None:
    async def body() -> None:
        address = Keypair().pubkey()
        async with DevNode(DevNodeConfig(**MANUAL)) as donor:
            account = donor.chain.machine.account(MEMO)
            assert account is not None
            elf = bytes(account.data)
        async with DevNode(DevNodeConfig(programs={str(address): elf}, **MANUAL)) as node:
            shown = (await rpc(node, "getAccountInfo", str(address), {"encoding": "base64"}))["value"]
            assert shown["executable"] is True
            assert shown["space"] == 36
            payer = await funded(node)
            message = Message.new_with_blockhash(
                [Instruction(address, b"hi", [])], payer.pubkey(), Hash.from_string(node.chain.tip.blockhash)
            )
            signature = await send(node, VersionedTransaction(message, [payer]))
            await node.advance()
            found = await rpc(node, "getTransaction", signature, {"commitment": "confirmed"})
            assert found["meta"]["err"] is None
            assert found["meta"]["logMessages"][0] == f"Program {address} invoke [1]"

    run(body)
