"""Trouble that passes: Pinecone and SQS not answering. Nothing is lost, nothing is dead-lettered."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
from pinecone.errors import (
    ApiError,
    ForbiddenError,
    NotFoundError,
    PayloadTooLargeError,
    PineconeConnectionError,
    PineconeError,
    PineconeTimeoutError,
    PineconeValueError,
    RateLimitError,
    ServiceError,
    UnauthorizedError,
)

from aviary.index import PineconeIndex, Record
from aviary.limits import Limiter, Quota, Work
from emu.queue import Received, SqsQueue
from emu.retrying import (
    LONGEST_DELAY_SECONDS,
    Caller,
    IndexState,
    StoppingError,
    Verdict,
    delay_seconds,
    verdict,
)
from emu.stats import Stats
from emu.worker import Emu
from tests.services.emu.embedders import HashEmbedder, vector_of
from tests.services.emu.helpers import Bench, batch, counters, delete, upsert, wait_until


@contextmanager
def running(emu: Emu) -> Iterator[Emu]:
    """`emu.run()` on a thread, stopped at the end."""
    thread = threading.Thread(target=emu.run)
    thread.start()
    try:
        yield emu
    finally:
        emu.stop()
        thread.join(30)
        assert not thread.is_alive()


def test_one_503_costs_one_retry_and_nothing_else(bench: Bench) -> None:
    bench.pinecone.faults(operation="upsert", count=1, status=503)
    bench.send(batch(upsert("1", 1)))
    stats = bench.work()
    assert bench.stored() == {"1": 1}
    assert counters(stats, "retries", "received", "poisoned") == {"retries": 1, "received": 1, "poisoned": 0}


@pytest.mark.parametrize("operation", ["upsert", "delete", "fetch"])
@pytest.mark.parametrize(
    "fault",
    [{"status": 429, "retry_after": 0.2}, {"status": 500}, {"outcome": "reset"}, {"status": 503, "applied": True}],
)
def test_trouble_that_passes_is_retried_until_the_change_is_in(
    bench: Bench, operation: str, fault: dict[str, object]
) -> None:
    bench.send(batch(upsert("1", 1), upsert("2", 1)))
    bench.work()
    bench.pinecone.faults(operation=operation, count=2, **fault)
    bench.send(batch(upsert("1", 2, "new", text_unchanged=True), delete("2", 2)))
    assert bench.work()["retries"] == 2
    assert bench.stored() == {"1": 2}
    assert bench.dead_bodies() == []
    assert bench.left() == 0


def test_a_time_out_after_the_write_was_applied_repeats_it_without_harm(bench: Bench) -> None:
    bench.pinecone.faults(operation="upsert", count=1, outcome="hang", applied=True)
    bench.send(batch(upsert("1", 1)))
    with PineconeIndex(bench.pinecone.api_key, bench.pinecone.host, 0.3, sdk_retries=False) as index:
        emu = Emu(
            bench.settings(),
            queue=SqsQueue(bench.queues.client, bench.queues.queue_url, bench.queues.dlq_url),
            index=index,
            embedder=HashEmbedder(),
        )
        emu.run_until_idle()
    assert bench.stored() == {"1": 1}
    assert bench.left() == 0


def test_the_sdk_makes_one_attempt_so_that_each_is_made_under_a_checked_lease(bench: Bench) -> None:
    bench.pinecone.faults(operation="upsert", status=503)
    with pytest.raises(ServiceError):
        bench.index.upsert("products", [Record("1", vector_of("x"), {})])
    assert bench.pinecone.counts()["upsert"]["requests"] == 1


def test_an_outage_longer_than_the_lease_dead_letters_nothing_and_all_arrives_after_it(bench: Bench) -> None:
    with running(bench.emu(visibility_seconds=2)) as emu:
        wait_until(lambda: emu.ready() == {"queue": "ok", "index": "ok"}, "both are reached")
        bench.pinecone.faults(operation="*", status=503)
        for group in range(5):
            bench.send(batch(*(upsert(f"{group}-{n}", 1) for n in range(10))), group=f"1-{group}")
        started = time.monotonic()
        wait_until(lambda: emu.snapshot()["retries"], "the first refusal")
        assert emu.ready()["index"] == "the index does not answer (503)"
        wait_until(lambda: time.monotonic() - started > 4.2, "two leases have passed")
        assert emu.snapshot()["leases_lost"] == 0
        bench.pinecone.server.clear_faults()
        wait_until(lambda: emu.snapshot()["acknowledged"] == 5, "all is written")
        assert emu.ready() == {"queue": "ok", "index": "ok"}
        assert counters(emu.snapshot(), "received", "poisoned") == {"received": 5, "poisoned": 0}
    assert len(bench.stored()) == 50
    assert bench.dead_bodies() == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_only_a_person_can_mend_is_waited_for_and_said(bench: Bench, status: int) -> None:
    bench.pinecone.faults(operation="upsert", status=status)
    bench.send(batch(upsert("1", 1)))
    with running(bench.emu()) as emu:
        wait_until(lambda: emu.ready()["index"] != "ok" and emu.snapshot()["retries"], "the refusal is noticed")
        assert emu.ready()["index"] == f"the index refuses us ({status})"
        assert emu.alive()
        bench.pinecone.server.clear_faults()
        wait_until(lambda: emu.snapshot()["acknowledged"], "the change is written")
    assert bench.stored() == {"1": 1}
    assert bench.dead_bodies() == []


def test_an_unknown_or_failing_index_is_looked_at_without_any_work(bench: Bench) -> None:
    with running(bench.emu()) as emu:
        wait_until(lambda: emu.ready() == {"queue": "ok", "index": "ok"}, "both are reached")
    assert bench.pinecone.counts()["describe_index_stats"]["requests"] == 1


def test_while_the_index_does_not_answer_nothing_is_received(bench: Bench) -> None:
    bench.pinecone.faults(operation="*", status=503)
    bench.send(batch(upsert("1", 1)))
    with running(bench.emu()) as emu:
        wait_until(lambda: emu.ready()["index"] == "the index does not answer (503)", "the index is looked at")
        assert emu.alive()
        assert counters(emu.snapshot(), "received") == {"received": 0}
        assert emu.ready()["queue"] == "not reached yet"
    bench.pinecone.server.clear_faults()
    assert bench.work()["acknowledged"] == 1, "nobody holds it"


def test_429_slows_down_what_follows_and_is_counted(bench: Bench) -> None:
    bench.pinecone.faults(operation="upsert", count=1, status=429, retry_after=0.3)
    bench.send(batch(upsert("1", 1)))
    emu = bench.emu()
    emu.run_until_idle()
    stats = emu.snapshot()
    assert counters(stats, "throttled", "retries", "poisoned") == {"throttled": 1, "retries": 1, "poisoned": 0}
    assert stats["rate_shares"] == {"upsert": pytest.approx(0.5, abs=0.1)}
    assert bench.stored() == {"1": 1}


def test_what_a_unit_waits_to_stay_below_the_quota_is_counted() -> None:
    stats, stopping = Stats(), threading.Event()
    caller = Caller(stats, IndexState(), stopping, limiter=Limiter({"fetch": Quota(requests=50)}))
    for _ in range(52):
        caller(Work("fetch", "products"), lambda: None, nullcontext, live=True)
    waited = stats.snapshot()["limit_wait_ms"]
    assert isinstance(waited, int)
    assert waited > 0
    stopping.set()
    with pytest.raises(StoppingError):
        caller(Work("fetch", "products", requests=50), lambda: None, nullcontext, live=True)


def test_state_changes_are_logged_once_and_not_at_every_retry(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.pinecone.faults(operation="upsert", count=4, status=503)
    bench.send(batch(upsert("1", 1)))
    with caplog.at_level("INFO", logger="emu"):
        bench.work()
    states = [record.__dict__["fields"]["state"] for record in caplog.records if record.message == "index_state"]
    assert [state for state in states if state != "ok"] == ["the index does not answer (503)"]
    assert states[-1] == "ok"


def test_a_queue_that_does_not_answer_is_waited_for_and_said(bench: Bench) -> None:
    class Flaky(SqsQueue):
        broken = threading.Event()

        def receive(self, wait_seconds: int, visibility_seconds: int) -> list[Received]:
            url = self._queue_url
            if self.broken.is_set():
                self._queue_url = url.replace(".fifo", "-gone.fifo")
            try:
                return super().receive(0, visibility_seconds)
            finally:
                self._queue_url = url

    queue = Flaky(bench.queues.client, bench.queues.queue_url, bench.queues.dlq_url)
    queue.broken.set()
    with running(Emu(bench.settings(), queue=queue, index=bench.index, embedder=HashEmbedder())) as emu:
        wait_until(lambda: emu.ready()["queue"].startswith("SQS does not answer"), "the failure is noticed")
        bench.send(batch(upsert("1", 1)))
        queue.broken.clear()
        wait_until(lambda: emu.snapshot()["acknowledged"], "the change is written")
        assert emu.ready()["queue"] == "ok"
        assert emu.alive()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RateLimitError(), Verdict.TRANSIENT),
        (ServiceError(status_code=503), Verdict.TRANSIENT),
        (ApiError("x", 408), Verdict.TRANSIENT),
        (PineconeTimeoutError("x"), Verdict.TRANSIENT),
        (PineconeConnectionError("x"), Verdict.TRANSIENT),
        (UnauthorizedError(), Verdict.OPERATOR),
        (ForbiddenError(), Verdict.OPERATOR),
        (NotFoundError(), Verdict.OPERATOR),
        (ApiError("Vector dimension 384 does not match the dimension of the index 512", 400), Verdict.OPERATOR),
        (ApiError("Metadata value must be a string for field 'dimension'", 400), Verdict.CONTENT),
        (PayloadTooLargeError(), Verdict.CONTENT),
        (ApiError("x", 422), Verdict.CONTENT),
        (PineconeValueError("x"), Verdict.CONTENT),
    ],
)
def test_only_what_a_row_can_be_blamed_for_counts_as_its_fault(error: PineconeError, expected: Verdict) -> None:
    assert verdict(error) is expected


def test_waits_grow_to_a_limit_are_spread_and_are_never_shorter_than_asked_for() -> None:
    assert delay_seconds(1, None, 0) < delay_seconds(4, None, 0) < delay_seconds(6, None, 0)
    assert delay_seconds(10_000, None, 1) == LONGEST_DELAY_SECONDS
    assert delay_seconds(3, None, 0) < delay_seconds(3, None, 1)
    assert delay_seconds(1, 7.0, 0) == 7.0
    assert delay_seconds(1, 1e9, 0) == 60.0
