"""Fixtures of Emu's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from local.postgres import PostgresServer
from pelican.migrate import migrate
from tests.conftest import Database, Queues
from tests.services.emu import helpers
from tests.services.emu.helpers import Bench, EmuProcess
from tests.services.emu.office import Office
from tests.services.pinecone.process import PineconeTestIndex


@pytest.fixture
def bench(queues: Queues, pinecone_index: PineconeTestIndex) -> Iterator[Bench]:
    with helpers.bench(queues, pinecone_index) as made:
        yield made


@pytest.fixture
def start_emu(bench: Bench, tmp_path: Path) -> Iterator[Callable[..., EmuProcess]]:
    """Starts `python -m emu`; keyword arguments are settings. All are ended after the test."""
    started: list[EmuProcess] = []

    def start(**fields: Any) -> EmuProcess:
        started.append(EmuProcess(bench, tmp_path, **fields))
        return started[-1]

    yield start
    for emu in started:
        emu.end()


@pytest.fixture(scope="session")
def migrated(postgres_server: PostgresServer) -> Iterator[Database]:
    """One database for all tests of dead letters, emptied by each."""
    database = Database(postgres_server, "dead_letters")
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE dead_letters")
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        migrate(connection)
    yield database
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute("DROP DATABASE dead_letters WITH (FORCE)")


@pytest.fixture
def office(bench: Bench, migrated: Database) -> Office:
    office = Office(bench, migrated.dsn(), migrated.dsn("aviary_pelican"), migrated.dsn("aviary_operator"))
    office.execute("TRUNCATE products")
    office.execute("UPDATE sync.claim SET messages = 0")
    office.forget()
    return office
