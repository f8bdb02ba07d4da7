"""Eventual consistency on demand: what is written is seen later, in order, and the sequence numbers say when."""

import time

from pinecone import Index

from tests.services.pinecone.process import PineconeTestIndex
from tests.services.pinecone.samples import as_dict, records, unit_vectors

HOUR_MS = 3_600_000


def seen(sdk: Index) -> tuple[int, int, int, int]:
    """What query, fetch, list and stats see of the namespace."""
    return (
        len(sdk.query(vector=unit_vectors(1)[0].tolist(), top_k=100, namespace="p").matches),
        len(sdk.fetch(ids=[f"k{i}" for i in range(10)], namespace="p").vectors),
        sum(len(page.vectors) for page in sdk.list(namespace="p")),
        sdk.describe_index_stats().total_vector_count,
    )


def test_without_a_delay_a_write_is_seen_at_once(sdk: Index) -> None:
    sdk.upsert(vectors=[as_dict(record) for record in records(3)], namespace="p")
    assert seen(sdk) == (3, 3, 3, 3)


def test_a_write_is_seen_by_no_read_before_the_delay_and_by_every_read_after_it(
    sdk: Index, pinecone_index: PineconeTestIndex
) -> None:
    pinecone_index.visibility_delay(HOUR_MS)
    sdk.upsert(vectors=[as_dict(record) for record in records(3)], namespace="p")
    assert seen(sdk) == (0, 0, 0, 0)
    pinecone_index.visibility_delay(0)
    assert seen(sdk) == (3, 3, 3, 3)


def test_the_delay_passes_by_itself(sdk: Index, pinecone_index: PineconeTestIndex) -> None:
    pinecone_index.visibility_delay(150)
    begun = time.monotonic()
    sdk.upsert(vectors=[as_dict(record) for record in records(1)], namespace="p")
    deadline = begun + 10
    while sdk.describe_index_stats().total_vector_count == 0:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert time.monotonic() - begun >= 0.15


def test_held_back_writes_take_effect_in_their_order(sdk: Index, pinecone_index: PineconeTestIndex) -> None:
    sdk.upsert(vectors=[as_dict(record) for record in records(4)], namespace="p")
    pinecone_index.visibility_delay(HOUR_MS)
    sdk.delete(ids=["k0", "k1"], namespace="p")
    sdk.upsert(vectors=[as_dict(records(2)[1])], namespace="p")
    sdk.update(id="k1", set_metadata={"late": True}, namespace="p")
    sdk.update(filter={"late": True}, set_metadata={"later": True}, namespace="p")
    sdk.delete(filter={"category": "c2"}, namespace="p")
    assert seen(sdk)[3] == 4
    pinecone_index.visibility_delay(0)
    assert sorted(item.id or "" for page in sdk.list(namespace="p") for item in page.vectors) == ["k1", "k3"]
    assert sdk.fetch(ids=["k1"], namespace="p").vectors["k1"].metadata == {
        "_key": "k1",
        "_version": 2.0,
        "category": "c1",
        "late": True,
        "later": True,
    }


def test_a_query_tells_by_its_sequence_number_which_writes_it_reflects(
    sdk: Index, pinecone_index: PineconeTestIndex
) -> None:
    def reflected(namespace: str = "p") -> int:
        info = sdk.query(vector=unit_vectors(1)[0].tolist(), top_k=1, namespace=namespace).response_info
        assert info is not None
        assert info.lsn_reconciled is not None
        return info.lsn_reconciled

    def written(number: int) -> int:
        info = sdk.upsert(vectors=[as_dict(records(number + 1)[number])], namespace="p").response_info
        assert info is not None
        assert info.lsn_committed is not None
        return info.lsn_committed

    first = written(0)
    assert reflected() >= first
    pinecone_index.visibility_delay(HOUR_MS)
    second = written(1)
    third = written(2)
    assert first < second < third
    assert first <= reflected() < second
    # What is held back in one namespace does not hold another one up.
    assert reflected("q") >= third
    other = sdk.upsert(vectors=[as_dict(records(1)[0])], namespace="q").response_info
    assert other is not None
    assert other.lsn_committed is not None
    assert reflected() < second
    assert third <= reflected("q") < other.lsn_committed
    pinecone_index.visibility_delay(0)
    assert reflected() >= max(third, other.lsn_committed)


def test_every_write_has_a_higher_number_than_the_one_before(sdk: Index) -> None:
    numbers = []
    for call in (
        lambda: sdk.upsert(vectors=[as_dict(records(1)[0])], namespace="p"),
        lambda: sdk.update(id="k0", set_metadata={"a": "b"}, namespace="p"),
        lambda: sdk.update(filter={"a": "b"}, set_metadata={"a": "c"}, namespace="p"),
        lambda: sdk.upsert(vectors=[as_dict(records(1)[0])], namespace="q"),
    ):
        info = call().response_info
        assert info is not None
        numbers.append(info.lsn_committed or 0)
    assert numbers == sorted(set(numbers))
