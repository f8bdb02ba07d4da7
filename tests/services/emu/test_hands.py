"""What an Emu takes into its hands, and in which order."""

import pytest

from emu.hands import Hands, Job
from emu.lease import Lease


def job(*, live: bool) -> Job:
    return Job([], Lease([], 0.0), live)


@pytest.fixture
def hands() -> Hands:
    return Hands(3)


def test_live_changes_are_taken_up_before_a_backfill_that_waited_longer(hands: Hands) -> None:
    backfill, live, another = job(live=False), job(live=True), job(live=True)
    for each in (backfill, live, another):
        hands.put(each)
    assert [hands.take() for _ in range(3)] == [live, another, backfill]


def test_with_enough_of_a_backfill_in_hand_nothing_is_received_though_a_thread_is_free(hands: Hands) -> None:
    hands.put(job(live=False))
    assert hands.wait_for_room(0)
    hands.put(job(live=False))
    assert not hands.wait_for_room(0)


def test_there_is_room_again_when_a_job_is_done_not_when_it_is_taken(hands: Hands) -> None:
    jobs = [job(live=True) for _ in range(3)]
    for each in jobs:
        hands.put(each)
    assert hands.take() is jobs[0]
    assert not hands.wait_for_room(0)
    hands.done(jobs[0])
    assert hands.wait_for_room(0)


def test_an_emu_with_one_unit_works_on_backfills_too() -> None:
    hands = Hands(1)
    assert hands.wait_for_room(0)
    hands.put(job(live=False))
    assert not hands.wait_for_room(0)


def test_what_waits_is_still_given_out_after_the_end(hands: Hands) -> None:
    last = job(live=False)
    hands.put(last)
    hands.close()
    assert hands.take() is last
    assert hands.take() is None
