"""The clients that developers use, whole, on every node: send, confirm, subscribe, fetch accounts, parse events, be refused."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from anchorpy.program.context import Context
from anchorpy.program.core import Program
from anchorpy.program.event import EventParser
from anchorpy.provider import Provider, Wallet
from anchorpy_core.idl import Idl
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed
from solana.rpc.core import RPCException
from solana.rpc.types import MemcmpOpts, TxOpts
from solana.rpc.websocket_api import connect
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.rpc.config import RpcTransactionLogsFilterMentions
from solders.system_program import TransferParams, transfer
from solders.transaction import Transaction

from programs.community_voting import artifact
from programs.community_voting.instructions import PROGRAM, community_address, member_address
from tests.fidelity.world import SOL, World

_CLIENT_SECONDS_MAX = 90
_LANDS = TxOpts(skip_confirmation=False, preflight_commitment=Confirmed)


async def _funded(client: AsyncClient) -> Keypair:
    wallet = Keypair()
    airdrop = (await client.request_airdrop(wallet.pubkey(), 2 * SOL, Confirmed)).value
    await client.confirm_transaction(airdrop, Confirmed, sleep_seconds=0.05)
    return wallet


async def _transfer(client: AsyncClient, wallet: Keypair, target: Pubkey, lamports: int) -> Transaction:
    blockhash = (await client.get_latest_blockhash(Confirmed)).value.blockhash
    move = transfer(TransferParams(from_pubkey=wallet.pubkey(), to_pubkey=target, lamports=lamports))
    return Transaction([wallet], Message.new_with_blockhash([move], wallet.pubkey(), blockhash), blockhash)


async def _with_solana_py(world: World) -> None:
    target = Keypair().pubkey()
    async with AsyncClient(world.node.rpc_url, Confirmed) as client, connect(world.node.ws_url) as socket:
        wallet = await _funded(client)
        await socket.logs_subscribe(RpcTransactionLogsFilterMentions(wallet.pubkey()), Confirmed)
        logs_number = (await socket.recv())[0].result
        await socket.account_subscribe(target, Confirmed, "base64")
        account_number = (await socket.recv())[0].result
        transaction = await _transfer(client, wallet, target, 10_000_000)
        signature = (await client.send_raw_transaction(bytes(transaction), _LANDS)).value
        heard: dict[int, Any] = {}
        while len(heard) < 2:
            for note in await socket.recv():
                heard.setdefault(note.subscription, note.result.value)
        assert heard[logs_number].signature == signature
        assert heard[logs_number].err is None
        assert heard[account_number].lamports == 10_000_000
        await client.confirm_transaction(signature, Confirmed, sleep_seconds=0.05)
        assert (await client.get_balance(target)).value == 10_000_000
        stored = (await client.get_transaction(signature, "json", Confirmed, 0)).value
        assert stored is not None
        assert stored.transaction.meta is not None
        assert stored.transaction.meta.fee == 5_000
        listed = (await client.get_signatures_for_address(target)).value
        assert [row.signature for row in listed] == [signature]
        status = (await client.get_signature_statuses([signature])).value[0]
        assert status is not None
        assert status.slot == stored.slot
        refused = await _transfer(client, wallet, target, 1_000 * SOL)
        with pytest.raises(RPCException, match="custom program error: 0x1"):
            await client.send_raw_transaction(bytes(refused), _LANDS)


def test_solana_py(world: World) -> None:
    asyncio.run(asyncio.wait_for(_with_solana_py(world), _CLIENT_SECONDS_MAX))


async def _with_anchorpy(world: World) -> None:
    async with AsyncClient(world.node.rpc_url, Confirmed) as client:
        wallet = await _funded(client)
        provider = Provider(client, Wallet(wallet), _LANDS)
        program = Program(Idl.from_json(artifact.LEGACY_IDL_PATH.read_text()), PROGRAM, provider)
        community = community_address(wallet.pubkey(), 3)
        policy = program.type["JoinPolicy"]
        settings = program.type["CommunitySettings"](
            name="anchorpy",
            description="from Python",
            join_policy=policy.Open(),
            voting_period_min=1,
            voting_period_max=86_400,
            max_options=4,
        )
        accounts = {
            "creator": wallet.pubkey(),
            "community": community,
            "member": member_address(community, wallet.pubkey()),
            "system_program": Pubkey.default(),
            "event_authority": Pubkey.find_program_address([b"__event_authority"], PROGRAM)[0],
            "program": PROGRAM,
        }
        signature = await program.rpc["create_community"](3, settings, ctx=Context(accounts=accounts, signers=[wallet]))
        fetched = await program.account["Community"].fetch(community, Confirmed)
        assert fetched.authority == wallet.pubkey()
        assert fetched.settings.name == "anchorpy"
        members = await program.account["Member"].all(filters=[MemcmpOpts(offset=8, bytes=str(community))])
        assert len(members) == 1
        stored = (await client.get_transaction(signature, "json", Confirmed, 0)).value
        assert stored is not None
        assert stored.transaction.meta is not None
        events: list[str] = []
        logs = stored.transaction.meta.log_messages or []
        EventParser(PROGRAM, program.coder).parse_logs(logs, lambda event: events.append(event.name))
        assert events == ["CommunityCreated", "MemberJoined"]


def test_anchorpy(world: World) -> None:
    asyncio.run(asyncio.wait_for(_with_anchorpy(world), _CLIENT_SECONDS_MAX))


def _node_client(folder: Path, name: str, world: World) -> dict[str, Any]:
    """What one of the scripts saw. It ends with an error where its client does."""
    command = ["node", f"{name}.mjs", world.node.rpc_url, world.node.ws_url, str(artifact.IDL_PATH)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_CLIENT_SECONDS_MAX)
    assert ran.returncode == 0, ran.stderr[-3000:]
    seen: dict[str, Any] = json.loads(ran.stdout)
    return seen


def test_web3_js(world: World, node_clients: Path) -> None:
    assert _node_client(node_clients, "web3", world) == {
        "airdropped": True,
        "slot": True,
        "logs": True,
        "change": 10_000_000,
        "simulated": True,
        "stored": True,
        "parsed": 10_000_000,
        "block": True,
        "listed": [True],
        "account": 10_000_000,
        "status": True,
        "refused": True,
    }


def test_kit(world: World, node_clients: Path) -> None:
    assert _node_client(node_clients, "kit", world) == {
        "logs": True,
        "change": 10_000_000,
        "account": 10_000_000,
        "stored": 5_000,
        "listed": [True],
        "status": True,
        "refused": True,
    }


def test_anchor(world: World, node_clients: Path) -> None:
    fields = ["authority", "bump", "community", "counts", "creator", "id", "settings", "timestamp"]
    assert _node_client(node_clients, "anchor", world) == {
        "subscribed": True,
        "event": {"under": True, "community": True, "fields": fields},
        "account": "Anchor",
        "members": 1,
        "parsed": ["communityCreated", "memberJoined"],
        "refused": "NameLength",
    }
