"""Ledger rows to events, by the IDL of each program."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from programs.base58 import address_bytes
from programs.codec import CodecError, ProgramCodec, compile_idl
from programs.events import Extraction, Extractor
from programs.idl import Idl, load_idl
from programs.registry import ProgramRegistry
from programs.transaction import PartTransaction, RawTransaction
from projections import metrics
from projections.fold import Poison
from projections.model import Event, Projection, clean
from schema.reads import PartRow


@dataclass(frozen=True)
class ProgramSpec:
    """A watched program as the projections need it. `registry` holds several IDLs by slot; without it `idl` holds for all."""

    name: str
    address: str
    program_id: int
    idl: Idl
    projections: tuple[Projection, ...]
    registry: ProgramRegistry | None = None

    @cached_property
    def codec(self) -> ProgramCodec:
        """The compiled IDL."""
        return compile_idl(self.idl)

    def codec_at(self, slot: int) -> ProgramCodec:
        """The codec that holds at a slot."""
        found = None if self.registry is None else self.registry.codec_at(address_bytes(self.address), slot)
        return self.codec if found is None else found

    @cached_property
    def digest(self) -> str:
        """Equal for IDLs that read events alike: a change means that the tables have to be built anew."""
        versions: list[tuple[int, Idl]] = [(0, self.idl)]
        if self.registry is not None:
            held = self.registry.versions(address_bytes(self.address))
            # Before its first version a program is read with that one, whatever slot it was given for.
            versions = [(v.slot_first if number else 0, load_idl(v.document)) for number, v in enumerate(held)]
        described = [
            (slot, idl.events, sorted((name, repr(kind)) for name, kind in idl.types.items())) for slot, idl in versions
        ]
        return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


# The extraction, of parts too, and by program the events whose data need no cleaning: they hold no text.
_Extracting: TypeAlias = tuple[
    Callable[[RawTransaction], Extraction], Callable[[PartTransaction], Extraction], dict[str, frozenset[str]]
]


# How many transactions' events cannot all be known, and by program the events with more bytes than their IDL describes.
Counted: TypeAlias = Callable[[int, Mapping[str, int]], None]


def count(incomplete: int, longer: Mapping[str, int]) -> None:
    """Add to this process's metrics."""
    if incomplete:
        metrics.INCOMPLETE.inc(incomplete)
    for program, events in longer.items():
        metrics.LONGER.labels(program=program).inc(events)


class Decoder:
    """Decodes the events of a fixed set of programs. Not for several threads at once. counted: told what each call of `decode` met; that is
    for whoever reads the ledger first, since others decode the same rows again."""

    def __init__(self, specs: Sequence[ProgramSpec], counted: Counted | None = None) -> None:
        self._specs = tuple(specs)
        self._counted = counted
        self._ids = {spec.address: spec.program_id for spec in self._specs}
        self._extractors: dict[tuple[int, ...], _Extracting] = {}

    def _extracting(self, slot: int) -> _Extracting:
        """What extracts at a slot; one object while the same IDLs hold."""
        codecs = [spec.codec_at(slot) for spec in self._specs]
        key = tuple(map(id, codecs))
        found = self._extractors.get(key)
        if found is None:
            extractor = Extractor({address_bytes(s.address): c for s, c in zip(self._specs, codecs, strict=True)})
            textless = {s.address: c.textless_events for s, c in zip(self._specs, codecs, strict=True)}
            found = self._extractors[key] = extractor.extract, extractor.extract_part, textless
        return found

    def decode(self, rows: Iterable[PartRow]) -> list[Event | Poison]:
        """The events of the rows, in their order. An event written both ways appears once."""
        found: list[Event | Poison] = []
        ids, at = self._ids, -1
        incomplete, longer = 0, dict[str, int]()
        for row in rows:
            position, raw = row.position, row.raw
            slot = raw.slot
            if slot != at:
                # Rows come slot by slot. A registry may learn of another version, so no answer is kept for longer.
                at = slot
                extract, extract_part, textless = self._extracting(slot)
            extraction = extract_part(raw) if isinstance(raw, PartTransaction) else extract(raw)
            if extraction.incomplete is not None:
                incomplete += 1
            number = -1
            for record in extraction.events:
                number += 1
                program, name = record.program, record.name
                # A program that was added later has a row of its own for a transaction that it shares; its events are that row's.
                if record.twin is not None or ids.get(program) not in row.programs:
                    continue
                if record.trailing:
                    longer[program] = longer.get(program, 0) + 1
                if name is None or record.error is not None:
                    place = (position, slot, raw.transaction_index, number, raw.signature)
                    found.append(Poison(*place, program, record.raw, record.error or "no such event", name))
                    continue
                data = record.data if name in textless[program] else clean(record.data)
                found.append(
                    Event(
                        position,
                        slot,
                        raw.transaction_index,
                        number,
                        raw.signature,
                        raw.block_time,
                        program,
                        name,
                        data,
                    )
                )
        if self._counted is not None:
            self._counted(incomplete, longer)
        return found

    def again(self, program: str, slot: int, raw: bytes) -> tuple[str, object] | str:
        """Decode an event's bytes with today's IDL: name and data, or why not."""
        for spec in self._specs:
            if spec.address == program:
                try:
                    decoded = spec.codec_at(slot).decode_event(raw)
                except CodecError as error:
                    return str(error)
                return decoded.name, clean(decoded.data)
        return f"program {program} is not watched"
