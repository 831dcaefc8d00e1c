"""What must be true before anything is written: settings, database, node, programs, IDLs. Each failure is one line and an exit code."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from indexer import idls
from indexer.core.protocol import Address, Failure
from indexer.edges.parse import Watched
from indexer.edges.rpc import RpcClient, RpcPolicy, WrongCluster
from indexer.log import log
from indexer.settings import BUILTIN_IDL, PREFIX, IdlSetting, ProgramSetting, Settings
from programs.errors import EXIT_UNREACHABLE, UserError
from programs.idl import Idl, IdlError, load_idl
from programs.urls import shown

if TYPE_CHECKING:
    from projections.decoding import ProgramSpec
    from schema.ledger import IdlRow


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the loops and the worker need: ids in the ledger by address, and what the projections are told of each program."""

    program_ids: dict[Address, int]
    specs: tuple[Any, ...]
    deployments: dict[str, int | None]
    # The genesis hash of the ledger's cluster; None when no endpoint tells.
    genesis: str | None = None


async def prepare(settings: Settings, *, migrate: bool, node: bool = True) -> Prepared:
    """Check everything, bring an empty database up, register the programs, make the read models' tables.

    UserError: 2 for what must be configured otherwise, 3 for a service that does not answer within `connect_timeout_s`.
    """
    from projections import bootstrap
    from schema import db, ledger

    dsn = settings.need_database()
    found = await load_idls(settings, node=node, recorded={} if node else await _recorded(dsn, settings))
    for program in settings.watched:
        # Refused before anything is written: a projection that does not exist, an IDL that does not fit it.
        bootstrap.spec(program.name, program.address, 0, found.newest[program.name], program.projections)
    await asyncio.to_thread(db.check_dsn, dsn, settings.connect_timeout_s, [p.name for p in settings.watched])
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
    specs = tuple([await _spec(dsn, p, ids[Address(p.address)], found, record=node) for p in settings.watched])
    await asyncio.to_thread(bootstrap.ensure, dsn, specs)
    return Prepared(ids, specs, found.deployments, genesis)


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
                ours = label in [shown(url) for url in settings.rpc_urls]
                raise WrongCluster(label, genesis, str(first), PREFIX + ("RPC_URL" if ours else "WITNESS_URL"))
        if record and expected is None and first is not None:
            return await ledger.recorded_cluster(connection, first)
    return first


async def check_cluster(settings: Settings) -> str:
    """For `doctor`: which cluster the ledger and the endpoints are of; nothing is recorded."""
    genesis = await _same_cluster(settings, settings.need_database(), record=False)
    return "no endpoint tells its genesis hash" if genesis is None else f"genesis hash {genesis}"


async def _recorded(dsn: str, settings: Settings) -> dict[str, list[IdlRow]]:
    """The IDLs that the daemon recorded: a command that asks no node takes those of the chain from here."""
    from schema import db, ledger

    await asyncio.to_thread(db.check_dsn, dsn, settings.connect_timeout_s)
    current, head = await asyncio.to_thread(db.revisions, dsn)
    if current != head:
        return {}
    async with await db.aconnect(dsn) as connection:
        return await ledger.recorded_by_name(connection)


async def _spec(dsn: str, program: ProgramSetting, program_id: int, found: Found, *, record: bool) -> ProgramSpec:
    """The program with every IDL that it is read with, and what is new of them recorded."""
    from projections import bootstrap
    from schema import db, ledger

    deployment = found.deployments.get(program.name)
    async with await db.aconnect(dsn) as connection:
        recorded = await ledger.recorded_idls(connection, program_id)
        versions, rows = idls.settle(program, found.given[program.name], recorded, deployment)
        new = [row for row in rows if (row.slot_from, row.idl) not in {(r.slot_from, r.idl) for r in recorded}]
        if record or recorded:
            # Recorded by whoever knows when the program was deployed; a command that asks no node leaves the first record to the daemon.
            async with connection.transaction():
                await ledger.record_idls(connection, program_id, rows)
                if deployment is not None:
                    await ledger.note_deployment(connection, program.name, deployment)
    for row in new:
        log.info("idl", program=program.name, slot_from=row.slot_from, source=row.source)
    registry = idls.registry(versions)
    spec = bootstrap.spec(
        program.name, program.address, program_id, idls.merged(versions), program.projections, registry
    )
    for projection, events in bootstrap.strangers(spec).items():
        log.warning(
            "handlers_without_event", program=program.name, projection=projection, events=events,
            remedy="no IDL of the program has these events: correct the handlers' names, or give the IDL that has them",
        )  # fmt: skip
    return spec


@dataclass(frozen=True, slots=True)
class Found:
    """By program name: the IDL newest in the settings, every document that they give, and the slot of the last deployment where the node was
    asked for it.
    """

    newest: dict[str, Idl]
    given: dict[str, list[idls.Given]]
    deployments: dict[str, int | None]


async def load_idls(
    settings: Settings, *, node: bool = True, recorded: Mapping[str, Sequence[IdlRow]] = MappingProxyType({})
) -> Found:
    """The IDLs of each program, from the package, a file or the chain; checks on the node that each address holds a program.

    `recorded`, by program name, stands in for the chain where it has an IDL that came from there.
    """
    watched = Watched(tuple(Address(p.address) for p in settings.watched))
    policy = RpcPolicy(timeout_s=min(settings.rpc_timeout_s, settings.connect_timeout_s), attempts=2)
    found = Found({}, {}, {})
    async with RpcClient(settings.rpc_urls, watched, policy) as rpc:
        for program in settings.watched:
            if node:
                await _must_be_program(rpc, program, settings.connect_timeout_s)
                deployment = await idls.deployed(rpc, program.address)
                if isinstance(deployment, Failure):
                    # Without it a new IDL could not be told from a corrected one.
                    raise UserError(
                        f"{PREFIX}RPC_URL = {rpc.label} does not say when {program.address} was deployed:"
                        f" {deployment.message}; try again",
                        EXIT_UNREACHABLE,
                    )
                found.deployments[program.name] = deployment
            known = [row for row in recorded.get(program.name, ()) if row.source.startswith(idls.CHAIN)]
            given = [await _load_idl(rpc, program, each, known) for each in program.idls]
            found.given[program.name] = given
            found.newest[program.name] = load_idl(given[-1].document)
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


async def _load_idl(
    rpc: RpcClient, program: ProgramSetting, setting: IdlSetting, recorded: Sequence[IdlRow]
) -> idls.Given:
    """One IDL of the program, from wherever the setting says; for the chain the last recorded one, if there is one. UserError when nothing of
    it can be served.
    """
    from programs.chain_idl import ChainIdlError
    from programs.chain_idl import document as document_in

    field, source = f"programs.{program.name}.idl", setting.path
    try:
        if setting.path == BUILTIN_IDL:
            from programs.community_voting import artifact

            document = artifact.IDL_PATH.read_bytes()
        elif setting.path == idls.CHAIN:
            document = recorded[-1].idl if recorded else await _from_chain(rpc, program, field)
        else:
            document = document_in(_read(setting.path, field))
            source = f"file {Path(setting.path).name}"
        load_idl(document)
        return idls.Given(setting.from_slot, document, source)
    except ChainIdlError as error:
        raise UserError(f"{field} = {setting.path!r}: {error}; give a path to the program's IDL instead") from None
    except IdlError as error:
        raise UserError(f"{field} = {setting.path!r}: {error}; indexer idl check {setting.path} says more") from None


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
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no such path"
        raise UserError(f"{field} = {idl!r}: {why}; give a path, {BUILTIN_IDL!r} or 'chain'") from None
