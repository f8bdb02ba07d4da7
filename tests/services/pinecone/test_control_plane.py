"""Every call of the SDK that we make of the control plane."""

import uuid
from collections.abc import Iterator

import httpx
import pytest
from pinecone import Pinecone
from pinecone.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    IndexInitFailedError,
    NotFoundError,
    PineconeTimeoutError,
    UnauthorizedError,
)

from tests.services.pinecone.process import PineconeProcess, PineconeTestIndex

SERVERLESS = {"serverless": {"cloud": "aws", "region": "eu-west-1"}}


@pytest.fixture
def name(client: Pinecone, pinecone: PineconeProcess) -> Iterator[str]:
    """A free name, cleaned up afterwards."""
    free = f"free-{uuid.uuid4().hex[:12]}"
    yield free
    pinecone.clear_faults()
    if client.has_index(free):
        client.configure_index(free, deletion_protection="disabled")
        client.delete_index(free)


def test_an_index_is_created_described_listed_and_deleted(
    client: Pinecone, pinecone: PineconeProcess, name: str
) -> None:
    assert not client.has_index(name)
    created = client.create_index(name=name, dimension=8, metric="dotproduct", spec=SERVERLESS, tags={"env": "dev"})
    described = client.describe_index(name)
    assert created == described
    assert (described.dimension, described.metric, described.vector_type) == (8, "dotproduct", "dense")
    assert described.spec.serverless is not None
    assert described.spec.serverless.region == "eu-west-1"
    assert (described.deletion_protection, described.tags) == ("disabled", {"env": "dev"})
    assert described.status.ready
    assert described.host == pinecone.index_host(name)
    assert name in client.list_indexes().names()
    client.delete_index(name)
    assert not client.has_index(name)
    assert name not in client.list_indexes().names()


def test_the_host_in_the_answer_is_the_one_the_client_came_by(pinecone: PineconeProcess, name: str) -> None:
    by_name = f"http://localhost:{pinecone.port}"
    with Pinecone(api_key=pinecone.api_key, host=by_name) as client:
        created = client.create_index(name=name, dimension=8, spec=SERVERLESS)
        assert created.host == f"{by_name}/_ix/{name}"
        with client.index(name) as index:
            assert index.describe_index_stats().dimension == 8


def test_the_current_form_of_create_works_as_the_deprecated_one_does(client: Pinecone, name: str) -> None:
    schema = {"fields": {"_values": {"type": "dense_vector", "dimension": 8, "metric": "euclidean"}}}
    created = client.indexes.create(name=name, schema=schema)
    assert (created.dimension, created.metric) == (8, "euclidean")


def test_a_taken_name_is_a_conflict_and_changes_nothing(client: Pinecone, name: str) -> None:
    client.create_index(name=name, dimension=8, spec=SERVERLESS)
    with pytest.raises(ConflictError) as raised:
        client.create_index(name=name, dimension=16, spec=SERVERLESS)
    assert raised.value.error_code == "ALREADY_EXISTS"
    assert client.describe_index(name).dimension == 8


def test_what_is_not_there_is_not_found(client: Pinecone, name: str) -> None:
    with pytest.raises(NotFoundError) as raised:
        client.describe_index(name)
    assert raised.value.error_code == "NOT_FOUND"
    assert raised.value.body == {"error": {"code": "NOT_FOUND", "message": f"Resource {name} not found"}, "status": 404}
    with pytest.raises(NotFoundError):
        client.delete_index(name)
    with pytest.raises(NotFoundError):
        client.configure_index(name, tags={"a": "b"})


def test_a_protected_index_is_deleted_only_after_its_protection_is_off(client: Pinecone, name: str) -> None:
    client.create_index(name=name, dimension=8, spec=SERVERLESS, deletion_protection="enabled")
    with pytest.raises(ForbiddenError) as raised:
        client.delete_index(name)
    assert raised.value.error_code == "FORBIDDEN"
    assert client.has_index(name)
    client.configure_index(name, deletion_protection="disabled")
    client.delete_index(name)
    assert not client.has_index(name)


def test_tags_merge_and_an_empty_value_removes_one(client: Pinecone, name: str) -> None:
    client.create_index(name=name, dimension=8, spec=SERVERLESS, tags={"a": "1", "b": "2"})
    changed = client.indexes.configure(name, tags={"b": "", "c": "3"})
    assert changed.tags == {"a": "1", "c": "3"}
    assert client.describe_index(name).tags == {"a": "1", "c": "3"}
    client.configure_index(name, tags={"a": "", "c": ""})
    assert client.describe_index(name).tags is None


def test_tags_leave_protection_alone_and_the_other_way_round(client: Pinecone, name: str) -> None:
    client.create_index(name=name, dimension=8, spec=SERVERLESS, tags={"a": "1"}, deletion_protection="enabled")
    client.configure_index(name, tags={"b": "2"})
    assert client.describe_index(name).deletion_protection == "enabled"
    client.configure_index(name, deletion_protection="disabled")
    assert client.describe_index(name).tags == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "Upper"}, "1 to 45 characters"),
        ({"name": "a" * 46}, "1 to 45 characters"),
        ({"name": "-a"}, "1 to 45 characters"),
        ({"name": "../a"}, "1 to 45 characters"),
        ({"name": None}, "1 to 45 characters"),
        ({"schema": {"fields": {"_values": {"type": "dense_vector", "dimension": 0}}}}, "between 1 and 20000"),
        ({"schema": {"fields": {"_values": {"type": "dense_vector", "dimension": 20_001}}}}, "between 1 and 20000"),
        ({"schema": {"fields": {"_values": {"type": "dense_vector", "dimension": 8, "metric": "x"}}}}, "metric"),
        ({"schema": {"fields": {"title": {"type": "string"}}}}, "Vectors API only"),
        ({"schema": {}}, "Vectors API only"),
        ({"tags": {f"t{i}": "v" for i in range(21)}}, "at most 20 tags"),
        ({"tags": {"k": "v" * 121}}, "at most 120"),
        ({"tags": {"bad key": "v"}}, "Tag key"),
        ({"deletion_protection": "perhaps"}, "deletion_protection"),
        ({"schema": None}, "schema"),
    ],
)
def test_an_illegal_index_is_an_invalid_argument(
    pinecone: PineconeProcess, name: str, change: dict[str, object], says: str
) -> None:
    schema = {"fields": {"_values": {"type": "dense_vector", "dimension": 8, "metric": "cosine"}}}
    body = {"name": name, "schema": schema} | change
    answer = httpx.post(f"{pinecone.control_host}/indexes", json=body, headers={"api-key": pinecone.api_key})
    assert answer.status_code == 400
    assert answer.json()["status"] == 400
    assert answer.json()["error"]["code"] == "INVALID_ARGUMENT"
    assert says in answer.json()["error"]["message"]


def test_an_index_may_stay_not_ready_for_some_descriptions(
    client: Pinecone, pinecone: PineconeProcess, name: str
) -> None:
    client.create_index(name=name, dimension=8, spec=SERVERLESS, timeout=-1)
    pinecone.faults(operation="describe_index", index=name, outcome="not_ready", count=2)
    first, second, third = (client.describe_index(name) for _ in range(3))
    assert (first.status.ready, first.status.state, first.host) == (False, "Initializing", None)
    assert not second.status.ready
    assert third.status.ready
    assert third.host


def test_the_sdk_waits_for_an_index_to_be_ready(client: Pinecone, pinecone: PineconeProcess, name: str) -> None:
    pinecone.faults(operation="describe_index", index=name, outcome="not_ready", count=1)
    assert client.create_index(name=name, dimension=8, spec=SERVERLESS, timeout=1).status.ready


def test_an_index_that_never_becomes_ready_is_a_time_out(
    client: Pinecone, pinecone: PineconeProcess, name: str
) -> None:
    pinecone.faults(operation="describe_index", index=name, outcome="not_ready")
    with pytest.raises(PineconeTimeoutError):
        client.create_index(name=name, dimension=8, spec=SERVERLESS, timeout=1)


def test_an_index_that_fails_to_initialise_is_told_as_such(
    client: Pinecone, pinecone: PineconeProcess, name: str
) -> None:
    pinecone.faults(operation="describe_index", index=name, outcome="not_ready", state="InitializationFailed")
    with pytest.raises(IndexInitFailedError):
        client.create_index(name=name, dimension=8, spec=SERVERLESS)


@pytest.mark.parametrize("key", ["wrong", "Test-Key"])
def test_a_wrong_key_is_refused_in_plain_text(pinecone: PineconeProcess, key: str) -> None:
    with Pinecone(api_key=key, host=pinecone.control_host) as client, pytest.raises(UnauthorizedError) as raised:
        client.list_indexes()
    assert raised.value.message == "Unauthorized"


def test_no_key_is_refused_on_both_planes(pinecone_index: PineconeTestIndex) -> None:
    assert httpx.get(f"{pinecone_index.server.control_host}/indexes").status_code == 401
    assert httpx.post(f"{pinecone_index.host}/query", json={}).status_code == 401


def test_another_version_of_the_api_is_refused_in_words(pinecone: PineconeProcess) -> None:
    headers = {"x-pinecone-api-version": "2025-01"}
    with (
        Pinecone(api_key=pinecone.api_key, host=pinecone.control_host, additional_headers=headers) as client,
        pytest.raises(ApiError, match="2026-07"),
    ):
        client.list_indexes()


def test_unknown_paths_and_methods_are_answered_in_the_shape_of_their_plane(pinecone_index: PineconeTestIndex) -> None:
    control = pinecone_index.server.control_host
    assert httpx.get(f"{control}/collections").json()["error"]["code"] == "NOT_FOUND"
    assert httpx.put(f"{control}/indexes").status_code == 405
    data = httpx.get(f"{pinecone_index.host}/bulk/imports")
    assert (data.status_code, data.json()["code"], data.json()["details"]) == (404, 5, [])
    assert httpx.get(f"{pinecone_index.host}/query").status_code == 405
