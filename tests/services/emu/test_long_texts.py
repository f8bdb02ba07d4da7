"""Rows of several vectors: whatever a row was before, and whatever happens meanwhile, exactly its vectors are there."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from aviary.chunking import Chunking, split
from aviary.index import PineconeIndex, Record
from aviary.messages import Batch, Change, encode
from aviary.source import MODEL, chunk_id, text_hash
from emu import processor
from emu.lease import LeaseKeeper, LeaseLostError, now
from emu.planning import plan
from emu.processor import Processor, Unit
from emu.queue import Received, SqsQueue
from emu.retrying import Caller, IndexState
from emu.setaside import Notices, SetAside
from emu.stats import Stats
from tests.services.emu.embedders import HashEmbedder, vector_of
from tests.services.emu.helpers import NAMESPACE, Bench, batch, counters, delete, upsert

RULE = Chunking(tokens=16, overlap=4, most=8)


def text(vectors: int, word: str = "word") -> str:
    """A text that becomes so many vectors by RULE: of words alone, so that each chunk is full."""
    return " ".join(f"{word}{n}" for n in range(16 + 12 * (vectors - 1)))


def row(version: int, vectors: int, word: str = "word", key: str = "1", **fields: Any) -> Change:
    """The change that makes the row one of so many vectors; 0 deletes it."""
    if not vectors:
        return delete(key, version)
    content = text(vectors, word)
    return upsert(key, version, content, text_hash=text_hash(content, MODEL, RULE), **fields)


def long(*changes: Change, **fields: Any) -> Batch:
    """A message of a source that has long texts."""
    return batch(*changes, **({"chunking": RULE, "most_chunks": RULE.most} | fields))


def passages(change: Change) -> list[str]:
    spans = split(change.text, HashEmbedder().tokens([change.text])[0], RULE)
    return [change.text[start:end] for start, end in spans]


def check(index: PineconeIndex, *changes: Change, namespace: str = NAMESPACE) -> None:
    """The index holds exactly the vectors of these rows."""
    wanted: dict[str, tuple[str, dict[str, Any]]] = {}
    for change in changes:
        if change.op == "upsert":
            texts = passages(change)
            for number, passage in enumerate(texts):
                mark = {"_chunk": number} if number else {"_chunks": len(texts)} if len(texts) > 1 else {}
                ours = {"_key": change.key, "_version": change.version, "_text_hash": change.text_hash}
                wanted[chunk_id(change.key, number)] = (passage, {**change.metadata, **ours, **mark})
    found = index.fetch(namespace, list(index.ids(namespace)))
    assert {each: record.metadata for each, record in found.items()} == {
        each: data for each, (_, data) in wanted.items()
    }
    for each, (passage, _) in wanted.items():
        assert np.array_equal(found[each].values, vector_of(passage)), f"the vector of {each} is of another text"


def test_a_long_text_becomes_several_vectors_and_a_short_one_is_as_ever(bench: Bench) -> None:
    changes = [row(1, 4), row(1, 1, key="2")]
    assert [len(passages(change)) for change in changes] == [4, 1]
    bench.send(long(*changes))
    stats = bench.work()
    check(bench.index, *changes)
    assert counters(stats, "embedded", "upserted", "chunks", "cut") == {
        "embedded": 2, "upserted": 2, "chunks": 3, "cut": 0,
    }  # fmt: skip


@pytest.mark.parametrize("lane", ["live", "backfill"])
@pytest.mark.parametrize("later", [0, 1, 2, 7])
def test_a_row_that_grows_shrinks_or_goes_has_exactly_its_vectors(bench: Bench, later: int, lane: str) -> None:
    bench.send(long(row(1, 4), row(1, 5, key="beside")))
    bench.work()
    bench.send(long(row(2, later, "other"), lane=lane))
    bench.work()
    check(bench.index, row(2, later, "other"), row(1, 5, key="beside"))


def test_a_row_whose_text_became_blank_leaves_no_vector(bench: Bench) -> None:
    bench.send(long(row(1, 4)), long(delete("1", 2, reason="blank")))
    bench.work()
    check(bench.index)


def test_a_row_whose_key_is_hashed_leaves_no_vector(bench: Bench) -> None:
    bench.send(long(row(1, 4, key="k" * 600)))
    bench.work()
    assert len(list(bench.index.ids(NAMESPACE))) == 4
    bench.send(long(row(2, 0, key="k" * 600)))
    bench.work()
    check(bench.index)


@pytest.mark.parametrize("lane", ["live", "backfill"])
def test_a_change_of_metadata_alone_reaches_every_vector_and_embeds_nothing(bench: Bench, lane: str) -> None:
    bench.send(long(row(1, 4)))
    bench.work()
    changed = row(2, 4, metadata={"price": 3.0}, text_unchanged=lane == "live")
    bench.send(long(changed, lane=lane))
    embedder = HashEmbedder()
    assert bench.work(embedder)["reused"] == 1
    assert embedder.calls == []
    check(bench.index, changed)


@pytest.mark.parametrize("damage", ["gone", "of another text"])
def test_a_row_with_a_damaged_vector_is_embedded_again(bench: Bench, damage: str) -> None:
    bench.send(long(row(1, 4)))
    bench.work()
    if damage == "gone":
        bench.index.delete(NAMESPACE, ["1#2"])
    else:
        stored = bench.index.fetch(NAMESPACE, ["1#2"])["1#2"]
        bench.index.upsert(NAMESPACE, [Record("1#2", vector_of("x"), stored.metadata | {"_text_hash": "x"})])
    changed = row(2, 4, text_unchanged=True)
    bench.send(long(changed))
    assert bench.work()["embedded"] == 1
    check(bench.index, changed)


def test_what_is_beyond_the_most_vectors_of_a_row_is_left_out_and_counted(bench: Bench) -> None:
    change = row(1, 20)
    bench.send(long(change))
    assert bench.work()["cut"] == 1
    assert len(passages(change)) == RULE.most
    check(bench.index, change)


def test_no_row_gets_more_vectors_than_its_message_announces(bench: Bench) -> None:
    bench.send(long(row(1, 6), most_chunks=3))
    bench.work()
    assert list(bench.index.ids(NAMESPACE)) == ["1", "1#1", "1#2"]


def test_a_source_without_long_texts_costs_no_request_more(bench: Bench) -> None:
    bench.send(batch(row(1, 1), chunking=RULE))
    bench.work()
    bench.send(batch(row(2, 1, "other"), chunking=RULE))
    bench.work()
    counts = bench.pinecone.counts()
    assert counts["upsert"]["requests"] == 2
    assert not {"fetch", "delete"} & counts.keys()


def test_a_live_change_in_a_source_with_long_texts_needs_no_read(bench: Bench) -> None:
    """The index's reads may be behind its writes: a surplus that they do not show yet must go too."""
    bench.send(long(row(1, 4)))
    bench.work()
    bench.send(long(row(2, 1, "other")))
    bench.work()
    assert "fetch" not in bench.pinecone.counts()
    check(bench.index, row(2, 1, "other"))


class Crash(BaseException):
    """The process ends here."""


class Crashing(PineconeIndex):
    """Ends its process instead of the write request number `at` (from 0)."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.pinecone.api_key, bench.pinecone.host, sdk_retries=False)
        self.at = -1
        self.writes = 0

    def upsert(self, namespace: str, records: Sequence[Record]) -> None:
        self._count()
        super().upsert(namespace, records)

    def delete(self, namespace: str, ids: Sequence[str]) -> None:
        self._count()
        super().delete(namespace, ids)

    def _count(self) -> None:
        if self.writes == self.at:
            raise Crash
        self.writes += 1


class Bare:
    """A processor without Emu's threads, so that a test says when it is given which messages, and how often."""

    def __init__(self, bench: Bench) -> None:
        self.index = Crashing(bench)
        self.stats = Stats()
        queue = SqsQueue(bench.queues.client, bench.queues.queue_url, bench.queues.dlq_url)
        stopping = threading.Event()
        self.keeper = LeaseKeeper(queue, visibility_seconds=60, margin_seconds=1)
        self.processor = Processor(
            index=self.index,
            embedder=HashEmbedder(),
            caller=Caller(self.stats, IndexState(), stopping),
            keeper=self.keeper,
            aside=SetAside(queue, Notices(None, "", ""), self.stats, stopping),
            stats=self.stats,
        )

    def work(self, *messages: Batch, times: Sequence[int] = (), crash_at: int = -1) -> bool:
        """Work on the messages as one unit, each received so many times; whether it came to its end, all settled."""
        self.index.at, self.index.writes = crash_at, 0
        counts = [*times, *[1] * len(messages)]
        received = [
            Received(f"id{n}", f"receipt{n}", encode(message), "1-3", counts[n], message.captured_at_ms)
            for n, message in enumerate(messages)
        ]
        unit = Unit(received, self.keeper.take(received, now()), plan(received, lambda _: None))
        try:
            self.processor.process(unit, unit.plan.tasks)
        except Crash:
            return False
        finally:
            self.keeper.drop(unit.lease)
        assert len(unit.finished()) == len(messages)
        return True


@pytest.fixture
def bare(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bare]:
    # Small requests, so that there is a place to crash between any two vectors of a row but one.
    monkeypatch.setattr("aviary.index.MAX_UPSERT_RECORDS", 2)
    monkeypatch.setattr(processor, "MAX_DELETE_IDS", 2)
    made = Bare(bench)
    with made.index:
        yield made


NEWER = [None, 0, 2, 6]


@pytest.mark.parametrize("newer", NEWER, ids=[f"then {n}" for n in NEWER])
@pytest.mark.parametrize(("before", "after"), [(0, 5), (1, 4), (5, 1), (5, 3), (4, 0)])
def test_a_crash_between_any_two_requests_leaves_exactly_the_right_vectors_once_the_messages_come_again(
    bare: Bare, before: int, after: int, newer: int | None
) -> None:
    """A newer state may have arrived meanwhile, and be worked on in one unit with the message that comes again."""
    crashed, crash_at = True, 0
    while crashed:
        namespace = f"{NAMESPACE}-{crash_at}"
        old, change = row(1, before, "old"), row(2, after, "new")
        bare.work(long(old, namespace=namespace))
        crashed = not bare.work(long(change, namespace=namespace), crash_at=crash_at)
        again = [long(change, namespace=namespace)]
        if newer is not None:
            change = row(3, newer, "newest")
            again.append(long(change, namespace=namespace))
        bare.work(*again, times=[2])
        check(bare.index, change, namespace=namespace)
        crash_at += 1
    assert crash_at > 3


@pytest.mark.parametrize("lane", ["live", "backfill"])
@pytest.mark.parametrize("back", [row(3, 1, "old", text_unchanged=True), row(3, 2, "newest")], ids=["as it was", "new"])
def test_what_a_crash_left_beyond_the_stored_row_goes_when_a_newer_state_takes_its_place(
    bare: Bare, back: Change, lane: str
) -> None:
    bare.work(long(row(1, 1, "old")))
    grown = long(row(2, 6, "never finished"), lane=lane)
    bare.work(grown, crash_at=2 if lane == "backfill" else 4)
    assert len(list(bare.index.ids(NAMESPACE))) > 4
    bare.work(grown, long(back, lane=lane), times=[2])
    check(bare.index, back)


def test_what_a_dead_lettered_message_had_written_goes_with_the_next_change(bare: Bare) -> None:
    """SQS may give a message up after so many receives: then nobody knows any more that it grew the row."""
    bare.work(long(row(1, 1)))
    assert not bare.work(long(row(2, 6, "lost")), crash_at=3)
    assert len(list(bare.index.ids(NAMESPACE))) > 3
    bare.work(long(row(3, 2, "next")))
    check(bare.index, row(3, 2, "next"))


def test_a_main_vector_is_never_there_before_the_others_nor_after_them(bare: Bare) -> None:
    change = row(2, 6)
    for crash_at in range(6):
        bare.work(long(change), crash_at=crash_at)
        found = bare.index.fetch(NAMESPACE, list(bare.index.ids(NAMESPACE)))
        assert "1" not in found or len(found) == 6
    for crash_at in range(6):
        bare.work(long(row(3, 0)), crash_at=crash_at)
        found = bare.index.fetch(NAMESPACE, list(bare.index.ids(NAMESPACE)))
        assert "1" in found or not found


def test_nothing_more_of_a_row_is_written_once_the_lease_is_lost(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.work(long(row(1, 5, "old")))
    real = bare.index.upsert

    def upsert_then_lose(namespace: str, records: Sequence[Record]) -> None:
        real(namespace, records)
        for lease in bare.keeper.held():
            lease.lose()

    with monkeypatch.context() as patch:
        patch.setattr(bare.index, "upsert", upsert_then_lose)
        with pytest.raises(LeaseLostError):
            bare.work(long(row(2, 5, "new")))
    assert bare.index.fetch(NAMESPACE, ["1"])["1"].metadata["_version"] == 1
    bare.work(long(row(2, 5, "new")), times=[2])
    check(bare.index, row(2, 5, "new"))


def test_a_row_with_one_refused_vector_is_set_aside_alone_and_its_main_vector_not_written(bench: Bench) -> None:
    class Poisoned(HashEmbedder):
        def embed(self, texts: Sequence[str], *, urgent: bool = True) -> Any:
            vectors = super().embed(texts)
            vectors[[number for number, passage in enumerate(texts) if "bad40" in passage]] = np.nan
            return vectors

    bench.send(long(row(1, 3), row(1, 5, "bad", key="2"), row(1, 4, key="3")))
    assert counters(bench.work(Poisoned()), "poisoned", "upserted") == {"poisoned": 1, "upserted": 2}
    check(bench.index, row(1, 3), row(1, 4, key="3"))
    assert [letter.change and letter.change.key for letter in bench.dead_letters()] == ["2"]


def test_a_unit_of_more_vectors_than_a_portion_is_written_portion_by_portion(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emu.rows.portions.__defaults__", (10,))
    changes = [row(1, 4, f"w{n}x", key=str(n)) for n in range(7)]
    bench.send(long(*changes))
    embedder = HashEmbedder()
    bench.work(embedder)
    assert [len(texts) for texts in embedder.calls] == [8, 8, 8, 4]
    check(bench.index, *changes)
