"""Which IDL holds for a program at a slot. Programs are upgraded; an old event is short for a new IDL, so the slot
decides.

The registry is a value: it lives in memory, and `dump`/`load` turn it into plain rows and back for whoever stores it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

from programs.base58 import address_bytes, address_text
from programs.codec import ProgramCodec, compile_idl
from programs.events import Extractor
from programs.idl import Idl, load_idl

# Extractors kept for the slot ranges in use; a stream needs one, a rebuild a few.
_EXTRACTORS_MAX = 16


@dataclass(frozen=True, slots=True)
class IdlVersion:
    """One IDL of a program. `slot_first` is the first slot from which it holds; `document` the JSON text as it was
    given.
    """

    program: bytes
    slot_first: int
    document: bytes

    @property
    def digest(self) -> str:
        """sha256 of the document, hex: two versions with one digest are one."""
        return hashlib.sha256(self.document).hexdigest()


def merged(versions: Iterable[IdlVersion]) -> Idl:
    """The newest IDL, with what only older ones name: what a reader may find in tables that were filled over all slots."""
    idls = [load_idl(version.document) for version in sorted(versions, key=lambda v: v.slot_first)]
    newest = idls[-1]
    names = {layout.name for layout in newest.events}
    events = list(newest.events)
    for older in reversed(idls[:-1]):
        events += [layout for layout in older.events if layout.name not in names]
        names.update(layout.name for layout in older.events)
    return replace(newest, events=tuple(events))


class VersionRow(TypedDict):
    """A version as storage keeps it."""

    program: str
    slot_first: int
    digest: str
    document: str


class ProgramRegistry:
    """IDL versions by program and slot. Before its first version a program is read with that one: there is nothing
    older.
    """

    def __init__(self, versions: Iterable[IdlVersion] = ()) -> None:
        self._versions: dict[bytes, list[IdlVersion]] = {}
        self._codecs: dict[str, ProgramCodec] = {}
        self._extractors: dict[tuple[str, ...], Extractor] = {}
        self._revision = 0
        for version in versions:
            self.add(version)

    def add(self, version: IdlVersion) -> bool:
        """Add a version; True when that changes how some slot is read. One given for the same slot replaces it.
        IdlError when unusable.
        """
        held = self._versions.get(version.program, [])
        before = self._at(held, version.slot_first)
        if before is not None and before.digest == version.digest and before.slot_first <= version.slot_first:
            return False
        if version.digest not in self._codecs:
            self._codecs[version.digest] = compile_idl(load_idl(version.document))
        kept = [other for other in held if other.slot_first != version.slot_first]
        self._versions[version.program] = sorted([*kept, version], key=lambda v: v.slot_first)
        self._extractors.clear()
        # After the change: whoever asks for the revision first and reads then may know more than the revision says, and never less.
        self._revision += 1
        return True

    @property
    def revision(self) -> int:
        """Another number whenever some slot is read otherwise than before."""
        return self._revision

    @property
    def programs(self) -> tuple[bytes, ...]:
        return tuple(self._versions)

    def versions(self, program: bytes) -> tuple[IdlVersion, ...]:
        """Oldest first."""
        return tuple(self._versions.get(program, ()))

    def version_at(self, program: bytes, slot: int) -> IdlVersion | None:
        """The version that holds at the slot; None when the program is not known."""
        return self._at(self._versions.get(program, []), slot)

    def codec_at(self, program: bytes, slot: int) -> ProgramCodec | None:
        version = self.version_at(program, slot)
        return None if version is None else self._codecs[version.digest]

    def codecs_at(self, slot: int) -> Mapping[bytes, ProgramCodec]:
        found = ((program, self.codec_at(program, slot)) for program in self._versions)
        return {program: codec for program, codec in found if codec is not None}

    def extractor_at(self, slot: int) -> Extractor:
        """The extractor of every program for the slot; the same object while the same versions hold."""
        holding = (self._at(versions, slot) for versions in self._versions.values())
        key = tuple(version.digest for version in holding if version is not None)
        extractor = self._extractors.get(key)
        if extractor is None:
            if len(self._extractors) >= _EXTRACTORS_MAX:
                self._extractors.clear()
            extractor = self._extractors[key] = Extractor(self.codecs_at(slot))
        return extractor

    def slots_changed(self, version: IdlVersion) -> tuple[int, int | None]:
        """The slots that this version is read with: first, and last (None is open). What failed there is worth
        decoding again.
        """
        held = self._versions.get(version.program, [])
        later = [other.slot_first for other in held if other.slot_first > version.slot_first]
        earliest = not any(other.slot_first < version.slot_first for other in held)
        return (0 if earliest else version.slot_first), (min(later) - 1 if later else None)

    def dump(self) -> list[VersionRow]:
        """Every version as a row, in a fixed order."""
        versions = [version for program in sorted(self._versions) for version in self._versions[program]]
        return [
            VersionRow(
                program=address_text(v.program),
                slot_first=v.slot_first,
                digest=v.digest,
                document=v.document.decode("utf-8"),
            )
            for v in versions
        ]

    @staticmethod
    def load(rows: Iterable[VersionRow]) -> ProgramRegistry:
        """The registry that `dump` described. ValueError when a document is not the one its digest names; IdlError as
        `load_idl`.
        """
        registry = ProgramRegistry()
        for row in rows:
            version = IdlVersion(address_bytes(row["program"]), row["slot_first"], row["document"].encode())
            if version.digest != row["digest"]:
                raise ValueError(
                    f"the IDL of {row['program']} from slot {row['slot_first']} is not the one that was stored"
                )
            registry.add(version)
        return registry

    @staticmethod
    def _at(versions: list[IdlVersion], slot: int) -> IdlVersion | None:
        if not versions:
            return None
        return versions[max(bisect_right(versions, slot, key=lambda v: v.slot_first) - 1, 0)]
