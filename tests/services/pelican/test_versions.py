"""For one key, versions grow with its states: whatever the interleaving of writers, Pelicans and lanes."""

import threading

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pelican.outbox import lift_version
from pelican.service import Pelican
from tests.services.pelican.harness import MemoryQueue, Store, settings_for, wait_until

KEYS = 3
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["update", "replace", "again", "both"]), st.integers(0, KEYS - 1)),
    min_size=5,
    max_size=40,
)


def write(store: Store, operations: list[tuple[str, int]]) -> None:
    with store.connect() as connection:
        for operation, key in operations:
            match operation:
                case "update":
                    connection.execute("UPDATE products SET price = price + 1 WHERE id = %s", (key,))
                case "both":
                    # Always in the order of the key, so that writers do not deadlock.
                    connection.execute(
                        "UPDATE products p SET price = p.price + 1 FROM (SELECT id FROM products WHERE id <= %s "
                        "ORDER BY id FOR UPDATE) AS l WHERE p.id = l.id",
                        (key,),
                    )
                case "replace":
                    with connection.transaction():
                        row = connection.execute(
                            "DELETE FROM products WHERE id = %s RETURNING price", (key,)
                        ).fetchone()
                        if row:
                            connection.execute(
                                "INSERT INTO products (id, sku, name, price) VALUES (%s, %s, 'Jug', %s)",
                                (key, key, row[0] + 1),
                            )
                case "again":
                    connection.execute(
                        "INSERT INTO sync.outbox (source_id, shard, lane, keys, key_count) "
                        "VALUES (1, hashtextextended(%(k)s, 0) & 15, 1, ARRAY[%(k)s], 1)",
                        {"k": str(key)},
                    )


@given(st.lists(OPERATIONS, min_size=2, max_size=4))
@settings(max_examples=5, deadline=None, phases=[Phase.generate])  # threads do not repeat themselves: no shrinking
def test_versions_grow_with_states(shared_store: Store, writers: list[list[tuple[str, int]]]) -> None:
    store, memory = shared_store, MemoryQueue()
    store.execute("TRUNCATE products")
    for key in range(KEYS):
        store.execute("INSERT INTO products (id, sku, name, price) VALUES (%s, %s, 'Jug', 1)", (key, str(key)))
    pelican = Pelican(settings_for(store, workers=2, poll_seconds=0.05), memory)
    working = threading.Thread(target=pelican.run)
    threads = [threading.Thread(target=write, args=(store, operations)) for operations in writers]
    for thread in (working, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: store.value("SELECT count(*) FROM sync.outbox") == 0, "everything is shipped")
    pelican.stop.set()
    working.join(20)

    prices = dict(store.execute("SELECT id::text, price FROM products"))
    for number in range(KEYS):
        sent = [change for change in memory.changes() if change.key == str(number)]
        versions = [change.version for change in sent]
        assert versions == sorted(versions)
        states = [float(change.metadata["price"]) for change in sent if change.op == "upsert"]  # type: ignore[arg-type] # a number
        assert states == sorted(states)
        assert states[-1] == prices[str(number)]


@pytest.mark.parametrize("behind", [True, False])
def test_versions_pass_the_clock_after_a_restored_backup(store: Store, behind: bool) -> None:
    """Older versions than those in the index would be refused there for good."""
    with store.connect("aviary_pelican") as connection:
        now = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
        ahead = f"{now} + 5000000"
        connection.execute(f"SELECT setval('sync.version', {'1000' if behind else ahead})")
        before = connection.execute("SELECT last_value FROM sync.version").fetchone()
        lift_version(connection)
        after = connection.execute(f"SELECT last_value, {now} - last_value < 60000 FROM sync.version").fetchone()
    assert before is not None
    assert after is not None
    assert after[1]
    assert (after[0] > before[0]) is behind
