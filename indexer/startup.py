"""What must be true before anything is written: settings, database, node, programs, IDLs. Each failure is one line and an exit code."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.core.protocol import Address, Failure
from indexer.edges.parse import Watched
from indexer.edges.rpc import RpcClient, RpcPolicy, WrongCluster
from indexer.log import log
from indexer.settings import BUILTIN_IDL, PREFIX, ProgramSetting, Settings
from programs.errors import EXIT_UNREACHABLE, UserError
from programs.idl import Idl, IdlError, load_idl


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the loops and the worker need: ids in the ledger by address, and what the projections are told of each program."""

    program_ids: dict[Address, int]
    specs: tuple[Any, ...]
    # The genesis hash of the ledger's cluster; None when no endpoint tells.
    genesis: str | None = None


async def prepare(settings: Settings, *, migrate: bool, node: bool = True) -> Prepared:
    """Check everything, bring an empty database up, register the programs, make the read models' tables.

    UserError: 2 for what must be configured otherwise, 3 for a service that does not answer within `connect_timeout_s`.
    """
    from projections import bootstrap
    from schema import db, ledger

    dsn = settings.need_database()
    idls = await load_idls(settings, node=node)
    for program in settings.watched:
        # Refused before anything is written: a projection that does not exist, an IDL that does not fit it.
        bootstrap.spec(program.name, program.address, 0, idls[program.name], program.projections)
    await asyncio.to_thread(db.check_dsn, dsn, settings.connect_timeout_s)
    current, head = await asyncio.to_thread(db.revisions, dsn)
    if current is None and migrate:
        log.info("creating_schema", revision=head)
        await asyncio.to_thread(db.upgrade, dsn)
    elif current != head:
        raise UserError(
            f"{PREFIX}DATABASE_URL: the schema is at revision {current}, this program needs {head}; run: indexer db upgrade"
        )
    genesis = await _same_cluster(settings, dsn, record=True) if node else None
    async with await db.aconnect(dsn) as connection:
        rows = await ledger.ensure_programs(connection, [(p.name, p.address, p.start_slot) for p in settings.watched])
    ids = {Address(address): row.id for address, row in rows.items()}
    specs = tuple(
        bootstrap.spec(p.name, p.address, ids[Address(p.address)], idls[p.name], p.projections)
        for p in settings.watched
    )
    await asyncio.to_thread(bootstrap.ensure, dsn, specs)
    return Prepared(ids, specs, genesis)


def rpc_client(settings: Settings, prepared: Prepared, in_flight: int | None = None) -> RpcClient:
    """The client over the configured endpoints, bound to the ledger's cluster."""
    policy = RpcPolicy(
        timeout_s=settings.rpc_timeout_s,
        in_flight_max=in_flight or settings.rpc_in_flight,
        hedge_s=settings.rpc_hedge_s,
    )
    return RpcClient(settings.rpc_urls, _watched(settings), policy, genesis=prepared.genesis)


def witness_client(settings: Settings, prepared: Prepared) -> RpcClient | None:
    """The client of the second endpoint: one attempt and a short time-out, for a seal waits for it."""
    if not settings.witness_url:
        return None
    policy = RpcPolicy(
        timeout_s=settings.witness_wait_s, attempts=1, hedge_s=0, in_flight_max=2, retry_after_s_max=60.0
    )
    return RpcClient((settings.witness_url,), _watched(settings), policy, "witness", genesis=prepared.genesis)


def _watched(settings: Settings) -> Watched:
    return Watched(tuple(Address(p.address) for p in settings.watched))


async def _same_cluster(settings: Settings, dsn: str, *, record: bool) -> str | None:
    """The genesis hash that the ledger and every endpoint that answers agree on. UserError names the one that differs."""
    from schema import db, ledger

    urls = (*settings.rpc_urls, *((settings.witness_url,) if settings.witness_url else ()))
    policy = RpcPolicy(timeout_s=min(settings.rpc_timeout_s, settings.connect_timeout_s), attempts=1)
    async with RpcClient(urls, Watched(()), policy) as rpc:
        told = await rpc.clusters()
    async with await db.aconnect(dsn) as connection:
        expected = await ledger.recorded_cluster(connection)
        first = expected or next(iter(told.values()), None)
        for label, genesis in told.items():
            if genesis != first:
                raise WrongCluster(label, genesis, str(first))
        if record and expected is None and first is not None:
            return await ledger.recorded_cluster(connection, first)
    return first


async def check_cluster(settings: Settings) -> str:
    """For `doctor`: which cluster the ledger and the endpoints are of; nothing is recorded."""
    genesis = await _same_cluster(settings, settings.need_database(), record=False)
    return "no endpoint tells its genesis hash" if genesis is None else f"genesis hash {genesis}"


async def load_idls(settings: Settings, *, node: bool = True) -> dict[str, Idl]:
    """The IDL of each program by name, from the package, a file or the chain; checks on the node that each address holds a program."""
    watched = Watched(tuple(Address(p.address) for p in settings.watched))
    policy = RpcPolicy(timeout_s=min(settings.rpc_timeout_s, settings.connect_timeout_s), attempts=2)
    found: dict[str, Idl] = {}
    async with RpcClient(settings.rpc_urls, watched, policy) as rpc:
        for program in settings.watched:
            if node:
                await _must_be_program(rpc, program, settings.connect_timeout_s)
            found[program.name] = await _load_idl(rpc, program)
    return found


async def _must_be_program(rpc: RpcClient, program: ProgramSetting, timeout_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        held = await rpc.get_executable(program.address)
        if not isinstance(held, Failure):
            break
        if asyncio.get_running_loop().time() > deadline or held.code is not None:
            raise UserError(
                f"{PREFIX}RPC_URL = {rpc.label} does not answer: {held.message}; is the node up, and is the URL right?",
                EXIT_UNREACHABLE,
            )
        await asyncio.sleep(0.3)
    if held is None:
        raise UserError(
            f"programs.{program.name}.address = {program.address}: there is no account at this address on {rpc.label}; "
            "give the address of a deployed program, or point rpc_url at its cluster"
        )
    if not held:
        raise UserError(
            f"programs.{program.name}.address = {program.address}: the account on {rpc.label} is no program (not executable); "
            "give the program's address, not that of one of its accounts"
        )


async def _load_idl(rpc: RpcClient, program: ProgramSetting) -> Idl:
    """The program's IDL, from wherever the setting says."""
    from programs.chain_idl import ChainIdlError

    field = f"programs.{program.name}.idl"
    try:
        if program.idl == BUILTIN_IDL:
            from programs.community_voting import artifact

            document = artifact.IDL_PATH.read_bytes()
        elif program.idl == "chain":
            document = await _from_chain(rpc, program, field)
        else:
            document = _read(program.idl, field)
        return load_idl(document)
    except ChainIdlError as error:
        raise UserError(f"{field} = 'chain': {error}; give a path to the program's IDL instead") from None
    except IdlError as error:
        raise UserError(f"{field} = {program.idl!r}: {error}; indexer idl check {program.idl} says more") from None


async def _from_chain(rpc: RpcClient, program: ProgramSetting, field: str) -> bytes:
    from programs import base58, chain_idl

    async def account(address: str) -> bytes | None:
        data = await rpc.get_account(address)
        if isinstance(data, Failure):
            raise UserError(f"{field} = 'chain': {data.message}", EXIT_UNREACHABLE)
        return data

    fetched = await chain_idl.fetch(base58.address_bytes(program.address), account)
    if fetched is None:
        raise UserError(f"{field} = 'chain': {program.address} has published no IDL; give a path to its IDL instead")
    document: bytes = fetched.document
    return document


def _read(idl: str, field: str) -> bytes:
    path = Path(idl)
    if not path.is_file():
        raise UserError(f"{field} = {idl!r}: no such file; give a path, {BUILTIN_IDL!r} or 'chain'")
    return path.read_bytes()
