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

EMPTY = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
TRUNCATE products RESTART IDENTITY;
TRUNCATE sync.outbox, sync.backfill, sync.dead_letter;
UPDATE sync.claim SET messages = 0;
UPDATE sync.source SET most_chunks = 1 WHERE most_chunks > 1;
SELECT setval('sync.quiet', 0)"""
# What is not rows of these tables: relations with their columns, functions, types, triggers and sources.
SHAPE = """
SELECT 'c', oid::int, relname::text, relacl::text FROM pg_class WHERE oid >= 16384 AND relkind <> 't'
UNION ALL SELECT 'a', attnum, attname::text, atttypid::text FROM pg_attribute WHERE attrelid = 'products'::regclass
UNION ALL SELECT 'p', oid::int, proname::text, md5(prosrc) FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 't', oid::int, typname::text, '' FROM pg_type WHERE oid >= 16384 AND typtype <> 'c'
UNION ALL SELECT 'g', tgrelid::int, tgname::text, tgenabled::text FROM pg_trigger
UNION ALL SELECT 'n', oid::int, nspname::text, '' FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
UNION ALL SELECT 's', id, name, text_template || revision FROM sync.source
ORDER BY 1, 2, 3"""


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


class Stores:
    """Hands out one database again and again, emptied, until a test has changed more than rows in it: making one takes
    longer than most tests."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server = server
        self._template = template
        self._made = contextlib.ExitStack()
        self._store: Store | None = None
        self._shape: list[object] = []

    def take(self) -> Store:
        if self._store is None:
            self._store = self._made.enter_context(copy_of(self._server, self._template))
            self._shape = self._store.execute(SHAPE)
        return self._store

    def give_back(self, store: Store) -> None:
        try:
            if store.execute(SHAPE) == self._shape:
                store.execute(EMPTY)
                return
        except psycopg.Error:
            pass  # not even the tables of the question are there any more
        self.close()

    def close(self) -> None:
        self._made.close()
        self._store = None


@pytest.fixture(scope="session")
def stores(postgres_server: PostgresServer, template: str) -> Iterator[Stores]:
    stores = Stores(postgres_server, template)
    yield stores
    stores.close()


@pytest.fixture
def store(stores: Stores) -> Iterator[Store]:
    """A database with our schema and an empty, watched products table."""
    store = stores.take()
    yield store
    stores.give_back(store)


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
