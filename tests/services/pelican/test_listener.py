"""Waking Pelican: at once out of the quiet, and without a NOTIFY that makes writers wait for each other in a rush."""

import threading
import time
from collections.abc import Iterator

import pytest

from pelican.listener import RUSH_NOTIFICATIONS
from pelican.service import Pelican
from tests.services.pelican.harness import MemoryQueue, Store, settings_for, wait_until

QUIET = "SELECT last_value::int FROM sync.quiet"


@pytest.fixture
def running(store: Store, memory: MemoryQueue) -> Iterator[Pelican]:
    """A Pelican that hardly ever looks by itself."""
    pelican = Pelican(settings_for(store, poll_seconds=20.0), memory)
    thread = threading.Thread(target=pelican.run)
    thread.start()
    wait_until(lambda: pelican.database.state == "ok", "connected")
    yield pelican
    pelican.stop.set()
    thread.join(20)
    assert not thread.is_alive()


def rush(store: Store) -> None:
    with store.connect() as connection:
        for number in range(RUSH_NOTIFICATIONS * 3):
            connection.execute("UPDATE products SET price = %s WHERE id = 1", (1_000 + number,))


def sent_price(memory: MemoryQueue) -> object:
    changes = memory.changes()
    return changes[-1].metadata.get("price") if changes else None


def test_a_change_out_of_the_quiet_wakes_pelican_at_once(store: Store, running: Pelican, memory: MemoryQueue) -> None:
    for number in range(3):
        store.add_products(1, first=number)
        wait_until(lambda n=number: len(memory.changes()) == n + 1, "sent", seconds=5)  # type: ignore[misc] # mypy infers no lambda with a default


def test_a_backfill_begins_when_it_is_asked_for(store: Store, running: Pelican, memory: MemoryQueue) -> None:
    store.add_products(1)
    wait_until(memory.changes, "the change of a row sent", seconds=5)
    store.execute("SELECT sync.request_backfill(id) FROM sync.source")
    wait_until(lambda: {batch.lane for batch in memory.batches()} == {"live", "backfill"}, "begun", seconds=5)


def test_writers_leave_notify_alone_in_a_rush_and_take_it_up_again_afterwards(
    store: Store, running: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(1)
    seen: set[int] = set()
    deadline = time.monotonic() + 20
    while 1 not in seen:
        assert time.monotonic() < deadline, "writers were never told to leave it"
        rush(store)
        seen.add(store.value(QUIET))
    store.execute("UPDATE products SET price = 5")  # nobody is notified of this one
    wait_until(lambda: sent_price(memory) == 5, "found without a NOTIFY", seconds=5)
    wait_until(lambda: store.value(QUIET) == 0, "the rush is over")
    store.execute("UPDATE products SET price = 6")
    wait_until(lambda: sent_price(memory) == 6, "woken by a NOTIFY again", seconds=5)


def test_a_transaction_that_wrote_in_a_rush_and_commits_after_it_is_not_forgotten(
    store: Store, running: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(2)
    wait_until(lambda: len(memory.changes()) == 2, "sent")
    store.execute("SELECT setval('sync.quiet', 1)")
    running.bell.rush = True
    running.bell.found_at = time.monotonic()
    with store.connect() as connection, connection.transaction():
        connection.execute("UPDATE products SET price = 77 WHERE id = 2")
        wait_until(lambda: store.value(QUIET) == 0, "the rush is over")
    wait_until(lambda: sent_price(memory) == 77, "found by looking again soon", seconds=8)


def test_a_pelican_killed_in_a_rush_leaves_no_silence_behind(store: Store, running: Pelican) -> None:
    store.execute("SELECT setval('sync.quiet', 1)")
    wait_until(lambda: store.value(QUIET) == 0, "another Pelican noticed", seconds=10)


def test_a_writer_notifies_nobody_while_pelican_is_awake(store: Store) -> None:
    with store.connect() as connection:
        connection.execute("LISTEN aviary")
        store.execute("SELECT setval('sync.quiet', 1)")
        store.add_products(3)
        assert list(connection.notifies(timeout=0.2)) == []
        store.execute("SELECT setval('sync.quiet', 0)")
        store.add_products(3, first=10)
        assert len(list(connection.notifies(timeout=5, stop_after=1))) == 1
