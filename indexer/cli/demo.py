"""`indexer demo`: the whole thing moving on this machine.

An embedded PostgreSQL, the development node with the voting program, the indexer as a process of its own, and a crowd of wallets. Halfway
the indexer is killed with SIGKILL and the node drops its sockets; at the end the tables are compared with the accounts on the chain.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

_PR_SET_PDEATHSIG = 1
READY_S = 30.0
CLOSE_S = 40.0
QUESTIONS_SHOWN = 3


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = sub.add_parser(
        "demo",
        help="the whole thing moving on this machine",
        description="An embedded PostgreSQL, a development node with the real Solana VM, the indexer and a crowd that votes. Halfway the indexer "
        "is killed; at the end the tables are compared with the chain. Exit code 0 only if they are equal.",
        epilog="example: indexer demo --seconds 40 --rate 60",
    )
    parser.add_argument("--seconds", type=float, default=40.0, help="how long the crowd is at work (default 40)")
    parser.add_argument("--rate", type=float, default=60.0, help="transactions a second (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="which crowd (default 1)")
    parser.add_argument("--keep", action="store_true", help="stay up at the end, until Ctrl-C")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.svg", help="save the last picture of the crowd's work as a drawing"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document at the end")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """0 when tables and chain are equal at the end, 1 when not."""
    from indexer.cli.demo_view import View

    view = View(sys.stderr if args.json else sys.stdout)
    with contextlib.ExitStack() as stack:
        demo = stack.enter_context(_stage(view))
        equal = asyncio.run(_play(demo, args, view))
        if args.picture:
            view.save(args.picture)
        if args.json:
            print(json.dumps({"equal": equal, **demo.figures}))
        if args.keep:
            _keep(demo, view)
    return 0 if equal else 1


@dataclass(slots=True)
class Demo:
    """The stage: addresses, processes, and what was measured."""

    dsn: str
    reader: str
    rpc_url: str
    ws_url: str
    metrics_port: int
    log: IO[bytes]
    environment: dict[str, str]
    indexer: subprocess.Popen[bytes] | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    # The questions in the picture: each stays in its place while it is open, else the bars would jump about.
    shown: list[str] = field(default_factory=list)


@contextlib.contextmanager
def _stage(view: Any) -> Iterator[Demo]:
    from programs.community_voting import artifact
    from schema import db
    from schema.embedded import EmbeddedPostgres

    logs = Path(".local")
    logs.mkdir(exist_ok=True)
    with EmbeddedPostgres() as postgres, (logs / "demo.log").open("wb") as log:
        view.say("PostgreSQL", db.describe(postgres.dsn))
        rpc_port, ws_port, metrics_port = (
            _port(number, name, view) for number, name in ((8899, "RPC"), (8900, "socket"), (9464, "metrics"))
        )
        command = ["devnode", "--rpc-port", str(rpc_port), "--ws-port", str(ws_port), "--json"]
        command += ["--program", f"{artifact.PROGRAM_ID}={artifact.SO_PATH}"]
        node = _spawn(command, dict(os.environ), subprocess.PIPE, log)
        try:
            assert node.stdout is not None
            ready = json.loads(node.stdout.readline() or b"{}")
            if "rpc_url" not in ready:
                from programs.errors import EXIT_WRONG, UserError

                raise UserError("the development node did not start; .local/demo.log says why", EXIT_WRONG)
            view.say("Solana VM", f"{ready['rpc_url']}, program {artifact.PROGRAM_ID}")
            environment = {name: value for name, value in os.environ.items() if not name.startswith("INDEXER_")}
            environment |= {
                "INDEXER_DATABASE_URL": postgres.dsn,
                "INDEXER_RPC_URL": ready["rpc_url"],
                "INDEXER_WS_URL": ready["ws_url"],
                "INDEXER_METRICS_PORT": str(metrics_port),
                "INDEXER_FINALITY_POLL_S": "5",
                "INDEXER_IDLE_POLL_S": "2",
                "INDEXER_LOG_FORMAT": "json",
            }
            reader = postgres.dsn_for("indexer_demo_reader", "indexer")
            demo = Demo(postgres.dsn, reader, ready["rpc_url"], ready["ws_url"], metrics_port, log, environment)
            try:
                yield demo
            finally:
                _end(demo.indexer)
        finally:
            _end(node)


def _start_indexer(demo: Demo) -> None:
    demo.indexer = _spawn(["run"], demo.environment, demo.log, demo.log)


async def _play(demo: Demo, args: argparse.Namespace, view: Any) -> bool:
    from programs.crowd.crowd import Crowd, Result

    _start_indexer(demo)
    await _until(lambda: _scrape(demo) is not None, READY_S, "the indexer to listen")
    view.say("indexer", f"http://127.0.0.1:{demo.metrics_port}/metrics, log in .local/demo.log")
    crowd = Crowd(args.seed)
    results: list[Result] = []
    started = time.monotonic()
    work = asyncio.create_task(crowd.run(demo.rpc_url, args.rate, args.seconds, None, results.append))
    killed_at = reborn_at = 0.0
    lag_max = 0
    while not work.done():
        now = time.monotonic() - started
        if not killed_at and now > args.seconds / 2:
            assert demo.indexer is not None
            demo.indexer.kill()
            demo.indexer.wait()
            killed_at = now
            view.say("kill -9", "the indexer is dead; the crowd goes on, and the tables fall behind")
        if killed_at and not reborn_at and now > killed_at + 4:
            _start_indexer(demo)
            await asyncio.to_thread(_rpc, demo, "devnode_dropSockets", [])
            reborn_at = now
            view.say("restart", "a new indexer takes over where the ledger ends; the node has dropped its sockets")
        picture = await asyncio.to_thread(_picture, demo)
        lag_max = max(lag_max, picture.get("lag_slots") or 0)
        view.show(now, picture, results[-1].landed if results else 0)
        await asyncio.sleep(0.5)
    result = await work
    tip = await asyncio.to_thread(_rpc, demo, "getSlot", [{"commitment": "confirmed"}])
    closed = await _until(
        lambda: (_picture(demo).get("projected_slot") or -1) >= tip,
        CLOSE_S,
        "the tables to reach the tip",
        raises=False,
    )
    picture = await asyncio.to_thread(_picture, demo)
    view.show(time.monotonic() - started, picture, result.landed)
    view.done()
    memory = _memory(demo)
    view.say(
        "landed",
        f"{result.landed:,} transactions, {result.landed / max(result.seconds, 0.1):.0f} a second; largest lag {lag_max} slots",
    )
    view.say("memory", f"{memory:.0f} MB in the indexer")
    code, differences = await asyncio.to_thread(_reconcile, demo)
    equal = closed and code == 0
    view.say("reconcile", differences)
    view.say(
        "verdict",
        "tables and chain are equal, field by field" if equal else "tables and chain DIFFER; see .local/demo.log",
    )
    demo.figures |= {
        "landed": result.landed,
        "events": picture.get("events"),
        "lag_slots_max": lag_max,
        "lag_slots_end": picture.get("lag_slots"),
        "memory_mb": round(memory, 1),
    }
    return equal


def _picture(demo: Demo) -> dict[str, Any]:
    """What the reader sees now; empty while there is nothing to see."""
    import psycopg
    from psycopg.rows import dict_row

    from schema import db

    try:
        with db.connect(demo.dsn) as connection, connection.cursor(row_factory=dict_row) as cursor:
            fresh = cursor.execute("SELECT * FROM events.freshness").fetchone() or {}
            tip = _rpc(demo, "getSlot", [{"commitment": "confirmed"}])
            fresh["tip_slot"] = tip
            if fresh.get("projected_slot") is not None:
                fresh["lag_slots"] = max(0, tip - fresh["projected_slot"])
            fresh |= (
                cursor.execute(
                    "SELECT (SELECT count(*) FROM events.decoded) AS events,"
                    " (SELECT coalesce(max(position) + 1, 0) FROM ledger.transactions) AS rows"
                ).fetchone()
                or {}
            )
            fresh["counts"] = cursor.execute(
                "SELECT (SELECT count(*) FROM voting.communities) AS communities, (SELECT count(*) FROM voting.members) AS members,"
                " (SELECT count(*) FROM voting.questions) AS questions, (SELECT count(*) FROM voting.votes) AS votes"
            ).fetchone()
            fresh["questions"] = _questions(demo, cursor)
            return fresh
    except (psycopg.Error, OSError, KeyError, TypeError):
        return {}


def _questions(demo: Demo, cursor: Any) -> list[dict[str, Any]]:
    """What is voted on just now; a question keeps its place until it closes."""
    found = cursor.execute(
        "SELECT q.question, c.name AS community, q.text, q.options, q.tallies, q.status, q.ballot_kind, q.ballots_cast"
        " FROM voting.questions q JOIN voting.communities c USING (community)"
        " WHERE q.question = ANY(%s) OR q.status = 'Open' ORDER BY q.updated_slot DESC, q.question LIMIT 50",
        (demo.shown,),
    ).fetchall()
    by_address = {row["question"]: row for row in found}
    still = [address for address in demo.shown if by_address.get(address, {}).get("status") == "Open"]
    new = [row["question"] for row in found if row["status"] == "Open" and row["question"] not in still]
    demo.shown = [*still, *new][:QUESTIONS_SHOWN] or [row["question"] for row in found][:QUESTIONS_SHOWN]
    return [by_address[address] for address in demo.shown if address in by_address]


def _reconcile(demo: Demo) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "indexer", "reconcile"],
        env=demo.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, (done.stdout.strip() or done.stderr.strip())


def _keep(demo: Demo, view: Any) -> None:
    import psycopg

    with psycopg.connect(demo.dsn, autocommit=True) as connection:
        connection.execute(
            "DO $$ BEGIN CREATE ROLE indexer_demo_reader LOGIN IN ROLE indexer_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
    view.say("read", f'psql "{demo.reader}" -c "SELECT text, tallies, status FROM voting.questions"')
    view.say("watch", f"curl http://127.0.0.1:{demo.metrics_port}/metrics")
    wallet, question = asyncio.run(_a_question_to_vote_on(demo))
    client = f"{Path(sys.executable).relative_to(Path.cwd()) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable}"
    view.say(
        "vote",
        f"{client} -m programs.community_voting cast-vote {question} --select 0 --url {demo.rpc_url} --keypair {wallet}",
    )
    view.say("end", "Ctrl-C")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


async def _a_question_to_vote_on(demo: Demo) -> tuple[Path, str]:
    """A community of one's own with an open question; the wallet's file and the question's address."""
    from solders.keypair import Keypair

    from programs.community_voting.client import VotingClient
    from programs.community_voting.instructions import QuestionParams, Settings

    wallet = Keypair()
    path = Path(".local") / "demo-wallet.json"
    path.write_text(json.dumps(list(bytes(wallet))))
    path.chmod(0o600)
    async with VotingClient(demo.rpc_url) as client:
        await client.airdrop(wallet.pubkey(), 10_000_000_000)
        community = await client.create_community(wallet, 1, Settings("Your community"))
        params = QuestionParams("Does it work?", ("yes", "no"), closes_at=int(time.time()) + 86_400)
        question = await client.create_question(wallet, community, params)
    return path, str(question)


async def _until(ready: Any, seconds: float, what: str, raises: bool = True) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if await asyncio.to_thread(ready):
            return True
        await asyncio.sleep(0.2)
    if raises:
        from programs.errors import EXIT_UNREACHABLE, UserError

        raise UserError(f"waited {seconds:g} s for {what}; .local/demo.log says why", EXIT_UNREACHABLE)
    return False


def _scrape(demo: Demo) -> bytes | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{demo.metrics_port}/healthz", timeout=2) as reply:
            return bytes(reply.read())
    except OSError:
        return None


def _rpc(demo: Demo, method: str, params: list[Any]) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(demo.rpc_url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.loads(reply.read())["result"]


def _port(usual: int, name: str, view: Any) -> int:
    for number in (usual, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            port: int = probe.getsockname()[1]
            if number == 0:
                view.say("port", f"{usual} ({name}) is taken; {port} it is")
            return port
    raise OSError("no free port")


def _spawn(arguments: list[str], environment: dict[str, str], out: Any, err: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "indexer", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        preexec_fn=_die_with_us,
    )


def _die_with_us() -> None:
    # The children must not outlive a demo that was killed.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _memory(demo: Demo) -> float:
    """Megabytes resident in the indexer; 0 where the system does not tell."""
    assert demo.indexer is not None
    try:
        for line in Path(f"/proc/{demo.indexer.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0
