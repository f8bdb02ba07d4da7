"""Injected faults, and what the unchanged SDK makes of them: the classes and retries that our services rely on."""

import time

import httpx
import pytest
from pinecone import Index, Pinecone
from pinecone.errors import (
    ApiError,
    ForbiddenError,
    PineconeConnectionError,
    PineconeTimeoutError,
    RateLimitError,
    ServiceError,
)

from aviary.index import PineconeIndex
from tests.services.pinecone.process import PineconeProcess, PineconeTestIndex
from tests.services.pinecone.samples import as_dict, records, unit_vectors

ATTEMPTS = 4


def write_one(sdk: Index, number: int = 0) -> None:
    sdk.upsert(vectors=[as_dict(records(number + 1)[number])], namespace="p")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_the_sdk_rides_out_a_passing_failure(
    sdk: Index, pinecone_index: PineconeTestIndex, no_backoff: list[float], status: int
) -> None:
    pinecone_index.faults(operation="upsert", status=status, count=3)
    write_one(sdk)
    assert pinecone_index.counts()["upsert"] == {"requests": 4, "errors": 3, "records": 1}
    assert len(no_backoff) == 3


@pytest.mark.parametrize(
    ("status", "kind"), [(429, RateLimitError), (500, ServiceError), (503, ServiceError), (408, ApiError)]
)
def test_a_lasting_failure_is_raised_after_four_attempts(
    sdk: Index, pinecone_index: PineconeTestIndex, no_backoff: list[float], status: int, kind: type[ApiError]
) -> None:
    pinecone_index.faults(operation="upsert", status=status)
    with pytest.raises(kind) as raised:
        write_one(sdk)
    assert (raised.value.status_code, raised.value.message) == (status, "injected fault")
    assert pinecone_index.counts()["upsert"]["requests"] == ATTEMPTS
    assert sdk.describe_index_stats().total_vector_count == 0


@pytest.mark.parametrize(("status", "kind"), [(400, ApiError), (403, ForbiddenError), (501, ServiceError)])
def test_a_refusal_is_raised_at_once(
    sdk: Index, pinecone_index: PineconeTestIndex, status: int, kind: type[ApiError]
) -> None:
    pinecone_index.faults(operation="upsert", status=status, message="no")
    with pytest.raises(kind, match="no"):
        write_one(sdk)
    assert pinecone_index.counts()["upsert"]["requests"] == 1


def test_retry_after_is_sent_and_heeded(sdk: Index, pinecone_index: PineconeTestIndex, no_backoff: list[float]) -> None:
    pinecone_index.faults(operation="query", status=429, retry_after=7, count=1)
    sdk.query(vector=unit_vectors(1)[0].tolist(), top_k=1)
    assert len(no_backoff) == 1
    assert 7 <= no_backoff[0] <= 10.5


def test_retry_after_reaches_the_caller(sdk: Index, pinecone_index: PineconeTestIndex, no_backoff: list[float]) -> None:
    pinecone_index.faults(operation="query", status=429, retry_after=2)
    with pytest.raises(RateLimitError) as raised:
        sdk.query(vector=unit_vectors(1)[0].tolist(), top_k=1)
    assert raised.value.retry_after == 2


def test_a_reset_before_the_write_is_retried_and_written_once(
    sdk: Index, pinecone_index: PineconeTestIndex, no_backoff: list[float]
) -> None:
    pinecone_index.faults(operation="upsert", outcome="reset", count=1)
    write_one(sdk)
    assert pinecone_index.counts()["upsert"] == {"requests": 2, "errors": 1, "records": 1}


def test_a_lasting_reset_is_a_connection_error_and_nothing_is_written(
    sdk: Index, pinecone_index: PineconeTestIndex, no_backoff: list[float]
) -> None:
    pinecone_index.faults(operation="upsert", outcome="reset")
    with pytest.raises(PineconeConnectionError):
        write_one(sdk)
    assert sdk.describe_index_stats().total_vector_count == 0


@pytest.mark.parametrize("outcome", ["status", "reset"])
def test_a_write_may_be_applied_although_the_client_was_told_otherwise(
    sdk: Index, pinecone_index: PineconeTestIndex, no_backoff: list[float], outcome: str
) -> None:
    pinecone_index.faults(operation="upsert", outcome=outcome, applied=True)
    with pytest.raises((ServiceError, PineconeConnectionError)):
        write_one(sdk)
    assert sdk.describe_index_stats().total_vector_count == 1
    # Written once for each attempt: a write must be able to bear that.
    assert pinecone_index.counts()["upsert"]["records"] == ATTEMPTS


@pytest.mark.parametrize("applied", [False, True])
def test_a_write_that_is_never_answered_times_out_applied_or_not(
    pinecone_index: PineconeTestIndex, no_backoff: list[float], applied: bool
) -> None:
    pinecone_index.faults(operation="upsert", outcome="hang", applied=applied)
    with PineconeIndex(pinecone_index.api_key, pinecone_index.host, timeout_seconds=0.1) as index:
        with pytest.raises(PineconeTimeoutError):
            index.upsert("p", records(1))
        pinecone_index.server.clear_faults()
        assert index.count("p") == int(applied)


def test_a_delay_makes_a_request_slow_and_changes_nothing_else(sdk: Index, pinecone_index: PineconeTestIndex) -> None:
    pinecone_index.faults(operation="upsert", outcome="pass", delay_ms=120, count=1)
    begun = time.monotonic()
    write_one(sdk)
    assert time.monotonic() - begun >= 0.12
    assert sdk.describe_index_stats().total_vector_count == 1


def test_the_adapter_raises_the_first_request_that_fails_and_keeps_what_went_before(
    index: PineconeIndex, pinecone_index: PineconeTestIndex
) -> None:
    pinecone_index.faults(operation="upsert", status=400, skip=1, count=1)
    with pytest.raises(ApiError):
        index.upsert("p", records(1_000))
    counts = pinecone_index.counts()["upsert"]
    assert (counts["requests"], counts["errors"]) == (2, 1)
    assert 0 < index.count("p") == counts["records"] < 1_000


def test_batches_of_the_sdk_itself_hide_failures_which_is_why_the_adapter_does_not_use_them(
    sdk: Index, pinecone_index: PineconeTestIndex
) -> None:
    pinecone_index.faults(operation="upsert", status=400)
    answer = sdk.upsert(vectors=[as_dict(record) for record in records(4)], batch_size=2, namespace="p")
    assert (answer.has_errors, answer.upserted_count) == (True, 0)


def test_after_many_failures_the_sdk_stops_retrying_until_it_is_reset(
    sdk: Index, pinecone_index: PineconeTestIndex, no_backoff: list[float]
) -> None:
    pinecone_index.faults(operation="query", status=503)
    requests = []
    for _ in range(16):
        before = pinecone_index.counts().get("query", {"requests": 0})["requests"]
        with pytest.raises(ServiceError):
            sdk.query(vector=unit_vectors(1)[0].tolist(), top_k=1)
        requests.append(pinecone_index.counts()["query"]["requests"] - before)
    assert requests[0] == ATTEMPTS
    assert requests[-1] == 1
    pinecone_index.server.clear_faults()
    pinecone_index.faults(operation="query", status=503, count=1)
    sdk.query(vector=unit_vectors(1)[0].tolist(), top_k=1)


def test_a_rule_picks_its_requests_by_index_namespace_and_turn(sdk: Index, pinecone_index: PineconeTestIndex) -> None:
    pinecone_index.faults(operation="upsert", namespace="p", status=400, skip=1, count=2)
    outcomes = []
    for namespace in ("p", "q", "p", "q", "p", "p"):
        try:
            sdk.upsert(vectors=[as_dict(records(1)[0])], namespace=namespace)
            outcomes.append("ok")
        except ApiError:
            outcomes.append("failed")
    assert outcomes == ["ok", "ok", "failed", "ok", "failed", "ok"]
    mine = pinecone_index.server.fault_report()["rules"][-1]
    assert (mine["seen"], mine["injected"], mine["fault"]["namespace"]) == (3, 2, "p")


def test_a_rule_for_a_namespace_reaches_every_kind_of_request(sdk: Index, pinecone_index: PineconeTestIndex) -> None:
    write_one(sdk)
    pinecone_index.faults(namespace="p", status=400, message="hit")
    with pytest.raises(ApiError, match="hit"):
        sdk.fetch(ids=["k0"], namespace="p")
    with pytest.raises(ApiError, match="hit"):
        sdk.delete(ids=["k0"], namespace="p")
    with pytest.raises(ApiError, match="hit"):
        sdk.describe_namespace(name="p")
    assert sdk.fetch(ids=["k0"], namespace="q").vectors == {}


def test_a_rule_may_end_after_a_time(sdk: Index, pinecone_index: PineconeTestIndex) -> None:
    begun = time.monotonic()
    pinecone_index.faults(operation="upsert", status=400, seconds=0.3)
    failures = 0
    while time.monotonic() < begun + 10:
        try:
            write_one(sdk)
            break
        except ApiError:
            failures += 1
    assert failures > 0
    assert time.monotonic() - begun >= 0.3


def test_a_probability_is_the_same_for_the_same_seed(sdk: Index, pinecone_index: PineconeTestIndex) -> None:
    def outcomes(seed: int) -> list[bool]:
        pinecone_index.server.clear_faults()
        pinecone_index.faults(operation="describe_index_stats", status=400, probability=0.5, seed=seed)
        failed = []
        for _ in range(30):
            try:
                sdk.describe_index_stats()
                failed.append(False)
            except ApiError:
                failed.append(True)
        return failed

    first = outcomes(1)
    assert first == outcomes(1)
    assert first != outcomes(2)
    assert 5 < sum(first) < 25


def test_the_control_plane_fails_in_its_own_shape(pinecone_client: Pinecone, pinecone_index: PineconeTestIndex) -> None:
    pinecone_index.faults(operation="describe_index", status=403, message="no")
    with pytest.raises(ForbiddenError) as raised:
        pinecone_client.describe_index(pinecone_index.name)
    assert raised.value.error_code == "FORBIDDEN"


@pytest.mark.parametrize(
    "rule",
    [
        {"operation": "upsurt"},
        {"outcome": "explode"},
        {"operation": "upsert", "outcome": "not_ready"},
        {"unknown": 1},
        {"status": "503"},
    ],
)
def test_a_rule_that_could_never_happen_is_refused(pinecone: PineconeProcess, rule: dict[str, object]) -> None:
    answer = httpx.post(f"{pinecone.control_host}/_faults", json=rule)
    assert answer.status_code == 400


def test_cleared_faults_are_over_and_their_counters_gone(sdk: Index, pinecone_index: PineconeTestIndex) -> None:
    pinecone_index.faults(operation="upsert", status=400)
    with pytest.raises(ApiError):
        write_one(sdk)
    assert pinecone_index.server.fault_report()["injected"] == {"upsert": 1}
    pinecone_index.server.clear_faults()
    write_one(sdk)
    assert pinecone_index.server.fault_report() == {"rules": [], "injected": {}}
