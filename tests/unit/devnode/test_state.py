"""State: snapshots that go on as the saved node would have, determinism under a seed, history that is pruned, programs as a cluster shows them."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from solders.pubkey import Pubkey

from programs.community_voting import artifact
from programs.crowd.story import Story
from programs.devnode import DevNode, DevNodeConfig
from programs.devnode.chain import OLD_READS_SLOTS_MAX, Chain
from programs.devnode.vm import LOADER_UPGRADEABLE
from programs.errors import UserError

GENESIS = 1_700_000_000
PROGRAMS = {artifact.PROGRAM_ID: artifact.SO_PATH}
CONFIRMED = {"commitment": "confirmed"}


def node(**options: Any) -> DevNode:
    config = {"slot_ms": 0, "genesis_unix_s": GENESIS, "programs": PROGRAMS, "finalized_lag_slots": 5, "seed": 3}
    return DevNode(DevNodeConfig(**{**config, **options}))


def funded(chain: Chain, story: Story) -> None:
    for wallet in story.wallets:
        chain.airdrop(wallet.pubkey(), 10**12)


async def act(node: DevNode, story: Story, slots: int) -> None:
    """Some slots of a story. Forks are not told to it: whatever it does then is history too."""
    chain = node.chain
    for _ in range(slots):
        for _ in range(3):
            now = chain.working.unix_s
            one = story.next(now)
            transaction = story.transaction(one, chain.bank_at_or_below(chain.tip.slot - 8).blockhash)
            chain.submit(transaction, bytes(transaction))
            stored = chain.find(str(transaction.signatures[0]))
            if stored is not None and stored.err is None:
                try:
                    story.landed(one, now)
                except KeyError:
                    continue
        await node.advance()


def picture(node: DevNode) -> dict[str, Any]:
    """All that a client could ask, as plain values."""
    node.sockets.deliver = lambda deliveries: None  # type: ignore[method-assign]
    tip = node.chain.tip.slot
    level = {**CONFIRMED, "encoding": "base64", "maxSupportedTransactionVersion": 0}
    answers: dict[str, Any] = {
        "blocks": {s: ask(node, "getBlock", s, level) for s in ask(node, "getBlocks", 0, tip, CONFIRMED)},
        "accounts": ask(node, "getProgramAccounts", str(artifact.PROGRAM_ID), {"encoding": "base64", **CONFIRMED}),
        "signatures": ask(node, "getSignaturesForAddress", str(artifact.PROGRAM_ID), CONFIRMED),
        "faults": dict(node.faults.counts),
    }
    for method in ("getEpochInfo", "getTransactionCount", "getFirstAvailableBlock", "getLatestBlockhash"):
        answers[method] = ask(node, method)
    return answers


def ask(node: DevNode, method: str, *params: Any) -> Any:
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    reply = json.loads(node.rpc.answer(json.dumps(request).encode()))
    return reply.get("result", reply.get("error"))


FAULTS = {"forks": "0.15,depth=3", "skipped-slots": "0.2", "null-logs": "0.1"}


def played(seed: int, slots: int) -> dict[str, Any]:
    async def play() -> dict[str, Any]:
        async with node(seed=seed, faults=FAULTS) as one:
            story = Story(seed)
            funded(one.chain, story)
            await one.advance(10)
            await act(one, story, slots)
            return picture(one)

    return asyncio.run(asyncio.wait_for(play(), 300))


def test_the_same_seed_and_commands_make_the_same_chain_and_another_seed_another() -> None:
    first, again, other = played(1, 25), played(1, 25), played(2, 25)
    assert first == again
    assert first["faults"]["forks"] > 0
    assert len(first["signatures"]) > 20
    assert not {b["blockhash"] for b in first["blocks"].values()} & {b["blockhash"] for b in other["blocks"].values()}


def test_a_restored_node_goes_on_as_the_saved_one(tmp_path: Path) -> None:
    file = tmp_path / "chain.snapshot"

    async def play() -> None:
        async with node(faults=FAULTS) as saved:
            story = Story(3)
            funded(saved.chain, story)
            await saved.advance(10)
            await act(saved, story, 20)
            # In the middle of a slot: what the working block holds is part of it.
            one = story.next(saved.chain.working.unix_s)
            transaction = story.transaction(one, saved.chain.tip.blockhash)
            saved.chain.submit(transaction, bytes(transaction))
            size = saved.save(file)
            assert size == file.stat().st_size > 10_000
            # No program and another seed: the file knows better.
            async with node(restore=file, faults=FAULTS, programs={}, seed=77) as restored:
                assert restored.chain.genesis_hash == saved.chain.genesis_hash
                assert picture(restored) == picture(saved)
                for both in range(15):
                    one = story.next(saved.chain.working.unix_s)
                    transaction = story.transaction(
                        one, saved.chain.bank_at_or_below(saved.chain.tip.slot - 8).blockhash
                    )
                    for each in (saved, restored):
                        each.chain.submit(transaction, bytes(transaction))
                        await each.advance()
                    if both % 5 == 4:
                        assert picture(restored) == picture(saved), both
                # What was not final when it was saved can still die, and its accounts go back.
                assert [b.slot for b in restored.fork(4)] == [b.slot for b in saved.fork(4)]
                assert picture(restored) == picture(saved)
            assert len(picture(saved)["accounts"]) > 5

    asyncio.run(asyncio.wait_for(play(), 300))


def test_a_fork_after_the_restart_undoes_what_was_saved(tmp_path: Path) -> None:
    file = tmp_path / "chain.snapshot"
    to = Story(9).wallets[0].pubkey()

    async def play() -> None:
        async with node() as saved:
            await saved.advance(8)
            saved.chain.airdrop(to, 5_000_000)
            await saved.advance()
            saved.save(file)
        async with node(restore=file) as restored:
            level = {"commitment": "processed"}
            assert ask(restored, "getBalance", str(to), level)["value"] == 5_000_000
            restored.fork(1)
            assert ask(restored, "getBalance", str(to), level)["value"] == 0

    asyncio.run(asyncio.wait_for(play(), 300))


def test_the_control_method_writes_only_where_the_operator_said(tmp_path: Path) -> None:
    file = tmp_path / "chain.snapshot"
    assert ask(node(), "devnode_saveSnapshot", str(file))["code"] == -32602
    assert not file.exists()
    one = node(snapshot=file)
    assert ask(one, "devnode_saveSnapshot")["slot"] == 0
    assert Chain(DevNodeConfig(slot_ms=0, restore=file), GENESIS).genesis_hash
    missing = node(snapshot=tmp_path / "no folder" / "file")
    assert ask(missing, "devnode_saveSnapshot")["code"] == -32603


def test_the_command_line_saves_at_the_end_and_restores(tmp_path: Path) -> None:
    file = tmp_path / "chain.snapshot"
    command = [sys.executable, "-m", "indexer", "devnode", "--rpc-port", "0", "--ws-port", "0", "--json"]
    hashes = []
    for options in (["--seed", "5", "--snapshot", str(file)], ["--restore", str(file)]):
        with subprocess.Popen([*command, *options], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            hashes.append((ready["genesis_hash"], ready["seed"]))
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    assert hashes[0] == hashes[1]
    assert hashes[0][1] == 5


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), (b"", "is no snapshot"), (b"devnode snapshot 1\nabc\n123", "is damaged")],
)
def test_what_is_no_snapshot_is_refused_with_one_line(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=words):
        node(restore=file)


def test_a_cut_snapshot_is_refused_at_every_length(tmp_path: Path) -> None:
    file = tmp_path / "file"
    node().save(file)
    whole = file.read_bytes()
    for length in range(0, len(whole), len(whole) // 7):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError):
            node(restore=file)


def test_old_history_is_pruned_as_a_real_node_prunes_it() -> None:
    async def play() -> None:
        bound = 5 + 150 + 20
        async with node(ledger_slots_max=bound) as one:
            to = Story(1).wallets[0].pubkey()
            old = one.chain.airdrop(to, 1_000_000)
            old_slot = await one.advance()
            await one.advance(bound)
            young = one.chain.airdrop(to, 1_000_000)
            tip = await one.advance()
            first = ask(one, "getFirstAvailableBlock")
            assert first == tip - bound + 1 > old_slot
            refused = ask(one, "getBlock", old_slot, CONFIRMED)
            assert refused["code"] == -32001
            assert str(first) in refused["message"]
            assert ask(one, "getBlockTime", old_slot)["code"] == -32001
            assert ask(one, "getTransaction", old, CONFIRMED) is None
            rows = ask(one, "getSignaturesForAddress", str(to), CONFIRMED)
            assert [row["signature"] for row in rows] == [young]
            assert ask(one, "getBlocks", 0, tip, CONFIRMED) == list(range(first, tip + 1))
            # What history did to the accounts stays.
            assert ask(one, "getBalance", str(to), CONFIRMED)["value"] == 2_000_000

    asyncio.run(asyncio.wait_for(play(), 300))


def test_memory_is_bounded_by_the_two_limits_whatever_lands() -> None:
    config = DevNodeConfig(slot_ms=0, ledger_transactions_max=300, ledger_slots_max=1_000, finalized_lag_slots=5)
    chain = Chain(config, GENESIS)
    chain.finish_slot(GENESIS)
    wallets = Story(2).wallets
    for slot in range(700):
        chain.airdrop(wallets[slot % len(wallets)].pubkey(), 1_000_000 + slot)
        chain.airdrop(wallets[slot % 3].pubkey(), 2_000_000 + slot)
        chain.finish_slot(GENESIS)
    kept = sum(len(bank.transactions) for bank in chain.history)
    assert kept <= 312, "the limit, and the blocks without which nothing runs"
    assert len(chain.history._statuses) == kept
    assert {id(row) for rows in chain.history._by_address.values() for row in rows} == set(
        map(id, chain.history._statuses.values())
    )
    assert len(chain._blockhashes) <= 300


def test_what_could_undo_a_block_goes_when_nobody_reads_that_far_back() -> None:
    chain = Chain(DevNodeConfig(slot_ms=0, finalized_lag_slots=5), GENESIS)
    wallet = Story(2).wallets[0].pubkey()
    for slot in range(5 + OLD_READS_SLOTS_MAX + 40):
        chain.airdrop(wallet, 1_000_000 + slot)
        chain.finish_slot(GENESIS)
    undoable = [bank.slot for bank in chain.history if bank.journal]
    assert undoable == list(range(chain.tip.slot - 5 - OLD_READS_SLOTS_MAX, chain.tip.slot + 1))
    # The oldest state that a node behind a balancer may show is still the right one.
    oldest = chain.tip.slot - 5 - OLD_READS_SLOTS_MAX
    paid = sum(1_000_000 + n for n in range(oldest))
    account = chain.account(wallet, oldest)
    assert account is not None
    assert account.lamports == paid


def test_a_program_is_shown_as_the_upgradeable_loader_holds_it() -> None:
    one = node()
    options = {"encoding": "base64"}
    shown = ask(one, "getAccountInfo", str(artifact.PROGRAM_ID), options)["value"]
    state = base64.b64decode(shown["data"][0])
    data_address = Pubkey.from_bytes(state[4:])
    assert (shown["owner"], shown["executable"], shown["space"]) == (str(LOADER_UPGRADEABLE), True, 36)
    assert state[:4] == (2).to_bytes(4, "little")
    program = Pubkey.from_string(str(artifact.PROGRAM_ID))
    assert data_address == Pubkey.find_program_address([bytes(program)], LOADER_UPGRADEABLE)[0]
    held = ask(one, "getAccountInfo", str(data_address), options)["value"]
    data = base64.b64decode(held["data"][0])
    assert (held["owner"], held["executable"]) == (str(LOADER_UPGRADEABLE), False)
    assert data[:4] == (3).to_bytes(4, "little")
    assert data[45:] == artifact.SO_PATH.read_bytes()
    for account in (shown, held):
        assert account["lamports"] == ask(one, "getMinimumBalanceForRentExemption", account["space"])
