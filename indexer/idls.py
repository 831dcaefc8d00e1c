"""Which IDL a program is read with at which slot: what the settings give, what the ledger recorded, and what the chain says of upgrades.

With one IDL in the settings, a document that differs from the recorded one is a new version from the slot of the program's newest
deployment, if there was one since; without a deployment it is a correction and holds where the old one did. With several, the settings
say from which slot each holds. The rules are pure; `deployed` and `published` ask the node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from indexer.core.protocol import Failure
from indexer.edges.rpc import RpcClient
from indexer.settings import ProgramSetting
from programs import base58, chain_idl
from programs.registry import IdlVersion, ProgramRegistry, merged
from schema.ledger import IdlRow

CHAIN = "chain"
_DEPLOYED = ", deployed in "


@dataclass(frozen=True, slots=True)
class Given:
    """An IDL as the settings give it. `source` names where it was found."""

    from_slot: int
    document: bytes
    source: str


def settle(
    program: ProgramSetting, given: Sequence[Given], recorded: Sequence[IdlRow], deployment: int | None
) -> tuple[list[IdlVersion], list[IdlRow]]:
    """The versions to read with, oldest first, and the rows to record.

    `recorded` in the order in which it was. `deployment`: the slot of the program's last deployment, None when it is not known or cannot
    change.
    """
    key = base58.address_bytes(program.address)
    if not isinstance(program.idl, str):
        # The settings say everything, but that what the chain publishes under one of the entries may have grown since.
        rows = [IdlRow(each.from_slot, each.document, _at(each.source, deployment)) for each in given]
        return [IdlVersion(key, row.slot_from, row.idl) for row in rows], rows
    (only,) = given
    source = _at(only.source, deployment)
    history = _history(recorded)
    last = history[-1] if history else None
    rows = []
    if last is None:
        rows = [IdlRow(0, only.document, source)]
    elif last.idl != only.document:
        before = _deployment(last)
        upgraded = deployment is not None and before is not None and deployment > max(before, last.slot_from)
        rows = [IdlRow(deployment if upgraded and deployment is not None else last.slot_from, only.document, source)]
    held = {row.slot_from: row for row in (*history, *rows)}
    return [IdlVersion(key, slot, held[slot].idl) for slot in sorted(held)], rows


def _at(source: str, deployment: int | None) -> str:
    return source if deployment is None else f"{source}{_DEPLOYED}{deployment}"


def _history(recorded: Sequence[IdlRow]) -> list[IdlRow]:
    """The versions that stand: a later record for a slot replaces the earlier, and ends what was recorded beyond it."""
    standing: list[IdlRow] = []
    for row in recorded:
        standing = [other for other in standing if other.slot_from < row.slot_from]
        standing.append(row)
    return standing


def _deployment(row: IdlRow) -> int | None:
    _, found, slot = row.source.rpartition(_DEPLOYED)
    return int(slot) if found and slot.isdigit() else None


def registry(versions: Sequence[IdlVersion]) -> ProgramRegistry:
    """The registry of one program's versions. IdlError when one cannot be served at all."""
    return ProgramRegistry(versions)


__all__ = ["CHAIN", "CHANGES", "Given", "deployed", "merged", "published", "registry", "settle"]


async def deployed(rpc: RpcClient, address: str) -> int | Failure | None:
    """The slot in which the program was last deployed; None when it cannot be upgraded."""
    data = await rpc.get_account(address)
    if isinstance(data, Failure) or data is None:
        return data
    place = chain_idl.programdata_address(data)
    if place is None:
        return None
    code = await rpc.get_account(base58.address_text(place), chain_idl.DEPLOYMENT_BYTES)
    return code if isinstance(code, Failure) else chain_idl.deployed_slot(code or b"")


async def published(rpc: RpcClient, address: str) -> str | Failure | None:
    """The digest of the IDL that the program's authors put on the chain; None when there is none that can be read."""
    refused: list[Failure] = []

    async def account(place: str) -> bytes | None:
        data = await rpc.get_account(place)
        if isinstance(data, Failure):
            refused.append(data)
            return None
        return data

    try:
        found = await chain_idl.fetch(base58.address_bytes(address), account)
    except chain_idl.ChainIdlError:
        return None
    if refused:
        return refused[0]
    return None if found is None else hashlib.sha256(found.document).hexdigest()


CHANGES = ("upgraded", "idl_changed")


@dataclass(slots=True)
class Watch:
    """What was last seen of a program on the chain; `notice` tells what became of it since."""

    deployment: int | None = None
    idl: str | None = None
    seen: bool = False

    def notice(self, deployment: int | Failure | None, idl: str | Failure | None) -> list[str]:
        """ "upgraded", "idl_changed", both or neither. A node that did not answer changes nothing."""
        found: list[str] = []
        # A lower slot is a node that lags behind the others of its balancer, for a deployment is never undone.
        if isinstance(deployment, int) and deployment > (-1 if self.deployment is None else self.deployment):
            if self.seen:
                found.append("upgraded")
            self.deployment = deployment
        if not isinstance(idl, Failure):
            if self.seen and idl is not None and idl != self.idl:
                found.append("idl_changed")
            self.idl = idl if idl is not None else self.idl
        if not isinstance(deployment, Failure) and not isinstance(idl, Failure):
            self.seen = True
        return found
