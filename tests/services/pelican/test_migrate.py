"""Migrations: once, in order, by several at once, and never half."""

import threading

import psycopg
import pytest

from pelican.migrate import Migration, MigrationError, load, migrate
from tests.conftest import Database
from tests.services.pelican.harness import Store, command

TABLES = "SELECT to_regclass('public.products') IS NOT NULL, count(*) FROM sync.source"


def connect(database: Database) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(database.dsn(), autocommit=True)


def test_migrating_twice_applies_each_file_once(database: Database) -> None:
    with connect(database) as connection:
        assert migrate(connection) == [migration.name for migration in load()]
        assert migrate(connection) == []
        assert connection.execute(TABLES).fetchone() == (True, 1)


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.number for migration in load()] == list(range(1, len(load()) + 1))


def test_several_may_migrate_at_once(database: Database) -> None:
    applied: list[str] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            with connect(database) as connection:
                applied.extend(migrate(connection))
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert applied == [migration.name for migration in load()]


def test_a_migration_that_fails_leaves_no_trace_and_may_be_tried_again(database: Database) -> None:
    good = Migration(1, "0001_good.sql", "CREATE TABLE one (x int)")
    bad = Migration(2, "0002_bad.sql", "CREATE TABLE two (x int); SELECT 1 / 0")
    mended = Migration(2, "0002_bad.sql", "CREATE TABLE two (x int)")
    with connect(database) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            migrate(connection, [good, bad])
        assert connection.execute("SELECT to_regclass('one'), to_regclass('two')").fetchone() == ("one", None)
        assert migrate(connection, [good, mended]) == ["0002_bad.sql"]


def test_a_migration_that_was_changed_afterwards_is_refused(database: Database) -> None:
    with connect(database) as connection:
        migrate(connection, [Migration(1, "0001_one.sql", "SELECT 1")])
        with pytest.raises(MigrationError, match=r"0001_one\.sql is not what was applied"):
            migrate(connection, [Migration(1, "0001_one.sql", "SELECT 2")])


def test_a_database_of_a_newer_version_is_left_alone(database: Database) -> None:
    with connect(database) as connection:
        migrate(connection, [Migration(1, "0001_one.sql", "SELECT 1"), Migration(2, "0002_two.sql", "SELECT 2")])
        assert migrate(connection, [Migration(1, "0001_one.sql", "SELECT 1")]) == []


def test_unwatched_products_stay_unwatched_after_the_next_migrate(store: Store) -> None:
    assert command(store, "unwatch", "--source", "products").returncode == 0
    done = command(store, "migrate")
    assert (done.returncode, done.stdout) == (0, "up to date\n")
    assert store.value("SELECT count(*) FROM sync.source") == 0


def test_a_products_table_of_somebody_else_is_named_in_one_sentence(database: Database) -> None:
    with connect(database) as connection:
        connection.execute("CREATE TABLE products (x int)")
    done = command(Store(database.server, database.name), "migrate")
    assert done.returncode == 2
    assert (
        done.stderr == 'pelican: relation "products" already exists, and it is not ours; rename it and run this again\n'
    )


def test_only_the_owner_may_migrate(store: Store) -> None:
    done = command(store, "migrate", user="aviary_pelican")
    assert done.returncode == 2
    assert "permission denied" in done.stderr
    assert "run this as the owner" in done.stderr


@pytest.mark.parametrize(
    ("role", "statement", "allowed"),
    [
        ("aviary_pelican", "SELECT FROM products", True),
        ("aviary_pelican", "DELETE FROM sync.outbox", True),
        ("aviary_pelican", "SELECT nextval('sync.version')", True),
        ("aviary_pelican", "TABLE sync.status", True),
        ("aviary_pelican", "INSERT INTO products (sku, name) VALUES ('a', 'b')", False),
        ("aviary_pelican", "UPDATE products SET name = ''", False),
        ("aviary_pelican", "DELETE FROM products", False),
        ("aviary_pelican", "TRUNCATE products", False),
        ("aviary_pelican", "DELETE FROM sync.source", False),
        ("aviary_pelican", "UPDATE sync.source SET text_template = ''", False),
        ("aviary_pelican", "CREATE TABLE public.mine (x int)", False),
        ("aviary_pelican", "CREATE TABLE sync.mine (x int)", False),
        ("aviary_pelican", "SELECT sync.unwatch('products')", False),
        ("aviary_frontend", "INSERT INTO products (sku, name) VALUES ('a', 'b')", True),
        ("aviary_frontend", "UPDATE products SET name = ''", True),
        ("aviary_frontend", "DELETE FROM products", True),
        ("aviary_frontend", "TABLE sync.status", True),
        ("aviary_frontend", "TABLE sync.source", True),
        ("aviary_frontend", "TRUNCATE products", False),
        ("aviary_frontend", "TABLE sync.outbox", False),
        ("aviary_frontend", "SELECT nextval('sync.version')", False),
        ("aviary_frontend", "CREATE TABLE public.mine (x int)", False),
    ],
)
def test_each_role_may_do_what_it_needs_and_no_more(
    shared_store: Store, role: str, statement: str, allowed: bool
) -> None:
    with shared_store.connect(role) as connection, connection.transaction(force_rollback=True):
        if allowed:
            connection.execute(statement)
        else:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
