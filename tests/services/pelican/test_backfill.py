"""Backfill: every row once, in order of the key, resumable, throttled, and no harm to writes that go on."""

import datetime
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pelican import backfill
from pelican.backfill import Page, Progress, turn_page
from pelican.outbox import SourceError, prepare
from pelican.service import Pelican
from pelican.watch import source_named, sources, watch
from tests.services.pelican.harness import MemoryQueue, Store, command, wait_until

ENQUEUED = "SELECT unnest(keys) FROM sync.outbox WHERE lane = 1"


def session(store: Store) -> psycopg.Connection[Any]:
    connection = store.connect("aviary_pelican")
    prepare(connection)
    return connection


def ask(store: Store, *, restart: bool = False) -> None:
    with store.connect() as connection:
        backfill.request(connection, sources(connection), restart=restart)


def page_through(connection: psycopg.Connection[Any], page_keys: int) -> list[Page]:
    pages = []
    while page := turn_page(connection, 10**9, page_keys=page_keys):
        pages.append(page)
    return pages


@pytest.mark.parametrize("rows", [0, 1, 10, 25])
def test_every_key_is_enqueued_once_in_the_lane_behind(store: Store, rows: int) -> None:
    store.add_products(rows)
    store.captured()
    ask(store)
    with session(store) as connection:
        pages = page_through(connection, 10)
    assert sorted(int(row[0]) for row in store.execute(ENQUEUED)) == list(range(1, rows + 1))
    assert [page.is_last for page in pages] == [False] * (rows // 10) + [True]
    assert store.value("SELECT finished_at IS NOT NULL FROM sync.backfill")


def test_composite_keys_of_several_types_are_paged_in_order(store: Store) -> None:
    days = [datetime.date(2024, 1, day) for day in range(1, 8)]
    with store.connect() as connection:
        connection.execute(
            'CREATE TABLE things ("a b" text, day date, n numeric, label text, PRIMARY KEY ("a b", day, n))'
        )
        watch(connection, table="things", key=["a b", "day", "n"], text="{label}", metadata=[])
        rows = [(text, day, number) for text in ('"', "%s", "é") for day in days for number in (-1, 0.5, 10)]
        connection.cursor().executemany("INSERT INTO things VALUES (%s, %s, %s, 'x')", rows)
        connection.execute("DELETE FROM sync.outbox")
    with session(store) as connection:
        pages = page_through(connection, 10)
    assert sum(page.keys for page in pages) == len(rows)
    keys = [row[0] for row in store.execute(ENQUEUED)]
    assert len(keys) == len(set(keys)) == len(rows)


def test_it_waits_while_enough_keys_are_ahead_of_pelican(store: Store) -> None:
    store.add_products(30)
    store.captured()
    ask(store)
    with session(store) as connection:
        first = turn_page(connection, 10, page_keys=10)
        assert first is not None
        assert first.keys == 10
        full = turn_page(connection, 10, page_keys=10)
        assert full is not None
        assert (full.keys, full.is_last) == (0, False)
        store.execute("DELETE FROM sync.outbox")
        more = turn_page(connection, 10, page_keys=10)
        assert more is not None
        assert more.keys == 10


def test_it_goes_on_where_it_was_killed(store: Store) -> None:
    store.add_products(30)
    store.captured()
    ask(store)
    connection = session(store)
    turn_page(connection, 10**9, page_keys=10)
    # The second page dies before its commit, with its keys and its cursor.
    connection.execute("BEGIN")
    turn_page(connection, 10**9, page_keys=10)
    store.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
    with pytest.raises(psycopg.OperationalError):
        connection.execute("COMMIT")
    connection.close()
    with session(store) as connection:
        pages = page_through(connection, 10)
    assert [page.enqueued for page in pages] == [20, 30, 30]
    assert sorted(int(row[0]) for row in store.execute(ENQUEUED)) == list(range(1, 31))


def test_asking_again_goes_on_and_restarting_starts_over(store: Store) -> None:
    store.add_products(20)
    store.captured()
    ask(store)
    with session(store) as connection:
        turn_page(connection, 10**9, page_keys=10)
        ask(store)
        assert store.value("SELECT enqueued FROM sync.backfill") == 10
        ask(store, restart=True)
        assert store.value("SELECT enqueued FROM sync.backfill") == 0
        page_through(connection, 10)
    ask(store)  # a finished one starts anew
    assert store.value("SELECT enqueued FROM sync.backfill") == 0


def test_rows_written_meanwhile_are_all_there_in_the_end(store: Store, pelican: Pelican, memory: MemoryQueue) -> None:
    store.add_products(500)
    store.captured()
    ask(store)
    stop = threading.Event()

    def write() -> None:
        with store.connect() as connection:
            for number in range(1, 200):
                connection.execute("UPDATE products SET id = -id WHERE id = %s", (500 - number,))
                connection.execute("UPDATE products SET name = 'Mug' WHERE id = %s", (number,))
                connection.execute(
                    "INSERT INTO products (id, sku, name) VALUES (%s, %s, 'New')", (1000 + number, -number)
                )
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    worker = pelican.worker()
    with session(store) as connection:
        page: Page | None = Page(1, 0, 0, 0, is_last=False)
        while page or not stop.is_set():
            page = turn_page(connection, 200, page_keys=20)
            worker.turn()
    writer.join()
    worker.run_until_idle()
    state: dict[str, dict[str, Any]] = {}
    for change in memory.changes():
        if change.op == "delete":
            state.pop(f"products/{change.key}", None)
        else:
            state[f"products/{change.key}"] = {"text_hash": change.text_hash, "text": change.text, **change.metadata}
    assert state == store.expected()


def test_a_running_pelican_does_what_was_asked_for(store: Store, pelican: Pelican, memory: MemoryQueue) -> None:
    store.add_products(50)
    store.captured()
    thread = threading.Thread(target=pelican.run)
    thread.start()
    try:
        ask(store)
        wait_until(lambda: len(memory.changes()) == 50, "all rows sent")
    finally:
        pelican.stop.set()
        thread.join(20)
    assert {batch.lane for batch in memory.batches()} == {"backfill"}


def test_the_command_waits_until_pelican_has_sent_it(store: Store, pelican: Pelican, memory: MemoryQueue) -> None:
    store.add_products(50)
    store.captured()
    steps: list[Progress] = []

    def report(progress: Progress) -> None:
        steps.append(progress)
        pelican.worker().run_until_idle()

    with store.connect() as connection:
        prepare(connection)
        chosen = [source_named(connection, "products")]
        backfill.request(connection, chosen, restart=False)
        backfill.run(connection, chosen, 10**6, wait=True, report=report, pause=lambda _: None)
    assert [(step.enqueued, step.waiting, step.finished, step.sent) for step in steps] == [
        (50, 50, True, 0),
        (50, 0, True, 50),
    ]
    assert len(memory.changes()) == 50


def test_the_command_names_an_unknown_source(store: Store) -> None:
    done = command(store, "backfill", "--source", "nothing")
    assert done.returncode == 2
    assert done.stderr == "pelican: no table is watched under the name 'nothing'; watched are: products\n"


def test_a_table_that_is_gone_is_named_and_the_others_go_on(store: Store) -> None:
    store.execute("CREATE TABLE things (id int PRIMARY KEY, label text)")
    with store.connect() as connection:
        watch(connection, table="things", key=["id"], text="{label}", metadata=[])
        things = source_named(connection, "things").id
    store.add_products(5)
    store.execute("DROP TABLE things")
    ask(store)
    with session(store) as connection:
        with pytest.raises(SourceError, match="cannot be paged through"):
            turn_page(connection, 10**9)
        page = turn_page(connection, 10**9, but=[things])
    assert page == Page(1, 5, 5, 5, is_last=True)
    assert "TROUBLE   the table is not there" in command(store, "sources").stdout


def test_status_counts_what_waits(store: Store) -> None:
    store.add_products(20)
    store.execute("UPDATE sync.outbox SET lane = 1 WHERE shard < 8")
    row = store.execute(
        "SELECT live_keys + backfill_keys, backfill_keys > 0, is_estimate, oldest_enqueued_at <= now(), outbox_rows "
        "FROM sync.status"
    )[0]
    assert row == (20, True, False, True, store.value("SELECT count(*) FROM sync.outbox"))


def test_status_of_a_huge_backlog_is_an_estimate(store: Store) -> None:
    store.execute(
        "INSERT INTO sync.outbox (source_id, shard, keys, key_count) "
        "SELECT 1, n % 16, ARRAY['a', 'b'], 2 FROM generate_series(1, 30000) AS n"
    )
    with store.connect() as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        connection.execute("SELECT 1")
        row = connection.execute("SELECT outbox_rows, live_keys, is_estimate FROM sync.status").fetchone()
    assert row is not None
    assert row[2]
    assert 10_000 <= row[0] <= 45_000
    assert row[1] == 2 * row[0]


def test_how_long_it_will_take_follows_from_what_was_sent_so_far(store: Store) -> None:
    store.execute(
        "INSERT INTO sync.backfill (source_id, enqueued, total, started_at) "
        "VALUES (1, 3000, 10000, clock_timestamp() - interval '10 s')"
    )
    left = "SELECT backfill_seconds_left FROM sync.status"
    assert 23 < store.value(left) < 24  # 7,000 of 10,000 left after 3,000 in 10 s
    store.execute("INSERT INTO sync.outbox (source_id, shard, lane, keys, key_count) VALUES (1, 0, 1, '{a}', 1000)")
    assert 40 < store.value(left) < 41  # only 2,000 of them have left the outbox
    assert "all sent in about 4" in command(store, "sources").stdout
    store.execute("UPDATE sync.backfill SET enqueued = 10000, finished_at = clock_timestamp()")
    assert store.value(left) is not None
    store.execute("DELETE FROM sync.outbox")
    assert store.value(left) is None
    store.execute("UPDATE sync.backfill SET enqueued = 0, finished_at = NULL")
    assert store.value(left) is None, "nothing was sent, so nobody can tell"


def test_the_command_tells_how_far_it_is(store: Store, monkeypatch: pytest.MonkeyPatch, pelican: Pelican) -> None:
    store.add_products(50)
    store.captured()
    monkeypatch.setattr(backfill, "PAUSE_SECONDS", 0.0)
    run = backfill.run

    def shipping(*arguments: Any, report: Any, **options: Any) -> None:
        def reported(progress: Progress) -> None:
            report(progress)
            pelican.worker().run_until_idle()

        run(*arguments, report=reported, **options)

    monkeypatch.setattr(backfill, "run", shipping)
    done = command(store, "backfill", "--wait")
    assert done.stderr.splitlines() == [
        "products: from the start",
        "0 of 50 keys sent",
        "50 of 50 keys sent",
    ]


def test_the_command_enqueues_no_further_ahead_than_it_is_set_to(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def run(_: object, __: object, outbox_limit: int, **___: object) -> None:
        limits.append(outbox_limit)

    monkeypatch.setattr(backfill, "run", run)
    assert command(store, "backfill").returncode == 0
    monkeypatch.setenv("AVIARY_BACKFILL_OUTBOX_LIMIT", "1234")
    assert command(store, "backfill").returncode == 0
    assert limits == [20_000, 1_234]
    monkeypatch.setenv("AVIARY_BACKFILL_OUTBOX_LIMIT", "1")
    refused = command(store, "backfill")
    assert refused.returncode == 2
    assert "AVIARY_BACKFILL_OUTBOX_LIMIT" in refused.stderr


HOLD = """
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.enqueued >= (SELECT last_value FROM public.held) THEN PERFORM pg_advisory_lock(42); END IF;
  RETURN NEW;
END $$;
CREATE SEQUENCE held;
GRANT SELECT ON SEQUENCE held TO aviary_pelican;
CREATE TRIGGER hold BEFORE UPDATE ON sync.backfill FOR EACH ROW EXECUTE FUNCTION hold()"""
HELD = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"


def test_a_process_killed_in_the_middle_of_any_page_loses_and_repeats_nothing(store: Store, tmp_path: Path) -> None:
    """SIGKILL with a page's keys written and not committed, at the first page, the second and the last."""
    rows = 2 * backfill.PAGE_KEYS + 10
    store.add_products(rows)
    store.captured()
    source = "SELECT count(*), md5(string_agg(xmin::text || ctid::text, ',' ORDER BY id)) FROM products"
    before = store.execute(source)
    store.execute(HOLD)
    command_line = [sys.executable, "-m", "pelican", "backfill"]
    environment = {**os.environ, "AVIARY_POSTGRES_DSN": store.dsn("aviary_pelican")}
    with store.connect() as holder, (tmp_path / "log").open("wb") as log:
        holder.execute("SELECT pg_advisory_lock(42)")
        for page in (1, 2, 3):
            store.execute("SELECT setval('held', %s)", (min(page * backfill.PAGE_KEYS, rows),))
            process = subprocess.Popen(command_line, env=environment, stdout=log, stderr=log)
            try:
                wait_until(lambda: store.execute(HELD), "it is in the middle of the page")
            finally:
                process.kill()
                process.wait(10)
            for (pid,) in store.execute(HELD):
                store.execute("SELECT pg_terminate_backend(%s)", (pid,))
            wait_until(lambda: not store.execute(HELD), "its transaction has ended")
            assert store.value("SELECT enqueued FROM sync.backfill") == (page - 1) * backfill.PAGE_KEYS
    assert subprocess.run(command_line, env=environment, timeout=60, check=False, capture_output=True).returncode == 0
    assert sorted(int(row[0]) for row in store.execute(ENQUEUED)) == list(range(1, rows + 1))
    assert store.execute(source) == before, "no row of the table was touched"
