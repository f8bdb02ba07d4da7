"""The adapter around SQS, and the order that Emu relies on."""

import time

import pytest

from emu.queue import AwsError, SqsQueue
from tests.services.emu.helpers import Bench, wait_until


@pytest.fixture
def queue(bench: Bench) -> SqsQueue:
    return SqsQueue(bench.queues.client, bench.queues.queue_url, bench.queues.dlq_url)


def test_what_is_received_has_its_group_its_count_and_the_time_sqs_took_it(bench: Bench, queue: SqsQueue) -> None:
    before_ms = time.time() * 1000
    bench.send("one", "two", group="7-11")
    messages = queue.receive(0, 60)
    assert [(message.body, message.group, message.times) for message in messages] == [
        ("one", "7-11", 1),
        ("two", "7-11", 1),
    ]
    assert before_ms - 1 <= messages[0].sent_at_ms <= time.time() * 1000 + 1
    assert queue.receive(0, 60) == []


def test_more_messages_than_one_request_holds_are_given_back_and_deleted(bench: Bench, queue: SqsQueue) -> None:
    for group in range(25):
        bench.send("x", group=f"1-{group}")
    messages = [message for _ in range(3) for message in queue.receive(0, 60)]
    assert len(messages) == 25
    assert queue.change_visibility(messages, 0)
    again = [message for _ in range(3) for message in queue.receive(0, 60)]
    assert {message.times for message in again} == {2}
    assert queue.delete(again) == []
    assert bench.left() == 0


def test_messages_whose_leases_end_one_after_the_other_still_come_in_order(bench: Bench, queue: SqsQueue) -> None:
    bench.send("first", "second")
    first, second = queue.receive(0, 60)
    assert queue.change_visibility([second], 0)
    assert queue.receive(0, 60) == [], "the group waits for its first message"
    assert queue.change_visibility([first], 0)
    assert [message.body for message in queue.receive(0, 60)] == ["first", "second"]


def test_a_lease_on_a_message_that_is_gone_is_not_extended(bench: Bench, queue: SqsQueue) -> None:
    bench.send("x")
    (message,) = queue.receive(0, 60)
    queue.delete([message])
    assert not queue.change_visibility([message], 60)


def test_a_long_poll_returns_as_soon_as_there_is_a_message(bench: Bench, queue: SqsQueue) -> None:
    bench.send("x")
    started = time.monotonic()
    wait_until(lambda: queue.receive(20, 60), "the message")
    assert time.monotonic() - started < 15, "not the whole poll"


def test_what_a_queue_that_is_not_there_raises_is_known(bench: Bench) -> None:
    queue = SqsQueue(bench.queues.client, bench.queues.queue_url + "x", bench.queues.dlq_url)
    with pytest.raises(AwsError):
        queue.receive(0, 60)
