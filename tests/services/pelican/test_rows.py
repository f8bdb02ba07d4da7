"""Rows of every kind on their way into messages: odd values, large ones, and those that no message can carry."""

from typing import Any

import pytest

from aviary.messages import MAX_MESSAGE_BYTES, decode_dead_letter
from aviary.source import TEXT_LIMIT_CHARS
from pelican.outbox import _FIND
from pelican.service import Pelican
from pelican.sqs import SqsQueue
from pelican.watch import watch
from tests.conftest import Queues
from tests.services.pelican.harness import MemoryQueue, Store, settings_for

WAITING = "SELECT coalesce(sum(key_count), 0)::int FROM sync.outbox"


def test_values_arrive_typed_and_those_that_python_cannot_hold_are_left_out(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    with store.connect() as connection:
        connection.execute(
            "CREATE TABLE things (id int PRIMARY KEY, label varchar, day date, at timestamptz, clock time, days date[], "
            "n numeric, f float8, yes bool, words text[], j jsonb, x json, big bigint, u uuid, c char(4), t tsvector)"
        )
        columns = ["day", "at", "clock", "days", "n", "f", "yes", "words", "j", "x", "big", "u", "c", "t"]
        watch(connection, table="things", key=["id"], text="{label}", metadata=columns)
        connection.execute(
            "INSERT INTO things VALUES (1, 'a', '2024-02-29', '2024-02-29 12:00+02', '12:30', '{2024-01-01}', 1.50, 2.5, "
            "true, '{p,q}', '{\"b\": 1, \"a\": [true]}', '{\"z\":1}', 9007199254740993, "
            "'6f1a8dfe-6f5e-4b39-8c60-5d4f2f5f0f53', 'ab', 'x:1'), "
            "(2, 'b', 'infinity', '20000-01-01', '24:00', '{0044-03-15 BC}', 'NaN', '-inf', NULL, NULL, NULL, NULL, NULL, "
            "NULL, NULL, NULL), (3, 'c', '0044-03-15 BC', '-infinity', NULL, NULL, 'Infinity', NULL, NULL, NULL, "
            "(repeat('[', 3000) || repeat(']', 3000))::jsonb, NULL, NULL, NULL, NULL, NULL)"
        )
    pelican.worker().run_until_idle()
    metadata = {change.key: change.metadata for change in memory.changes()}
    assert metadata["1"] == {
        "day": "2024-02-29",
        "at": "2024-02-29T10:00:00+00:00",
        "clock": "12:30:00",
        "days": '["2024-01-01"]',
        "n": 1.5,
        "f": 2.5,
        "yes": True,
        "words": ["p", "q"],
        "j": '{"a": [true], "b": 1}',
        "x": '{"z": 1}',
        "big": "9007199254740993",
        "u": "6f1a8dfe-6f5e-4b39-8c60-5d4f2f5f0f53",
        "c": "ab  ",
        "t": "'x':1",
    }
    assert metadata["2"] == {"days": "[null]"}
    assert metadata["3"] == {"j": "[" * 2_000}


def test_a_row_of_a_megabyte_is_cut_to_what_a_message_holds(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    texts = {1: "x" * 1_000_000, 2: "\U0001f9a9" * 300_000, 3: "\u0001\uffff" * 100_000}
    with store.connect() as connection:
        for number, text in texts.items():
            connection.execute(
                "INSERT INTO products (id, sku, name, description) VALUES (%s, %s, 'Jug', %s)", (number, number, text)
            )
    pelican.worker().run_until_idle()
    assert all(message.size <= MAX_MESSAGE_BYTES for _, message in memory.sent)
    assert {change.key: change.text for change in memory.changes()} == {
        str(number): f"{text} Jug"[:TEXT_LIMIT_CHARS] for number, text in texts.items()
    }


def test_large_rows_make_smaller_claims(store: Store, pelican: Pelican, memory: MemoryQueue) -> None:
    store.execute(
        "INSERT INTO products (id, sku, name, description) "
        "SELECT n, n, 'Jug', repeat(n || ' ', 9000) FROM generate_series(1, 300) AS n"
    )
    store.execute("DELETE FROM sync.outbox")
    store.execute(
        "INSERT INTO sync.outbox (source_id, shard, keys, key_count) SELECT 1, 0, ARRAY[id::text], 1 FROM products"
    )
    pelican.worker().run_until_idle()
    assert len(memory.changes()) == 300
    assert 2 <= len({change.version for change in memory.changes()}) <= 6


def test_a_row_that_no_message_can_carry_is_set_aside_and_its_neighbours_go_on(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    with store.connect() as connection:
        connection.execute("CREATE TABLE things (k text PRIMARY KEY, label text, words text[])")
        watch(connection, table="things", key=["k"], text="{label}", metadata=["words"])
        connection.execute("INSERT INTO things SELECT 'k' || n, 'label', '{a}' FROM generate_series(1, 50) AS n")
        connection.execute("UPDATE things SET words = array_fill(repeat('w', 1000), ARRAY[400]) WHERE k = 'k7'")
        connection.execute("INSERT INTO things VALUES ('', 'a key without a letter')")
    pelican.worker().run_until_idle()
    assert len(memory.changes()) == 49
    reasons = sorted(decode_dead_letter(message.body).reason for _, message in memory.aside)
    assert reasons == [
        "row '' has no valid change: ValueError",
        "row 'k7' does not fit a message of 250000 bytes; shorten its metadata columns",
    ]
    assert pelican.stats.read()["set_aside"] == 2
    assert store.value(WAITING) == 0


def test_set_aside_rows_reach_the_dead_letter_queue(store: Store, sqs: SqsQueue, queues: Queues) -> None:
    with store.connect() as connection:
        connection.execute("CREATE TABLE things (k text PRIMARY KEY, label text)")
        watch(connection, table="things", key=["k"], text="{label}", metadata=[])
        connection.execute("INSERT INTO things VALUES ('', 'a key without a letter')")
    Pelican(settings_for(store, queues.queue_url), sqs).worker().run_until_idle()
    (message,) = queues.client.receive_message(QueueUrl=queues.dlq_url)["Messages"]
    assert decode_dead_letter(message["Body"]).source == "things"


@pytest.mark.parametrize(("keys", "little", "much"), [(1, 3_200, 100_000), (25, 64, 8_000)])
def test_claims_do_not_slow_down_with_the_backlog(
    keys: int, little: int, much: int, store: Store, pelican: Pelican
) -> None:
    """Buffers touched, not seconds: they do not depend on what else this machine does. Nor may they depend on when
    autovacuum comes by, whose statistics make the session plan anew."""

    def touched(query: str, parameters: Any) -> int:
        connection = outbox.connection
        connection.execute("SELECT set_config('aviary.version', '1', false)")
        explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query
        plan = connection.execute(explain, parameters).fetchone()
        assert plan is not None
        return int(plan[0][0]["Plan"]["Shared Hit Blocks"] + plan[0][0]["Plan"]["Shared Read Blocks"])

    outbox = pelican.worker()._outbox
    known = outbox._source(1)
    assert known is not None
    shard = {"lane": 0, "shard": 3, "limit": 50}
    fill = (
        "INSERT INTO sync.outbox (source_id, shard, keys, key_count) SELECT 1, n %% 16, "
        "ARRAY(SELECT (n * 25 + i)::text FROM generate_series(1, %s) AS i), %s FROM generate_series(1, %s) AS n"
    )
    store.add_products(1_000)
    store.captured()
    store.execute(fill, (keys, keys, little))
    few = (touched(_FIND, None), touched(known.query, shard))
    store.execute(fill, (keys, keys, much))
    many = {}
    for upkeep in ("SELECT", "ANALYZE", "VACUUM"):
        store.execute(upkeep)
        many[upkeep] = (touched(_FIND, None), touched(known.query, shard))
    outbox.drop()
    assert all(find <= few[0] + 16 * 3 and claim <= few[1] + 20 for find, claim in many.values()), (few, many)
