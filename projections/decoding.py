"""Ledger rows to events, by the IDL of each program."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from programs.base58 import address_bytes
from programs.codec import CodecError, ProgramCodec, compile_idl
from programs.events import Extractor
from programs.idl import Idl, load_idl
from programs.registry import ProgramRegistry
from projections import metrics
from projections.fold import Poison
from projections.model import Event, Projection, clean
from schema.reads import LedgerRow


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


class Decoder:
    """Decodes the events of a fixed set of programs. Not for several threads at once."""

    def __init__(self, specs: Sequence[ProgramSpec]) -> None:
        self._specs = tuple(specs)
        self._ids = {spec.address: spec.program_id for spec in self._specs}
        self._extractors: dict[tuple[int, ...], Extractor] = {}
        self._at: tuple[int, Extractor] | None = None

    def extractor(self, slot: int) -> Extractor:
        """The extractor for a slot; one object while the same IDLs hold."""
        # Rows come slot by slot. A registry may learn of another version, so no answer is kept for longer.
        if self._at is None or self._at[0] != slot:
            self._at = slot, self._looked_up(slot)
        return self._at[1]

    def _looked_up(self, slot: int) -> Extractor:
        codecs = [spec.codec_at(slot) for spec in self._specs]
        key = tuple(map(id, codecs))
        if key not in self._extractors:
            self._extractors[key] = Extractor(
                {address_bytes(s.address): c for s, c in zip(self._specs, codecs, strict=True)}
            )
        return self._extractors[key]

    def decode(self, rows: Iterable[LedgerRow]) -> list[Event | Poison]:
        """The events of the rows, in their order. An event written both ways appears once."""
        found: list[Event | Poison] = []
        self._at = None
        for row in rows:
            raw = row.raw
            extraction = self.extractor(raw.slot).extract(raw)
            if extraction.incomplete is not None:
                metrics.INCOMPLETE.inc()
            for number, record in enumerate(extraction.events):
                # A program that was added later has a row of its own for a transaction that it shares; its events are that row's.
                if record.twin is not None or self._ids.get(record.program) not in row.programs:
                    continue
                if record.trailing:
                    metrics.LONGER.labels(program=record.program).inc()
                place = (row.position, raw.slot, raw.transaction_index, number, raw.signature)
                if record.name is None or record.error is not None:
                    found.append(
                        Poison(*place, record.program, record.raw, record.error or "no such event", record.name)
                    )
                else:
                    data = clean(record.data)
                    found.append(Event(*place, raw.block_time, record.program, record.name, data))
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
