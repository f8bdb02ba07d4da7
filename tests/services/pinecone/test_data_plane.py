"""Every call of the SDK on an index's data plane, and that their answers mean what Pinecone's do."""

import asyncio

import numpy as np
import pytest
from pinecone import AsyncPinecone, Index, Pinecone
from pinecone.errors import ApiError, ConflictError, NotFoundError

from tests.services.pinecone.conftest import Send
from tests.services.pinecone.process import PineconeTestIndex
from tests.services.pinecone.samples import as_dict, records, unit_vectors


def write(sdk: Index, count: int, namespace: str = "p") -> None:
    sdk.upsert(vectors=[as_dict(record) for record in records(count)], namespace=namespace)


def test_upsert_says_how_many_and_takes_every_form_of_vector(sdk: Index) -> None:
    values = unit_vectors(4)
    answer = sdk.upsert(
        vectors=[
            ("a", values[0].tolist()),
            ("b", values[1].tolist(), {"x": 1}),
            {"id": "c", "values": values[2].tolist(), "metadata": {"tags": ["t", "u"]}},
        ]
    )
    assert answer.upserted_count == 3
    fetched = sdk.fetch(ids=["a", "b", "c"]).vectors
    assert fetched["a"].metadata is None
    assert fetched["b"].metadata == {"x": 1.0}
    assert fetched["c"].metadata == {"tags": ["t", "u"]}


def test_an_upsert_replaces_the_whole_record(sdk: Index) -> None:
    values = unit_vectors(2)
    sdk.upsert(vectors=[("a", values[0].tolist(), {"x": 1, "y": 2})])
    sdk.upsert(vectors=[("a", values[1].tolist(), {"x": 3})])
    fetched = sdk.fetch(ids=["a"]).vectors["a"]
    assert fetched.metadata == {"x": 3.0}
    assert np.array_equal(np.array(fetched.values, np.float32), values[1])
    assert sdk.describe_index_stats().total_vector_count == 1


def test_of_equal_ids_in_one_upsert_the_last_counts(sdk: Index) -> None:
    values = unit_vectors(2)
    sdk.upsert(vectors=[("a", values[0].tolist(), {"n": 1}), ("a", values[1].tolist(), {"n": 2})])
    assert sdk.describe_index_stats().total_vector_count == 1
    fetched = sdk.fetch(ids=["a"]).vectors["a"]
    assert fetched.metadata == {"n": 2.0}
    assert np.array_equal(np.array(fetched.values, np.float32), values[1])


def test_nulls_are_stripped_and_numbers_are_64_bit_floats(sdk: Index) -> None:
    values = unit_vectors(1)[0].tolist()
    sdk.upsert(vectors=[("a", values, {"gone": None, "whole": 7, "flag": True, "long": 2**53 + 1, "name": "é\u202e"})])
    metadata = sdk.fetch(ids=["a"]).vectors["a"].metadata
    assert metadata == {"whole": 7.0, "flag": True, "long": float(2**53), "name": "é\u202e"}
    assert metadata is not None
    assert type(metadata["whole"]) is float
    assert metadata["flag"] is True


def test_the_default_namespace_has_three_names(sdk: Index, send: Send) -> None:
    sdk.upsert(vectors=[("a", unit_vectors(1)[0].tolist())])
    assert set(sdk.fetch(ids=["a"], namespace="__default__").vectors) == {"a"}
    assert set(sdk.fetch(ids=["a"], namespace="").vectors) == {"a"}
    assert sdk.describe_index_stats().namespaces["__default__"].vector_count == 1
    assert send("GET", "/vectors/list").json()["vectors"] == [{"id": "a"}]
    assert sdk.describe_namespace(name="__default__").record_count == 1


def test_query_by_vector_and_by_id(sdk: Index) -> None:
    write(sdk, 20)
    by_vector = sdk.query(vector=unit_vectors(20)[3].tolist(), top_k=5, namespace="p")
    by_id = sdk.query(id="k3", top_k=5, namespace="p")
    assert [match.id for match in by_vector.matches] == [match.id for match in by_id.matches]
    assert by_id.matches[0].id == "k3"
    assert by_id.namespace == "p"
    assert by_id.usage is not None
    assert sdk.query(id="absent", top_k=5, namespace="p").matches == []
    assert sdk.query(id="k3", top_k=5, namespace="absent").matches == []


def test_query_returns_values_and_metadata_only_when_asked(sdk: Index) -> None:
    write(sdk, 3)
    bare = sdk.query(id="k1", top_k=1, namespace="p").matches[0]
    assert (bare.values, bare.metadata) == ([], None)
    full = sdk.query(id="k1", top_k=1, namespace="p", include_values=True, include_metadata=True).matches[0]
    assert np.array_equal(np.array(full.values, np.float32), unit_vectors(3)[1])
    assert full.metadata == {"_key": "k1", "_version": 2.0, "category": "c1"}


def test_fetch_leaves_out_what_is_absent(sdk: Index) -> None:
    write(sdk, 3)
    answer = sdk.fetch(ids=["k2", "absent", "k0"], namespace="p")
    assert set(answer.vectors) == {"k0", "k2"}
    assert answer.namespace == "p"


def test_fetch_by_metadata_pages_through_all_that_match(sdk: Index) -> None:
    write(sdk, 100)
    seen: list[str] = []
    token = None
    while True:
        page = sdk.fetch_by_metadata(filter={"category": "c1"}, namespace="p", limit=10, pagination_token=token)
        seen += page.vectors
        if page.pagination is None or page.pagination.next is None:
            break
        token = page.pagination.next
    assert sorted(seen) == sorted(f"k{i}" for i in range(100) if i % 3 == 1)


def test_update_changes_values_and_merges_metadata(sdk: Index) -> None:
    write(sdk, 2)
    new = unit_vectors(1, seed=9)[0]
    sdk.update(id="k0", namespace="p", values=new.tolist())
    sdk.update(id="k0", namespace="p", set_metadata={"category": "z", "more": ["a"]})
    fetched = sdk.fetch(ids=["k0"], namespace="p").vectors["k0"]
    assert fetched.metadata == {"_key": "k0", "_version": 1.0, "category": "z", "more": ["a"]}
    assert np.array_equal(np.array(fetched.values, np.float32), new)
    assert sdk.query(vector=new.tolist(), top_k=1, namespace="p").matches[0].id == "k0"


def test_update_of_what_is_not_there_is_accepted_and_changes_nothing(sdk: Index) -> None:
    write(sdk, 1)
    sdk.update(id="absent", namespace="p", set_metadata={"a": "b"})
    sdk.update(id="absent", namespace="nowhere", set_metadata={"a": "b"})
    assert sdk.describe_index_stats().total_vector_count == 1


def test_update_by_filter_says_how_many_and_a_dry_run_changes_none(sdk: Index) -> None:
    write(sdk, 30)
    dry = sdk.update(filter={"category": "c2"}, set_metadata={"seen": True}, namespace="p", dry_run=True)
    assert dry.matched_records == 10
    assert len(sdk.fetch_by_metadata(filter={"seen": True}, namespace="p").vectors) == 0
    real = sdk.update(filter={"category": "c2"}, set_metadata={"seen": True}, namespace="p")
    assert real.matched_records == 10
    assert len(sdk.fetch_by_metadata(filter={"seen": True}, namespace="p").vectors) == 10


def test_delete_by_ids_by_filter_and_of_all(sdk: Index) -> None:
    write(sdk, 30)
    sdk.delete(ids=["k0", "absent"], namespace="p")
    assert sdk.describe_index_stats().total_vector_count == 29
    sdk.delete(filter={"category": "c1"}, namespace="p")
    assert sdk.describe_index_stats().total_vector_count == 19
    sdk.delete(delete_all=True, namespace="p")
    assert sdk.describe_index_stats().namespaces["p"].vector_count == 0


def test_delete_in_a_namespace_that_is_not_there_is_not_found(sdk: Index) -> None:
    with pytest.raises(NotFoundError, match="Namespace not found"):
        sdk.delete(ids=["a"], namespace="nowhere")


def test_a_deleted_record_is_gone_from_every_read(sdk: Index) -> None:
    write(sdk, 10)
    sdk.delete(ids=["k4"], namespace="p")
    assert "k4" not in sdk.fetch(ids=["k4"], namespace="p").vectors
    assert "k4" not in [
        match.id for match in sdk.query(vector=unit_vectors(10)[4].tolist(), top_k=10, namespace="p").matches
    ]
    assert "k4" not in [item.id for page in sdk.list(namespace="p") for item in page.vectors]
    assert sdk.query(id="k4", top_k=1, namespace="p").matches == []


def test_list_pages_in_byte_order_without_a_token_on_the_last_page(sdk: Index, send: Send) -> None:
    write(sdk, 25)
    expected = sorted(f"k{i}" for i in range(25))
    pages = [[item.id for item in page.vectors] for page in sdk.list(namespace="p", limit=10)]
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [id_ for page in pages for id_ in page] == expected
    assert [item.id for page in sdk.list(namespace="p", prefix="k1") for item in page.vectors] == [
        id_ for id_ in expected if id_.startswith("k1")
    ]
    whole = send("GET", "/vectors/list", params={"namespace": "p", "limit": 25}).json()
    assert "pagination" not in whole
    assert list(sdk.list(namespace="nowhere")) == []


def test_listing_goes_on_where_it_was_although_records_come_and_go(sdk: Index) -> None:
    write(sdk, 30)
    first = sdk.list_paginated(namespace="p", limit=10)
    last = first.vectors[-1].id
    assert last is not None
    assert first.pagination is not None
    sdk.delete(ids=[last, "k0"], namespace="p")
    second = sdk.list_paginated(namespace="p", limit=10, pagination_token=first.pagination.next)
    expected = [id_ for id_ in sorted(f"k{i}" for i in range(30)) if id_ > last]
    assert [item.id for item in second.vectors] == expected[:10]


def test_stats_count_each_namespace(sdk: Index) -> None:
    write(sdk, 3, "a")
    write(sdk, 4, "b")
    stats = sdk.describe_index_stats()
    assert {name: each.vector_count for name, each in stats.namespaces.items()} == {"a": 3, "b": 4}
    assert (stats.total_vector_count, stats.dimension, stats.metric) == (7, 384, "cosine")
    with pytest.raises(ApiError):
        sdk.describe_index_stats(filter={"a": "b"})


def test_namespaces_are_created_described_listed_and_deleted(sdk: Index) -> None:
    made = sdk.create_namespace(name="empty", schema={"fields": {"genre": {"filterable": True}}})
    assert (made.name, made.record_count) == ("empty", 0)
    with pytest.raises(ConflictError):
        sdk.create_namespace(name="empty")
    write(sdk, 3, "full")
    described = sdk.describe_namespace(name="empty")
    assert described.indexed_fields is not None
    assert described.indexed_fields.fields == ["genre"]
    assert [each.name for page in sdk.list_namespaces(limit=1) for each in page.namespaces] == ["empty", "full"]
    page = sdk.list_namespaces_paginated(prefix="f")
    assert [(each.name, each.record_count) for each in page.namespaces] == [("full", 3)]
    assert page.total_count == 1
    sdk.delete_namespace(name="full")
    with pytest.raises(NotFoundError):
        sdk.describe_namespace(name="full")
    assert sdk.describe_index_stats().total_vector_count == 0


def test_a_namespace_may_have_any_printable_name(sdk: Index) -> None:
    name = "a/b ?#%&=é".replace("é", "~")
    write(sdk, 2, name)
    assert sdk.describe_namespace(name=name).record_count == 2
    sdk.delete_namespace(name=name)
    assert sdk.describe_index_stats().total_vector_count == 0


def test_the_asynchronous_client_works_too(pinecone_index: PineconeTestIndex) -> None:
    async def use() -> list[str]:
        async with (
            AsyncPinecone(api_key=pinecone_index.api_key, host=pinecone_index.server.control_host) as client,
            await client.index(pinecone_index.name) as index,
        ):
            await index.upsert(vectors=[as_dict(record) for record in records(5)])
            answer = await index.query(id="k2", top_k=2)
            return [match.id for match in answer.matches]

    assert asyncio.run(use())[0] == "k2"


def test_many_threads_may_write_and_query_at_once(sdk: Index) -> None:
    answer = sdk.upsert(vectors=[as_dict(record) for record in records(400)], batch_size=20, max_concurrency=8)
    assert (answer.upserted_count, answer.has_errors) == (400, False)
    assert sdk.describe_index_stats().total_vector_count == 400


def test_an_index_by_name_costs_one_description_and_by_host_none(pinecone_index: PineconeTestIndex) -> None:
    before = pinecone_index.counts()["describe_index"]["requests"]
    with Pinecone(api_key=pinecone_index.api_key, host=pinecone_index.server.control_host) as client:
        for name, host in (("", pinecone_index.host), (pinecone_index.name, ""), (pinecone_index.name, "")):
            with client.index(name, host=host) as index:
                index.describe_index_stats()
    assert pinecone_index.counts()["describe_index"]["requests"] == before + 1
