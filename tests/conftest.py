"""A real PostgreSQL for every test that wants one: a database migrated once, cloned for each test.

The server is the one that INDEXER_TEST_DATABASE_URL names, else a container when an engine is there, else an embedded one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql
from psycopg.conninfo import make_conninfo

from schema import db
from schema.embedded import EmbeddedPostgres

_numbers = itertools.count()

# No test of this project judges by the clock, and the examples that failed are in the output: nothing is kept between runs.
settings.register_profile("project", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests were skipped, also when none was; the reasons stand above."""
    terminalreporter.write_line(f"skipped: {len(terminalreporter.stats.get('skipped', [])) or 'nothing'}")


def _container_engine() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True, timeout=20).returncode == 0


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """A server on which databases may be created; the database it names is not touched."""
    configured = os.environ.get("INDEXER_TEST_DATABASE_URL")
    if configured:
        yield configured
    elif _container_engine():
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer("postgres:17-alpine", driver=None) as container:
            yield container.get_connection_url()
    else:
        with EmbeddedPostgres() as server:
            yield server.dsn


@pytest.fixture(scope="session")
def template(database_url: str) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    name = f"test_template_{os.getpid()}"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0").format(sql.Identifier(name)))
        # Roles belong to the whole server: the workers that share a configured one must not make them at the same moment.
        admin.execute("SELECT pg_advisory_lock(hashtext('indexer tests: template'))")
        db.upgrade(make_conninfo(database_url, dbname=name))
        admin.execute("SELECT pg_advisory_unlock(hashtext('indexer tests: template'))")
        yield name
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextlib.contextmanager
def _clone(database_url: str, template: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        yield make_conninfo(database_url, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def db_dsn(database_url: str, template: str) -> Iterator[str]:
    """A fresh migrated database of this test's own."""
    with _clone(database_url, template) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def module_db(database_url: str, template: str) -> Iterator[str]:
    """A fresh migrated database that the tests of a module share: for data that takes long to make."""
    with _clone(database_url, template) as dsn:
        yield dsn


@pytest.fixture(name="db")
def db_fixture(db_dsn: str) -> str:
    """The DSN of a fresh migrated database."""
    return db_dsn
