"""The limits on what is sent to Pinecone, by a clock that the tests move."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.limits import QUOTAS, RESERVED_SECONDS, SMALLEST_SHARE, Limiter, Operation, Work

HOST = "https://one"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Limiter, Clock]:
    clock = Clock()
    return Limiter(clock=clock), clock


def sent(limiter: Limiter, clock: Clock, work: Work, seconds: float, *, live: bool = True) -> int:
    """How often the work was sent by one who sends whenever it may, for so many seconds."""
    until, count = clock.now + seconds, 0
    while clock.now < until:
        delay = limiter.delay(HOST, work, live=live)
        count += delay == 0
        clock.now += delay
    return count


def exhaust(limiter: Limiter, work: Work, *, live: bool = True) -> int:
    """Send at once all that may be; how often that was."""
    count = 0
    while limiter.delay(HOST, work, live=live) == 0:
        count += 1
    return count


@pytest.mark.parametrize("operation", list(QUOTAS))
def test_no_more_requests_are_sent_than_are_published_and_one_burst(operation: Operation) -> None:
    limiter, clock = made()
    rate = QUOTAS[operation].requests
    assert rate * 9.9 <= sent(limiter, clock, Work(operation, "a"), 9.0) <= rate * 10.1


@pytest.mark.parametrize(
    ("work", "a_second"),
    [
        (Work("upsert", "a", 1, 2e6), 25),  # 50 MB
        (Work("delete", "a", 1, 1_000), 5),  # 5,000 records
        (Work("fetch", "a", 5), 20),  # 100 requests
        (Work("upsert", "a", 1, 100), 100),
    ],
)
def test_bytes_records_and_requests_each_have_their_limit(work: Work, a_second: int) -> None:
    limiter, clock = made()
    assert a_second * 9.9 - 1 <= sent(limiter, clock, work, 9.0) <= a_second * 10.1 + 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["wait", "live", "backfill", "refused"]),
            st.floats(0, 3),
            st.floats(1, 2e6),
        ),
        max_size=60,
    )
)
def test_whatever_happens_no_window_of_time_has_more_than_its_quota_and_a_burst(steps: Any) -> None:
    limiter, clock = made()
    began, used = clock.now, 0.0
    for what, seconds, amount in steps:
        match what:
            case "wait":
                clock.now += seconds
            case "refused":
                limiter.refused(HOST, Work("upsert", "a"), seconds)
            case _ if limiter.delay(HOST, Work("upsert", "a", 1, amount), live=what == "live") == 0:
                used += max(1 / 100, amount / 50e6)
        assert used <= clock.now - began + 1.0 + 0.04 + 1e-6
        assert all(SMALLEST_SHARE / 1.01 <= share <= 1 for share in limiter.shares().values())


def test_live_changes_do_not_wait_for_a_backfill_that_uses_all_it_may() -> None:
    limiter, clock = made()
    sent(limiter, clock, Work("upsert", "a"), 10, live=False)
    exhaust(limiter, Work("upsert", "a"), live=False)
    assert exhaust(limiter, Work("upsert", "a"), live=True) >= RESERVED_SECONDS * 100 - 1


def test_a_backfill_goes_on_when_live_changes_leave_room() -> None:
    limiter, clock = made()
    counts: Counter[str] = Counter()
    for _ in range(1_000):  # a second has 100 requests; live changes make 50
        counts["live"] += limiter.delay(HOST, Work("upsert", "a"), live=True) == 0
        counts["backfill"] += limiter.delay(HOST, Work("upsert", "a"), live=False) == 0
        counts["backfill"] += limiter.delay(HOST, Work("upsert", "a"), live=False) == 0
        clock.now += 0.02
    assert counts["live"] == 1_000
    assert 990 <= counts["backfill"] <= 1_100


def test_namespaces_and_indexes_have_their_own_quotas_where_pinecone_gives_them() -> None:
    limiter, _ = made()
    exhaust(limiter, Work("upsert", "a"))
    exhaust(limiter, Work("fetch", "a"))
    assert limiter.delay(HOST, Work("upsert", "a"), live=True) > 0
    assert limiter.delay(HOST, Work("upsert", "b"), live=True) == 0
    assert limiter.delay("https://two", Work("upsert", "a"), live=True) == 0
    assert limiter.delay(HOST, Work("delete", "a"), live=True) == 0
    assert limiter.delay(HOST, Work("fetch", "b"), live=True) > 0
    assert limiter.delay("https://two", Work("fetch", "a"), live=True) == 0


def test_429_stops_everybody_for_as_long_as_it_says_and_halves_what_is_sent_after() -> None:
    limiter, clock = made()
    work = Work("upsert", "a")
    for _ in range(3):  # three requests that were on their way together
        limiter.refused(HOST, work, 7.0)
    assert limiter.shares() == {"upsert": 0.5}
    for live in (True, False):
        assert limiter.delay(HOST, work, live=live) == 7.0
    clock.now += 6.9
    assert limiter.delay(HOST, work, live=True) == pytest.approx(0.1)
    limiter.refused(HOST, work, None)
    assert limiter.shares() == {"upsert": pytest.approx((0.5 + 6.9 * 0.02) / 2)}
    clock.now += 0.1
    share = limiter.shares()["upsert"]
    assert 100 * share * 0.9 <= sent(limiter, clock, work, 1.0) <= 100 * share * 1.2


def test_the_share_never_reaches_nothing_and_grows_back_slowly_to_all() -> None:
    limiter, clock = made()
    work = Work("upsert", "a")
    for _ in range(100):
        limiter.refused(HOST, work, None)
        clock.now += 1.0
    assert limiter.shares()["upsert"] >= SMALLEST_SHARE
    low = sent(limiter, clock, work, 1.0)
    assert 1 <= low < 20
    clock.now += 20
    assert limiter.shares()["upsert"] == pytest.approx(0.44, abs=0.05)
    clock.now += 40
    assert limiter.shares() == {}
    sent(limiter, clock, work, 2.0)
    assert 95 <= sent(limiter, clock, work, 1.0) <= 105


def test_processes_that_share_a_quota_come_to_share_it() -> None:
    """Two that cannot see each other, and a server that grants 100 a second to both together."""
    clock = Clock()
    limiters = [Limiter(clock=clock), Limiter(clock=clock)]
    work = Work("upsert", "a")
    level, granted, refused = 100.0, [0, 0], 0
    chance = random.Random(4)
    for _ in range(60_000):
        clock.now += 0.005
        level = min(100.0, level + 0.5)
        number = chance.randrange(2)
        if limiters[number].delay(HOST, work, live=True) == 0:
            if level >= 1:
                level -= 1
                granted[number] += 1
            else:
                refused += 1
                limiters[number].refused(HOST, work, None)
    assert sum(granted) >= 0.8 * 300 * 100
    assert min(granted) >= 0.35 * sum(granted)
    assert refused <= 0.02 * sum(granted)


def test_a_wait_ends_when_the_process_stops() -> None:
    limiter, stopping = Limiter(), threading.Event()
    work = Work("upsert", "a")
    assert limiter.wait(HOST, work, live=True, stopping=stopping) == pytest.approx(0, abs=0.01)
    limiter.refused(HOST, work, 60.0)
    stopping.set()
    assert limiter.wait(HOST, work, live=True, stopping=stopping) is None


def test_places_that_are_not_used_any_more_are_forgotten() -> None:
    limiter, clock = made()
    for number in range(1_000):
        assert limiter.delay(HOST, Work("upsert", f"namespace-{number}"), live=True) == 0
        clock.now += 10
    assert len(limiter._meters) <= 40


def at_once(call: Callable[[], object], threads: int) -> None:
    running = [threading.Thread(target=call) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def test_threads_share_one_quota() -> None:
    limiter, _ = made()
    counts: Counter[bool] = Counter()

    def send() -> None:
        for _ in range(200):
            counts[limiter.delay(HOST, Work("upsert", "a"), live=True) == 0] += 1

    at_once(send, 4)
    assert counts[True] == 100
