"""What Emu must know about long texts: it is durable before the first of them is sent, and never forgotten."""

from typing import Any

import pytest

from aviary.chunking import Chunking
from pelican.packing import Message
from pelican.service import Pelican
from pelican.sqs import QueueError
from tests.services.pelican.harness import MemoryQueue, Store, refuse, settings_for

MOST = "SELECT most_chunks FROM sync.source WHERE name = 'products'"
LONG = "The kettle boils water in three minutes. " * 50


def lengthen(store: Store, key: int = 1, text: str = LONG) -> None:
    store.execute("UPDATE products SET description = %s WHERE id = %s", (text, key))


def test_short_texts_announce_one_vector_a_row(store: Store, pelican: Pelican, memory: MemoryQueue) -> None:
    store.add_products(200)
    pelican.worker().run_until_idle()
    assert {batch.most_chunks for batch in memory.batches()} == {1}
    assert {batch.chunking for batch in memory.batches()} == {Chunking()}
    assert store.value(MOST) == 1


def test_the_most_vectors_of_a_row_are_noted_before_the_message_that_makes_them(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(1)
    lengthen(store)
    noted: list[int] = []

    def look(message: Message) -> None:
        noted.append(store.value(MOST))

    memory.on_send = look
    pelican.worker().run_until_idle()
    (batch,) = memory.batches()
    assert noted == [batch.most_chunks]
    assert batch.most_chunks >= 3


def test_every_later_message_of_the_source_carries_it_even_when_no_text_is_long_any_more(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(50)
    lengthen(store)
    pelican.worker().run_until_idle()
    most = store.value(MOST)
    memory.sent.clear()
    lengthen(store, text="short")
    store.execute("UPDATE products SET price = price + 1 WHERE id > 1")
    store.execute("DELETE FROM products WHERE id = 2")
    Pelican(settings_for(store), memory).worker().run_until_idle()
    assert {batch.most_chunks for batch in memory.batches()} == {most}


def test_a_message_that_was_never_sent_has_been_noted_all_the_same(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    """Nobody can tell whether the queue took it before it failed to answer."""
    store.add_products(1)
    lengthen(store)
    memory.on_send = refuse
    with pytest.raises(QueueError):
        pelican.worker().run_until_idle()
    assert store.value(MOST) >= 3


def test_without_chunking_a_long_text_announces_one_vector(store: Store, memory: MemoryQueue) -> None:
    store.add_products(1)
    lengthen(store)
    Pelican(settings_for(store, max_chunks=1), memory).worker().run_until_idle()
    (batch,) = memory.batches()
    assert (batch.most_chunks, batch.chunking.most, store.value(MOST)) == (1, 1, 1)


def test_fewer_vectors_by_the_settings_leave_what_was_noted(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(1)
    lengthen(store)
    pelican.worker().run_until_idle()
    most, hashes = store.value(MOST), {change.text_hash for change in memory.changes()}
    memory.sent.clear()
    lengthen(store, text=LONG + " ")
    lengthen(store)
    Pelican(settings_for(store, max_chunks=2), memory).worker().run_until_idle()
    (batch,) = memory.batches()
    assert batch.most_chunks == most > 2
    assert batch.changes[0].text_hash not in hashes, "another rule makes the stored vectors stale"


@pytest.mark.parametrize("chunks", [{"chunk_overlap_tokens": 65}, {"chunk_tokens": 100, "chunk_overlap_tokens": 26}])
def test_an_overlap_that_leaves_no_room_is_refused_by_name(store: Store, chunks: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"AVIARY_CHUNK_OVERLAP_TOKENS .* at most a quarter"):
        settings_for(store, **chunks)
