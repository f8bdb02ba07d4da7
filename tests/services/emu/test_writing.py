"""What reaches the index, and what is acknowledged: real SQS protocol, real SDK."""

import numpy as np

from aviary.source import text_hash, vector_id
from tests.services.emu.embedders import HashEmbedder, vector_of
from tests.services.emu.helpers import NAMESPACE, Bench, batch, counters, delete, upsert


def test_a_change_reaches_the_index_with_key_version_hash_and_mapped_columns(bench: Bench) -> None:
    bench.send(batch(upsert("42", 7, "a kettle", metadata={"name": "Kettle", "price": 19.5, "tags": ["a", "b"]})))
    bench.work()
    record = bench.index.fetch(NAMESPACE, ["42"])["42"]
    assert record.metadata == {
        "name": "Kettle",
        "price": 19.5,
        "tags": ["a", "b"],
        "_key": "42",
        "_version": 7,
        "_text_hash": text_hash("a kettle"),
    }
    assert np.array_equal(record.values, vector_of("a kettle"))
    assert bench.left() == 0


def test_a_deleted_row_leaves_the_index(bench: Bench) -> None:
    bench.send(batch(upsert("1", 1), upsert("2", 1)), batch(delete("1", 2)))
    stats = bench.work()
    assert bench.stored() == {"2": 1}
    assert bench.left() == 0
    assert bench.dead_bodies() == []
    assert counters(stats, "poisoned", "acknowledged") == {"poisoned": 0, "acknowledged": 2}


def test_a_row_whose_text_became_blank_leaves_the_index(bench: Bench) -> None:
    bench.send(batch(upsert("1", 1)))
    bench.work()
    bench.send(batch(delete("1", 2, reason="blank")))
    assert bench.work()["deleted"] == 1
    assert bench.stored() == {}
    assert bench.dead_bodies() == []


def test_a_delete_in_a_namespace_that_never_was_is_acknowledged(bench: Bench) -> None:
    bench.send(batch(delete("1", 2), namespace="never"), batch(delete("1", 3), namespace="never", lane="backfill"))
    bench.work()
    assert bench.left() == 0


def test_a_delete_then_insert_of_one_key_in_one_unit_ends_in_the_insert(bench: Bench) -> None:
    bench.send(batch(upsert("1", 1, "old")), batch(delete("1", 2)), batch(upsert("1", 3, "new")))
    embedder = HashEmbedder()
    bench.work(embedder)
    assert bench.stored() == {"1": 3}
    assert np.array_equal(bench.vector("1"), vector_of("new"))
    assert embedder.calls == [["new"]]
    assert bench.left() == 0


def test_an_insert_then_delete_of_one_key_in_one_unit_ends_in_the_delete(bench: Bench) -> None:
    bench.send(batch(upsert("1", 1)), batch(delete("1", 2)))
    assert bench.work()["upserted"] == 0
    assert bench.stored() == {}


def test_each_text_is_embedded_once_however_many_messages_come(bench: Bench) -> None:
    for message in range(10):
        bench.send(batch(*(upsert(f"{message}-{row}", 1) for row in range(20))), group=f"1-{message}")
    embedder = HashEmbedder()
    stats = bench.work(embedder)
    assert len(embedder.calls) == 1
    assert sum(map(len, embedder.calls)) == 200
    assert counters(stats, "embedded", "upserted") == {"embedded": 200, "upserted": 200}


def test_first_time_live_changes_are_written_without_a_read(bench: Bench) -> None:
    bench.send(batch(upsert("1", 1), upsert("2", 1)))
    bench.work()
    counts = bench.pinecone.counts()
    assert "fetch" not in counts
    assert counts["upsert"]["requests"] == 1


def test_a_change_of_metadata_alone_embeds_nothing_and_keeps_the_vector(bench: Bench) -> None:
    bench.send(batch(upsert("1", 1, "same text")))
    bench.work()
    bench.send(batch(upsert("1", 2, "same text", text_unchanged=True, metadata={"price": 3.0})))
    embedder = HashEmbedder()
    assert bench.work(embedder)["reused"] == 1
    assert embedder.calls == []
    record = bench.index.fetch(NAMESPACE, ["1"])["1"]
    assert np.array_equal(record.values, vector_of("same text"))
    assert counters(record.metadata, "price", "_version") == {"price": 3.0, "_version": 2}
    assert "name" not in record.metadata, "metadata is replaced whole"


def test_a_hint_that_the_text_is_unchanged_is_not_believed_when_the_stored_hash_differs(bench: Bench) -> None:
    bench.send(batch(upsert("1", 1, "old text")))
    bench.work()
    bench.send(batch(upsert("1", 2, "new text", text_unchanged=True), upsert("2", 2, "absent", text_unchanged=True)))
    assert bench.work()["embedded"] == 2
    assert np.array_equal(bench.vector("1"), vector_of("new text"))
    assert np.array_equal(bench.vector("2"), vector_of("absent"))


def test_a_backfill_of_what_is_indexed_already_embeds_nothing(bench: Bench) -> None:
    bench.send(batch(*(upsert(str(n), 1) for n in range(50))))
    bench.work()
    bench.send(batch(*(upsert(str(n), 2) for n in range(60)), lane="backfill"))
    stats = bench.work()
    assert counters(stats, "reused", "embedded", "upserted") == {"reused": 50, "embedded": 10, "upserted": 60}


def test_an_older_version_that_comes_again_never_replaces_a_newer_one(bench: Bench) -> None:
    bench.send(batch(upsert("1", 5, "newer"), upsert("2", 5, "newer")))
    bench.work()
    bench.send(batch(upsert("1", 4, "older"), delete("2", 4), lane="backfill"))
    stats = bench.work()
    assert bench.stored() == {"1": 5, "2": 5}
    assert counters(stats, "fenced", "embedded", "deleted") == {"fenced": 2, "embedded": 0, "deleted": 0}
    assert bench.left() == 0


def test_a_message_received_before_is_compared_with_what_is_stored(bench: Bench) -> None:
    bench.send(batch(upsert("1", 9, "newer")))
    bench.work()
    bench.send(batch(upsert("1", 8, "older")))
    received = bench.queues.client.receive_message(QueueUrl=bench.queues.queue_url, MaxNumberOfMessages=1)
    bench.queues.client.change_message_visibility(
        QueueUrl=bench.queues.queue_url, ReceiptHandle=received["Messages"][0]["ReceiptHandle"], VisibilityTimeout=0
    )
    assert bench.work()["fenced"] == 1
    assert bench.stored() == {"1": 9}


def test_a_message_of_an_expired_claim_changes_nothing_and_is_acknowledged(bench: Bench) -> None:
    bench.send(batch(upsert("1", 1), expires_at_ms=1_000), batch(upsert("2", 1)))
    stats = bench.work()
    assert bench.stored() == {"2": 1}
    assert counters(stats, "void", "acknowledged", "poisoned") == {"void": 1, "acknowledged": 2, "poisoned": 0}
    assert bench.left() == 0


def test_each_source_has_its_own_namespace(bench: Bench) -> None:
    bench.send(batch(upsert("1", 1)), batch(upsert("1", 2), source="articles", namespace="articles"))
    bench.work()
    assert bench.stored() == {"1": 1}
    assert bench.stored(namespace="articles") == {"1": 2}


def test_any_key_and_any_text_that_json_can_carry_is_indexed(bench: Bench) -> None:
    keys = ["k" * 600, "nul\0key", "🐦", "مفتاح", '["a", "b"]', "#1", "~tilde"]
    texts = ["nul \0 in a text", "emoji 👩‍👩‍👧‍👦 🦩", "نص من اليمين إلى اليسار", "e\u0301\u200f\u202e", "\ufeff bom"]
    changes = [upsert(key, 1) for key in keys] + [upsert(f"text{n}", 1, text) for n, text in enumerate(texts)]
    bench.send(batch(*changes))
    stats = bench.work()
    assert bench.stored(*(change.key for change in changes)) == {change.key: 1 for change in changes}
    assert stats["poisoned"] == 0
    bench.send(batch(*(delete(key, 2) for key in keys)))
    bench.work()
    assert bench.stored(*keys) == {}
    assert vector_id(keys[0]).startswith("~")


def test_freshness_is_measured_from_capture_to_index_for_live_changes_only(bench: Bench) -> None:
    live = batch(upsert("1", 1))
    bench.send(batch(upsert("2", 1), lane="backfill"))
    bench.send(batch(upsert("1", 1), captured_at_ms=live.captured_at_ms - 5_000), group="1-4")
    freshness = bench.work()["freshness_ms"]
    assert freshness["samples"] == 1
    assert 5_000 <= freshness["p50"] < 15_000


def test_a_backfill_costs_at_most_a_hundredth_of_a_request_a_row(bench: Bench) -> None:
    rows = 4_800
    for message in range(rows // 80):
        changes = (upsert(f"{message}-{row}", 1, f"text {message} {row}") for row in range(80))
        bench.send(batch(*changes, lane="backfill"), group=f"1-{message % 16}")
    assert bench.work()["upserted"] == rows
    requests = sum(counts["requests"] for operation, counts in bench.pinecone.counts().items() if operation in WRITES)
    assert requests / rows <= 0.01
    assert bench.index.count(NAMESPACE) == rows
    assert bench.left() == 0


def test_a_backfill_is_worked_on_in_units_of_more_than_one_receive(bench: Bench) -> None:
    for message in range(16):
        bench.send(batch(*(upsert(f"{message}-{row}", 1) for row in range(20)), lane="backfill"), group=f"1-{message}")
    embedder = HashEmbedder()
    bench.work(embedder)
    assert [len(texts) for texts in embedder.calls] == [320]


def test_a_live_change_ends_the_gathering_of_a_backfill(bench: Bench) -> None:
    for message in range(10):
        bench.send(batch(upsert(f"{message}", 1), lane="backfill"), group=f"1-{message}")
    bench.send(batch(upsert("live", 1)), group="1-14")
    bench.send(batch(upsert("later", 1), lane="backfill"), group="1-15")
    embedder = HashEmbedder()
    bench.work(embedder)
    assert "text of live" in embedder.calls[0]


WRITES = {"upsert", "fetch", "delete"}
