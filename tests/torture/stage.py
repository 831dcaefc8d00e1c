"""A stage for runs with real processes: PostgreSQL, a chain, daemons that can be killed, a crowd. All of it ends with the block it is used in."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg

from programs.community_voting import artifact
from schema.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
READY_S_MAX = 60.0
PR_SET_PDEATHSIG = 1


class Stage:
    """Use in a `with`. `say` hears what goes on."""

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        self.say = say
        self.directory = Path()
        self.rpc_url = self.ws_url = ""
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="indexer-torture-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def postgres(self, **settings: str) -> EmbeddedPostgres:
        """A server of its own."""
        return self._stack.enter_context(EmbeddedPostgres(settings=settings))

    def devnode(self, *arguments: str) -> None:
        """The development node with the voting program, as a process of its own."""
        command = ["devnode", "--rpc-port", "0", "--ws-port", "0", "--json", *arguments]
        command += ["--program", f"{artifact.PROGRAM_ID}={artifact.SO_PATH}"]
        process = self.process("devnode", command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline() or b"{}")
        if "rpc_url" not in ready:
            raise RuntimeError(f"the development node did not start: {self.log('devnode')[-500:]}")
        self.rpc_url, self.ws_url = ready["rpc_url"], ready["ws_url"]

    def daemon(self, name: str, dsn: str, **settings: str) -> Daemon:
        """An indexer daemon of this name; it is not started yet."""
        daemon = Daemon(self, name, dsn, settings)
        self._stack.callback(daemon.stop)
        return daemon

    def process(self, name: str, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """`python -m indexer COMMAND`; its stderr goes into a log of this name. It does not outlive us."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("INDEXER_")}
        return self.spawn(name, [sys.executable, "-m", "indexer", *command], environment, **options)

    def spawn(
        self, name: str, command: Sequence[str], environment: dict[str, str], **options: Any
    ) -> subprocess.Popen[bytes]:
        """Any process, ended with the stage."""
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
                preexec_fn=_die_with_us,
                **{"stdout": log, **options},
            )
        self._stack.callback(end, process)
        return process

    def log(self, name: str) -> str:
        """What a process has logged."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def rpc(self, method: str, *params: Any) -> Any:
        """A call to the chain."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.rpc_url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            document = json.loads(reply.read())
        if "error" in document:
            raise RuntimeError(f"{method}: {document['error']}")
        return document["result"]

    def confirmed(self) -> int:
        """The chain's confirmed tip."""
        return int(self.rpc("getSlot", {"commitment": "confirmed"}))


class Daemon:
    """`indexer run` as a process: started, killed, started again."""

    def __init__(self, stage: Stage, name: str, dsn: str, settings: dict[str, str]) -> None:
        self.name = name
        self.dsn = dsn
        self.port = free_port()
        self.kills = 0
        self._stage = stage
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def environment(self) -> dict[str, str]:
        """Its settings; any other command takes them too."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("INDEXER_")}
        return {
            **clean,
            "INDEXER_DATABASE_URL": self.dsn,
            "INDEXER_RPC_URL": self._stage.rpc_url,
            "INDEXER_WS_URL": self._stage.ws_url,
            "INDEXER_METRICS_PORT": str(self.port),
            "INDEXER_FINALITY_POLL_S": "1",
            "INDEXER_IDLE_POLL_S": "1",
            "INDEXER_LEASE_TTL_S": "2",
            **self._settings,
        }

    def start(self, *arguments: str) -> None:
        """Start it, whatever was before."""
        command = [sys.executable, "-m", "indexer", "run", *arguments]
        self._process = self._stage.spawn(self.name, command, self.environment())

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self.kills += 1

    def signal(self, number: signal.Signals) -> None:
        """Any other signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            end(self._process)

    def command(self, *arguments: str, timeout_s: float = 180.0) -> tuple[int, Any, str]:
        """Another command on the same database and chain, with --json: exit code, document, stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "indexer", *arguments, "--json"],
            cwd=ROOT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        document = json.loads(done.stdout) if done.stdout.strip() else None
        return done.returncode, document, done.stderr

    def metrics(self) -> dict[str, float]:
        """Its counters by name and labels; empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=2) as reply:
                lines = reply.read().decode().splitlines()
        except OSError:
            return {}
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def ready(self) -> bool:
        """Whether it leads and is near the tip."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def standing_by(self) -> bool:
        """Whether it waits for the lease that another one has."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2):
                return False
        except urllib.error.HTTPError as error:
            return b"standby" in error.read()
        except OSError:
            return False

    def memory_mb(self) -> float:
        """Resident megabytes; 0 where the system does not tell."""
        return _status_mb(self.pid, "VmRSS:")

    def memory_peak_mb(self) -> float:
        """The most it ever had."""
        return _status_mb(self.pid, "VmHWM:")

    def cpu_s(self) -> float:
        """CPU seconds it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def sealed(self, commitment: str = "confirmed") -> int:
        """Up to where its ledger is sealed; -1 when the database does not say."""
        kind = "ingest" if commitment == "confirmed" else "finalized"
        return self.number(f"SELECT coalesce(min(slot), -1) FROM ledger.checkpoints WHERE name LIKE '{kind}:%'")

    def projected(self) -> int:
        """Up to where its tables are."""
        return self.number("SELECT coalesce(min(projected_slot), -1) FROM events.freshness")

    def number(self, query: str) -> int:
        """One number from its database; -1 when it can't be had."""
        try:
            with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
                row = connection.execute(query.encode()).fetchone()
        except psycopg.Error:
            return -1
        return -1 if row is None or row[0] is None else int(row[0])


def until(ready: Callable[[], bool], seconds: float, what: str, every_s: float = 0.1) -> None:
    """Wait. TimeoutError names what did not come."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(every_s)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port of the loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _status_mb(pid: int, key: str) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) / 1024
    return 0.0


def _die_with_us() -> None:
    # Children must not outlive a run that was killed.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
