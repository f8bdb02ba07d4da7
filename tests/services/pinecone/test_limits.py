"""Pinecone's limits and refusals on the data plane: the number, the status, the shape and the text."""

from typing import Any

import httpx
import pytest
from pinecone import Index
from pinecone.errors import ApiError, PayloadTooLargeError

from local.pinecone import wire
from tests.services.pinecone.conftest import Send
from tests.services.pinecone.samples import as_dict, records, unit_vectors

VALUES = unit_vectors(1)[0].tolist()


def refused(send: Send, path: str, body: Any, status: int = 400) -> str:
    """The message of a refusal, whose shape is checked."""
    answer = send("POST", path, **({"content": body} if isinstance(body, bytes) else {"json": body}))
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"code", "message", "details"}
    assert answer.json()["code"] == {400: 3, 404: 5, 409: 6, 413: 11}[status]
    assert answer.headers["content-type"] == "application/json"
    return str(answer.json()["message"])


def upsert_of(**vector: Any) -> dict[str, Any]:
    return {"vectors": [{"id": "a", "values": VALUES} | vector], "namespace": "p"}


def test_a_wrong_dimension(sdk: Index) -> None:
    says = "Vector dimension 3 does not match the dimension of the index 384"
    for call in (
        lambda: sdk.upsert(vectors=[("a", [1.0, 2.0, 3.0])]),
        lambda: sdk.query(vector=[1.0, 2.0, 3.0], top_k=1),
        lambda: sdk.update(id="a", values=[1.0, 2.0, 3.0]),
    ):
        with pytest.raises(ApiError) as raised:
            call()
        assert (raised.value.status_code, raised.value.message) == (400, says)


def test_one_bad_record_refuses_its_neighbours(sdk: Index) -> None:
    good = [as_dict(record) for record in records(5)]
    with pytest.raises(ApiError):
        sdk.upsert(vectors=[*good, ("bad", [0.0] * 384)], namespace="p")
    assert sdk.describe_index_stats().total_vector_count == 0


def test_a_zero_vector(send: Send) -> None:
    says = "Dense vectors must contain at least one non-zero value"
    assert refused(send, "/vectors/upsert", upsert_of(values=[0.0] * 384)) == says
    assert refused(send, "/vectors/update", {"id": "a", "values": [0] * 384}) == says


def test_nan_arrives_as_null_and_is_refused(sdk: Index, send: Send) -> None:
    with pytest.raises(ApiError, match="null"):
        sdk.upsert(vectors=[("a", [float("nan"), *VALUES[1:]])])
    for value in ("null", '"1"', "NaN", "1e400", "true"):
        body = f'{{"vectors":[{{"id":"a","values":[{value},{"1," * 382}1]}}]}}'.encode()
        refused(send, "/vectors/upsert", body)
    too_large = f'{{"vectors":[{{"id":"a","values":[1e39,{"1," * 382}1]}}]}}'.encode()
    assert "32-bit" in refused(send, "/vectors/upsert", too_large)


@pytest.mark.parametrize("size", [1e25, 1e-30])
def test_a_length_that_float32_cannot_hold_is_refused_and_not_stored_as_nonsense(send: Send, size: float) -> None:
    assert "length" in refused(send, "/vectors/upsert", upsert_of(values=[size] * 384))


def test_a_thousand_records_and_no_more(send: Send) -> None:
    # A dimension of 384 at one digit each: a thousand records are far below 2 MB.
    vectors = [{"id": f"k{i}", "values": [1] * 384} for i in range(1_001)]
    assert "1000 records" in refused(send, "/vectors/upsert", {"vectors": vectors})
    assert send("POST", "/vectors/upsert", json={"vectors": vectors[:1_000]}).json() == {"upsertedCount": 1_000}


def test_two_megabytes_and_no_more(sdk: Index, send: Send) -> None:
    with pytest.raises(PayloadTooLargeError, match="exceeds the maximum supported size of 2MB"):
        sdk.upsert(vectors=[as_dict(record) for record in records(600)])
    body = b'{"vectors":[{"id":"a","values":[' + b"1," * 383 + b"1]}]"
    padded = body + b" " * (wire.MAX_BODY_BYTES - len(body) - 1) + b"}"
    assert send("POST", "/vectors/upsert", content=padded).status_code == 200
    refused(send, "/vectors/upsert", padded + b" ", status=413)


def test_the_client_of_a_much_too_large_request_gets_the_answer_and_not_a_broken_pipe(send: Send) -> None:
    refused(send, "/vectors/upsert", b" " * 20_000_000, status=413)


@pytest.mark.parametrize("id_", ["", "x" * 513, "é", "a\0b"])
def test_ids_are_1_to_512_ascii_characters(send: Send, id_: str) -> None:
    for path, body in (
        ("/vectors/upsert", upsert_of(id=id_)),
        ("/vectors/update", {"id": id_, "setMetadata": {}}),
        ("/vectors/delete", {"ids": [id_], "namespace": "p"}),
        ("/query", {"id": id_, "topK": 1, "namespace": "p"}),
    ):
        if path == "/vectors/delete":
            send("POST", "/vectors/upsert", json=upsert_of())
        assert "Vector ID" in refused(send, path, body)
    answer = send("GET", "/vectors/fetch", params={"ids": ["a", id_]})
    assert answer.status_code == 400


def test_an_id_of_512_characters_is_fine(sdk: Index) -> None:
    sdk.upsert(vectors=[("x" * 512, VALUES)])
    assert set(sdk.fetch(ids=["x" * 512]).vectors) == {"x" * 512}


def test_metadata_of_40960_bytes_and_no_more(send: Send) -> None:
    fits = {"t": "x" * (40_960 - len('{"t":""}'))}
    assert send("POST", "/vectors/upsert", json=upsert_of(metadata=fits)).status_code == 200
    over = {"t": fits["t"] + "x"}
    says = "metadata size is 40961 bytes, which exceeds the limit of 40960 bytes per vector"
    assert refused(send, "/vectors/upsert", upsert_of(metadata=over)) == says


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"a": 1}, '{"a":1.0}'),
        ([1, 2], "[1.0,2.0]"),
        (["a", None], '["a",null]'),
        ([["a"]], '[["a"]]'),
        ({"a": "long enough to cut"}, '{"a":"long enoug...'),
    ],
)
def test_metadata_of_another_type(send: Send, value: Any, shown: str) -> None:
    message = refused(send, "/vectors/upsert", upsert_of(metadata={"x": value}))
    assert (
        message == f"Metadata value must be a string, number, boolean or list of strings, got '{shown}' for field 'x'"
    )


def test_metadata_keys_must_not_start_with_a_dollar(send: Send) -> None:
    assert "'$'" in refused(send, "/vectors/upsert", upsert_of(metadata={"$x": 1}))
    assert "'$'" in refused(send, "/vectors/update", {"id": "a", "setMetadata": {"$x": 1}})


def test_a_number_beyond_64_bits_is_refused(send: Send) -> None:
    body = b'{"vectors":[{"id":"a","values":[' + b"1," * 383 + b'1],"metadata":{"x":' + b"9" * 400 + b"}}]}"
    assert "64-bit" in refused(send, "/vectors/upsert", body)
    assert "64 bits" in refused(send, "/query", b'{"id":"a","topK":1,"filter":{"x":{"$gt":' + b"9" * 400 + b"}}}")


@pytest.mark.parametrize("top_k", [0, -1, 10_001])
def test_top_k_is_1_to_10000(send: Send, top_k: int) -> None:
    assert "topK must be between 1 and 10000" in refused(send, "/query", {"vector": VALUES, "topK": top_k})


def test_a_query_has_a_vector_or_an_id(send: Send) -> None:
    refused(send, "/query", {"topK": 1})
    refused(send, "/query", {"topK": 1, "id": "a", "vector": VALUES})


def test_a_query_answer_has_four_megabytes_and_no_more(sdk: Index) -> None:
    for start in range(0, 150, 40):
        sdk.upsert(vectors=[(f"k{i}", VALUES, {"t": "x" * 40_000}) for i in range(start, start + 40)])
    assert len(sdk.query(vector=VALUES, top_k=100, include_metadata=True).matches) == 100
    with pytest.raises(ApiError, match="exceeds the limit of 4194304 bytes"):
        sdk.query(vector=VALUES, top_k=110, include_metadata=True)
    assert len(sdk.query(vector=VALUES, top_k=110).matches) == 110


def test_a_thousand_ids_to_fetch_or_delete_and_no_more(sdk: Index, send: Send) -> None:
    sdk.upsert(vectors=[("1", VALUES)])
    ids = [str(i) for i in range(1_001)]
    assert send("GET", "/vectors/fetch", params={"ids": ids}).status_code == 400
    assert set(sdk.fetch(ids=ids[:1_000]).vectors) == {"1"}
    assert "1000" in refused(send, "/vectors/delete", {"ids": ids})
    sdk.delete(ids=ids[:1_000])
    assert sdk.describe_index_stats().total_vector_count == 0


def test_a_url_as_long_as_the_sdk_can_send_is_read(sdk: Index) -> None:
    sdk.upsert(vectors=[("1", VALUES)])
    assert set(sdk.fetch(ids=["1", *(f"{i:0500}" for i in range(129))]).vectors) == {"1"}
    with pytest.raises(httpx.InvalidURL):
        sdk.fetch(ids=[f"{i:0500}" for i in range(130)])


@pytest.mark.parametrize("limit", ["0", "101", "x", "-1"])
def test_a_page_has_1_to_100_ids(send: Send, limit: str) -> None:
    assert send("GET", "/vectors/list", params={"limit": limit}).status_code == 400
    assert send("GET", "/namespaces", params={"limit": limit}).status_code == 400


def test_a_token_that_is_not_ours_is_refused(send: Send) -> None:
    assert send("GET", "/vectors/list", params={"paginationToken": "%%%é"}).status_code == 400


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "One of ids, deleteAll or filter"),
        ({"deleteAll": True, "ids": ["a"]}, "No explicit IDs allowed"),
        ({"deleteAll": True, "filter": {"a": 1}}, "No filter allowed"),
        ({"filter": {}}, "Delete with empty metadata filter is not allowed"),
    ],
)
def test_a_delete_names_exactly_one_thing(send: Send, body: dict[str, Any], says: str) -> None:
    assert says in refused(send, "/vectors/delete", body)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"setMetadata": {}}, "Exactly one of id or filter"),
        ({"id": "a", "filter": {"a": 1}}, "Exactly one of id or filter"),
        ({"filter": {}, "setMetadata": {}}, "Update with empty metadata filter is not allowed"),
        ({"filter": {"a": 1}, "values": VALUES}, "does not support updating vector values"),
    ],
)
def test_an_update_names_exactly_one_thing(send: Send, body: dict[str, Any], says: str) -> None:
    assert says in refused(send, "/vectors/update", body)


def test_an_empty_filter_to_fetch_by(send: Send) -> None:
    assert (
        refused(send, "/vectors/fetch_by_metadata", {"filter": {}})
        == "Empty filter provided for fetch by metadata request"
    )
    refused(send, "/vectors/fetch_by_metadata", {"filter": {"a": 1}, "limit": 10_001})


def test_sparse_values_are_for_another_kind_of_index(send: Send) -> None:
    sparse = {"indices": [1], "values": [1.0]}
    assert "sparse" in refused(send, "/vectors/upsert", upsert_of(sparseValues=sparse))
    assert "sparse" in refused(send, "/query", {"topK": 1, "vector": VALUES, "sparseVector": sparse})


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff", b'{"vectors":[]}', b'{"vectors":[{"values":[1]}]}', b'{"vectors":[1]}', b"[" * 100_000],
)
def test_a_body_that_is_no_request_is_a_400_and_never_a_500(send: Send, body: bytes) -> None:
    refused(send, "/vectors/upsert", body)


@pytest.mark.parametrize("namespace", ["x" * 513, "é", "a\0"])
def test_a_namespace_is_at_most_512_ascii_characters(send: Send, namespace: str) -> None:
    assert "namespace" in refused(send, "/vectors/upsert", upsert_of() | {"namespace": namespace})


def test_the_default_namespace_cannot_be_created(send: Send) -> None:
    assert "reserved" in refused(send, "/namespaces", {"name": "__default__"})


def test_an_index_that_is_not_there(send: Send) -> None:
    answer = send("POST", "-not-there/query", json={"topK": 1, "vector": VALUES})
    assert (answer.status_code, answer.json()["code"]) == (404, 5)
