"""Figures of decoding, each against its floor, anchorpy in the same run: `python -m tests.bench.bench_decode
[--json]`.
"""

from __future__ import annotations

import argparse
import base64
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from programs.base58 import address_text
from programs.codec import ProgramCodec, compile_idl
from programs.events import Extractor
from programs.idl import load_idl
from programs.transaction import parse_rpc

PROGRAM = address_text(bytes(range(32)))
OTHER = "ComputeBudget111111111111111111111111111111"
FIELDS: list[tuple[str, Any]] = [
    ("community", "pubkey"),
    ("question", "pubkey"),
    ("voter", "pubkey"),
    ("vote", "pubkey"),
    ("weight", "u64"),
    ("ballots", "u64"),
    ("at", "i64"),
    ("option", "u16"),
    ("anonymous", "bool"),
]


def documents() -> tuple[dict[str, Any], dict[str, Any]]:
    """The same event in both formats; anchorpy reads only the legacy one."""
    legacy = {
        "name": "bench",
        "version": "0.1.0",
        "instructions": [],
        "events": [
            {
                "name": "VoteCast",
                "fields": [{"name": n, "type": "publicKey" if t == "pubkey" else t, "index": False} for n, t in FIELDS],
            }
        ],
    }
    discriminator = list(load_idl(legacy).events[0].discriminator)
    new = {
        "address": PROGRAM,
        "metadata": {"name": "bench", "version": "0.1.0", "spec": "0.1.0"},
        "instructions": [],
        "events": [{"name": "VoteCast", "discriminator": discriminator}],
        "types": [
            {"name": "VoteCast", "type": {"kind": "struct", "fields": [{"name": n, "type": t} for n, t in FIELDS]}}
        ],
    }
    return legacy, new


def event_value(number: int) -> dict[str, Any]:
    key = address_text(number.to_bytes(32, "little"))
    return {
        "community": PROGRAM,
        "question": OTHER,
        "voter": key,
        "vote": key,
        "weight": number,
        "ballots": number * 3,
        "at": 1_700_000_000 + number,
        "option": 2,
        "anonymous": False,
    }


def log_lines(data: bytes) -> list[str]:
    """Twelve lines as a vote leaves them."""
    return [
        f"Program {OTHER} invoke [1]",
        f"Program {OTHER} success",
        f"Program {OTHER} invoke [1]",
        f"Program {OTHER} success",
        f"Program {PROGRAM} invoke [1]",
        "Program log: Instruction: CastVote",
        "Program 11111111111111111111111111111111 invoke [2]",
        "Program 11111111111111111111111111111111 success",
        "Program data: " + base64.b64encode(data).decode(),
        "Program log: voted",
        f"Program {PROGRAM} consumed 23456 of 200000 compute units",
        f"Program {PROGRAM} success",
    ]


def transaction(number: int, logs: list[str]) -> bytes:
    """A getTransaction reply of ordinary size around the logs, one line of JSON."""
    signature = "5" * 80 + f"{number:08d}".replace("0", "z")
    message = {
        "accountKeys": [PROGRAM, OTHER, "11111111111111111111111111111111"],
        "header": {"numRequiredSignatures": 1, "numReadonlySignedAccounts": 0, "numReadonlyUnsignedAccounts": 2},
        "instructions": [{"programIdIndex": 0, "accounts": [0, 1], "data": "3Bxs4h24hBtQy9rw", "stackHeight": 1}],
        "recentBlockhash": PROGRAM,
    }
    result = {
        "blockTime": 1_700_000_000,
        "meta": {
            "err": None,
            "fee": 5000,
            "innerInstructions": [],
            "loadedAddresses": {"readonly": [], "writable": []},
            "logMessages": logs,
            "postBalances": [1, 2, 3],
            "preBalances": [1, 2, 3],
            "status": {"Ok": None},
        },
        "slot": number,
        "transaction": {"message": message, "signatures": [signature]},
        "version": "legacy",
    }
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}, separators=(",", ":")).encode()


def best(function: Callable[[], object], calls: int, rounds: int = 40) -> float:
    """Microseconds a call, the best round of many short ones: other processes only ever add."""
    gc.collect()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        times.append((time.perf_counter() - start) / calls)
    return min(times) * 1e6


def best_of_fresh(function: Callable[[list[str]], object], lines: list[str], calls: int, rounds: int) -> float:
    """As `best`, of a function of log lines. Its strings are new each time, as those of a stream are: nothing has asked for their hashes."""
    gc.collect()
    times = []
    for _ in range(rounds):
        fresh = json.loads(json.dumps([lines] * calls))
        start = time.perf_counter()
        for logs in fresh:
            function(logs)
        times.append((time.perf_counter() - start) / calls)
    return min(times) * 1e6


def anchorpy_parser(legacy: dict[str, Any], lines: list[str]) -> Callable[[list[str]], None]:
    """anchorpy's EventParser; it must find the events of the lines, or the comparison is none."""
    from anchorpy import EventParser, Idl
    from anchorpy.coder.coder import Coder
    from solders.pubkey import Pubkey

    parser = EventParser(Pubkey.from_string(PROGRAM), Coder(Idl.from_json(json.dumps(legacy))))
    found: list[Any] = []
    parser.parse_logs(lines, found.append)
    assert len(found) == sum(line.startswith("Program data: ") for line in lines), "anchorpy must see the same events"
    return lambda logs: parser.parse_logs(logs, lambda _event: None)


def against_anchorpy(extractor: Extractor, legacy: dict[str, Any], lines: list[str]) -> tuple[float, float]:
    """Microseconds for the lines, ours and anchorpy's, the rounds in turn so that both meet the same machine."""
    theirs = anchorpy_parser(legacy, lines)
    ours = extractor.from_logs
    pairs = [(best_of_fresh(ours, lines, 300, 4), best_of_fresh(theirs, lines, 30, 4)) for _ in range(10)]
    return min(p[0] for p in pairs), min(p[1] for p in pairs)


def stream_seconds(document: dict[str, Any], count: int, raw: bool, codec: ProgramCodec) -> tuple[float, float]:
    """Seconds that `indexer decode` takes for `count` events in a file, process start included: wall time, CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        idl, source = Path(folder, "idl.json"), Path(folder, "in.jsonl")
        idl.write_text(json.dumps(document))
        with source.open("wb") as file:
            for number in range(count):
                data = codec.encode_event("VoteCast", event_value(number % 5000))
                file.write(data.hex().encode() if raw else transaction(number, log_lines(data)))
                file.write(b"\n")
        program = (
            "import argparse,sys;from indexer.cli import decode;p=argparse.ArgumentParser();s=p.add_subparsers();"
            "decode.register(s);a=p.parse_args();sys.exit(a.func(a))"
        )
        options = ["--raw", "event"] if raw else []
        command = [sys.executable, "-c", program, "decode", "--idl", str(idl), *options, str(source)]
        before, start = os.times(), time.perf_counter()
        with Path(folder, "out").open("wb") as out:
            subprocess.run(command, stdout=out, check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
        seconds, after = time.perf_counter() - start, os.times()
        with Path(folder, "out").open("rb") as written:
            assert sum(chunk.count(b"\n") for chunk in iter(lambda: written.read(1 << 20), b"")) == count
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return seconds, cpu


def measure(count: int) -> list[dict[str, Any]]:
    legacy, new = documents()
    codec = compile_idl(load_idl(new))
    data = codec.encode_event("VoteCast", event_value(7))
    assert len(data) == 163, len(data)
    extractor = Extractor({bytes(range(32)): codec})
    lines = log_lines(data)
    frame = transaction(1, lines)
    assert len(extractor.extract_rpc(parse_rpc(frame)).events) == 1
    moments = [best(lambda: codec.decode_event(data), 2_000)]
    alone = [lines[4], lines[8], lines[11]]
    shapes = {
        "its event alone, 3 lines": alone,
        "12 lines of a vote": lines,
        "10 events in 12 lines": [lines[4], *[lines[8]] * 10, lines[11]],
    }
    compared = {shape: against_anchorpy(extractor, legacy, of) for shape, of in shapes.items()}
    moments.append(best(lambda: codec.decode_event(data), 2_000))
    whole = best(lambda: extractor.extract_rpc(parse_rpc(frame)), 500)
    only_logs = best_of_fresh(extractor.from_logs, lines, 500, 40)
    # A machine that others use too has better moments and worse ones.
    moments.append(best(lambda: codec.decode_event(data), 2_000))
    event = min(moments)
    parser = compared["its event alone, 3 lines"][1]
    figures = [
        figure("163-byte event, bytes to values", event, "us", 1.0, "most"),
        figure("anchorpy's EventParser on the event's 3 lines", parser, "us", None, ""),
        figure("its time / our decoder's", parser / event, "x", 30.0, "least"),
        *[figure(f"log lines to typed events, both: {s}", t / o, "x", None, "") for s, (o, t) in compared.items()],
        figure("12-line transaction, raw frame to typed events", whole, "us", 12.0, "most"),
        figure("of that, logs to typed events", only_logs, "us", None, ""),
    ]
    for raw in (False, True):
        name = "hex lines" if raw else "getTransaction replies"
        seconds, cpu = stream_seconds(new, count, raw, codec)
        figures.append(figure(f"indexer decode, {count} {name}", count / seconds, "events/s", 50_000.0, "least"))
        figures.append(figure("its CPU time a million events", cpu / count * 1e6, "s", None, ""))
    return figures


def figure(name: str, value: float, unit: str, floor: float | None, bound: str) -> dict[str, Any]:
    met = None if floor is None else value <= floor if bound == "most" else value >= floor
    return {"name": name, "value": round(value, 3), "unit": unit, "floor": floor, "met": met}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--events", type=int, default=200_000, help="events in the file for `indexer decode`")
    args = parser.parse_args()
    figures = measure(args.events)
    if args.json:
        print(json.dumps(figures))
    else:
        for entry in figures:
            mark = {True: "met", False: "MISSED", None: ""}[entry["met"]]
            print(
                f"{entry['name']:<62} {entry['value']:>12,.2f} {entry['unit']:<9} floor {entry['floor'] or '-'}  {mark}"
            )
    return 1 if any(entry["met"] is False for entry in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
