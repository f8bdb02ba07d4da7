"""A source with another place in the index: what is captured, and what is sent where."""

from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest

from aviary.messages import Batch
from aviary.source import InvalidSourceError, Source, text_hash
from pelican import reindex
from pelican.backfill import turn_page
from pelican.outbox import FILL, PostgresOutbox, Work, prepare
from pelican.reindex import Progress
from pelican.service import Pelican
from pelican.watch import BUILDING, DROPPING, PREVIOUS, READY, source_named, unwatch, watch
from tests.services.pelican.harness import MemoryQueue, Store

OLD, NEW = "products", "products--2"


@pytest.fixture
def owner(store: Store) -> Iterator[psycopg.Connection[Any]]:
    """The tables' owner; what a test leaves is taken back."""
    with store.connect() as connection:
        before = connection.execute("TABLE sync.source").fetchall()
        prepare(connection)
        yield connection
        connection.execute("DELETE FROM sync.reindex")
        if connection.execute("TABLE sync.source").fetchall() != before:
            connection.execute("CREATE TABLE public.changed ()")  # the next test gets a store of its own


def wanted(owner: psycopg.Connection[Any], **changes: Any) -> Source:
    return msgspec.structs.replace(source_named(owner, "products"), **changes)


def start(owner: psycopg.Connection[Any], **changes: Any) -> Progress:
    """Another place, filled to the outbox."""
    reindex.start(owner, wanted(owner, **(changes or {"text_template": "{category}: {name}"})))
    return reindex.progress_of(owner, "products")


def fill(owner: psycopg.Connection[Any], page_keys: int = 3_200) -> None:
    while page := turn_page(owner, 10**9, lane=FILL, page_keys=page_keys):
        assert page.source_id


def by_namespace(batches: list[Batch]) -> dict[str, list[str]]:
    """Keys that were sent, by namespace, in order."""
    found: dict[str, list[str]] = {}
    for batch in batches:
        found.setdefault(batch.namespace, []).extend(change.key for change in batch.changes)
    return found


def texts(batches: list[Batch]) -> dict[tuple[str, str], str]:
    return {(batch.namespace, change.key): change.text for batch in batches for change in batch.changes}


def test_changes_go_to_both_places_each_by_its_own_mapping_and_under_one_version(
    store: Store, owner: psycopg.Connection[Any], pelican: Pelican, memory: MemoryQueue
) -> None:
    host = "https://another.svc.pinecone.io"
    start(owner, text_template="{category}: {name}", model="small", index_host=host, metadata_columns=("price",))
    store.add_products(1)
    pelican.worker().run_until_idle()
    old, new = memory.batches()
    assert (old.namespace, old.index_host, old.model) == (OLD, "", "all-MiniLM-L6-v2")
    assert (new.namespace, new.index_host, new.model) == (NEW, host, "small")
    (before,), (after,) = old.changes, new.changes
    assert after.text == "Kitchen: Bottle 1"
    assert after.text_hash == text_hash(after.text, "small")
    assert (set(before.metadata), set(after.metadata)) == ({"sku", "name", "category", "price"}, {"price"})
    assert before.version == after.version
    assert len({group for group, _ in memory.sent}) == 1, "one group, so that each place sees them in order"
    assert len({message.deduplication_id for _, message in memory.sent}) == 2


def test_the_filling_goes_to_the_new_place_only(
    store: Store, owner: psycopg.Connection[Any], pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(40)
    pelican.worker().run_until_idle()
    memory.sent.clear()
    start(owner)
    fill(owner)
    pelican.worker().run_until_idle()
    sent = by_namespace(memory.batches())
    assert {name: len(set(keys)) for name, keys in sent.items()} == {NEW: 40}
    assert {batch.lane for batch in memory.batches()} == {"backfill"}
    found = reindex.progress_of(owner, "products")
    assert (found.filled, found.enqueued, found.other.state) == (True, 40, BUILDING)


def test_a_filling_that_was_killed_goes_on_where_it_was(store: Store, owner: psycopg.Connection[Any]) -> None:
    store.add_products(25)
    start(owner)
    turn_page(owner, 10**9, lane=FILL, page_keys=10)
    with store.connect() as another:
        prepare(another)
        fill(another, page_keys=10)
    keys = owner.execute("SELECT unnest(keys) FROM sync.outbox WHERE lane = 2").fetchall()
    assert sorted(int(key) for (key,) in keys) == list(range(1, 26))


def test_a_filling_waits_behind_live_changes_and_backfills(
    store: Store, owner: psycopg.Connection[Any], pelican: Pelican, memory: MemoryQueue
) -> None:
    start(owner)
    store.execute("INSERT INTO sync.outbox (source_id, shard, lane, keys, key_count) VALUES "
                  "(1, 1, 2, '{10}', 1), (1, 2, 1, '{11}', 1), (1, 3, 0, '{12}', 1)")  # fmt: skip
    pelican.worker().run_until_idle()
    first_of_each = list(dict.fromkeys(change.key for change in memory.changes()))
    assert first_of_each == ["12", "11", "10"]


def test_a_change_of_a_column_that_only_the_new_place_maps_is_captured(
    store: Store, owner: psycopg.Connection[Any]
) -> None:
    store.add_products(1)
    store.captured()
    store.execute("UPDATE products SET attributes = '{\"a\": 1}'")
    assert store.captured() == []
    start(owner, text_template="{name} {attributes}")
    store.execute("UPDATE products SET attributes = '{\"a\": 2}'")
    assert store.captured() == [("1", False)]
    reindex.begin_drop(owner, source_named(owner, "products"), (BUILDING,))
    reindex.forget(owner, source_named(owner, "products"))
    store.execute("UPDATE products SET attributes = '{\"a\": 3}'")
    assert store.captured() == []


def test_a_row_deleted_while_it_is_built_leaves_both_places(
    store: Store, owner: psycopg.Connection[Any], pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(3)
    pelican.worker().run_until_idle()
    start(owner)
    fill(owner)
    memory.sent.clear()
    store.execute("DELETE FROM products WHERE id = 2")
    pelican.worker().run_until_idle()
    newest: dict[tuple[str, str], str] = {}
    for batch in memory.batches():
        newest |= {(batch.namespace, change.key): change.op for change in batch.changes}
    assert newest[OLD, "2"] == newest[NEW, "2"] == "delete"
    assert newest[NEW, "1"] == newest[NEW, "3"] == "upsert"


def test_a_switch_changes_the_places_over_and_a_rollback_changes_them_back(
    store: Store, owner: psycopg.Connection[Any], pelican: Pelican, memory: MemoryQueue
) -> None:
    start(owner)
    before = source_named(owner, "products")
    assert reindex.switch(owner, before) is True
    assert reindex.switch(owner, before) is False, "done already"
    after = source_named(owner, "products")
    assert (after.namespace, after.text_template) == (NEW, "{category}: {name}")
    assert reindex.progress_of(owner, "products").other == (PREVIOUS, before)
    store.add_products(1)
    pelican.worker().run_until_idle()
    assert texts(memory.batches()) == {(NEW, "1"): "Kitchen: Bottle 1", (OLD, "1"): texts(memory.batches())[OLD, "1"]}
    assert reindex.roll_back(owner, after) is True
    assert reindex.roll_back(owner, after) is False
    assert source_named(owner, "products") == before
    assert reindex.progress_of(owner, "products").other == (READY, after)


def test_a_worker_that_knows_the_old_roles_notices_a_switch_before_it_sends(
    store: Store, owner: psycopg.Connection[Any], memory: MemoryQueue, pelican: Pelican
) -> None:
    worker = pelican.worker()
    store.add_products(1)
    worker.turn()
    start(owner)
    store.execute("UPDATE products SET name = 'a'")
    worker.turn()
    assert by_namespace(memory.batches()) == {OLD: ["1", "1"], NEW: ["1"]}
    reindex.switch(owner, source_named(owner, "products"))
    memory.sent.clear()
    store.execute("UPDATE products SET name = 'b'")
    worker.run_until_idle()
    assert texts(memory.batches())[NEW, "1"] == "Kitchen: b"


def test_a_place_that_is_being_dropped_gets_nothing_but_the_deletes_of_its_own_lane(
    store: Store, owner: psycopg.Connection[Any], pelican: Pelican, memory: MemoryQueue
) -> None:
    source = start(owner).source
    reindex.begin_drop(owner, source, (BUILDING,))
    store.add_products(1)
    store.execute("INSERT INTO sync.outbox (source_id, shard, lane, keys, key_count) VALUES (1, 1, 2, '{1}', 1)")
    pelican.worker().run_until_idle()
    assert {(b.namespace, b.lane, c.key, c.op) for b in memory.batches() for c in b.changes} == {
        (OLD, "live", "1", "upsert"),
        (NEW, "backfill", "1", "delete"),
    }
    reindex.forget(owner, source)
    store.execute("INSERT INTO sync.outbox (source_id, shard, lane, keys, key_count) VALUES (1, 1, 2, '{1}', 1)")
    memory.sent.clear()
    pelican.worker().run_until_idle()
    assert memory.sent == []
    assert store.value("SELECT count(*) FROM sync.outbox") == 0


def test_a_column_that_only_the_old_place_maps_may_be_dropped_after_the_switch(
    store: Store, owner: psycopg.Connection[Any], pelican: Pelican, memory: MemoryQueue
) -> None:
    start(owner, text_template="{name}", metadata_columns=("price",))
    reindex.switch(owner, source_named(owner, "products"))
    store.execute("ALTER TABLE products DROP COLUMN description")
    store.execute("INSERT INTO products (sku, name) VALUES ('a', 'Kettle')")
    pelican.worker().run_until_idle()
    found = texts(memory.batches())
    assert found[NEW, "1"] == "Kettle"
    assert "Kettle" in found[OLD, "1"]


def test_starting_again_goes_on_and_another_kind_is_refused(owner: psycopg.Connection[Any]) -> None:
    again = wanted(owner, text_template="{name}")
    assert reindex.start(owner, again) is True
    assert reindex.start(owner, again) is False
    with pytest.raises(InvalidSourceError, match=r"of another kind; `reindex cancel --source products` first"):
        reindex.start(owner, wanted(owner, text_template="{sku}"))
    reindex.switch(owner, again)
    with pytest.raises(InvalidSourceError, match=r"which is previous; `reindex drop --source products` first"):
        reindex.start(owner, again)


def test_a_column_that_is_not_there_is_refused_and_nothing_is_made(owner: psycopg.Connection[Any]) -> None:
    with pytest.raises(InvalidSourceError, match="no column 'nothing'"):
        reindex.start(owner, wanted(owner, text_template="{nothing}"))
    assert reindex.progress(owner) == []


def test_no_namespace_is_ever_used_twice(store: Store, owner: psycopg.Connection[Any]) -> None:
    """What is still on its way to a place that was dropped must not arrive in another."""
    store.execute("CREATE TABLE public.decoy (id int PRIMARY KEY, name text)")
    watch(owner, table="decoy", key=["id"], text="{name}", metadata=[], name="products--3")
    names = []
    for _ in range(3):
        found = start(owner)
        names.append(found.other.source.namespace)
        reindex.begin_drop(owner, found.source, (BUILDING,))
        reindex.forget(owner, found.source)
    assert names == ["products--2", "products--4", "products--5"]


def test_a_table_cannot_be_watched_under_the_name_of_a_place(store: Store, owner: psycopg.Connection[Any]) -> None:
    start(owner)
    store.execute("CREATE TABLE public.other (id int PRIMARY KEY, name text)")
    with pytest.raises(InvalidSourceError, match="another table is watched under the name products--2"):
        watch(owner, table="other", key=["id"], text="{name}", metadata=[], name=NEW)


def test_a_source_with_two_places_is_not_forgotten(owner: psycopg.Connection[Any]) -> None:
    start(owner)
    with pytest.raises(InvalidSourceError, match=r"products--2, which is building; `reindex cancel --source products`"):
        unwatch(owner, "products")


@pytest.mark.parametrize(
    ("state", "step", "says"),
    [
        (BUILDING, (PREVIOUS,), "`reindex cancel --source products`"),
        (PREVIOUS, (BUILDING, READY), "`reindex drop --source products`"),
    ],
)
def test_the_wrong_word_for_deleting_a_place_deletes_nothing(
    owner: psycopg.Connection[Any], state: str, step: tuple[str, ...], says: str
) -> None:
    source = start(owner).source
    if state == PREVIOUS:
        reindex.switch(owner, source)
    with pytest.raises(InvalidSourceError, match=says):
        reindex.begin_drop(owner, source, step)
    assert reindex.progress_of(owner, "products").other.state == state


def test_a_place_that_is_being_dropped_cannot_be_switched_to(owner: psycopg.Connection[Any]) -> None:
    source = start(owner).source
    reindex.begin_drop(owner, source, (BUILDING,))
    with pytest.raises(InvalidSourceError, match="being dropped"):
        reindex.switch(owner, source)
    assert reindex.progress_of(owner, "products").other.state == DROPPING


def test_pelican_itself_cannot_change_the_roles(store: Store, owner: psycopg.Connection[Any]) -> None:
    start(owner)
    with store.connect("aviary_pelican") as pelican, pytest.raises(psycopg.errors.InsufficientPrivilege):
        pelican.execute("SELECT sync.swap_places(1::smallint, 'previous')")
    with store.connect("aviary_pelican") as pelican, pytest.raises(psycopg.errors.InsufficientPrivilege):
        pelican.execute("UPDATE sync.reindex SET state = 'ready'")


def test_a_claim_reads_what_both_places_need(store: Store, owner: psycopg.Connection[Any]) -> None:
    store.add_products(1)
    start(owner, text_template="{category}", metadata_columns=("created_at",))
    outbox = PostgresOutbox(lambda: store.connect("aviary_pelican"))
    (work,) = outbox.find()
    claim = outbox.claim(Work(*work), 10)
    assert claim is not None
    assert set(claim.columns) == {"name", "description", "sku", "category", "price", "created_at"}
    outbox.drop()
