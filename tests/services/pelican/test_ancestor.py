"""What Aviary's ancestor got wrong in a backfill, and no other test holds. The whole list: docs/guarantees.md."""

from pelican.service import Pelican
from tests.services.pelican.harness import MemoryQueue, Store, command


def test_one_huge_row_among_a_thousand_does_not_stop_a_backfill(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(1_000)
    store.execute("UPDATE products SET description = repeat('hot soup ', 20000) WHERE id = 500")
    store.captured()
    assert command(store, "backfill", "--source", "products").returncode == 0
    pelican.worker().run_until_idle()
    assert {change.key for change in memory.changes()} == {str(number) for number in range(1, 1_001)}
    assert memory.aside == []


def test_a_backfill_leaves_the_rows_alone_and_fires_no_trigger(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(50)
    store.captured()
    before = store.execute("SELECT id, xmin::text, ctid::text FROM products ORDER BY id")
    assert command(store, "backfill", "--source", "products").returncode == 0
    pelican.worker().run_until_idle()
    assert {batch.lane for batch in memory.batches()} == {"backfill"}
    assert store.execute("SELECT id, xmin::text, ctid::text FROM products ORDER BY id") == before


def test_a_row_is_the_same_by_the_live_path_and_by_a_backfill(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.execute(
        "INSERT INTO products (id, sku, name, description, category, price) VALUES "
        "(1, 'a', 'Kettle', NULL, NULL, 12.50), (2, 'b', 'Lamp', 'Bright. Warm', 'Home', NULL)"
    )
    pelican.worker().run_until_idle()
    assert command(store, "backfill", "--source", "products").returncode == 0
    pelican.worker().run_until_idle()
    live, filled = (
        {
            change.key: (change.op, change.text, change.text_hash, change.metadata)
            for batch in memory.batches()
            if batch.lane == lane
            for change in batch.changes
        }
        for lane in ("live", "backfill")
    )
    assert live.keys() == {"1", "2"}
    assert filled == live
