"""Slots by command, by the clock and as fast as possible; skipped slots, settable distances, and forks that die, seen through HTTP and PubSub."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction
from websockets.asyncio.client import connect

from programs.community_voting import artifact
from programs.crowd.model import Model
from programs.crowd.story import Story, decoded_transaction
from programs.devnode import DevNode, DevNodeConfig
from programs.errors import UserError

PAYER = Keypair.from_seed(b"payer".ljust(32, b"."))
OTHER = Keypair.from_seed(b"other".ljust(32, b"."))
SOL = 10**9
MANUAL: dict[str, Any] = {"slot_ms": 0, "genesis_unix_s": 1_700_000_000}
LEVELS = ("processed", "confirmed", "finalized")


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 300))  # type: ignore[arg-type]


async def rpc(node: DevNode, method: str, *params: Any) -> Any:
    async with httpx.AsyncClient(verify=False) as client:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        reply = (await client.post(node.rpc_url, json=request)).json()
    return reply.get("result", reply.get("error"))


def pay(node: DevNode, lamports: int, to: Pubkey | None = None) -> str:
    """A transfer in the working block; its signature."""
    instruction: Instruction = transfer(
        TransferParams(from_pubkey=PAYER.pubkey(), to_pubkey=to or OTHER.pubkey(), lamports=lamports)
    )
    blockhash = Hash.from_string(node.chain.tip.blockhash)
    transaction = VersionedTransaction(Message.new_with_blockhash([instruction], PAYER.pubkey(), blockhash), [PAYER])
    assert node.chain.submit(transaction, bytes(transaction)) is None
    return str(transaction.signatures[0])


async def funded(node: DevNode) -> None:
    node.chain.airdrop(PAYER.pubkey(), 1_000 * SOL)
    await node.advance()


async def balance(node: DevNode, level: str = "processed") -> int:
    return int((await rpc(node, "getBalance", str(OTHER.pubkey()), {"commitment": level}))["value"])


async def subscribe(socket: Any, *calls: tuple[Any, ...]) -> dict[int, str]:
    """Subscription id → the level or the method that it was made with."""
    ids = {}
    for method, *params in calls:
        await socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        ids[json.loads(await socket.recv())["result"]] = params[-1]["commitment"] if params else method
    return ids


# ---- distances ----


@pytest.mark.parametrize(("confirmed", "finalized"), [(0, 31), (2, 5), (3, 3), (0, 0)])
def test_the_levels_keep_their_distance_and_notifications_keep_it_too(confirmed: int, finalized: int) -> None:
    async def body() -> None:
        config = DevNodeConfig(confirmed_lag_slots=confirmed, finalized_lag_slots=finalized, **MANUAL)
        async with DevNode(config) as node, connect(node.ws_url) as socket:
            await funded(node)
            mine = {"mentions": [str(OTHER.pubkey())]}
            calls = [("logsSubscribe", mine, {"commitment": level}) for level in LEVELS]
            ids = await subscribe(socket, *calls)
            pay(node, SOL)
            landed = await node.advance()
            told = {}
            for _ in range(40):
                slots = [await rpc(node, "getSlot", {"commitment": level}) for level in LEVELS]
                tip = node.chain.tip.slot
                assert slots == [tip, max(0, tip - confirmed), max(0, tip - finalized)]
                assert await balance(node, "finalized") == (SOL if slots[2] >= landed else 0)
                while len(told) < sum(slot >= landed for slot in slots):
                    note = json.loads(await socket.recv())["params"]
                    told[ids[note["subscription"]]] = tip - note["result"]["context"]["slot"]
                if len(told) == 3:
                    break
                await node.advance()
            assert told == {"processed": 0, "confirmed": confirmed, "finalized": finalized}

    run(body)


def test_skipped_slots_have_no_block_and_every_answer_says_so() -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(finalized_lag_slots=3, **MANUAL)) as node, connect(node.ws_url) as socket:
            await subscribe(socket, ("slotSubscribe",))
            before = await node.advance(2, skip=4)
            after = await node.advance()
            assert after == before + 5
            made = [json.loads(await socket.recv())["params"]["result"] for _ in range(3)]
            assert [(row["parent"], row["slot"]) for row in made[1:]] == [(before, after), (after, after + 1)]
            assert await rpc(node, "getBlocks", before, after, {"commitment": "confirmed"}) == [before, after]
            block = await rpc(node, "getBlock", after, {"commitment": "confirmed"})
            assert (block["parentSlot"], block["blockHeight"]) == (before, before + 1)
            assert (await rpc(node, "getBlock", before + 1, {"commitment": "confirmed"}))["code"] == -32004
            await node.advance(4)
            assert (await rpc(node, "getBlock", before + 1, {"commitment": "confirmed"}))["code"] == -32007
            assert (await rpc(node, "getBlockTime", before + 1))["code"] == -32007

    run(body)


# ---- the ways in which time passes ----


def test_the_clock_makes_slots_and_a_stopped_clock_makes_none() -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(slot_ms=5, confirm_delay_ms=0)) as node:
            while await rpc(node, "getSlot", {"commitment": "processed"}) < 5:
                pass
        async with DevNode(DevNodeConfig(**MANUAL)) as node:
            await asyncio.sleep(0.05)
            assert await rpc(node, "getSlot", {"commitment": "processed"}) == 0
            assert await rpc(node, "devnode_advanceSlot", 7) == 7
            assert await rpc(node, "getSlot", {"commitment": "processed"}) == 7
            assert (await rpc(node, "devnode_advanceSlot", 0))["code"] == -32602

    run(body)


def test_as_fast_as_possible_passes_slots_without_a_pause_and_serves_between_them() -> None:
    async def body() -> None:
        config = DevNodeConfig(slot_ms=400, genesis_unix_s=1_700_000_000, as_fast_as_possible=True)
        async with DevNode(config) as node:
            node.chain.airdrop(PAYER.pubkey(), SOL)
            while node.chain.tip.slot < 500:
                slot = await rpc(node, "getSlot", {"commitment": "processed"})
            assert slot > 0
            # Three minutes of the chain's time have passed, however long that took.
            block = await rpc(node, "getBlock", 450, {"commitment": "confirmed"})
            assert block["blockTime"] == 1_700_000_000 + 180
            assert (await rpc(node, "getBalance", str(PAYER.pubkey())))["value"] == SOL

    run(body)


def test_as_fast_as_possible_and_a_stopped_clock_exclude_each_other() -> None:
    with pytest.raises(UserError, match="slot-ms 0"):
        DevNodeConfig(slot_ms=0, as_fast_as_possible=True)


# ---- forks ----


def test_a_dead_fork_takes_everything_back_over_http() -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(**MANUAL)) as node:
            await funded(node)
            kept = pay(node, 1 * SOL)
            await node.advance()
            new = Keypair().pubkey()
            dead = [pay(node, 2 * SOL), pay(node, 3 * SOL, new)]
            first_dead = await node.advance()
            dead.append(pay(node, 4 * SOL))
            await node.advance()
            unfrozen = pay(node, 5 * SOL)
            count = await rpc(node, "getTransactionCount")
            blockhash = (await rpc(node, "getLatestBlockhash", {"commitment": "processed"}))["value"]["blockhash"]
            answer = await rpc(node, "devnode_fork", 2)
            assert answer["dead"] == [first_dead, first_dead + 1, first_dead + 2]
            assert await balance(node) == 1 * SOL
            assert (await rpc(node, "getAccountInfo", str(new), {"commitment": "processed"}))["value"] is None
            level = {"commitment": "confirmed"}
            for signature in (*dead, unfrozen):
                assert await rpc(node, "getTransaction", signature, level) is None
            assert (await rpc(node, "getSignatureStatuses", [*dead, unfrozen]))["value"] == [None] * 4
            rows = await rpc(node, "getSignaturesForAddress", str(OTHER.pubkey()), level)
            assert [row["signature"] for row in rows] == [kept]
            assert await rpc(node, "getSignaturesForAddress", str(new), level) == []
            assert await rpc(node, "getTransactionCount") == count - 4
            assert (await rpc(node, "isBlockhashValid", blockhash, {"commitment": "processed"}))["value"] is False
            # The slots of the dead fork stay empty on the one that goes on.
            next_block = await node.advance()
            assert next_block == first_dead + 3
            assert (await rpc(node, "getBlock", next_block, level))["parentSlot"] == first_dead - 1
            assert (await rpc(node, "getBlock", first_dead, level))["code"] == -32004

    run(body)


def test_the_same_signature_lands_again_in_another_slot_and_is_notified_again() -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(**MANUAL)) as node, connect(node.ws_url) as socket:
            await funded(node)
            account = ("accountSubscribe", str(OTHER.pubkey()), {"encoding": "base64", "commitment": "confirmed"})
            logs = ("logsSubscribe", {"mentions": [str(OTHER.pubkey())]}, {"commitment": "confirmed"})
            await subscribe(socket, account, logs, ("slotSubscribe",))
            signature = pay(node, SOL)
            dead_slot = await node.advance()
            await rpc(node, "devnode_fork", 1, {"reland": True})
            landed = await node.advance()
            assert landed > dead_slot
            heard: dict[str, list[int]] = {"accountNotification": [], "logsNotification": []}
            slots: list[tuple[int, int]] = []
            while len(slots) < 3:
                note = json.loads(await socket.recv())
                result = note["params"]["result"]
                if note["method"] == "slotNotification":
                    slots.append((result["parent"], result["slot"]))
                else:
                    heard[note["method"]].append(result["context"]["slot"])
            assert heard == {"accountNotification": [dead_slot, landed], "logsNotification": [dead_slot, landed]}
            # The bank after the fork hangs on the last living one.
            assert slots[1] == (dead_slot - 1, landed)
            found = await rpc(node, "getTransaction", signature, {"commitment": "confirmed"})
            assert found["slot"] == landed
            assert await balance(node, "confirmed") == SOL, "paid once, not twice"
            rows = await rpc(node, "getSignaturesForAddress", str(OTHER.pubkey()), {"commitment": "confirmed"})
            assert [(row["signature"], row["slot"]) for row in rows] == [(signature, landed)]

    run(body)


def test_what_is_finalized_never_dies() -> None:
    async def body() -> None:
        async with DevNode(DevNodeConfig(finalized_lag_slots=3, **MANUAL)) as node:
            await funded(node)
            pay(node, SOL)
            await node.advance(10)
            finalized = await rpc(node, "getSlot", {"commitment": "finalized"})
            answer = await rpc(node, "devnode_fork", 1_000)
            assert min(answer["dead"]) == finalized + 1
            assert await rpc(node, "getSlot", {"commitment": "finalized"}) <= finalized
            assert await balance(node, "processed") == SOL

    run(body)


def folded(node: DevNode) -> Model:
    """The model of the living blocks and the working one."""
    model = Model()
    for bank in [*node.chain.banks_between(0, node.chain.tip.slot), node.chain.working]:
        for stored in bank.transactions:
            if stored.err is None:
                for name, data, accounts in decoded_transaction(stored.parsed()):
                    model.apply(name, data, accounts, bank.unix_s)
    return model


@pytest.mark.parametrize("seed", range(4))
def test_a_chain_after_forks_has_the_accounts_of_a_chain_without_them(seed: int) -> None:
    """The living blocks, run again on a fresh node, leave the same accounts: nothing of a dead fork is left behind."""

    async def body() -> None:
        config = DevNodeConfig(
            programs={artifact.PROGRAM_ID: artifact.SO_PATH}, faults={"forks": "0.2,depth=4"}, seed=seed, **MANUAL
        )
        story = Story(seed)
        async with DevNode(config) as node:
            for wallet in story.wallets:
                node.chain.airdrop(wallet.pubkey(), 10**12)
            await node.advance(40)
            for _ in range(60):
                forks = node.faults.counts["forks"]
                for _ in range(3):
                    now = node.chain.working.unix_s
                    act = story.next(now)
                    # A blockhash that no fork takes away, so that what dies can land again.
                    safe = node.chain.bank_at_or_below(node.chain.tip.slot - 32).blockhash
                    transaction = story.transaction(act, safe)
                    assert node.chain.submit(transaction, bytes(transaction)) is None
                    stored = node.chain.find(str(transaction.signatures[0]))
                    if stored is not None and stored.err is None:
                        story.landed(act, now)
                await node.advance()
                if node.faults.counts["forks"] > forks:
                    story.model = folded(node)
            assert node.faults.counts["forks"] > 3
            node.faults.clear()
            await node.advance(2)
            living = [
                (bank.unix_s, bank.slot, stored)
                for bank in node.chain.banks_between(0, node.chain.tip.slot)
                for stored in bank.transactions
            ]
            assert len({stored.signature for _, _, stored in living}) == len(living) > 60
            fresh = DevNode(DevNodeConfig(programs={artifact.PROGRAM_ID: artifact.SO_PATH}, seed=seed, **MANUAL))
            machine = fresh.chain.machine
            for unix_s, slot, stored in living:
                machine.set_clock(slot, unix_s, 0)
                machine.execute(stored.parsed())
            for owner in (str(artifact.PROGRAM_ID), "1" * 32):
                held = dict(node.chain.accounts_owned(Pubkey.from_string(owner), node.chain.tip.slot))
                assert held
                for address, account in held.items():
                    assert machine.account(address) == account, address

    run(body)


def test_a_clock_that_breaks_ends_the_node_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with DevNode(DevNodeConfig(rpc_port=0, ws_port=0, slot_ms=5)) as node:

            def broken(**_: object) -> None:
                raise RuntimeError("a slot that can't be made")

            monkeypatch.setattr(node, "_tick", broken)
            await asyncio.wait_for(node.run_until(asyncio.Event()), 10)

    with pytest.raises(RuntimeError, match="can't be made"):
        asyncio.run(run())


def test_a_node_runs_until_it_is_told_to_stop() -> None:
    async def run() -> int:
        async with DevNode(DevNodeConfig(rpc_port=0, ws_port=0, slot_ms=5)) as node:
            stop = asyncio.Event()
            asyncio.get_running_loop().call_later(0.1, stop.set)
            await node.run_until(stop)
            return node.chain.tip.slot

    assert asyncio.run(run()) > 0
