"""Who may still write, and for how long."""

from collections.abc import Sequence

import pytest
from botocore.exceptions import EndpointConnectionError

from aviary.index import Vector
from emu import lease as leases
from emu.lease import Lease, LeaseKeeper, LeaseLostError
from emu.queue import Received
from emu.worker import STUCK_SECONDS
from tests.services.emu.embedders import HashEmbedder
from tests.services.emu.helpers import Bench, batch, counters, upsert, wait_until

MESSAGE = Received("id", "receipt", "{}", "1-3", 1, 0)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = 1_000.0
        monkeypatch.setattr(leases, "now", lambda: self.time)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Queue:
    """Answers what it is told to, `delay` seconds later."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.delay = 0.0
        self.answer: bool | Exception = True
        self.asked: list[int] = []

    def change_visibility(self, messages: Sequence[Received], seconds: int) -> bool:
        self.asked.append(seconds)
        self.clock.time += self.delay
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def receive(self, wait_seconds: int, visibility_seconds: int) -> list[Received]:
        raise NotImplementedError

    def delete(self, messages: Sequence[Received]) -> list[Received]:
        raise NotImplementedError

    def dead_letter(self, body: str, *, group: str, deduplication_id: str) -> None:
        raise NotImplementedError


@pytest.fixture
def queue(clock: Clock) -> Queue:
    return Queue(clock)


@pytest.fixture
def keeper(queue: Queue) -> LeaseKeeper:
    return LeaseKeeper(queue, visibility_seconds=60, margin_seconds=10)


def may_write(keeper: LeaseKeeper, lease: Lease) -> bool:
    try:
        with keeper.write(lease):
            return True
    except LeaseLostError:
        return False


def test_a_lease_is_counted_from_before_the_receive_was_asked_for(keeper: LeaseKeeper, clock: Clock) -> None:
    assert keeper.take([MESSAGE], clock.time - 20).remaining() == 40


def test_a_lease_is_extended_while_work_goes_on_and_not_before_it_is_due(
    keeper: LeaseKeeper, clock: Clock, queue: Queue
) -> None:
    lease = keeper.take([MESSAGE], clock.time)
    keeper.tick()
    assert queue.asked == []
    for _ in range(20):
        clock.time += 21
        keeper.tick()
    assert queue.asked == [60] * 20
    assert may_write(keeper, lease)
    keeper.drop(lease)
    clock.time += 21
    keeper.tick()
    assert len(queue.asked) == 20


def test_nothing_is_written_after_a_stop_longer_than_the_lease(keeper: LeaseKeeper, clock: Clock, queue: Queue) -> None:
    lease = keeper.take([MESSAGE], clock.time)
    clock.time += 61
    keeper.tick()
    assert not may_write(keeper, lease)
    assert queue.asked == [], "a lease that has ended is not extended: it may be another Emu's"


def test_nothing_is_written_that_could_arrive_after_the_lease(keeper: LeaseKeeper, clock: Clock, queue: Queue) -> None:
    queue.answer = EndpointConnectionError(endpoint_url="http://sqs")
    lease = keeper.take([MESSAGE], clock.time)
    clock.time += 45
    assert may_write(keeper, lease)
    clock.time += 6
    assert not may_write(keeper, lease)


def test_a_lease_that_is_short_at_a_write_is_extended_first(keeper: LeaseKeeper, clock: Clock, queue: Queue) -> None:
    lease = keeper.take([MESSAGE], clock.time - 55)
    assert may_write(keeper, lease)
    assert queue.asked == [60]
    assert lease.remaining() == 60


def test_an_extension_that_sqs_refuses_ends_the_lease(keeper: LeaseKeeper, clock: Clock, queue: Queue) -> None:
    lease = keeper.take([MESSAGE], clock.time)
    queue.answer = False
    clock.time += 30
    keeper.tick()
    assert not may_write(keeper, lease)


def test_an_extension_answered_after_the_old_lease_ended_is_worth_nothing(
    keeper: LeaseKeeper, clock: Clock, queue: Queue
) -> None:
    lease = keeper.take([MESSAGE], clock.time)
    clock.time += 55
    queue.delay = 6
    keeper.tick()
    assert not may_write(keeper, lease)


def test_an_extension_that_got_no_answer_is_tried_again(keeper: LeaseKeeper, clock: Clock, queue: Queue) -> None:
    lease = keeper.take([MESSAGE], clock.time)
    queue.answer = EndpointConnectionError(endpoint_url="http://sqs")
    clock.time += 30
    keeper.tick()
    queue.answer = True
    keeper.tick()
    assert lease.remaining() == 60


def test_a_message_that_comes_again_ends_the_lease_it_had(keeper: LeaseKeeper, clock: Clock) -> None:
    first = keeper.take([MESSAGE], clock.time)
    second = keeper.take([MESSAGE], clock.time)
    assert not may_write(keeper, first)
    assert may_write(keeper, second)


def test_messages_given_back_are_not_extended_and_not_written(keeper: LeaseKeeper, clock: Clock, queue: Queue) -> None:
    lease = keeper.take([MESSAGE], clock.time)
    keeper.release(lease, lease.messages)
    clock.time += 30
    keeper.tick()
    assert queue.asked == [0]
    assert not may_write(keeper, lease)


def test_messages_are_not_given_back_while_a_write_for_them_is_on_its_way(
    keeper: LeaseKeeper, clock: Clock, queue: Queue
) -> None:
    lease = keeper.take([MESSAGE], clock.time)
    with keeper.write(lease):
        keeper.release(lease, lease.messages)
    assert queue.asked == []


def test_a_lease_must_outlive_a_long_poll(bench: Bench) -> None:
    with pytest.raises(ValueError, match="AVIARY_VISIBILITY_SECONDS \\(20\\) must be greater than"):
        bench.settings(visibility_seconds=20, receive_wait_seconds=20)


def test_writes_keep_a_margin_of_the_lease_that_suits_its_length(bench: Bench) -> None:
    assert bench.settings(visibility_seconds=60).write_margin_seconds == 10
    assert bench.settings(visibility_seconds=3).write_margin_seconds == 1


def test_emu_refuses_an_embedder_of_another_model(bench: Bench) -> None:
    with pytest.raises(ValueError, match="set AVIARY_MODEL and AVIARY_DIMENSION"):
        bench.emu(model="another")


class Overtaken(HashEmbedder):
    """While it embeds, the lease ends, and another Emu does the same message and a newer one."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench

    def embed(self, texts: Sequence[str], *, urgent: bool = True) -> Vector:
        def overtaken() -> bool:
            self.bench.work()
            return self.bench.stored() == {"1": 1}

        wait_until(overtaken, "the lease ends and another Emu has the message")
        self.bench.send(batch(upsert("1", 2, "new")))
        self.bench.work()
        return super().embed(texts)


def test_an_emu_that_was_overtaken_brings_no_old_version_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.send(batch(upsert("1", 1, "old")))
    slow = bench.emu(Overtaken(bench), visibility_seconds=2, units_in_flight=1)
    monkeypatch.setattr(slow._keeper, "tick", lambda: None)  # as if this process had been stopped
    slow.run_until_idle()
    assert counters(slow.snapshot(), "leases_lost", "acknowledged", "upserted") == {
        "leases_lost": 1,
        "acknowledged": 0,
        "upserted": 0,
    }
    assert bench.stored() == {"1": 2}
    assert bench.left() == 0


def test_an_emu_whose_threads_or_units_do_not_move_is_not_alive(bench: Bench) -> None:
    emu = bench.emu()
    lease = emu._keeper.take([MESSAGE], leases.now())
    emu._pulses["receiver"] = leases.now()
    assert emu.alive()
    lease.touched_at -= STUCK_SECONDS
    assert not emu.alive()
    lease.touched_at += STUCK_SECONDS
    emu._pulses["receiver"] -= STUCK_SECONDS
    assert not emu.alive()
