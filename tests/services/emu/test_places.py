"""A message names the index and the model that its changes are for."""

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from pinecone import Pinecone

from aviary.index import PineconeIndex, VectorIndex
from aviary.source import MODEL, text_hash, vector_id
from emu.queue import SqsQueue
from emu.worker import Emu
from tests.services.emu.embedders import HashEmbedder, Vectors, vector_of
from tests.services.emu.helpers import NAMESPACE, Bench, batch, delete, upsert
from tests.services.pinecone.process import PineconeProcess

SMALL = "small"


@pytest.fixture
def second(pinecone: PineconeProcess, pinecone_client: Pinecone) -> Iterator[PineconeIndex]:
    """Another index of the same project."""
    name = f"second-{uuid.uuid4().hex[:12]}"
    serverless = {"serverless": {"cloud": "aws", "region": "us-east-1"}}
    pinecone_client.create_index(name=name, dimension=384, metric="cosine", spec=serverless)
    with PineconeIndex(pinecone.api_key, pinecone.index_host(name)) as index:
        yield index
    pinecone_client.delete_index(name)


class Reversed(HashEmbedder):
    """Another model: its vectors point the other way."""

    def embed(self, texts: Sequence[str], *, urgent: bool = True) -> Vectors:
        return -super().embed(texts)


class Opened:
    """What an Emu asked for."""

    def __init__(self, bench: Bench, second: PineconeIndex | None = None, **fields: Any) -> None:
        self.hosts: list[str] = []
        self.models: list[str] = []
        self._second = second
        self.settings = bench.settings(models={SMALL: "/models/small"}, **fields)
        self._queue = SqsQueue(bench.queues.client, self.settings.queue_url, self.settings.dlq_url)
        self._index = bench.index

    def index(self, host: str) -> VectorIndex:
        self.hosts.append(host)
        assert self._second is not None
        return self._second

    def model(self, name: str) -> HashEmbedder:
        self.models.append(name)
        return Reversed(name=name)

    def work(self) -> Emu:
        emu = Emu(
            self.settings,
            queue=self._queue,
            index=self._index,
            embedder=HashEmbedder(),
            open_index=self.index,
            load_embedder=self.model,
        )
        emu.run_until_idle()
        return emu


def test_changes_are_written_to_the_index_that_their_message_names_and_nowhere_else(
    bench: Bench, second: PineconeIndex, pinecone: PineconeProcess
) -> None:
    host = f"{pinecone.control_host}/_ix/the-second"
    bench.send(batch(upsert("a", 1), upsert("b", 1)))
    bench.send(
        batch(upsert("a", 2, "another text"), delete("b", 2), index_host=host), batch(upsert("c", 3), index_host=host)
    )
    opened = Opened(bench, second)
    opened.work()
    assert bench.stored() == {"a": 1, "b": 1}
    assert sorted(second.ids(NAMESPACE)) == ["a", "c"]
    assert np.allclose(second.fetch(NAMESPACE, ["a"])["a"].values, vector_of("another text"), atol=1e-6)
    assert opened.hosts == [host], "an index is opened once and kept"


def test_texts_are_embedded_with_the_model_that_their_message_names(bench: Bench) -> None:
    fields = {"namespace": "products--2", "model": SMALL}
    bench.send(
        batch(upsert("a", 1, "kettle")), batch(upsert("a", 1, "kettle"), **fields), batch(upsert("b", 2), **fields)
    )
    opened = Opened(bench)
    opened.work()
    assert np.allclose(bench.vector("a"), vector_of("kettle"), atol=1e-6)
    stored = bench.index.fetch("products--2", ["a", "b"])
    assert np.allclose(stored["a"].values, -vector_of("kettle"), atol=1e-6)
    assert set(stored) == {"a", "b"}
    assert opened.models == [SMALL], "a model is loaded once and kept, and the configured one at the start"


@pytest.mark.parametrize(
    "host",
    ["https://pinecone.io.example.com", "http://index.svc.pinecone.io", "http://127.0.0.1:1/_ix/a", "not a host"],
)
def test_an_index_that_is_neither_pinecones_nor_ours_gets_no_api_key(bench: Bench, host: str) -> None:
    bench.send(batch(upsert("a", 1), index_host=host), batch(upsert("b", 1)))
    opened = Opened(bench)
    opened.work()
    assert opened.hosts == []
    (letter,) = bench.dead_letters()
    assert repr(host) in letter.reason
    assert letter.body, "the message itself is kept"
    assert bench.stored() == {"b": 1}


def test_messages_for_an_index_that_is_gone_for_good_hold_nobody_back(bench: Bench) -> None:
    gone = f"{bench.pinecone.host}-gone"
    bench.send(batch(upsert("a", 1), index_host=gone), batch(upsert("b", 1)))
    opened = Opened(bench, abandoned_indexes=f"https://x.svc.pinecone.io, {gone}")
    opened.work()
    assert opened.hosts == []
    assert bench.stored() == {"b": 1}
    (letter,) = bench.dead_letters()
    assert f"{gone} is gone for good" in letter.reason


def test_a_dead_letter_says_which_place_its_row_was_for(bench: Bench, second: PineconeIndex) -> None:
    host = f"{bench.pinecone.host}-2"
    poison = upsert("a", 1, metadata={"notes": "x" * 50_000})
    bench.send(batch(poison, index_host=host, namespace="products--2", model=SMALL))
    Opened(bench, second).work()
    (letter,) = bench.dead_letters()
    assert (letter.index_host, letter.namespace, letter.model) == (host, "products--2", SMALL)


def test_a_vector_of_the_other_model_is_not_taken_for_one_of_this(bench: Bench) -> None:
    """Two places never share a namespace; if they did, the hash would tell their vectors apart."""
    bench.send(batch(upsert("a", 1, "kettle")))
    bench.send(batch(upsert("a", 2, "kettle", text_hash=text_hash("kettle", SMALL), text_unchanged=True), model=SMALL))
    Opened(bench).work()
    assert np.allclose(bench.index.fetch(NAMESPACE, [vector_id("a")])["a"].values, -vector_of("kettle"), atol=1e-6)
    assert MODEL != SMALL
