"""Real processes that are killed, stopped, cut off and restarted: nothing is lost, nothing goes backwards."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from local.postgres import temporary_server
from pelican.migrate import migrate
from pelican.packing import MAX_CALL_MESSAGES
from tests.conftest import Queues
from tests.services.pelican.harness import Consumer, Factory, Store, wait_until
from tests.services.pelican.link import Link

WAITING = "SELECT coalesce(sum(key_count), 0)::int FROM sync.outbox"
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pelican' AND datname = current_database()"


def shipped(store: Store) -> bool:
    """Whether nothing waits and no claim is unfinished."""
    return bool(store.value(WAITING) == 0 and store.value("SELECT sum(messages) FROM sync.claim") == 0)


class Writer(threading.Thread):
    """Random inserts, updates, deletes and delete-then-inserts of a few keys, until stopped; by `random.Random(seed)`."""

    def __init__(self, store: Store, seed: int) -> None:
        super().__init__(daemon=True)
        self._store = store
        self._random = random.Random(seed)
        self._stop_writing = threading.Event()
        self.written = 0

    def run(self) -> None:
        with self._store.connect() as connection:
            while not self._stop_writing.is_set():
                self._write(connection)
                self.written += 1

    def _write(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        key = self._random.randrange(200)
        upsert = (
            "INSERT INTO products (id, sku, name, price) VALUES (%s, %s, 'Jug', 1) "
            "ON CONFLICT (id) DO UPDATE SET name = products.name || '.', price = products.price + 1"
        )
        match self._random.randrange(5):
            case 0:
                connection.execute("DELETE FROM products WHERE id = %s", (key,))
            case 1:
                with connection.transaction():
                    connection.execute("DELETE FROM products WHERE id = %s", (key,))
                    connection.execute(upsert, (key, key))
            case 2:
                connection.execute("UPDATE products SET price = price + 1 WHERE id %% 20 = %s", (key % 20,))
            case _:
                connection.execute(upsert, (key, key))

    def stop(self) -> None:
        self._stop_writing.set()
        self.join(20)


@pytest.fixture
def writer(store: Store) -> Iterator[Writer]:
    writer = Writer(store, seed=7)
    yield writer
    if writer.is_alive():
        writer.stop()


@pytest.fixture
def link(queues: Queues) -> Iterator[Link]:
    with Link(queues.endpoint) as link:
        yield link


def test_sigkill_at_any_moment_loses_nothing_and_nothing_goes_backwards(
    store: Store, process: Factory, consumer: Consumer, writer: Writer
) -> None:
    store.add_products(300, first=1_000)
    writer.start()
    moments = random.Random(11)
    for _ in range(4):
        pelican = process(AVIARY_POLL_SECONDS="0.1").start()
        sent = moments.randrange(1, 60)
        wait_until(lambda p=pelican, s=sent: p.get("/stats")[1]["sent"] >= s, "something was sent")  # type: ignore[misc] # mypy infers no lambda with a default
        pelican.kill()
    writer.stop()
    process(AVIARY_POLL_SECONDS="0.1").start()
    wait_until(lambda: shipped(store), "everything is shipped")
    consumer.drain()
    assert consumer.state == store.expected()
    assert not consumer.backwards


def test_two_pelicans_share_the_work(store: Store, process: Factory, consumer: Consumer, writer: Writer) -> None:
    pelicans = [process().start(), process().start()]
    writer.start()
    wait_until(lambda: all(p.get("/stats")[1]["claims"] >= 20 for p in pelicans), "both have worked")
    writer.stop()
    wait_until(lambda: shipped(store), "everything is shipped")
    assert [pelican.terminate() for pelican in pelicans] == [0, 0]
    consumer.drain()
    assert consumer.state == store.expected()
    assert not consumer.backwards


def test_two_pelicans_send_each_change_once(store: Store, process: Factory, consumer: Consumer) -> None:
    pelicans = [process().start(), process().start()]
    wait_until(lambda: all(pelican.is_ready() for pelican in pelicans), "both are ready")
    rows = 2_000
    store.add_products(rows)
    while not all(pelican.get("/stats")[1]["claims"] >= 10 for pelican in pelicans):
        rows += 1
        assert rows < 4_000, "one of them does nothing"
        store.add_products(1, first=rows)
    wait_until(lambda: shipped(store), "everything is shipped")
    consumer.drain()
    assert sorted(int(change.key) for change in consumer.changes) == list(range(1, rows + 1))


def test_changes_made_while_nothing_runs_are_picked_up(store: Store, process: Factory, consumer: Consumer) -> None:
    store.add_products(30)
    store.execute("DELETE FROM products WHERE id < 10; UPDATE products SET name = 'Mug' WHERE id = 20")
    process().start()
    wait_until(lambda: shipped(store), "everything is shipped")
    consumer.drain()
    assert consumer.state == store.expected()
    assert {change.key for change in consumer.changes if change.op == "delete"} == {str(n) for n in range(1, 10)}


def test_sigterm_finishes_what_is_in_hand_and_exits_0(
    store: Store, process: Factory, consumer: Consumer, link: Link
) -> None:
    pelican = process(endpoint=link.endpoint).start()
    wait_until(pelican.is_ready, "ready")
    link.hold()
    store.add_products(1)
    wait_until(lambda: store.value("SELECT sum(messages) FROM sync.claim") == 1, "a message is on its way")
    pelican.signal(signal.SIGTERM)
    wait_until(lambda: pelican.events("stopping"), "it is stopping")
    link.release()
    started = time.monotonic()
    assert pelican.terminate() == 0
    assert time.monotonic() - started < 10
    assert shipped(store)
    assert pelican.events("stopped")[0]["drained"] is True
    assert len(consumer.drain()) == 1


def test_sigterm_ends_an_idle_pelican_at_once(process: Factory) -> None:
    pelican = process(AVIARY_POLL_SECONDS="20").start()
    wait_until(pelican.is_ready, "ready")
    started = time.monotonic()
    assert pelican.terminate() == 0
    assert time.monotonic() - started < 5


def test_sigterm_ends_a_pelican_that_can_reach_nothing(process: Factory, store: Store, link: Link) -> None:
    link.cut()
    store.add_products(1)
    pelican = process(endpoint=link.endpoint).start()
    wait_until(lambda: pelican.events("queue_trouble"), "it noticed")
    started = time.monotonic()
    assert pelican.terminate() == 0
    assert time.monotonic() - started < 15
    assert store.value(WAITING) == 1


def test_a_pelican_that_was_stopped_past_its_claim_cannot_bring_old_states_back(
    store: Store, process: Factory, consumer: Consumer, link: Link
) -> None:
    settings = {"AVIARY_CLAIM_SECONDS": "0.6", "AVIARY_POLL_SECONDS": "0.1"}
    zombie = process(endpoint=link.endpoint, **settings).start()
    wait_until(zombie.is_ready, "ready")
    link.hold()
    store.add_products(1)
    wait_until(lambda: store.value("SELECT sum(messages) FROM sync.claim") == 1, "a message is on its way")
    zombie.signal(signal.SIGSTOP)
    store.execute("UPDATE products SET name = 'Newer'")
    heir = process(**settings).start()
    wait_until(lambda: heir.get("/stats")[1]["sent"] == 1, "another Pelican took over")
    link.release()
    zombie.signal(signal.SIGCONT)
    wait_until(lambda: zombie.get("/stats")[1]["retries"] >= 1, "the stopped one found out")
    wait_until(lambda: shipped(store), "everything is shipped")
    consumer.drain()
    assert consumer.state == store.expected()
    assert not consumer.backwards


def test_a_message_that_a_killed_pelican_left_on_its_way_cannot_bring_an_old_state_back(
    store: Store, process: Factory, consumer: Consumer, link: Link
) -> None:
    killed = process(endpoint=link.endpoint).start()
    wait_until(killed.is_ready, "ready")
    link.hold()
    store.add_products(1)
    wait_until(lambda: store.value("SELECT sum(messages) FROM sync.claim") == 1, "a message is on its way")
    wait_until(lambda: link.kept_bytes > 0, "it has left Pelican")
    killed.kill()
    store.execute("UPDATE products SET name = 'Newer'")
    process().start()
    wait_until(lambda: shipped(store), "another Pelican has sent the newer state")
    link.release()
    wait_until(lambda: link.kept_bytes == 0, "the old message has arrived at the queue")
    link.close()
    consumer.drain()
    assert consumer.state == store.expected()
    assert not consumer.backwards
    assert consumer.void == 1


def test_an_sqs_outage_delays_changes_and_loses_none(
    store: Store, process: Factory, consumer: Consumer, link: Link
) -> None:
    pelican = process(endpoint=link.endpoint).start()
    wait_until(pelican.is_ready, "ready")
    link.cut()
    store.add_products(50)
    # Claims that were given up, of which one call to the queue has ten at most. Of two workers one has failed before, and said so.
    wait_until(lambda: pelican.get("/stats")[1]["retries"] >= 4 * MAX_CALL_MESSAGES, "it tried again and again")
    assert pelican.get("/readyz")[0] == 503
    assert pelican.get("/readyz")[1]["queue"].startswith("the queue does not")
    assert pelican.get("/healthz")[0] == 200
    store.execute("UPDATE products SET name = 'Mug'")
    link.mend()
    wait_until(lambda: shipped(store), "everything is shipped")
    wait_until(pelican.is_ready, "ready again")
    assert [len(pelican.events(name)) for name in ("queue_trouble", "queue_back")] == [1, 1]
    consumer.drain()
    assert consumer.state == store.expected()
    assert not consumer.backwards


def test_lost_connections_are_made_again(store: Store, process: Factory, consumer: Consumer) -> None:
    pelican = process(AVIARY_POLL_SECONDS="20").start()
    wait_until(pelican.is_ready, "ready")
    for number in range(3):
        before = {row[0] for row in store.execute(BACKENDS)}
        store.execute(f"SELECT pg_terminate_backend(pid) FROM ({BACKENDS}) AS b")
        listening = f"SELECT count(*) FROM ({BACKENDS} AND query ~ 'LISTEN|sync.quiet') AS b WHERE pid <> ALL (%s)"
        wait_until(lambda q=listening, b=before: store.execute(q, (list(b),))[0][0], "it listens again")  # type: ignore[misc] # mypy infers no lambda with a default
        store.add_products(1, first=number)
        # Far sooner than it would look by itself.
        wait_until(lambda: shipped(store), "the change is shipped", seconds=10)
    consumer.drain()
    assert consumer.state == store.expected()


@pytest.fixture
def own_server() -> Iterator[Store]:
    """A store on a server of its own, which a test may restart."""
    with temporary_server() as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            migrate(connection)
            connection.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
        yield Store(server, "postgres")


def test_a_restart_of_postgres_delays_changes_and_loses_none(
    own_server: Store, queues: Queues, consumer: Consumer, tmp_path: Path
) -> None:
    store = own_server
    factory = Factory(store, queues.queue_url, queues.endpoint, tmp_path, [])
    pelican = factory().start()
    try:
        store.add_products(20)
        for how in (signal.SIGQUIT, signal.SIGINT):  # a crash, and an orderly restart
            store.execute("UPDATE products SET name = name || '.', price = price + 1")
            store.server.stop(how)
            assert not store.server.socket_dir.exists()
            wait_until(lambda: pelican.get("/readyz")[0] == 503, "it noticed")
            store.server.start()
            store.execute("DELETE FROM products WHERE id = (SELECT max(id) FROM products)")
            wait_until(lambda: shipped(store), "everything is shipped")
        # With two-phase commit in use a NOTIFY would abort the application's PREPARE: the poll takes over.
        with store.connect() as connection:
            connection.execute("BEGIN; UPDATE products SET name = 'Prepared'; PREPARE TRANSACTION 'one'")
            connection.execute("COMMIT PREPARED 'one'")
        wait_until(lambda: shipped(store), "everything is shipped")
        assert pelican.terminate() == 0
        consumer.drain()
        assert consumer.state == store.expected()
        assert not consumer.backwards
    finally:
        factory.end()


def test_health_says_what_is_wrong_and_stats_count(store: Store, process: Factory, consumer: Consumer) -> None:
    pelican = process().start()
    wait_until(pelican.is_ready, "ready")
    assert pelican.get("/readyz") == (200, {"database": "ok", "queue": "ok"})
    assert pelican.get("/healthz") == (200, {"status": "ok"})
    store.add_products(5)
    wait_until(lambda: pelican.get("/stats")[1]["sent"] == 5, "five rows were sent")
    stats = pelican.get("/stats")[1]
    assert {"claims", "messages", "deletes", "blanks", "retries", "live_keys", "live_oldest_seconds"} <= stats.keys()


def test_pelican_stays_small(store: Store, process: Factory) -> None:
    pelican = process().start()
    store.execute(
        "INSERT INTO products (id, sku, name, description) "
        "SELECT n, n, 'Jug', repeat('many words ', 1000) FROM generate_series(1, 1000) AS n"
    )
    wait_until(lambda: shipped(store), "everything is shipped")
    assert psutil.Process(pelican.pid).memory_info().rss < 120 * 2**20
    heavy = "import sys, pelican.cli; sys.exit(str({'numpy', 'openvino', 'pinecone'} & sys.modules.keys() or ''))"
    found = subprocess.run([sys.executable, "-c", heavy], check=False, capture_output=True, text=True)
    assert found.stderr.strip() == ""


def test_logs_tell_no_contents(store: Store, process: Factory) -> None:
    pelican = process(AVIARY_LOG_LEVEL="DEBUG").start()
    store.execute("INSERT INTO products (sku, name) VALUES ('SECRETSKU', 'SECRETNAME')")
    store.execute("ALTER TABLE products RENAME name TO title; UPDATE products SET title = 'SECRETTITLE'")
    wait_until(lambda: pelican.events("source_unreadable"), "it cannot read the table")
    assert pelican.terminate() == 0
    log = pelican.log_path.read_text()
    assert "SECRET" not in log
    assert store.dsn("aviary_pelican") not in log
