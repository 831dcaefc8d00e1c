"""More databases for tests that compare two ledgers."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

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
