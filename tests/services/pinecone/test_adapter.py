"""PineconeIndex against the stand-in: what the services may rely on."""

from collections.abc import Iterator

import numpy as np
import pytest

from aviary.index import PineconeIndex, Record, Vector
from tests.services.pinecone.process import PineconeTestIndex


def unit_vectors(count: int, seed: int = 0) -> Vector:
    values = np.random.default_rng(seed).standard_normal((count, 384)).astype(np.float32)
    unit: Vector = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


@pytest.fixture
def index(pinecone_index: PineconeTestIndex) -> Iterator[PineconeIndex]:
    with PineconeIndex(pinecone_index.api_key, pinecone_index.host) as opened:
        yield opened


def test_what_is_written_can_be_fetched_queried_found_counted_listed_and_deleted(index: PineconeIndex) -> None:
    values = unit_vectors(5)
    index.upsert("p", [Record(f"k{i}", values[i], {"_key": f"k{i}", "n": i}) for i in range(5)])
    fetched = index.fetch("p", ["k1", "nope"])
    assert list(fetched) == ["k1"]
    assert np.array_equal(fetched["k1"].values, values[1])
    assert index.query("p", values[2], 3)[0].id == "k2"
    found = index.find("p", "k3")
    assert found is not None
    assert found.metadata == {"_key": "k3", "n": 3.0}
    assert index.count("p") == 5
    assert list(index.ids("p")) == [f"k{i}" for i in range(5)]
    index.delete("p", ["k1", "nope"])
    assert index.find("p", "k1") is None
    assert index.count("p") == 4


def test_a_delete_in_a_namespace_that_never_was_is_fine(index: PineconeIndex) -> None:
    index.delete("never", ["k1"])
