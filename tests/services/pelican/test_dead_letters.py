"""What the database does for dead letters: which rows are gone, sending rows again, and what pages are shown."""

import time
from typing import Any

import boto3
import psycopg
import pytest

from aviary.dead_letters import DeadLetterQueue
from aviary.messages import Batch, Change, DeadLetter, encode
from pelican import letters
from pelican.letters import LetterBoard
from pelican.outbox import LOCK_CLASS
from pelican.service import Pelican
from pelican.sqs import SqsQueue
from pelican.watch import watch
from tests.conftest import Queues
from tests.services.pelican.harness import Process, Store, settings_for, wait_until

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


ROWS = "SELECT kind, source, namespace, keys, versions, reason FROM sync.dead_letter ORDER BY failed_at DESC, id"


def put(queues: Queues, *bodies: str, group: str = "") -> None:
    for body in bodies:
        name = f"{time.monotonic_ns()}"
        queues.client.send_message(
            QueueUrl=queues.dlq_url, MessageBody=body, MessageGroupId=group or name, MessageDeduplicationId=name
        )


def letter(key: str, at_ms: int = 1_000, **fields: Any) -> str:
    given: dict[str, Any] = {"reason": f"why {key}", "source": "products", "namespace": "products"}
    return encode(DeadLetter(key=key, version=7, failed_at_ms=at_ms, **given | fields))


def update(store: Store, board: LetterBoard) -> None:
    with store.connect("aviary_pelican") as connection:
        board.update(connection)


def receives(queues: Queues) -> list[str]:
    """How often each letter was received, this time included; none of them is hidden afterwards."""
    answer = queues.client.receive_message(
        QueueUrl=queues.dlq_url,
        MaxNumberOfMessages=10,
        VisibilityTimeout=0,
        MessageSystemAttributeNames=["ApproximateReceiveCount"],
    )
    return [message["Attributes"]["ApproximateReceiveCount"] for message in answer.get("Messages", [])]


def test_pages_are_shown_what_is_in_the_dead_letter_queue_and_no_more_when_it_is_gone(
    store: Store, queues: Queues
) -> None:
    board = LetterBoard(DeadLetterQueue(queues.client, queues.dlq_url))
    update(store, board)
    assert store.execute(ROWS) == []
    changes = tuple(Change(key=key, version=3, op="delete", reason="gone") for key in ("5", "6"))
    batch = Batch(
        source="products", namespace="p2", model="m", shard=1, captured_at_ms=1, expires_at_ms=1, changes=changes
    )
    put(queues, letter("1", 3_000), letter("2", 4_000, source="other"), "\0 not json \ud7ff", encode(batch))
    update(store, board)
    rows = store.execute(ROWS)
    assert sorted(row[:5] for row in rows) == [
        ("message", "", "", [], []),
        ("moved", "products", "p2", ["5", "6"], [3, 3]),
        ("unsent", "other", "products", ["2"], [7]),
        ("unsent", "products", "products", ["1"], [7]),
    ]
    assert "why 1" in {row[5] for row in rows}
    assert receives(queues) == ["2"] * 4, "everything was given back"
    queues.client.purge_queue(QueueUrl=queues.dlq_url)
    update(store, board)
    assert store.execute(ROWS) == []


def test_the_queue_is_left_alone_while_the_number_of_letters_stays_the_same(store: Store, queues: Queues) -> None:
    queue = DeadLetterQueue(queues.client, queues.dlq_url)
    board = LetterBoard(queue)
    put(queues, letter("1"))
    for _ in range(3):
        update(store, board)
    update(store, LetterBoard(queue))
    assert receives(queues) in (["2"], ["3"]), "each Pelican looks once"
    put(queues, letter("2"))
    update(store, board)
    assert len(store.execute(ROWS)) == 2
    board._due = 0.0
    update(store, board)
    assert receives(queues)[1] == "3"


def test_what_somebody_else_holds_stays_on_the_page(store: Store, queues: Queues) -> None:
    board = LetterBoard(DeadLetterQueue(queues.client, queues.dlq_url))
    put(queues, letter("1"))
    update(store, board)
    queues.client.receive_message(QueueUrl=queues.dlq_url)
    put(queues, letter("2"))
    update(store, board)
    assert {row[3][0] for row in store.execute(ROWS)} == {"1", "2"}


def test_one_pelican_at_a_time_looks(store: Store, queues: Queues) -> None:
    put(queues, letter("1"))
    with store.connect("aviary_pelican") as other:
        other.execute(letters._LOCK, (LOCK_CLASS, letters.LOCK_OBJECT))
        update(store, LetterBoard(DeadLetterQueue(queues.client, queues.dlq_url)))
        assert store.execute(ROWS) == []
    assert receives(queues) == ["1"]


def test_the_table_of_letters_is_bounded(store: Store, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "MOST_LETTERS", 12)
    board = LetterBoard(DeadLetterQueue(queues.client, queues.dlq_url))
    put(queues, *(letter(str(n), n) for n in range(40)))
    update(store, board)
    assert len(store.execute(ROWS)) == 12
    assert max(map(int, receives(queues))) <= 2


def test_a_dead_letter_queue_that_does_not_answer_is_said_once_and_stops_nothing(
    store: Store, queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    board = LetterBoard(DeadLetterQueue(queues.client, queues.dlq_url + "-gone"))
    for _ in range(3):
        update(store, board)
    assert [record.message for record in caplog.records if record.name == "pelican.letters"] == [
        "dead_letters_unreadable"
    ]


def test_a_row_that_pelican_set_aside_comes_onto_the_page_by_the_running_process(
    store: Store, queues: Queues, process: Any
) -> None:
    with store.connect() as connection:
        connection.execute("CREATE TABLE things (k text PRIMARY KEY, label text, words text[])")
        watch(connection, table="things", key=["k"], text="{label}", metadata=["words"])
        connection.execute("INSERT INTO things VALUES ('k7', 'x', array_fill(repeat('w', 1000), ARRAY[400]))")
    client = boto3.client("sqs", endpoint_url=queues.endpoint, region_name="us-east-1")
    Pelican(settings_for(store), SqsQueue(client, queues.queue_url, queues.dlq_url)).worker().run_until_idle()
    client.close()
    started: Process = process(AVIARY_DLQ_URL=queues.dlq_url).start()
    wait_until(lambda: store.execute(ROWS), "the letter is in the table")
    kind, source, _, keys, versions, _ = store.execute(ROWS)[0]
    assert (kind, source, keys) == ("unsent", "things", ["k7"])
    assert versions[0] > 1_000_000
    assert started.terminate() == 0
