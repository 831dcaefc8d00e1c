"""Everything that can happen to a daemon and its database under load, again and again; after each kind of it everything is compared.

`make torture` or `python -m tests.torture.campaign [--kills 200] [--rounds 10] [--seed 1] [--only NAME,…] [--json]`. A development node, a crowd, a
tortured daemon (with a standby where one is wanted) and an undisturbed one on a server of its own. When a kind of fault is over and the chain is
final: the ledger verifies, no transaction is missing, doubled or of another shape than in the undisturbed ledger, the finalized digests are equal,
the tables are equal to a rebuild and to the accounts on the chain, and a replay finds nothing. Prints a table; exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from schema import db
from schema.embedded import EmbeddedPostgres
from schema.verify import verify
from tests.integration.schema.checker import differences
from tests.torture.proxy import CuttingProxy
from tests.torture.stage import Daemon, Stage, until

SLOT_MS = 200
FINALIZED_LAG = 8
SETTLE_S = 120.0
TAKEOVER_S_MAX = 10.0
DISK_MB = 700
ROWS = "SELECT slot, transaction_index, signature, digest FROM ledger.transactions t WHERE NOT EXISTS (SELECT FROM ledger.retractions r WHERE r.position = t.position) ORDER BY slot, transaction_index, position"  # fmt: skip  # noqa: E501


@dataclass(slots=True)
class Outcome:
    """What a kind of fault did, and what was compared after it. `wrong` is empty when all is well."""

    name: str
    struck: int = 0
    seconds: float = 0.0
    transactions: int = 0
    verified: int = 0
    note: str = ""
    skipped: str = ""
    wrong: list[str] = field(default_factory=list)


class Campaign:
    """The stage and the things that are done on it. Each `fault_…` tortures for some rounds and returns how often it struck."""

    def __init__(self, stage: Stage, seed: int, rate: float, hurry: float = 1.0) -> None:
        self.stage = stage
        self.rng = random.Random(seed)
        self.rate = rate
        self.hurry = hurry
        self.seed = seed
        self.crowds = 0
        self._crowd: subprocess.Popen[bytes] | None = None
        self.verified = 0
        self.note = ""
        self.postgres = stage.postgres(log_min_messages="warning")
        self.calm_postgres = stage.postgres()
        stage.devnode("--slot-ms", str(SLOT_MS), "--finalized-lag", str(FINALIZED_LAG))
        self.daemon = stage.daemon("tortured", self.postgres.dsn)
        self.standby = stage.daemon("standby", self.postgres.dsn)
        self.calm = stage.daemon("undisturbed", self.calm_postgres.dsn)
        self.daemon.start()
        self.calm.start()
        until(lambda: self.daemon.ready() and self.calm.ready(), 90, "both daemons")

    # ---- load ----

    def begin_crowd(self) -> None:
        """A crowd at work until it is ended; the same one when it is at work already."""
        if self._crowd is not None and self._crowd.poll() is None:
            return
        self.crowds += 1
        command = [sys.executable, "-m", "programs.crowd", "--url", self.stage.rpc_url, "--rate", str(self.rate)]
        command += ["--seconds", "100000", "--wallets", "48", "--seed", str(self.seed * 1_000 + self.crowds)]
        grown = "SELECT coalesce(max(position), 0) FROM ledger.checkpoints WHERE name = 'ledger'"
        before = self.calm.number(grown)
        self._crowd = self.stage.spawn("crowd", command, dict(os.environ))
        until(lambda: self.calm.number(grown) > before + 20, 60, "the crowd to be at work")

    def end_crowd(self) -> None:
        """Nothing new on the chain from here on."""
        if self._crowd is not None:
            self._crowd.terminate()
            self._crowd.wait()

    def pause(self, low_s: float, high_s: float) -> None:
        """Some time of the seed's choice."""
        time.sleep(self.rng.uniform(low_s, high_s) * self.hurry)

    # ---- faults ----

    def fault_kill(self, rounds: int) -> int:
        """kill -9 of the daemon at any moment: at its start, while it catches up, in a commit."""
        for number in range(rounds):
            # Half of the deaths come early, while it starts or catches up; without the other half it would never be near the tip.
            self.pause(0.0, 1.5) if number % 2 else self.pause(1.5, 4.0)
            self.daemon.kill()
            self._verify_now()
            self.daemon.start()
        return rounds

    def fault_restart(self, rounds: int) -> int:
        """A fast restart of PostgreSQL."""
        for _ in range(rounds):
            self.pause(0.5, 2.5)
            self.postgres.stop()
            self.postgres.start()
        return rounds

    def fault_crash(self, rounds: int) -> int:
        """kill -9 of the postmaster: the database recovers from its log."""
        for _ in range(rounds):
            self.pause(0.5, 2.5)
            self._kill_postmaster()
            self.postgres.stop()
            self.postgres.start()
        return rounds

    def fault_backend(self, rounds: int) -> int:
        """kill -9 of one of the daemon's sessions: the server throws everybody out and recovers."""
        struck = 0
        for _ in range(rounds):
            self.pause(0.5, 2.0)
            with suppress(psycopg.Error), psycopg.connect(self.postgres.dsn, autocommit=True) as admin:
                query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"  # noqa: E501
                pids = sorted(pid for (pid,) in admin.execute(query).fetchall())
                if pids:
                    os.kill(self.rng.choice(pids), signal.SIGKILL)
                    struck += 1
        return struck

    def fault_timeout(self, rounds: int) -> int:
        """Statements are cancelled after 100 ms, while somebody holds a row that each append needs."""
        before = self.failures()
        with psycopg.connect(self.postgres.dsn, autocommit=True) as admin:
            name = psycopg.sql.Identifier(self.postgres.database)
            admin.execute(psycopg.sql.SQL("ALTER DATABASE {} SET statement_timeout = '100ms'").format(name))
            admin.execute("SET statement_timeout = 0")
            self._end_sessions(admin)
            for _ in range(rounds):
                self.pause(0.3, 1.0)
                with admin.transaction():
                    admin.execute("SELECT FROM ledger.checkpoints WHERE name = 'ledger' FOR UPDATE")
                    time.sleep(0.8)
            admin.execute(psycopg.sql.SQL("ALTER DATABASE {} RESET statement_timeout").format(name))
            self._end_sessions(admin)
        return self.failures() - before

    def fault_deadlock(self, rounds: int) -> int:
        """The daemon's append is the victim of a deadlock."""
        struck = 0
        with psycopg.connect(self.postgres.dsn, autocommit=True) as rival:
            rival.execute("SET deadlock_timeout = '1min'")
            for _ in range(rounds):
                self.pause(0.2, 0.8)
                with suppress(psycopg.errors.DeadlockDetected):
                    struck += self._deadlock(rival)
        return struck

    def _deadlock(self, rival: psycopg.Connection[Any]) -> int:
        count = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        before = self.daemon.number(count)
        with rival.transaction():
            # An append locks `ledger` first and comes to the others at its end; the rival goes the other way round.
            rival.execute("UPDATE ledger.checkpoints SET updated_at = updated_at WHERE name <> 'ledger'")
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'indexer-writer%'"
            deadline = time.monotonic() + 5
            while self.daemon.number(waiting) < 1:
                if time.monotonic() > deadline:
                    return 0
            rival.execute("SELECT FROM ledger.checkpoints WHERE name = 'ledger' FOR UPDATE")
        # Statistics are written when the victim's session is idle again.
        deadline = time.monotonic() + 3
        while self.daemon.number(count) <= before and time.monotonic() < deadline:
            time.sleep(0.05)
        return max(0, self.daemon.number(count) - before)

    def fault_cut(self, rounds: int) -> int:
        """The connection breaks inside COPY."""
        directory = self.stage.directory / "proxy"
        directory.mkdir()
        behind = Path(psycopg.conninfo.conninfo_to_dict(self.postgres.dsn)["host"] or "")
        proxy = CuttingProxy(directory, behind, self.seed)
        direct = self.daemon.dsn
        try:
            self.daemon.stop()
            self.daemon.dsn = make_conninfo(direct, host=str(directory))
            self.daemon.start()
            for number in range(rounds):
                self.pause(0.2, 1.0)
                proxy.arm()
                until(lambda number=number: proxy.cuts > number, 60, "a COPY to cut", 0.02)  # type: ignore[misc]
        finally:
            self.daemon.stop()
            self.daemon.dsn = direct
            self.daemon.start()
            proxy.close()
            (directory / ".s.PGSQL.5432").unlink()
            directory.rmdir()
        return proxy.cuts

    def fault_sleep(self, rounds: int) -> int:
        """The leader is stopped; a standby takes over; the sleeper wakes and finds itself a standby."""
        worst = 0.0
        leader, other = self.daemon, self.standby
        until(leader.ready, 180, "the leader")
        other.start()
        try:
            for _ in range(rounds):
                until(other.standing_by, 180, "the standby to stand by")
                self.pause(0.5, 2.0)
                epoch = self._epoch()
                leader.signal(signal.SIGSTOP)
                begun = time.monotonic()
                until(lambda epoch=epoch: self._epoch() > epoch, 60, "a takeover", 0.05)  # type: ignore[misc]
                worst = max(worst, time.monotonic() - begun)
                self.pause(0.0, 1.0)
                leader.signal(signal.SIGCONT)
                leader, other = other, leader
                until(leader.ready, 180, "the new leader")
        finally:
            for daemon in (leader, other):
                daemon.signal(signal.SIGCONT)
            self.standby.stop()
        until(self.daemon.ready, 180, "the first daemon to lead again")
        self.note = f"takeover after {worst:.1f} s at most"
        if worst > TAKEOVER_S_MAX:
            raise AssertionError(f"a takeover took {worst:.1f} s")
        return rounds

    def fault_disk(self, rounds: int) -> int:
        """The disk fills up, and is made room on."""
        struck = 0
        place = self.stage.directory.parent / f"{self.stage.directory.name}-disk"
        place.mkdir(mode=0o755)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0755", "tmpfs", str(place)], check=True)
        direct = self.daemon.dsn
        self.daemon.stop()
        try:
            with EmbeddedPostgres(place / "data", settings={"max_wal_size": "64MB", "shared_buffers": "16MB"}) as small:
                self._copy_database(direct, small.dsn)
                self.daemon.dsn = small.dsn
                self.daemon.start()
                until(self.daemon.ready, 180, "the daemon on the small disk")
                for _ in range(rounds):
                    self.pause(0.5, 2.0)
                    before = self.failures()
                    ballast = place / "ballast"
                    self._fill(ballast)
                    deadline = time.monotonic() + 20
                    while self.failures() == before and time.monotonic() < deadline:
                        time.sleep(0.2)
                    struck += self.failures() > before
                    self.pause(0.5, 2.0)
                    ballast.unlink()
                    self._revive(small)
                # The small server ends with this fault, so that its ledger is compared here and not with the others'.
                self.end_crowd()
                self.settle()
                wrong = self._compare(self.daemon)
                if wrong:
                    raise AssertionError(f"struck {struck} times; " + "; ".join(wrong))
        finally:
            self.daemon.stop()
            self.daemon.dsn = direct
            subprocess.run(["umount", "-l", str(place)], check=False)
            with suppress(OSError):
                place.rmdir()
        self.daemon.start()
        return struck

    def _copy_database(self, source: str, target: str) -> None:
        # The small disk begins with an empty ledger and catches up; nothing is copied but the schema.
        db.upgrade(target)

    def _fill(self, ballast: Path) -> None:
        with ballast.open("wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
                    file.flush()
            except OSError:
                return

    def _revive(self, server: EmbeddedPostgres) -> None:
        """A server that could not write its log has stopped itself: start it anew, as a service manager would."""
        for _ in range(10):
            try:
                with psycopg.connect(server.dsn, autocommit=True, connect_timeout=5) as connection:
                    connection.execute("SELECT 1")
                return
            except psycopg.Error:
                with suppress(Exception):
                    server.stop(immediate=True)
                with suppress(Exception):
                    server.start()

    # ---- comparing ----

    def settle(self) -> None:
        """The crowd is gone; wait until every transaction is final, sealed, audited and projected in both."""
        for daemon in (self.daemon, self.calm):
            self._settle(daemon)

    def _settle(self, daemon: Daemon) -> None:
        if not daemon.alive:
            daemon.start()
        tip = self.stage.confirmed()
        what = f"{daemon.name} to reach slot {tip}"
        until(lambda: daemon.sealed("finalized") >= tip and daemon.projected() >= tip, SETTLE_S, what, 0.2)

    def compare(self) -> list[str]:
        """What differs; empty when all is well."""
        return self._compare(self.daemon)

    def _compare(self, daemon: Daemon) -> list[str]:
        wrong = []
        with db.connect(daemon.dsn) as mine, db.connect(self.calm.dsn) as theirs:
            wrong += [f"verify: {line}" for line in verify(mine).differences[:5]]
            ours, others = mine.execute(ROWS).fetchall(), theirs.execute(ROWS).fetchall()
            missing, foreign = set(others) - set(ours), set(ours) - set(others)
            if missing or foreign or len(ours) != len(others):
                wrong.append(f"rows: {len(missing)} missing, {len(foreign)} foreign, {len(ours)} for {len(others)}")
            digests = [
                c.execute("SELECT name, digest FROM ledger.checkpoints WHERE name LIKE 'finalized:%'").fetchall()
                for c in (mine, theirs)
            ]
            if not digests[0] or digests[0] != digests[1]:
                wrong.append("the finalized digests differ")
        wrong += [f"independent checker: {line}" for line in differences(daemon.dsn)[:5]]
        wrong += self._commands(daemon)
        return wrong

    def _commands(self, daemon: Daemon) -> list[str]:
        wrong = []
        for command in (("reconcile",), ("rebuild", "--dry-run"), ("replay", "--from-slot", "0")):
            code, document, said = daemon.command(*command)
            equal = command[0] != "replay" or (document or {}).get("equal") is True
            if code != 0 or not equal:
                wrong.append(f"{command[0]}: exit code {code}, {json.dumps(document)[:300]} {said.strip()[-300:]}")
        return wrong

    def failures(self) -> int:
        """How often the daemon's own count of failed database work has grown; a daemon that does not answer has none."""
        return int(self.daemon.metrics().get("indexer_database_failures_total", 0))

    # ---- parts ----

    def _verify_now(self) -> None:
        with suppress(psycopg.OperationalError), db.connect(self.daemon.dsn) as connection:
            report = verify(connection)
            self.verified += 1
            if report.differences:
                raise AssertionError(f"after a kill: {report.differences[:3]}")

    def _epoch(self) -> int:
        return self.daemon.number("SELECT epoch FROM ledger.leases WHERE name = 'writer'")

    def _kill_postmaster(self) -> None:
        pid = int((self.postgres.data_dir / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)

    def _end_sessions(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


KINDS = ("kill", "restart", "crash", "backend", "timeout", "deadlock", "cut", "sleep", "disk")


def play(
    kills: int,
    rounds: int,
    seed: int,
    rate: float,
    only: tuple[str, ...],
    say: Callable[[str], None],
    check_once: bool = False,
    hurry: float = 1.0,
) -> list[Outcome]:
    """The whole campaign. `check_once` compares at the end only; `hurry` is a factor of all pauses."""
    outcomes: list[Outcome] = []
    with Stage(say) as stage:
        campaign = Campaign(stage, seed, rate, hurry)
        for name in only:
            outcome = Outcome(name)
            outcomes.append(outcome)
            if name == "disk" and (os.geteuid() != 0 or not _can_mount(stage.directory)):
                outcome.skipped = "a small file system needs root and the right to mount"
                say(f"{name}: SKIPPED: {outcome.skipped}")
                continue
            begun = time.monotonic()
            campaign.verified, campaign.note = 0, ""
            try:
                campaign.begin_crowd()
                fault: Callable[[int], int] = getattr(campaign, f"fault_{name}")
                outcome.struck = fault(kills if name == "kill" else rounds)
                if not check_once or name == only[-1]:
                    campaign.end_crowd()
                    campaign.settle()
                    outcome.wrong += campaign.compare()
            except (AssertionError, TimeoutError) as error:
                outcome.wrong.append(f"{type(error).__name__}: {error}")
            if not outcome.struck:
                outcome.wrong.append("it never struck")
            outcome.seconds = round(time.monotonic() - begun, 1)
            outcome.verified, outcome.note = campaign.verified, campaign.note
            outcome.transactions = campaign.calm.number("SELECT count(*) FROM ledger.transactions")
            say(f"{name}: struck {outcome.struck} times in {outcome.seconds} s: {outcome.wrong or 'equal'}")
    return outcomes


def _can_mount(directory: Path) -> bool:
    place = directory / "mount"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True, check=False)
    if done.returncode == 0:
        subprocess.run(["umount", str(place)], check=True)
    place.rmdir()
    return done.returncode == 0


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kill -9 of the daemon (default 200)")
    parser.add_argument("--rounds", type=int, default=10, help="of each other kind (default 10)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default 1)")
    parser.add_argument("--rate", type=float, default=60.0, help="transactions a second (default 60)")
    parser.add_argument("--only", default=",".join(KINDS), help=f"kinds, in this order (default {','.join(KINDS)})")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    arguments = parser.parse_args()
    only = tuple(arguments.only.split(","))
    unknown = [name for name in only if name not in KINDS]
    if unknown:
        parser.error(f"--only: there is no {unknown[0]!r}")

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    outcomes = play(arguments.kills, arguments.rounds, arguments.seed, arguments.rate, only, say)
    if arguments.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes]))
    else:
        print(f"{'fault':<10}{'struck':>7}{'verified':>9}{'rows':>9}{'seconds':>9}  verdict")
        for o in outcomes:
            verdict = f"skipped: {o.skipped}" if o.skipped else "; ".join(o.wrong) or "equal"
            row = f"{o.name:<10}{o.struck:>7}{o.verified:>9}{o.transactions:>9,}{o.seconds:>9}"
            print(f"{row}  {verdict}{f' ({o.note})' if o.note else ''}")
    return 1 if any(outcome.wrong for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
