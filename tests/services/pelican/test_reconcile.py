"""Reconcile: every difference that lasts is found and mended, and nothing that is merely on its way is called one."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from aviary.depth import Depth
from aviary.index import PineconeIndex
from aviary.source import Document, text_hash, vector_id
from pelican.ledger import Ledger
from pelican.reconcile import Step
from pelican.watch import source_named, watch
from tests.services.pelican.harness import Store
from tests.services.pelican.mirror import Mirror, found
from tests.services.pinecone.process import PineconeTestIndex


@pytest.fixture
def mirror(store: Store, pinecone_index: PineconeTestIndex) -> Iterator[Mirror]:
    """Twenty products with their vectors, in step."""
    store.execute("TRUNCATE sync.reconcile, sync.drift")
    with PineconeIndex(pinecone_index.api_key, pinecone_index.host) as index:
        mirror = Mirror(store, index)
        store.add_products(20)
        mirror.work()
        yield mirror


def untracked(store: Store, query: str) -> None:
    """A change of the table that no trigger sees, as of a restored backup."""
    with store.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(query)


def test_what_is_in_step_is_found_so(mirror: Mirror) -> None:
    outcome = mirror.reconcile()
    assert found(outcome) == {}
    assert (outcome.rows, outcome.vectors, outcome.drift, outcome.pending, outcome.left) == (20, 20, 0, 0, 0)


def test_an_empty_table_and_an_index_without_its_namespace_are_in_step(mirror: Mirror) -> None:
    mirror.store.execute("TRUNCATE products")
    mirror.work()
    assert mirror.reconcile().drift == 0
    mirror.store.execute("CREATE TABLE things (id int PRIMARY KEY, label text)")
    with mirror.store.connect() as connection:
        watch(connection, table="things", key=["id"], text="{label}", metadata=[], backfill=False)
    outcome = mirror.reconcile("things")
    assert (outcome.rows, outcome.vectors, outcome.drift) == (0, 0, 0)


def test_every_kind_of_drift_is_found_and_only_told(mirror: Mirror) -> None:
    mirror.index.delete("products", ["3"])
    mirror.change("5", price=-1)
    mirror.change("6", _text_hash=text_hash("something else"))
    mirror.change("7", category=None)
    mirror.change("8", colour="red")
    untracked(
        mirror.store,
        "DELETE FROM products WHERE id = 9; UPDATE products SET name = '', description = ' ' WHERE id = 10",
    )
    before = mirror.ids()
    outcome = mirror.reconcile()
    assert found(outcome) == {"missing": ["3"], "stale": ["5", "6", "7", "8"], "orphaned": ["10", "9"]}
    assert (outcome.left, outcome.pending) == (7, 0)
    assert mirror.ids() == before
    assert not mirror.store.execute("SELECT seq FROM sync.outbox")


def test_an_older_version_alone_is_not_stale(mirror: Mirror) -> None:
    mirror.change("5", _version=1)
    assert mirror.reconcile().drift == 0


def test_repairs_go_the_ordinary_way_and_end_in_step(mirror: Mirror) -> None:
    mirror.index.delete("products", ["3"])
    mirror.change("5", price=-1)
    untracked(mirror.store, "DELETE FROM products WHERE id = 9")
    sent = len(mirror.memory.changes())
    outcome = mirror.reconcile(repair=True)
    assert outcome.found == {"missing": 1, "stale": 1, "orphaned": 1}
    assert (outcome.left, outcome.pending) == (0, 0)
    assert sorted((change.key, change.op) for change in mirror.memory.changes()[sent:]) == [
        ("3", "upsert"),
        ("5", "upsert"),
        ("9", "delete"),
    ]
    assert {batch.lane for batch in mirror.memory.batches()[-1:]} == {"backfill"}
    assert mirror.reconcile().drift == 0
    assert mirror.ids() == {str(n) for n in range(1, 21)} - {"9"}


def test_a_repair_that_nobody_carries_out_is_left(mirror: Mirror) -> None:
    mirror.index.delete("products", ["3"])
    outcome = mirror.reconcile(repair=True, pause=lambda _: None)
    assert (outcome.drift, outcome.left) == (1, 1)


def test_a_vector_with_a_version_from_the_future_is_mended_too(mirror: Mirror) -> None:
    """As after the database was restored from a backup, while the clock stood still."""
    ahead = mirror.store.value("SELECT last_value FROM sync.version") + 10_000_000
    mirror.change("5", price=-1, _version=ahead)
    assert mirror.reconcile(repair=True).left == 0
    assert mirror.reconcile().drift == 0


def test_a_change_in_the_outbox_is_pending_and_no_drift(mirror: Mirror) -> None:
    mirror.store.execute("UPDATE products SET price = 99 WHERE id <= 3")
    mirror.store.execute("DELETE FROM products WHERE id = 4")
    outcome = mirror.reconcile(pause=lambda _: None)
    assert (outcome.drift, outcome.pending) == (0, 4)


def test_a_change_in_the_queue_is_pending_and_no_drift(mirror: Mirror) -> None:
    mirror.store.execute("UPDATE products SET price = 99 WHERE id <= 3")
    mirror.store.execute("DELETE FROM products WHERE id = 4")
    mirror.ship()
    outcome = mirror.reconcile(pause=lambda _: None)
    assert (outcome.drift, outcome.pending) == (0, 4)


def test_a_change_that_arrives_while_it_looks_is_neither(mirror: Mirror) -> None:
    mirror.store.execute("UPDATE products SET price = 99 WHERE id <= 3")
    mirror.store.execute("DELETE FROM products WHERE id = 4")
    outcome = mirror.reconcile()
    assert (outcome.drift, outcome.pending) == (0, 0)


def test_rows_that_a_backfill_has_yet_to_send_are_pending(mirror: Mirror) -> None:
    mirror.index.delete("products", ["3"])
    mirror.store.execute("SELECT sync.request_backfill(1::smallint)")
    assert mirror.reconcile(pause=lambda _: None).pending == 1
    mirror.store.execute("UPDATE sync.backfill SET finished_at = now()")
    assert mirror.reconcile(pause=lambda _: None).drift == 1


def test_a_row_that_is_written_again_and_again_is_no_drift(mirror: Mirror) -> None:
    price = iter(range(100, 10_000))

    def write(_: float) -> None:
        mirror.deliver()
        mirror.store.execute("UPDATE products SET price = %s WHERE id = 3", (next(price),))
        mirror.ship()

    write(0)
    assert mirror.reconcile(settle_seconds=20, pause=write).drift == 0


def test_in_a_queue_that_is_never_empty_a_newer_version_of_the_shard_tells_that_it_has_been_passed(
    mirror: Mirror,
) -> None:
    # Two products of one shard.
    lost, neighbour = mirror.store.execute(
        "SELECT min(id), max(id) FROM products GROUP BY hashtextextended(id::text, 0) & 15 HAVING count(*) > 1 LIMIT 1"
    )[0]
    mirror.index.delete("products", [str(lost)])
    price = iter(range(100, 10_000))

    def write(_: float) -> None:
        mirror.store.execute("UPDATE products SET price = %s WHERE id = %s", (next(price), neighbour))
        mirror.work()
        mirror.memory.waiting = 1

    write(0)
    outcome = mirror.reconcile(settle_seconds=8, pause=write)
    assert (outcome.found["missing"], outcome.pending) == (1, 0)


def test_vectors_that_no_key_stands_for_are_deleted_one_by_one(mirror: Mirror) -> None:
    mirror.put("~" + 64 * "0", label="whose?")
    mirror.put("some#thing")
    mirror.put("not a number")
    outcome = mirror.reconcile(repair=True)
    assert outcome.found["orphaned"] == 3
    assert outcome.left == 0
    assert mirror.ids() == {str(n) for n in range(1, 21)}


def test_a_vector_that_no_key_stands_for_stays_while_something_is_in_the_queue(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.put("some#thing")
    busy = iter([Depth(0, 0)] * 3)
    with monkeypatch.context() as patched:
        # It fills up once the verdict is out.
        patched.setattr(mirror.memory, "depth", lambda: next(busy, Depth(1, 0)))
        outcome = mirror.reconcile(repair=True, pause=lambda _: None)
    assert (outcome.drift, outcome.left) == (1, 1)
    assert "some#thing" in mirror.ids()
    assert mirror.reconcile(repair=True, question="again").left == 0


def test_a_vector_stays_while_a_claim_of_its_shard_may_still_reach_the_queue(mirror: Mirror) -> None:
    mirror.put("some#thing")
    mirror.store.execute("UPDATE sync.claim SET messages = 1, expires_at = clock_timestamp() WHERE shard = 5")
    assert mirror.reconcile(repair=True, pause=lambda _: None).left == 1


def test_live_changes_go_on_after_a_deletion_has_held_their_shards(mirror: Mirror) -> None:
    mirror.put("some#thing")
    mirror.reconcile(repair=True)
    mirror.store.execute("UPDATE products SET price = 99")
    mirror.work()
    assert mirror.reconcile().drift == 0


def document(key: str, store: Store) -> Document:
    """f of a product."""
    state: dict[str, Any] = dict(store.expected()[f"products/{key}"])
    return Document(key=key, text=state.pop("text"), text_hash=state.pop("text_hash"), metadata=state)


def test_a_row_of_several_vectors_is_in_step_when_all_of_them_are(mirror: Mirror) -> None:
    mirror.write(document("3", mirror.store), 1, chunks=3)
    outcome = mirror.reconcile()
    assert (outcome.drift, outcome.vectors) == (0, 22)


def test_a_row_that_lacks_a_further_vector_is_stale(mirror: Mirror) -> None:
    mirror.write(document("3", mirror.store), 1, chunks=3)
    mirror.index.delete("products", ["3#2"])
    mirror.write(document("4", mirror.store), 1, chunks=2)
    mirror.change("4#1", _text_hash="0")
    assert found(mirror.reconcile()) == {"stale": ["3", "4"]}


def test_surplus_further_vectors_are_deleted_and_the_row_keeps_its_own(mirror: Mirror) -> None:
    mirror.write(document("3", mirror.store), 1, chunks=4)
    mirror.write(document("3", mirror.store), 2, chunks=2)
    mirror.write(document("4", mirror.store), 1, chunks=2)
    mirror.index.delete("products", ["4"])
    mirror.put("5#1", _key="5")
    outcome = mirror.reconcile(repair=True)
    assert outcome.found == {"missing": 1, "stale": 0, "orphaned": 4}
    assert outcome.left == 0
    assert mirror.ids() == {str(n) for n in range(1, 21)} | {"3#1"}


def test_keys_that_pinecone_cannot_have_as_ids_are_told_by_their_metadata(mirror: Mirror) -> None:
    mirror.store.execute('CREATE TABLE things ("a b" text, day date, label text, PRIMARY KEY ("a b", day))')
    with mirror.store.connect() as connection:
        watch(connection, table="things", key=["a b", "day"], text="{label}", metadata=[], backfill=False)
    mirror.store.execute("INSERT INTO things SELECT 'é%' || n, '2024-01-01', 'x' FROM generate_series(1, 5) n")
    mirror.work()
    with mirror.store.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM things WHERE \"a b\" = 'é%2'")
    gone, kept = (
        json.dumps(["é%2", "2024-01-01"], ensure_ascii=False),
        json.dumps(["é%3", "2024-01-01"], ensure_ascii=False),
    )
    assert vector_id(gone) in mirror.ids("things")
    mirror.put("plain", "things")
    mirror.put("5", "things")
    mirror.put(vector_id(kept), "things", _key=kept)
    outcome = mirror.reconcile("things", repair=True)
    assert outcome.found == {"missing": 0, "stale": 1, "orphaned": 3}
    assert outcome.left == 0
    assert len(mirror.ids("things")) == 4


def test_it_looks_only_at_rows_that_the_column_calls_changed(mirror: Mirror) -> None:
    began = mirror.store.value("SELECT clock_timestamp()")
    mirror.store.execute("UPDATE products SET updated_at = now() - interval '1 day'")
    mirror.store.execute("UPDATE products SET updated_at = clock_timestamp() WHERE id = 5")
    mirror.index.delete("products", ["3", "5"])
    mirror.put("900")
    outcome = mirror.reconcile(changed_column="updated_at", since=lambda at: min(at, began))
    assert found(outcome) == {"missing": ["5"]}
    assert mirror.reconcile(since=None).found == {"missing": 2, "stale": 0, "orphaned": 1}


class KilledError(Exception):
    """In the place of SIGKILL."""


@pytest.mark.parametrize("stage", ["rows", "vectors", "settle", "repair"])
def test_killed_in_any_stage_it_goes_on_and_finds_everything_once(
    mirror: Mirror, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pelican.reconcile.PAGE_KEYS", 5)
    mirror.index.delete("products", ["3", "17"])
    mirror.change("5", price=-1)
    mirror.put("900")
    seen: list[Step] = []

    def kill(step: Step) -> None:
        seen.append(step)
        if step.stage == stage and (stage != "rows" or step.done == 10):
            raise KilledError

    with pytest.raises(KilledError):
        mirror.reconcile(repair=True, report=kill, settle_seconds=1)
    outcome = mirror.reconcile(repair=True, report=seen.append, settle_seconds=1)
    assert [step.done for step in seen if step.stage == "rows"] == [5, 10, 15, 20, 20]
    assert outcome.found == {"missing": 2, "stale": 1, "orphaned": 1}
    assert (outcome.rows, outcome.left) == (20, 0)


def test_another_question_starts_anew_and_so_does_one_of_yesterday(mirror: Mirror) -> None:
    def killed(_: Step) -> None:
        raise KilledError

    for question, rows in (("a", 20), ("b", 20)):
        with pytest.raises(KilledError):
            mirror.reconcile(question=question, report=killed)
        assert mirror.store.value("SELECT rows FROM sync.reconcile") == rows
    mirror.store.execute("UPDATE sync.reconcile SET started_at = started_at - interval '25 hours'")
    with pytest.raises(KilledError):
        mirror.reconcile(question="b", report=killed)
    assert mirror.store.value("SELECT stage || rows FROM sync.reconcile") == "vectors20"


def test_a_source_is_reconciled_by_one_at_a_time(mirror: Mirror) -> None:
    with mirror.store.connect("aviary_pelican") as one, mirror.store.connect("aviary_pelican") as other:
        source = source_named(one, "products")
        assert Ledger(one, source).begin("", restart=False)
        assert not Ledger(other, source).begin("", restart=True)


def test_reading_the_table_leaves_it_alone(mirror: Mirror) -> None:
    state = "SELECT id, xmin::text, xmax::text, ctid::text FROM products ORDER BY id"
    mirror.index.delete("products", ["3"])
    before = mirror.store.execute(state)
    mirror.reconcile(repair=True)
    assert mirror.store.execute(state) == before
