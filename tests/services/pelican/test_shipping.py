"""From outbox rows to messages, inside one process: what is sent, in what order, and what a failure leaves behind."""

import logging
import time
from collections import deque

import psycopg
import pytest

from pelican.outbox import LostClaimError
from pelican.packing import Message
from pelican.service import Pelican
from pelican.sqs import QueueError, SqsQueue
from pelican.watch import watch
from pelican.worker import Turn
from tests.conftest import Queues
from tests.services.pelican.harness import Consumer, MemoryQueue, Store, refuse, settings_for, wait_until

WAITING = "SELECT coalesce(sum(key_count), 0)::int FROM sync.outbox"
HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"


def test_the_queue_ends_with_f_of_the_table(store: Store, sqs: SqsQueue, queues: Queues, consumer: Consumer) -> None:
    pelican = Pelican(settings_for(store, queues.queue_url), sqs)
    store.add_products(2_500)
    pelican.worker().run_until_idle()
    store.execute("UPDATE products SET price = price + 1 WHERE id % 2 = 0")
    store.execute("DELETE FROM products WHERE id % 5 = 0")
    store.execute("UPDATE products SET name = 'Mug ' || id WHERE id % 7 = 0")
    pelican.worker().run_until_idle()
    consumer.drain()
    assert consumer.state == store.expected()
    assert not consumer.backwards
    assert store.value(WAITING) == 0
    stats = pelican.stats.read()
    assert (stats["sent"], stats["deletes"]) == (len(consumer.changes), 500)
    assert stats["messages"] == len(consumer.batches) <= 2 * 16 * 3


def test_a_message_is_of_one_shard_and_says_all_that_emu_needs(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    before = time.time_ns() // 1_000_000
    store.add_products(400)
    pelican.worker().run_until_idle()
    after = time.time_ns() // 1_000_000
    shards: dict[str, int] = {}
    for (group, _), batch in zip(memory.sent, memory.batches(), strict=True):
        assert group == f"1-{batch.shard}"
        assert (batch.source, batch.namespace, batch.lane) == ("products", "products", "live")
        assert before <= batch.captured_at_ms <= after
        assert 24_000 <= batch.expires_at_ms - batch.captured_at_ms <= 25_000 + after - before
        assert len({change.version for change in batch.changes}) == 1
        for change in batch.changes:
            assert shards.setdefault(change.key, batch.shard) == batch.shard
    assert len(shards) == 400


def test_blank_rows_and_deleted_rows_become_deletes_with_a_reason(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(3)
    store.execute("UPDATE products SET name = '  ', description = NULL WHERE id = 1")
    store.execute("DELETE FROM products WHERE id = 2")
    pelican.worker().run_until_idle()
    assert {(c.key, c.op, c.reason) for c in memory.changes()} == {
        ("1", "delete", "blank"),
        ("2", "delete", "gone"),
        ("3", "upsert", ""),
    }
    stats = pelican.stats.read()
    assert (stats["sent"], stats["deletes"], stats["blanks"]) == (3, 1, 1)


def test_many_changes_of_a_key_become_its_newest_state(store: Store, pelican: Pelican, memory: MemoryQueue) -> None:
    store.add_products(1)
    for price in range(5):
        store.execute("UPDATE products SET price = %s", (100 + price,))
    pelican.worker().run_until_idle()
    (change,) = memory.changes()
    assert change.metadata["price"] == 104
    assert not change.text_unchanged  # the text of the insert has never been sent


def test_the_mark_of_an_unchanged_text_travels(store: Store, pelican: Pelican, memory: MemoryQueue) -> None:
    store.add_products(1)
    pelican.worker().run_until_idle()
    store.execute("UPDATE products SET price = 5")
    pelican.worker().run_until_idle()
    assert [change.text_unchanged for change in memory.changes()] == [False, True]


def test_live_changes_go_before_a_backfill(store: Store, pelican: Pelican, memory: MemoryQueue) -> None:
    store.add_products(100)
    store.execute("UPDATE sync.outbox SET lane = 1")
    store.add_products(20, first=1_000)
    pelican.worker().run_until_idle()
    lanes = [batch.lane for batch in memory.batches()]
    assert lanes == sorted(lanes, key=["live", "backfill"].index)
    assert set(lanes) == {"live", "backfill"}


def test_a_full_queue_stops_the_backfill_first_and_everything_at_last(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(20)
    store.execute("UPDATE sync.outbox SET lane = 1")
    memory.waiting = 50
    worker = pelican.worker()
    assert worker.turn() is Turn.WAITING
    store.add_products(1, first=100)
    assert worker.turn() is Turn.WORKED
    assert [change.key for change in memory.changes()] == ["100"]
    memory.waiting = 1_000
    store.add_products(1, first=101)
    pelican.gate.sent(1_000)
    assert worker.turn() is Turn.WAITING
    assert [change.key for change in memory.changes()] == ["100"]
    worker.run_until_idle()


def test_changes_that_wait_for_each_other_go_in_one_message_a_shard(store: Store, memory: MemoryQueue) -> None:
    pelican = Pelican(settings_for(store, live_merge_limit=16), memory)
    worker = pelican.worker()
    memory.waiting = 40
    pelican.gate.sent(40)
    for first in range(1, 201, 5):
        store.add_products(5, first=first)
        assert worker.turn() is Turn.WAITING
    assert memory.sent == []
    memory.waiting = 0
    wait_until(lambda: worker.turn() is Turn.IDLE, "all is sent")
    assert len(memory.changes()) == 200
    assert len(memory.sent) == len({group for group, _ in memory.sent})
    worker.run_until_idle()


def test_small_claims_go_to_the_queue_together_each_under_a_version_of_its_own(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(100)
    pelican.worker().run_until_idle()
    groups = [group for group, _ in memory.sent]
    assert len(groups) == len(set(groups)) == 16
    assert memory.calls == 2
    assert len({change.version for change in memory.changes()}) == 16
    assert pelican.stats.read()["claims"] == 16


def test_small_shards_of_a_backfill_go_together_too(store: Store, pelican: Pelican, memory: MemoryQueue) -> None:
    store.add_products(100)
    store.execute("UPDATE sync.outbox SET lane = 1")
    pelican.worker().run_until_idle()
    assert {batch.lane for batch in memory.batches()} == {"backfill"}
    assert len(memory.sent) == 16
    assert memory.calls == 2


def test_a_backfill_goes_on_beside_live_changes_that_never_cease(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(300)
    store.execute("UPDATE sync.outbox SET lane = 1")

    def change(_: Message | None = None) -> None:
        store.execute("UPDATE products SET price = price + 1 WHERE id = 1")

    change()
    memory.on_send = change
    worker = pelican.worker()

    def filled() -> bool:
        assert worker.turn() is Turn.WORKED
        ((live, backfill),) = store.execute("SELECT live_keys, backfill_keys FROM sync.status")
        assert live, "there is always one more"
        return not backfill

    wait_until(filled, "all of the backfill is sent")
    memory.on_send = lambda _: None
    worker.run_until_idle()


def test_shards_are_claimed_together_only_while_they_are_small(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    """However much waits, no more of it is in memory than one claim may hold."""
    held: list[int] = []
    for first in range(1, 3_200, 100):
        store.add_products(100, first=first)
    memory.on_send = lambda _: held.append(store.value(HELD))
    pelican.worker().run_until_idle()
    # Each shard has some 200 keys, as many as the first claim may have.
    assert held[0] == 1
    assert len(memory.changes()) == 3_200
    assert memory.calls <= 8


def test_what_the_queue_takes_only_a_part_of_is_all_repeated_in_order(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    late: list[Message] = []

    def take_three(message: Message) -> None:
        late.append(message)
        if len(late) > 3:
            raise QueueError("no answer")

    store.add_products(40)
    memory.on_send = take_three
    worker = pelican.worker()
    with pytest.raises(QueueError):
        worker.turn()
    assert len(memory.sent) == 3
    assert store.value(WAITING) == 40
    assert store.value(HELD) == 0
    memory.on_send = lambda _: None
    store.execute("UPDATE products SET name = 'Newer'")
    worker.run_until_idle()
    memory.send(late)
    newest: dict[str, str] = {}
    versions: dict[str, int] = {}
    for change in memory.changes():
        assert versions.get(change.key, 0) < change.version
        versions[change.key], newest[change.key] = change.version, change.text
    assert len(newest) == 40
    assert all(text.endswith(" Newer") for text in newest.values())
    assert store.value(WAITING) == 0


def test_where_one_of_several_claims_was_taken_over_none_is_sent(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(40)
    worker = pelican.worker()
    shipper, outbox = worker._shipper, worker._outbox
    claims = shipper._claim(deque(outbox.find()))
    assert len(claims) == 10
    # Its session dies without its knowing, and another Pelican ships one of the shards.
    store.execute("SELECT pg_terminate_backend(%s)", (outbox.connection.info.backend_pid,))
    other = Pelican(settings_for(store), memory).worker()
    assert other._shipper.ship(deque([claims[4].work]))
    other._outbox.drop()
    outbox.drop()
    sent = len(memory.sent)
    with pytest.raises(LostClaimError, match="was claimed by another session"):
        shipper._send(claims)
    outbox.drop()
    assert len(memory.sent) == sent
    worker.run_until_idle()
    assert len({change.key for change in memory.changes()}) == 40
    assert store.value(WAITING) == 0


def test_a_queue_that_does_not_answer_leaves_every_row_in_the_outbox(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(40)
    memory.on_send = refuse
    worker = pelican.worker()
    with pytest.raises(QueueError):
        worker.turn()
    assert store.value(WAITING) == 40
    assert store.value(HELD) == 0
    memory.on_send = lambda _: None
    worker.run_until_idle()
    assert {change.key for change in memory.changes()} == {str(n) for n in range(1, 41)}
    assert store.value(WAITING) == 0


def test_a_message_of_an_unfinished_claim_can_never_follow_the_next_claim(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    """The network holds a message back; its Pelican gives up; the next claim sends a newer state; then it arrives."""
    held: list[Message] = []

    def hold(message: Message) -> None:
        held.append(message)
        raise QueueError("no answer")

    store.add_products(1)
    memory.on_send = hold
    with pytest.raises(QueueError):
        pelican.worker().run_until_idle()
    memory.on_send = lambda _: None
    store.execute("UPDATE products SET name = 'Newer'")
    pelican.worker().run_until_idle()
    memory.send(held)
    assert [change.text for change in memory.changes()] == ["Keeps tea hot, number 1 Newer"]
    void, _ = memory.batches()
    assert (void.changes, void.expires_at_ms) == ((), 0)
    assert pelican.stats.read()["voids"] == 1


def test_a_finished_claim_is_not_voided(store: Store, pelican: Pelican) -> None:
    for number in range(3):
        store.add_products(1, first=number)
        store.execute("UPDATE products SET name = name || 'x'")
        pelican.worker().run_until_idle()
    assert pelican.stats.read()["voids"] == 0


def test_a_claim_that_another_pelican_took_over_sends_nothing(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(1)
    worker = pelican.worker()
    shipper = worker._shipper
    outbox = worker._outbox
    (work,) = outbox.find()
    claim = outbox.claim(work, 100)
    assert claim is not None
    # Its session dies without its knowing, and another Pelican ships a newer state.
    store.execute("SELECT pg_terminate_backend(%s)", (outbox.connection.info.backend_pid,))
    store.execute("UPDATE products SET name = 'Newer'")
    other = Pelican(settings_for(store), memory)
    other.worker().run_until_idle()
    with pytest.raises(psycopg.OperationalError):
        shipper._send([claim])
    outbox.drop()
    with pytest.raises(RuntimeError, match="was claimed by another session"):
        shipper._send([claim])
    outbox.drop()
    assert [change.text for change in memory.changes()] == ["Keeps tea hot, number 1 Newer"]


@pytest.mark.parametrize("announces", [False, True])
def test_shards_are_free_again_when_their_pelican_falls_silent(
    store: Store, memory: MemoryQueue, *, announces: bool
) -> None:
    store.add_products(40)
    worker = Pelican(settings_for(store, claim_seconds=0.1, poll_seconds=0.05), memory).worker()
    shipper, outbox = worker._shipper, worker._outbox
    claims = shipper._claim(deque(outbox.find()))
    if announces:
        outbox.fence([(claim, 1) for claim in claims], 0)
    assert store.value(HELD) == len(claims)
    wait_until(lambda: store.value(HELD) == 0, "every shard let go", seconds=5)
    outbox.drop()


def test_keys_are_enqueued_again_when_the_end_of_a_claim_is_not_known(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(1)
    worker = pelican.worker()

    def cut_off(_: Message) -> None:
        store.execute("SELECT pg_terminate_backend(%s)", (worker._outbox.connection.info.backend_pid,))
        # Another Pelican finishes meanwhile: nothing of the claim is left in the outbox.
        store.execute("DELETE FROM sync.outbox")

    memory.on_send = cut_off
    with pytest.raises(psycopg.OperationalError):
        worker.turn()
    memory.on_send = lambda _: None
    worker._outbox.drop()
    worker.run_until_idle()
    versions = [change.version for change in memory.changes()]
    assert len(versions) == 2
    assert versions[0] < versions[1]


def test_a_claim_is_given_up_when_the_queue_took_too_long(store: Store, memory: MemoryQueue) -> None:
    pelican = Pelican(settings_for(store, claim_seconds=0.05), memory)
    memory.on_send = lambda _: time.sleep(0.1)
    store.add_products(1)
    worker = pelican.worker()
    with pytest.raises(QueueError, match="longer than a claim may last"):
        worker.turn()
    assert store.value(WAITING) == 1
    memory.on_send = lambda _: None
    worker.run_until_idle()
    first, *_, last = memory.changes()
    assert first.version < last.version
    assert store.value(WAITING) == 0


def test_a_table_that_cannot_be_read_does_not_stop_the_others(
    store: Store, pelican: Pelican, memory: MemoryQueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with store.connect() as connection:
        connection.execute("CREATE TABLE things (id int PRIMARY KEY, label text)")
        watch(connection, table="things", key=["id"], text="{label}", metadata=[])
        connection.execute("INSERT INTO things VALUES (1, 'a')")
        connection.execute("ALTER TABLE things RENAME TO stuff")
        store.add_products(3)
        worker = pelican.worker()
        while worker.turn() is Turn.WORKED:
            pass
        assert {change.key for change in memory.changes()} == {"1", "2", "3"}
        assert [r.getMessage() for r in caplog.records].count("source_unreadable") == 1
        connection.execute("ALTER TABLE stuff RENAME TO things")
    while worker.turn() is not Turn.IDLE:
        pass
    worker.run_until_idle()
    assert [change.text for change in memory.changes()][-1] == "a"
    assert [r.getMessage() for r in caplog.records].count("source_readable_again") == 1


@pytest.mark.parametrize(
    "alter",
    [
        "ALTER TABLE products ALTER id TYPE int",
        "ALTER TABLE products ALTER price TYPE float8",
        "ALTER TABLE products ALTER name TYPE varchar(500)",
        "ALTER TABLE products DROP attributes",
    ],
)
def test_a_running_pelican_follows_an_altered_table(
    store: Store, pelican: Pelican, memory: MemoryQueue, alter: str
) -> None:
    store.add_products(10)
    worker = pelican.worker()
    for number in range(8):  # enough for statements to be prepared
        store.execute("UPDATE products SET name = 'Jug ' || %s::text", (number,))
        while worker.turn() is Turn.WORKED:
            pass
    store.execute(alter)
    store.execute("UPDATE products SET name = 'Mug'")
    while worker.turn() is not Turn.IDLE:
        pass
    worker.run_until_idle()
    assert {change.text.rsplit(" ", 1)[-1] for change in memory.changes()[-10:]} == {"Mug"}
