"""What the triggers put into the outbox, and that they never harm the application's own transaction."""

import threading

import psycopg
import pytest

from tests.services.pelican.harness import Store

LIVE_ROWS = "SELECT count(*) FROM sync.outbox"


def test_an_insert_records_its_keys(store: Store) -> None:
    store.add_products(3)
    assert store.captured() == [("1", False), ("2", False), ("3", False)]


def test_an_update_that_changes_nothing_writes_nothing(store: Store) -> None:
    store.add_products(3)
    store.captured()
    store.execute("UPDATE products SET name = name, price = price, description = description || ''")
    store.execute("UPDATE products SET name = name WHERE id = 1")
    assert store.captured() == []


def test_an_update_of_columns_that_are_not_mapped_writes_nothing(store: Store) -> None:
    store.add_products(3)
    store.captured()
    store.execute('UPDATE products SET attributes = \'{"colour": "red"}\', updated_at = now()')
    store.execute("UPDATE products SET updated_at = now() WHERE id = 2")
    assert store.captured() == []


def test_an_update_of_metadata_only_is_marked(store: Store) -> None:
    store.add_products(3)
    store.captured()
    store.execute("UPDATE products SET price = 9.99 WHERE id = 1")
    store.execute("UPDATE products SET category = 'Garden' WHERE id > 1")
    assert store.captured() == [("1", True), ("2", True), ("3", True)]


def test_one_update_marks_each_row_by_what_changed_in_it(store: Store) -> None:
    store.add_products(4)
    store.captured()
    store.execute(
        "UPDATE products SET price = CASE WHEN id < 4 THEN 1000 + id ELSE price END, "
        "name = CASE WHEN id = 2 THEN 'Kettle' ELSE name END"
    )
    assert store.captured() == [("1", True), ("2", False), ("3", True)]


@pytest.mark.parametrize(("old", "new"), [("NULL", "'warm'"), ("'warm'", "NULL"), ("''", "NULL"), ("'a'", "'a '")])
def test_a_change_from_or_to_null_or_blank_is_a_change(store: Store, old: str, new: str) -> None:
    store.add_products(2)
    store.execute(f"UPDATE products SET description = {old}")
    store.captured()
    store.execute(f"UPDATE products SET description = {new} WHERE id = 1")
    store.execute(f"UPDATE products SET description = {new}")
    assert store.captured() == [("1", False), ("2", False)]


@pytest.mark.parametrize("where", ["id = 2", "id > 1"])
def test_a_changed_key_records_the_old_and_the_new_one(store: Store, where: str) -> None:
    store.add_products(3)
    store.captured()
    store.execute(f"UPDATE products SET id = id + 100 WHERE {where}")
    moved = ("2",) if where == "id = 2" else ("2", "3")
    assert store.captured() == sorted((k, False) for m in moved for k in (m, str(int(m) + 100)))


def test_keys_that_move_onto_each_other_are_all_recorded(store: Store) -> None:
    store.add_products(3)
    store.captured()
    store.execute("UPDATE products SET id = -id; UPDATE products SET id = 4 + id")
    assert {key for key, _ in store.captured()} == {"-1", "-2", "-3", "1", "2", "3"}


def test_a_delete_and_an_insert_of_one_key_are_recorded(store: Store) -> None:
    store.add_products(1)
    store.captured()
    with store.connect() as connection, connection.transaction():
        connection.execute("DELETE FROM products WHERE id = 1")
        connection.execute("INSERT INTO products (id, sku, name) VALUES (1, 'again', 'Jug')")
    assert store.captured() == [("1", False), ("1", False)]


def test_what_is_rolled_back_is_not_recorded(store: Store) -> None:
    store.add_products(2)
    store.captured()
    with store.connect() as connection:
        with connection.transaction(force_rollback=True):
            connection.execute("UPDATE products SET name = 'Never'")
            connection.execute("TRUNCATE products")
        with connection.transaction():
            with connection.transaction(force_rollback=True):
                connection.execute("DELETE FROM products WHERE id = 1")
            connection.execute("UPDATE products SET name = 'Jug' WHERE id = 2")
    assert store.captured() == [("2", False)]


def test_a_truncate_records_every_key(store: Store) -> None:
    store.add_products(1000)
    store.captured()
    store.execute("TRUNCATE products")
    assert store.captured() == sorted((str(n), False) for n in range(1, 1001))


def test_a_truncate_that_cascades_records_every_key(store: Store) -> None:
    store.execute("CREATE TABLE shops (id int PRIMARY KEY)")
    store.execute("ALTER TABLE products ADD shop int REFERENCES shops ON DELETE CASCADE")
    store.execute("INSERT INTO shops VALUES (1)")
    store.add_products(2)
    store.captured()
    store.execute("TRUNCATE shops CASCADE")
    assert store.captured() == [("1", False), ("2", False)]


def test_a_delete_that_cascades_is_recorded(store: Store) -> None:
    store.execute("CREATE TABLE shops (id int PRIMARY KEY)")
    store.execute("ALTER TABLE products ADD shop int REFERENCES shops ON DELETE CASCADE")
    store.execute("INSERT INTO shops VALUES (1), (2)")
    store.add_products(3)
    store.execute("UPDATE products SET shop = least(id, 2)")
    store.captured()
    store.execute("DELETE FROM shops WHERE id = 2")
    assert store.captured() == [("2", False), ("3", False)]


def test_a_copy_costs_few_outbox_rows(store: Store) -> None:
    with store.connect() as connection:
        with connection.cursor().copy("COPY products (id, sku, name) FROM STDIN") as copy:
            for number in range(10_000):
                copy.write_row((number, f"sku-{number}", "Jug"))
        assert connection.execute(LIVE_ROWS).fetchone() == (64,)  # 16 shards, 3,200 rows to a round
        counts = connection.execute("SELECT bool_and(key_count = cardinality(keys)), max(key_count) FROM sync.outbox")
        assert counts.fetchone() == (True, 240)
    assert len(set(store.captured())) == 10_000


def test_an_upsert_records_what_it_inserted_and_what_it_updated(store: Store) -> None:
    store.add_products(2)
    store.captured()
    upsert = (
        "INSERT INTO products (id, sku, name, description, category, price) VALUES "
        "(1, 'sku-1', 'Bottle 1', 'Keeps tea hot, number 1', 'Kitchen', 1), (2, 'sku-2', 'Mug', NULL, NULL, NULL), "
        "(3, 'sku-3', 'Cup', NULL, NULL, NULL) "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description"
    )
    store.execute(upsert)
    assert store.captured() == [("2", False), ("3", False)]
    store.execute(
        upsert.replace("DO UPDATE SET name = excluded.name, description = excluded.description", "DO NOTHING")
    )
    assert store.captured() == []


def test_a_merge_records_what_it_did(store: Store) -> None:
    store.add_products(3)
    store.captured()
    store.execute(
        "MERGE INTO products p USING (VALUES (1, 'Mug'), (2, NULL), (9, 'Cup')) AS v(id, name) ON p.id = v.id "
        "WHEN MATCHED AND v.name IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET name = v.name "
        "WHEN NOT MATCHED THEN INSERT (id, sku, name) VALUES (v.id, 'new', v.name)"
    )
    assert store.captured() == [("1", False), ("2", False), ("9", False)]


@pytest.mark.parametrize("size", [3_775, 9_000, 1_000_000])
def test_a_row_of_any_size_may_be_written_changed_and_deleted(store: Store, size: int) -> None:
    store.execute("INSERT INTO products (id, sku, name, description) VALUES (1, 'a', 'Jug', repeat('x', %s))", (size,))
    store.execute("UPDATE products SET price = 1")
    store.execute("UPDATE products SET description = repeat('y', %s)", (size,))
    store.execute("DELETE FROM products")
    assert store.captured() == [("1", False), ("1", False), ("1", False), ("1", True)]


def test_the_application_needs_no_rights_on_our_schema(store: Store) -> None:
    role = f"application_{store.name}"
    store.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON products TO {role}")
    try:
        with store.connect(role) as connection:
            connection.execute("INSERT INTO products (id, sku, name) VALUES (1, 'a', 'Jug'), (2, 'b', 'Mug')")
            connection.execute("UPDATE products SET name = 'Cup' WHERE id = 1")
            connection.execute("DELETE FROM products WHERE id = 2")
            connection.execute("TRUNCATE products")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(LIVE_ROWS)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT sync.capture_1_insert()")
    finally:
        store.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert [key for key, _ in store.captured()] == ["1", "1", "1", "2", "2"]


def test_a_hostile_search_path_changes_nothing(store: Store) -> None:
    with store.connect() as connection:
        connection.execute("CREATE SCHEMA evil; CREATE TABLE evil.outbox (x int)")
        connection.execute("CREATE FUNCTION evil.array_agg(text) RETURNS text[] LANGUAGE sql AS 'SELECT NULL::text[]'")
        connection.execute("SET search_path = evil, sync, public")
        connection.execute("INSERT INTO products (id, sku, name) VALUES (1, 'a', 'Jug'), (2, 'b', 'Mug')")
    assert store.captured() == [("1", False), ("2", False)]


def test_a_renamed_mapped_column_never_fails_a_write(store: Store) -> None:
    store.add_products(2)
    store.captured()
    with store.connect() as connection:
        connection.execute("UPDATE products SET name = 'Jug'")  # a session that has run the triggers before
        connection.execute("ALTER TABLE products RENAME name TO title")
        store.captured()
        connection.execute("UPDATE products SET title = 'Mug' WHERE id = 1")
        connection.execute("UPDATE products SET id = 5 WHERE id = 2")
        connection.execute("INSERT INTO products (id, sku, title) VALUES (7, 'c', 'Cup')")
        connection.execute("DELETE FROM products WHERE id = 1")
    assert [key for key, _ in store.captured()] == ["1", "1", "2", "5", "7"]


def test_a_renamed_key_column_warns_and_never_fails_a_write(store: Store) -> None:
    store.add_products(2)
    store.captured()
    warnings: list[str] = []
    with store.connect() as connection:
        connection.add_notice_handler(lambda notice: warnings.append(str(notice.message_primary)))
        connection.execute("ALTER TABLE products RENAME id TO number")
        connection.execute("UPDATE products SET name = 'Mug' WHERE number = 1")
        connection.execute("INSERT INTO products (number, sku, name) VALUES (7, 'c', 'Cup')")
        connection.execute("DELETE FROM products WHERE number = 1")
        connection.execute("TRUNCATE products")
    assert [warning.split()[5] for warning in warnings] == ["UPDATE", "INSERT", "DELETE", "TRUNCATE"]
    assert store.captured() == []


def test_a_writer_never_waits_for_another_writer_or_for_a_claim(store: Store) -> None:
    store.add_products(2)
    with (
        store.connect() as first,
        store.connect("aviary_pelican") as claiming,
        store.connect() as second,
        first.transaction(),
        claiming.transaction(),
    ):
        first.execute("UPDATE products SET name = 'Mug' WHERE id = 1")
        claiming.execute("SELECT pg_advisory_xact_lock(1635152225, n) FROM generate_series(0, 63) AS n")
        claiming.execute("DELETE FROM sync.outbox")
        second.execute("SET statement_timeout = '5s'")
        second.execute("UPDATE products SET name = 'Cup' WHERE id = 2")
    assert store.captured() == [("1", False), ("2", False)]


def test_concurrent_writers_lose_nothing(store: Store) -> None:
    def write(first: int) -> None:
        with store.connect() as connection:
            for number in range(first, first + 25):
                connection.execute("INSERT INTO products (id, sku, name) VALUES (%s, %s, 'Jug')", (number, str(number)))
                connection.execute("UPDATE products SET name = 'Mug' WHERE id = %s", (number,))

    threads = [threading.Thread(target=write, args=(first,)) for first in range(0, 200, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.captured() == sorted([(str(number), False) for number in range(200)] * 2)


def test_a_statement_that_wrote_notifies_once_without_a_payload(store: Store) -> None:
    with store.connect() as connection:
        connection.execute("LISTEN aviary")
        store.add_products(50)
        store.execute("UPDATE products SET updated_at = now()")
        found = list(connection.notifies(timeout=0.2))
    assert [(notice.channel, notice.payload) for notice in found] == [("aviary", "")]
