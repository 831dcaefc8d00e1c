"""`indexer decode`: transactions, or bare bytes, to JSON lines. Needs no database and no node."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from programs.errors import UserError

if TYPE_CHECKING:
    from programs.codec import ProgramCodec
    from programs.events import InnerSource
    from programs.idl import Idl
    from programs.transaction import RpcTransaction

_EPILOG = """examples:
  indexer decode --idl voting.json transaction.json
  indexer decode --idl voting.json --instructions < transactions.jsonl
  echo 0102030405060708ff | indexer decode --idl builtin:community_voting --raw event
"""
_FILE_CHUNK = 1 << 20
_PIPE_CHUNK = 1 << 16
# A line longer than this is no transaction; it would only fill the memory. It is passed over, and this stands for it, by identity.
_LINE_BYTES_MAX = 1 << 28
_TOO_LONG = b"(a line that is too long)"

# Takes one line of input, appends its answers to the list, returns whether something was wrong.
Handler = Callable[[bytes, list[bytes]], bool]


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sub.add_parser(
        "decode",
        help="decode transactions, or bare bytes, with an IDL",
        description="Print the events of transactions as JSON lines, in execution order.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--idl",
        required=True,
        metavar="FILE",
        help="the program's IDL (as `idl check` takes it), or builtin:community_voting",
    )
    parser.add_argument("--program", metavar="ADDRESS", help="the program (default: the address in the IDL)")
    parser.add_argument("--instructions", action="store_true", help="print the program's instructions too")
    parser.add_argument(
        "--raw", choices=("event", "account", "instruction"), help="each line is hex, discriminator first"
    )
    parser.add_argument("--json", action="store_true", help="the output is JSON lines in any case")
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="getTransaction results or blocks (default: lines of stdin)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """0 all decoded, 1 something did not, 2 wrong usage."""
    from programs.codec import compile_idl
    from programs.collector import collect_seldom

    collect_seldom()
    if args.raw and args.instructions:
        raise UserError("--instructions: transactions have them, --raw lines do not; give one of the two")
    idl = read_idl(args.idl)
    for name in args.files:
        _must_be_there(name)
    codec = compile_idl(idl)
    handler = (
        _raw_handler(codec, args.raw)
        if args.raw
        else _transaction_handler(codec, _program(args.program, idl), args.instructions)
    )
    whole = args.raw is None
    wrong = False
    try:
        if not args.files:
            wrong = _answer(sys.stdin.fileno(), handler, whole, "stdin")
        for name in args.files:
            with _opened(name) as file:
                wrong |= _answer(file.fileno(), handler, whole, name)
    except BrokenPipeError:
        # The reader has enough. Nothing is left to say, and the interpreter must not try to at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if wrong else 0


def read_idl(name: str, field: str = "--idl") -> Idl:
    """An IDL from a file. UserError, naming the field, when it cannot be read or nothing of it can be served."""
    from programs.chain_idl import ChainIdlError, document
    from programs.idl import IdlError, load_idl

    try:
        with open(_builtin(name, field) if name.startswith("builtin:") else name, "rb") as file:
            return load_idl(document(file.read()))
    except OSError as error:
        raise UserError(f"{field} {name}: {error.strerror or error}; give the path of an IDL in JSON") from None
    except (IdlError, ChainIdlError) as error:
        raise UserError(f"{field} {name}: {error}; give an Anchor IDL in JSON") from None


def _builtin(name: str, field: str) -> Path:
    import programs.community_voting
    from indexer.settings import BUILTIN_IDL

    if name != BUILTIN_IDL:
        raise UserError(f"{field} {name}: there is no such IDL; give {BUILTIN_IDL} or the path of an IDL in JSON")
    return Path(str(programs.community_voting.__file__)).with_name("idl.json")


def _must_be_there(name: str) -> None:
    """UserError unless the file can be looked at: nothing is printed when one of several is missing."""
    try:
        folder = stat.S_ISDIR(os.stat(name).st_mode)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}; give a file of getTransaction results") from None
    if folder:
        raise UserError(f"{name}: Is a directory; give a file of getTransaction results")


def _program(given: str | None, idl: Idl) -> bytes:
    from programs.base58 import address_bytes

    text = given or idl.address
    if text is None:
        raise UserError("--program: the IDL names no address; give the program's address")
    try:
        return address_bytes(text)
    except ValueError as error:
        raise UserError(f"--program: {error}; give the program's address") from None


def _opened(name: str) -> Any:
    try:
        return open(name, "rb", buffering=0)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}; give a file of getTransaction results") from None


# ---- reading and answering ----


def _answer(source: int, handler: Handler, whole: bool, name: str) -> bool:
    """Answer every line. What one read delivered is answered and written before the next read: no answer waits for
    more input.
    """
    wrong = False
    reader = _batches(source, name)
    for number, lines in enumerate(reader):
        if number == 0 and whole:
            if lines[0].startswith(b"\xef\xbb\xbf"):
                lines[0] = lines[0][3:]
            if _goes_on(lines, regular=stat.S_ISREG(os.fstat(source).st_mode)):
                lines = _gathered(lines, reader)
        answers: list[bytes] = []
        for line in lines:
            if line is _TOO_LONG:
                wrong = True
                answers.append(b'{"error":"a line longer than %d bytes"}\n' % _LINE_BYTES_MAX)
            elif not whole:
                # Bare bytes are answered line for line, so an empty line has its answer too.
                wrong |= handler(line, answers)
            elif line[:1] == b"[":
                for part in _documents(line):
                    wrong |= handler(part, answers)
            elif line and not line.isspace():
                wrong |= handler(line, answers)
        _write(answers)
    return wrong


def _goes_on(lines: list[bytes], *, regular: bool) -> bool:
    """Whether the first line is the beginning of a document of several lines. A stream is only believed to hold one when it opens with a
    bracket alone: waiting for the rest of a line that was cut would answer nothing until the end.
    """
    import msgspec

    line = next((line.strip() for line in lines if line and not line.isspace()), b"")
    if line in (b"{", b"["):
        return True
    if not regular or line[:1] not in (b"{", b"["):
        return False
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    return False


def _gathered(lines: list[bytes], more: Iterator[list[bytes]]) -> list[bytes]:
    """The lines up to the end as one, when together they are one document; else those that had to be read to see that they are none."""
    found, size = list(lines), sum(map(len, lines))
    for batch in more:
        found += batch
        size += sum(map(len, batch))
        if size > _LINE_BYTES_MAX:
            return found
    return found if any(line is _TOO_LONG for line in found) else _one_document(found) or found


def _one_document(lines: list[bytes]) -> list[bytes] | None:
    """The lines as one line, when together they are one document."""
    import msgspec

    text = b"\n".join(lines)
    if len(text) > _LINE_BYTES_MAX:
        return None
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return [text.strip()]


def _batches(source: int, name: str) -> Iterator[list[bytes]]:
    """The complete lines of each read; a last line without an end counts, and one that is too long is passed over."""
    try:
        size = _FILE_CHUNK if stat.S_ISREG(os.fstat(source).st_mode) else _PIPE_CHUNK
        parts: list[bytes] = []
        held = 0
        while chunk := os.read(source, size):
            first, *lines = chunk.split(b"\n")
            held += len(first)
            parts.append(first)
            if held > _LINE_BYTES_MAX:
                parts = [_TOO_LONG]
            if not lines:
                continue
            last = lines.pop()
            yield [parts[0] if len(parts) == 1 else b"".join(parts), *lines]
            parts, held = [last], len(last)
        if held:
            yield [parts[0] if len(parts) == 1 else b"".join(parts)]
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}; give a file that can be read") from None


def _documents(text: bytes) -> list[bytes]:
    """One result, or the elements of a list of results (a batch reply)."""
    import msgspec

    try:
        return [bytes(part) for part in msgspec.json.decode(text, type=list[msgspec.Raw])]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [text]


def _write(answers: Iterable[bytes]) -> None:
    data = memoryview(b"".join(answers))
    out = sys.stdout.fileno()
    sys.stdout.flush()
    while data:
        data = data[os.write(out, data) :]


# ---- the two kinds of input ----


def _raw_handler(codec: ProgramCodec, kind: str) -> Handler:
    import msgspec

    from programs.codec import DecodeError

    decode = {"event": codec.decode_event, "account": codec.decode_account, "instruction": codec.decode_instruction}[
        kind
    ]
    encode = msgspec.json.Encoder().encode

    def handle(line: bytes, answers: list[bytes]) -> bool:
        try:
            text = line.strip().decode("ascii")
            answers.append(encode(decode(bytes.fromhex(text))) + b"\n")
        except DecodeError as error:
            answers.append(encode({"error": str(error)}) + b"\n")
            return True
        except ValueError:
            answers.append(encode({"error": f"not hex: {line.strip()[:60].decode('ascii', 'replace')!r}"}) + b"\n")
            return True
        return False

    return handle


def _transaction_handler(codec: ProgramCodec, program: bytes, instructions: bool) -> Handler:
    import msgspec

    from programs.events import Extractor, LogSource
    from programs.transaction import TransactionError, block_of, parse_rpc, signature_of

    extractor = Extractor({program: codec})
    encode = msgspec.json.Encoder().encode

    def place(source: LogSource | InnerSource) -> dict[str, Any]:
        return {"log": source.line} if isinstance(source, LogSource) else {"inner": [source.outer, source.index]}

    def handle(line: bytes, answers: list[bytes]) -> bool:
        try:
            rpc = parse_rpc(line)
        except TransactionError as error:
            block = block_of(line)
            if block is None:
                answers.append(encode({"error": str(error)}) + b"\n")
                return True
            slot, transactions = block
            # Every one is answered, whatever became of those before it.
            return sum(answer(rpc, slot, answers) for rpc in transactions) > 0
        return answer(rpc, rpc.slot, answers)

    def answer(rpc: RpcTransaction, slot: int | None, answers: list[bytes]) -> bool:
        wrong = False
        try:
            if instructions:
                wrong = _instructions(rpc, slot, codec, program, answers, encode)
            extraction = extractor.extract_rpc(rpc)
            if not extraction.events and extraction.incomplete is None:
                return wrong
            signature = signature_of(rpc)
        except TransactionError as error:
            answers.append(encode({"error": str(error)}) + b"\n")
            return True
        for event in extraction.events:
            said: dict[str, Any] = {
                "signature": signature,
                "slot": slot,
                "program": event.program,
                "event": event.name,
            }
            if event.error is None:
                said["data"] = event.data
            else:
                said["error"] = event.error
                wrong = True
            said["source"] = place(event.source)
            said["trailing"] = event.trailing
            if event.twin is not None:
                said["twin"] = place(event.twin)
            answers.append(encode(said) + b"\n")
        if extraction.incomplete is not None:
            answers.append(encode({"signature": signature, "incomplete": extraction.incomplete}) + b"\n")
        return wrong

    return handle


def _instructions(
    rpc: RpcTransaction,
    slot: int | None,
    codec: ProgramCodec,
    program: bytes,
    answers: list[bytes],
    encode: Callable[[Any], bytes],
) -> bool:
    """Print the program's instructions in execution order, inner ones too; those of a failed transaction as well:
    they were tried.
    """
    from programs.base58 import address_text
    from programs.events import called_instructions
    from programs.transaction import view_from_rpc

    seen = view_from_rpc(rpc)
    wrong = False
    for call in called_instructions(seen, program, codec):
        answer: dict[str, Any] = {
            "signature": seen.signature,
            "slot": slot,
            "program": address_text(program),
            "instruction": call.name,
        }
        if call.error is None:
            answer["data"] = call.data
        else:
            answer["error"] = call.error
            wrong = True
        answer["accounts"] = call.accounts
        answer["source"] = {"outer": call.outer} if call.index is None else {"inner": [call.outer, call.index]}
        answers.append(encode(answer) + b"\n")
    return wrong
