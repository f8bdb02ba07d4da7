"""Fixtures of Pelican's tests."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from aviary.aws import sqs_client
from aviary.settings import QueueSettings
from local.postgres import PostgresServer
from pelican.migrate import migrate
from pelican.service import Pelican
from pelican.sqs import SqsQueue
from tests.conftest import Queues
from tests.services.pelican.harness import Consumer, Factory, MemoryQueue, Store, settings_for


@pytest.fixture(scope="session")
def template(postgres_server: PostgresServer) -> str:
    """The name of a database with our schema, to be copied: faster than migrating for each test."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with psycopg.connect(postgres_server.dsn(database=name), autocommit=True) as connection:
        migrate(connection)
    return name


@contextlib.contextmanager
def copy_of(server: PostgresServer, template: str) -> Iterator[Store]:
    name = f"store_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    yield Store(server, name)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def store(postgres_server: PostgresServer, template: str) -> Iterator[Store]:
    """A database of one test."""
    with copy_of(postgres_server, template) as store:
        yield store


@pytest.fixture(scope="module")
def shared_store(postgres_server: PostgresServer, template: str) -> Iterator[Store]:
    """A database of one module, for tests that keep out of each other's way: making one takes longer than they do."""
    with copy_of(postgres_server, template) as store:
        yield store


@pytest.fixture
def memory() -> MemoryQueue:
    return MemoryQueue()


@pytest.fixture
def pelican(store: Store, memory: MemoryQueue) -> Pelican:
    """In this process, as aviary_pelican, over a queue in memory: `.worker().run_until_idle()`."""
    return Pelican(settings_for(store), memory)


@pytest.fixture
def sqs(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> SqsQueue:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", queues.endpoint)
    return SqsQueue(sqs_client(QueueSettings(queue_url=queues.queue_url)), queues.queue_url, queues.dlq_url)


@pytest.fixture
def consumer(queues: Queues) -> Consumer:
    return Consumer(queues.client, queues.queue_url)


@pytest.fixture
def process(store: Store, queues: Queues, tmp_path: Path) -> Iterator[Factory]:
    factory = Factory(store, queues.queue_url, queues.endpoint, tmp_path, [])
    yield factory
    factory.end()
