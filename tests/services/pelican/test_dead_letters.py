"""What the database does for dead letters: which rows are gone, sending rows again, and what pages are shown."""

from typing import Any

import psycopg
import pytest

from pelican.watch import watch
from tests.services.pelican.harness import Store

ABSENT = "SELECT sync.absent(%s, %s)"


def absent(store: Store, source: str, *keys: str) -> set[str]:
    with store.connect("aviary_operator") as connection:
        return {key for (key,) in connection.execute(ABSENT, (source, list(keys)))}


def test_a_row_is_absent_when_it_is_gone_or_has_no_text(store: Store) -> None:
    store.add_products(3)
    store.execute("UPDATE products SET name = ' ', description = NULL WHERE id = 2")
    store.execute("UPDATE products SET name = ' ', description = 'x' WHERE id = 3")
    assert absent(store, "products", "1", "2", "3", "4", "not a number", "01", "") == {
        "2",
        "4",
        "not a number",
        "01",
        "",
    }


@pytest.mark.parametrize(
    ("columns", "key", "values", "there", "not_there"),
    [
        ("a text, b int", ["a", "b"], "('x', 1), ('y,', 2)", ['["x", "1"]', '["y,", "2"]'], ['["x", "2"]', "x", '"x"', "5"]),
        ("a timestamptz", ["a"], "('2026-01-02 03:04:05+02')", ["2026-01-02 01:04:05+00"], ["2026-01-02"]),
        ("a numeric", ["a"], "(1.50)", ["1.50"], ["1.5"]),
        ("a uuid", ["a"], "('3fa85f64-5717-4562-b3fc-2c963f66afa6')", ["3fa85f64-5717-4562-b3fc-2c963f66afa6"], ["x"]),
        ("a varchar(3)", ["a"], "('abc')", ["abc"], ["abcd"]),
        ('"A b%" date', ['"A b%"'], "('2026-01-02')", ["2026-01-02"], ["infinity"]),
    ],
)  # fmt: skip
def test_keys_of_every_shape_are_found_as_they_were_captured(
    store: Store, columns: str, key: list[str], values: str, *, there: list[str], not_there: list[str]
) -> None:
    with store.connect() as connection:
        connection.execute("SET timezone = 'Asia/Tokyo'")
        connection.execute(f"CREATE TABLE things ({columns}, label text DEFAULT 'x', PRIMARY KEY ({', '.join(key)}))")
        watch(connection, table="things", key=[k.strip('"') for k in key], text="{label}", metadata=[])
        names = ", ".join(key)
        connection.execute(f"INSERT INTO things ({names}) VALUES {values}")
        connection.execute("ALTER ROLE aviary_operator SET datestyle = 'German'")
    try:
        assert absent(store, "things", *there, *not_there) == set(not_there)
        assert sorted(key for key, _ in store.captured()) == sorted(there)
    finally:
        store.execute("ALTER ROLE aviary_operator RESET datestyle")


def test_nothing_is_said_of_a_table_that_cannot_be_asked(store: Store) -> None:
    assert absent(store, "nothing", "1") == set()
    with store.connect() as connection:
        connection.execute("CREATE TABLE things (id int PRIMARY KEY, label text)")
        watch(connection, table="things", key=["id"], text="{label}", metadata=[])
    store.execute("ALTER TABLE things DROP COLUMN label")
    assert absent(store, "things", "1") == set()
    store.execute("DROP TABLE things")
    assert absent(store, "things", "1") == set()


def test_the_row_is_found_by_the_unique_index(store: Store) -> None:
    store.add_products(2_000)
    store.execute("ANALYZE products")
    with store.connect() as connection, connection.transaction():
        connection.execute(ABSENT, ("products", ["1", "2", "9999"]))
        scans = "SELECT seq_scan, idx_scan FROM pg_stat_xact_user_tables WHERE relid = 'products'::regclass"
        assert connection.execute(scans).fetchone() == (0, 3)


def test_enqueued_keys_are_spread_over_shards_each_once_and_wake_pelican(store: Store) -> None:
    with store.connect() as listening, store.connect("aviary_operator") as connection:
        listening.execute("LISTEN aviary")
        keys = [str(n) for n in range(500)]
        row: Any = connection.execute("SELECT sync.enqueue('products', %s)", ([*keys, "1", ""],)).fetchone()
        assert row[0] == 500
        assert next(listening.notifies(timeout=5, stop_after=1)).channel == "aviary"
    assert store.value("SELECT count(DISTINCT shard) FROM sync.outbox") == 16
    shards = "SELECT bool_and(shard = (hashtextextended(k, 0) & 15)) FROM sync.outbox, unnest(keys) AS k"
    assert store.value(shards) is True
    assert store.value("SELECT min(lane) FROM sync.outbox") == 0
    assert store.captured() == sorted((key, False) for key in keys)


def test_keys_of_an_unknown_source_are_refused(store: Store) -> None:
    with store.connect("aviary_operator") as connection, pytest.raises(psycopg.errors.NoDataFound, match="'nothing'"):
        connection.execute("SELECT sync.enqueue('nothing', '{1}')")
