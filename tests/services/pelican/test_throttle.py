"""The gate, the bell, pauses and states: small parts with a clock of their own."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from pelican.backoff import Backoff, Dependency
from pelican.outbox import BACKFILL, FILL, LIVE, Work
from pelican.service import Pelican
from pelican.throttle import BESIDE_LIVE_SECONDS, Gate
from pelican.worker import Bell
from tests.services.pelican.harness import DEADLINE_SECONDS, MemoryQueue, Store, settings_for, wait_until


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(memory: MemoryQueue, clock: Clock) -> Gate:
    return Gate(memory, live_limit=100, backfill_limit=10, merge_limit=100, clock=clock)


def allows(gate: Gate, lane: int) -> bool:
    with gate.room(lane) as allowed:
        return allowed


def test_single_changes_never_wait_for_a_look_at_the_queue(gate: Gate, memory: MemoryQueue) -> None:
    for _ in range(10):
        assert allows(gate, LIVE)
        gate.sent(1)
    assert memory.asked == 0


def test_a_backfill_waits_at_a_depth_where_live_changes_do_not(gate: Gate, memory: MemoryQueue) -> None:
    memory.waiting = 10
    assert not allows(gate, BACKFILL)
    assert allows(gate, LIVE)


def test_nothing_is_sent_into_a_full_queue(gate: Gate, memory: MemoryQueue, clock: Clock) -> None:
    memory.waiting = 100
    assert not allows(gate, BACKFILL)
    assert not allows(gate, LIVE)
    memory.waiting = 5
    assert not allows(gate, LIVE)  # not asked again yet
    clock.now = 0.3
    assert allows(gate, LIVE)


def test_what_was_sent_since_the_last_look_counts(gate: Gate, memory: MemoryQueue, clock: Clock) -> None:
    assert allows(gate, BACKFILL)
    gate.sent(10)
    assert not allows(gate, BACKFILL)
    memory.waiting = 2
    clock.now = 0.3
    assert allows(gate, BACKFILL)


def test_the_queue_is_asked_at_most_once_a_second_while_there_is_room(
    gate: Gate, memory: MemoryQueue, clock: Clock
) -> None:
    for hundredth in range(300):
        clock.now = hundredth / 100
        assert allows(gate, BACKFILL)
    assert memory.asked == 3


def test_live_changes_stop_at_their_limit_even_if_nobody_looked(gate: Gate, memory: MemoryQueue) -> None:
    memory.waiting = 1_000
    allowed = 0
    while allows(gate, LIVE):
        gate.sent(1)
        allowed += 1
        assert allowed <= 100
    assert allowed == 11


def test_small_live_changes_wait_while_messages_wait(memory: MemoryQueue, clock: Clock) -> None:
    gate = Gate(memory, live_limit=1_000, backfill_limit=4, merge_limit=16, clock=clock)
    memory.waiting, memory.held = 3, 500
    sent = 0
    while allows(gate, LIVE):
        gate.sent(1)
        gate.packed(2, 1)
        sent, memory.waiting = sent + 1, memory.waiting + 1
    assert 16 <= sent <= 20
    memory.waiting, clock.now = 1, 0.3
    assert allows(gate, LIVE)


def test_full_live_messages_wait_for_nothing_but_a_full_queue(memory: MemoryQueue, clock: Clock) -> None:
    gate = Gate(memory, live_limit=1_000, backfill_limit=4, merge_limit=16, clock=clock)
    sent = 0
    while allows(gate, LIVE):
        gate.sent(10)
        gate.packed(1_000, 10)
        sent, memory.waiting = sent + 10, memory.waiting + 10
        clock.now += 1.0
    assert sent == 1_000


def test_only_one_worker_sends_of_a_backfill_at_a_time(gate: Gate) -> None:
    with gate.room(BACKFILL) as first, gate.room(BACKFILL) as second, gate.room(LIVE) as live:
        assert (first, second, live) == (True, False, True)
    assert allows(gate, BACKFILL)


class Emus:
    """Take messages of a backfill at once, as many as they are, and give each back `seconds` later; what a gate lets
    through meanwhile."""

    def __init__(self, gate: Gate, memory: MemoryQueue, clock: Clock, *, number: int, seconds: float) -> None:
        self._gate, self._memory, self._clock = gate, memory, clock
        self._number, self._seconds = number, seconds
        self._work: list[float] = []
        self._waiting = 0

    def run(self, seconds: float) -> tuple[int, int]:
        """Messages done in that time, and the most that ever waited."""
        done = most = 0
        end = self._clock.now + seconds
        while self._clock.now < end:
            self._clock.now += 0.01
            busy = [until for until in self._work if until > self._clock.now]
            done += len(self._work) - len(busy)
            with self._gate.room(BACKFILL) as allowed:
                if allowed:
                    self._gate.sent(2)
                    self._waiting += 2
            taken = min(self._waiting, self._number - len(busy))
            self._work = busy + [self._clock.now + self._seconds] * taken
            self._waiting -= taken
            self._memory.waiting, self._memory.held = self._waiting, len(self._work)
            most = max(most, self._waiting)
        return done, most


@pytest.mark.parametrize("live", [False, True], ids=["quiet", "live"])
@pytest.mark.parametrize("number", [2, 20, 90])
def test_a_backfill_keeps_many_emus_busy_and_has_little_waiting(
    memory: MemoryQueue, clock: Clock, number: int, live: bool
) -> None:
    gate = Gate(memory, live_limit=1_000, backfill_limit=4, merge_limit=16, clock=clock)
    emus = Emus(gate, memory, clock, number=number, seconds=1.0)

    def run(seconds: int) -> list[tuple[int, int]]:
        found = []
        for _ in range(seconds):
            found.append(emus.run(1.0))
            if live:
                assert allows(gate, LIVE)
        return found

    run(45)
    found = run(60)
    assert sum(done for done, _ in found) >= 0.9 * 60 * number
    # A try to grow leaves more waiting for a moment.
    often = sorted(waiting for _, waiting in found)[50]
    assert often <= max(6, number // 2)


def test_a_backfill_goes_on_beside_live_changes_that_always_fill_its_limit(
    gate: Gate, memory: MemoryQueue, clock: Clock
) -> None:
    memory.waiting = 50
    sent = 0
    for second in range(300):
        clock.now = float(second)
        sent += allows(gate, BACKFILL)
    assert 25 <= sent <= 31


def test_a_backfill_is_owed_its_turn_when_it_had_none_for_a_while(gate: Gate, clock: Clock) -> None:
    clock.now = BESIDE_LIVE_SECONDS
    assert gate.owes_backfill
    assert allows(gate, BACKFILL)
    assert not gate.owes_backfill
    clock.now += BESIDE_LIVE_SECONDS
    assert gate.owes_backfill


def test_a_backfill_goes_round_the_shards(gate: Gate, clock: Clock) -> None:
    shards = [Work(BACKFILL, 1, shard) for shard in range(16)]
    rounds = []
    for _ in range(3):
        seen = []
        for _ in shards:
            clock.now += 1.0
            seen.append(gate.in_turn(shards)[0])
            gate.filled([seen[-1]])
        rounds.append(seen)
    assert sorted(rounds[0]) == sorted(shards)
    assert rounds[0] == rounds[1] == rounds[2]


def test_a_limit_that_is_not_reached_does_not_grow(gate: Gate, memory: MemoryQueue, clock: Clock) -> None:
    for second in range(60):
        clock.now = float(second)
        assert allows(gate, BACKFILL)
        gate.sent(2)
    memory.held = 0
    clock.now += 1.0
    sent = 0
    while allows(gate, BACKFILL):
        gate.sent(2)
        sent += 2
    assert sent == 10


def test_pauses_grow_to_five_seconds_with_jitter_and_start_anew_after_success() -> None:
    backoff = Backoff()
    pauses = [backoff.pause_seconds() for _ in range(20)]
    assert all(0.05 * 2**n <= p <= 0.1 * 2**n for n, p in enumerate(pauses[:6]))
    assert all(2.5 <= pause <= 5.0 for pause in pauses[6:])
    backoff.reset()
    assert backoff.pause_seconds() <= 0.1


def test_trouble_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    queue = Dependency("queue", logging.getLogger("test"))
    for _ in range(5):
        queue.failed("away")
    assert queue.state == "away"
    for _ in range(5):
        queue.works()
    assert queue.state == "ok"
    assert [record.getMessage() for record in caplog.records] == ["queue_trouble", "queue_back"]


def test_a_ring_during_a_look_is_not_lost() -> None:
    bell = Bell()
    heard = bell.rings
    bell.ring()
    bell.wait(heard, 60.0)  # returns at once, or the test's time limit ends it


def test_a_ring_wakes_every_waiting_worker() -> None:
    bell = Bell()
    threads = [threading.Thread(target=bell.wait, args=(bell.rings, 60.0)) for _ in range(3)]
    for thread in threads:
        thread.start()
    bell.ring()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


def test_a_nudge_wakes_one_waiting_worker_and_the_house() -> None:
    bell = Bell()
    woken = threading.Semaphore(0)

    def wait(*, house: bool) -> None:
        bell.wait(0, 60.0, house=house)
        woken.release()

    def waiting(condition: threading.Condition) -> int:
        return len(vars(condition)["_waiters"])

    threads = [threading.Thread(target=wait, kwargs={"house": house}) for house in (False, False, True)]
    for thread in threads:
        thread.start()
    wait_until(lambda: (waiting(bell._workers), waiting(bell._house)) == (2, 1), "all wait")
    bell.nudge()
    assert woken.acquire(timeout=10)
    assert woken.acquire(timeout=10)
    assert (waiting(bell._workers), waiting(bell._house)) == (1, 0)
    bell.ring()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


@pytest.fixture
def telling(
    store: Store, memory: MemoryQueue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], AbstractContextManager[None]]:
    """Runs a Pelican that tells its metrics all the time, as long as the context lasts."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("pelican.house.METRICS_SECONDS", 0.0)
    monkeypatch.setattr("pelican.house.LOOK_SECONDS", 0.0)

    @contextmanager
    def run() -> Iterator[None]:
        pelican = Pelican(settings_for(store, poll_seconds=0.05), memory)
        thread = threading.Thread(target=pelican.run)
        thread.start()
        try:
            yield
        finally:
            pelican.stop.set()
            thread.join(20)

    return run


def test_metrics_tell_what_was_sent_and_what_waits(
    store: Store,
    memory: MemoryQueue,
    caplog: pytest.LogCaptureFixture,
    telling: Callable[[], AbstractContextManager[None]],
) -> None:
    store.add_products(30)
    with telling():
        wait_until(lambda: sum(fields["RowsSent"] for fields in told(caplog)) == 30, "all rows told of")
    assert sum(fields["MessagesSent"] for fields in told(caplog)) == len(memory.sent)
    last = told(caplog)[-1]
    assert (last["OutboxLiveKeys"], last["OutboxBackfillKeys"], last["OutboxLiveOldestSeconds"]) == (0, 0, 0)
    names = [metric["Name"] for metric in last["_aws"]["CloudWatchMetrics"][0]["Metrics"]]
    assert names == ["RowsSent", "MessagesSent", "OutboxLiveKeys", "OutboxBackfillKeys", "OutboxLiveOldestSeconds"]


def test_what_fills_an_index_for_hours_is_neither_live_depth_nor_lateness(
    store: Store,
    memory: MemoryQueue,
    caplog: pytest.LogCaptureFixture,
    telling: Callable[[], AbstractContextManager[None]],
) -> None:
    """Pelicans are scaled, and people woken, by these two numbers."""
    memory.waiting = 2_000  # full for all, so that everything stays where it is
    put = (
        "INSERT INTO sync.outbox (source_id, shard, lane, keys, key_count, enqueued_at) "
        "VALUES (1, 3, %s, ARRAY['1'], %s, clock_timestamp() - %s * interval '1 s')"
    )
    store.execute(put, (BACKFILL, 20_000, 7_200))
    store.execute(put, (FILL, 3_000, 7_200))
    with telling():
        wait_until(lambda: told(caplog), "the first metrics")
        first = told(caplog)[0]
        found = (first["OutboxLiveKeys"], first["OutboxBackfillKeys"], first["OutboxLiveOldestSeconds"])
        assert found == (0, 23_000, 0)
        store.execute(put, (LIVE, 7, 90))
        wait_until(lambda: told(caplog)[-1]["OutboxLiveKeys"] == 7, "the live change is seen")
        assert 90 <= told(caplog)[-1]["OutboxLiveOldestSeconds"] < 90 + DEADLINE_SECONDS
        assert told(caplog)[-1]["OutboxBackfillKeys"] == 23_000


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in list(caplog.records) if record.getMessage() == "metrics"]
