"""PineconeIndex against the stand-in: what the services may rely on."""

import gc
import ssl
import warnings

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pinecone._internal.data_plane_helpers import _vector_to_dict
from pinecone._internal.http_client import _encode_json
from pinecone._internal.vector_factory import VectorFactory
from pinecone.errors import NotFoundError, PineconeValueError, ServiceError, UnauthorizedError

from aviary import index as adapter
from aviary.index import PineconeIndex, Record, fetch_requests, is_index_host, to_sdk, upsert_requests
from tests.services.pinecone.process import PineconeTestIndex
from tests.services.pinecone.samples import DIMENSION, records, unit_vectors


def encoded_by_the_sdk(request: list[Record]) -> bytes:
    """What really goes over the wire."""
    built = [_vector_to_dict(VectorFactory.build(to_sdk(record))) for record in request]
    return _encode_json({"vectors": built, "namespace": "n" * 512})


def test_what_is_written_can_be_fetched_queried_found_counted_listed_and_deleted(index: PineconeIndex) -> None:
    written = records(5)
    index.upsert("p", written)
    fetched = index.fetch("p", ["k1", "nope"])
    assert list(fetched) == ["k1"]
    assert fetched["k1"].metadata == {"_key": "k1", "_version": 2.0, "category": "c1"}
    assert index.query("p", written[2].values, 3)[0].id == "k2"
    found = index.find("p", "k3")
    assert found is not None
    assert found.metadata["_version"] == 4.0
    assert index.count("p") == 5
    assert list(index.ids("p")) == ["k0", "k1", "k2", "k3", "k4"]
    index.delete("p", ["k1", "nope"])
    assert index.find("p", "k1") is None
    assert index.count("p") == 4


def test_values_come_back_bit_for_bit(index: PineconeIndex) -> None:
    rng = np.random.default_rng(7)
    values = (rng.standard_normal((50, DIMENSION)) * 10.0 ** rng.integers(-12, 12, (50, 1))).astype(np.float32)
    index.upsert("p", [Record(f"k{i}", values[i], {}) for i in range(50)])
    fetched = index.fetch("p", [f"k{i}" for i in range(50)])
    assert all(np.array_equal(fetched[f"k{i}"].values, values[i]) for i in range(50))
    assert fetched["k0"].values.dtype == np.float32


def test_a_query_returns_metadata_in_falling_order_of_score_and_takes_a_filter(index: PineconeIndex) -> None:
    written = records(60)
    index.upsert("p", written)
    matches = index.query("p", written[0].values, 10, {"category": "c0"})
    scores = [match.score for match in matches]
    assert len(matches) == 10
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert {match.metadata["category"] for match in matches} == {"c0"}


def test_namespaces_do_not_see_each_other(index: PineconeIndex) -> None:
    index.upsert("a", records(3))
    index.upsert("", records(2))
    assert (index.count("a"), index.count(""), index.count("b")) == (3, 2, 0)
    assert index.find("b", "k0") is None
    assert list(index.ids("b")) == []
    assert index.fetch("b", ["k0"]) == {}
    assert index.query("b", unit_vectors(1)[0], 3) == []
    index.delete("a", ["k0"])
    assert sorted(index.ids("")) == ["k0", "k1"]


def test_a_large_upsert_is_split_below_both_limits_and_arrives_whole(
    index: PineconeIndex, pinecone_index: PineconeTestIndex
) -> None:
    index.upsert("p", records(1_500))
    assert index.count("p") == 1_500
    counts = pinecone_index.counts()["upsert"]
    assert counts["records"] == 1_500
    assert counts["errors"] == 0
    # Some 4.8 KB a record, so 2 MB hold at least 400 of them.
    assert counts["requests"] <= 4


def test_records_of_few_dimensions_are_split_at_a_thousand() -> None:
    small = [Record(f"k{i}", unit_vectors(1, dimension=2)[0], {}) for i in range(2_001)]
    assert [len(request) for request in upsert_requests(small)] == [1_000, 1_000, 1]


@given(
    sizes=st.lists(st.integers(0, 40_000), min_size=1, max_size=120),
    id_chars=st.integers(1, 512),
)
@settings(max_examples=30, deadline=None)
def test_no_upsert_request_is_above_the_limits_and_none_could_take_the_next_record(
    sizes: list[int], id_chars: int
) -> None:
    values = unit_vectors(1)[0]
    given_records = [Record("i" * id_chars, values, {"text": "é" * (size // 2)}) for size in sizes]
    requests = list(upsert_requests(given_records))
    assert [len(str(r.metadata["text"])) for request in requests for r in request] == [size // 2 for size in sizes]
    bodies = [len(encoded_by_the_sdk(request)) for request in requests]
    assert max(bodies) <= adapter.MAX_UPSERT_BYTES
    heaviest = 45_000 + id_chars + 512
    assert all(body > adapter.MAX_UPSERT_BYTES - heaviest for body in bodies[:-1])


def test_values_that_are_not_finite_are_refused_before_anything_is_sent(
    index: PineconeIndex, pinecone_index: PineconeTestIndex
) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        values = unit_vectors(1)[0].copy()
        values[7] = bad
        with pytest.raises(PineconeValueError, match="finite"):
            index.upsert("p", [Record("k", values, {})])
    assert "upsert" not in pinecone_index.counts()


def test_a_fetch_of_many_long_ids_is_chunked_by_the_length_of_its_url(
    index: PineconeIndex, pinecone_index: PineconeTestIndex
) -> None:
    values = unit_vectors(1)[0]
    # A space becomes "+" and each of the others three characters in a URL.
    ids = [f"{i:03d} &=%/" + "é".encode().hex() * 90 for i in range(300)]
    index.upsert("p", [Record(each, values, {"n": i}) for i, each in enumerate(ids)])
    fetched = index.fetch("p", ids)
    assert [fetched[each].metadata["n"] for each in ids] == [float(i) for i in range(300)]
    assert pinecone_index.counts()["fetch"]["requests"] > 15


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=512), max_size=300))
@settings(max_examples=30, deadline=None)
def test_no_fetch_request_is_above_the_limits_and_no_id_is_lost(ids: list[str]) -> None:
    requests = list(fetch_requests(ids))
    assert [each for request in requests for each in request] == ids
    assert all(1 <= len(request) <= adapter.MAX_FETCH_IDS for request in requests)
    urls = [httpx.Request("GET", "http://h/vectors/fetch", params={"ids": request}).url for request in requests]
    assert all(len(url.raw_path) <= adapter.MAX_FETCH_URL_BYTES + 100 for url in urls)


def test_deletes_are_split_at_a_thousand(index: PineconeIndex, pinecone_index: PineconeTestIndex) -> None:
    index.upsert("p", records(3))
    index.delete("p", [f"k{i}" for i in range(2_001)])
    assert index.count("p") == 0
    assert pinecone_index.counts()["delete"]["requests"] == 3


def test_nothing_to_do_sends_nothing(index: PineconeIndex, pinecone_index: PineconeTestIndex) -> None:
    index.upsert("p", [])
    index.delete("p", [])
    assert index.fetch("p", []) == {}
    assert set(pinecone_index.counts()) <= {"create_index", "describe_index"}


def test_a_delete_in_a_namespace_that_never_was_is_fine_but_a_missing_index_is_not(
    index: PineconeIndex, pinecone_index: PineconeTestIndex
) -> None:
    index.delete("never", ["k1"])
    with (
        PineconeIndex(pinecone_index.api_key, pinecone_index.server.index_host("no-such-index")) as missing,
        pytest.raises(NotFoundError),
    ):
        missing.delete("never", ["k1"])


def test_a_record_is_found_among_others_with_the_same_vector(index: PineconeIndex) -> None:
    values = unit_vectors(1)[0]
    plain = [Record(f"k{i}", values, {"_key": f"k{i}"}) for i in range(40)]
    hashed = [Record(f"~{i:064x}", values, {"_key": "é" * i}) for i in range(40)]
    index.upsert("p", plain + hashed)
    for record in plain + hashed:
        found = index.find("p", record.id)
        assert found is not None
        assert (found.id, found.metadata) == (record.id, record.metadata)
    assert index.find("p", "~absent") is None


def test_find_tells_what_queries_see_and_not_what_was_written(
    index: PineconeIndex, pinecone_index: PineconeTestIndex
) -> None:
    pinecone_index.visibility_delay(60_000)
    index.upsert("p", records(1))
    assert index.find("p", "k0") is None
    pinecone_index.visibility_delay(0)
    assert index.find("p", "k0") is not None


def test_ids_come_in_byte_order_over_many_pages(index: PineconeIndex, pinecone_index: PineconeTestIndex) -> None:
    values = unit_vectors(1)[0]
    ids = [f"{chr(33 + i % 90)}{i}" for i in range(350)]
    index.upsert("p", [Record(each, values, {}) for each in ids])
    assert list(index.ids("p")) == sorted(ids)
    assert list(index.ids("p", prefix="A")) == sorted(each for each in ids if each.startswith("A"))
    assert pinecone_index.counts()["list"]["requests"] == 4 + 1


def test_ids_asks_for_a_page_only_when_it_is_needed(index: PineconeIndex, pinecone_index: PineconeTestIndex) -> None:
    index.upsert("p", [Record(f"{i:03d}", unit_vectors(1)[0], {}) for i in range(250)])
    pages = iter(index.ids("p"))
    assert next(pages) == "000"
    assert pinecone_index.counts()["list"]["requests"] == 1


def test_a_wrong_key_is_an_unauthorized_error(pinecone_index: PineconeTestIndex) -> None:
    with PineconeIndex("wrong", pinecone_index.host) as index, pytest.raises(UnauthorizedError):
        index.count("p")


def test_without_the_retries_of_the_sdk_each_request_is_tried_once(pinecone_index: PineconeTestIndex) -> None:
    pinecone_index.faults(operation="describe_index_stats", status=503)
    with PineconeIndex(pinecone_index.api_key, pinecone_index.host, sdk_retries=False) as index:
        with pytest.raises(ServiceError):
            index.count("p")
        assert pinecone_index.counts()["describe_index_stats"]["requests"] == 1


@pytest.mark.parametrize(
    ("host", "mode"),
    [
        ("https://ix.example", ssl.CERT_REQUIRED),
        ("ix.example", ssl.CERT_REQUIRED),
        ("http://127.0.0.1:1", ssl.CERT_NONE),
    ],
)
def test_only_a_plain_http_host_is_not_asked_for_a_certificate(host: str, mode: ssl.VerifyMode) -> None:
    with PineconeIndex("key", host) as index:
        pool = index._index._http._client._transport._transport._pool  # type: ignore[attr-defined] # httpx's insides
        assert pool._ssl_context.verify_mode == mode


def test_a_closed_adapter_leaves_no_warning_behind(pinecone_index: PineconeTestIndex) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with PineconeIndex(pinecone_index.api_key, pinecone_index.host) as index:
            index.count("p")
        del index
        gc.collect()
    assert caught == []


def test_clearing_a_namespace_deletes_every_vector_of_it_and_no_other(index: PineconeIndex) -> None:
    index.upsert("p", records(3))
    index.upsert("q", records(2))
    index.clear("p")
    assert (index.count("p"), index.count("q")) == (0, 2)
    index.clear("p")
    index.clear("never-was")


def test_an_index_says_how_many_numbers_its_vectors_have(index: PineconeIndex) -> None:
    assert index.dimension() == DIMENSION


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("https://aviary-2-abc123.svc.us-east-1-aws.pinecone.io", True),
        ("https://aviary-2-abc123.svc.us-east-1-aws.pinecone.io:443/", True),
        ("http://127.0.0.1:5081/_ix/another", True),
        ("http://127.0.0.1:5082/_ix/another", False),
        ("https://127.0.0.1:5081/_ix/another", False),
        ("http://aviary-2-abc123.svc.us-east-1-aws.pinecone.io", False),
        ("https://pinecone.io.example.com", False),
        ("https://notpinecone.io", False),
        ("https://user:password@aviary.svc.pinecone.io", False),
        ("https://example.com/?x=.pinecone.io", False),
        ("aviary.svc.pinecone.io", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_only_pinecones_own_addresses_and_the_configured_host_may_be_given_the_api_key(
    host: str, *, allowed: bool
) -> None:
    assert is_index_host(host, "http://127.0.0.1:5081/_ix/aviary") is allowed
