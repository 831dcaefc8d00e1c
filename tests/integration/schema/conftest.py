"""More databases for tests that compare two ledgers, and a file system that can be filled."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

_numbers = itertools.count()


@pytest.fixture
def another_db(database_url: str, template: str) -> Iterator[Callable[[], str]]:
    """Makes a fresh migrated database at each call; all are dropped at the end."""
    made: list[str] = []

    def make() -> str:
        made.append(f"test_more_{os.getpid()}_{next(_numbers)}")
        with psycopg.connect(database_url, autocommit=True) as admin:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            admin.execute(statement.format(sql.Identifier(made[-1]), sql.Identifier(template)))
        return make_conninfo(database_url, dbname=made[-1])

    yield make
    with psycopg.connect(database_url, autocommit=True) as admin:
        for name in made:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


class SmallDisk:
    """A small file system of its own. `fill` leaves no byte free, `free` gives back what `fill` took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Until nothing is left, for root neither."""
        with open(self._ballast, "ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def free(self) -> None:
        """As an operator would."""
        self._ballast.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """192 MB in memory; only root may mount it."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("A FULL DISK IS NOT TESTED: only root may mount the small file system for it")
    # Not under pytest's own folder, which the server's account can't reach.
    folder = Path("/tmp") / f"indexer-full-disk-{os.getpid()}-{next(_numbers)}"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=192m,mode=0755", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode != 0:
        folder.rmdir()
        pytest.skip(f"A FULL DISK IS NOT TESTED: mount refuses: {done.stderr.decode().strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()
