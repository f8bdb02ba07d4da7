"""A host whose clock is wrong: what expires, expires by the queue's clock."""

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import pelican.shipper
from pelican.service import Pelican
from pelican.sqs import QueueError, SqsQueue
from tests.services.pelican.harness import Consumer, Store, settings_for


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Make the clock of Pelican's host wrong by so many hours."""

    def by(hours: float) -> None:
        wrong = SimpleNamespace(time_ns=lambda: time.time_ns() + int(hours * 3.6e12), monotonic=time.monotonic)
        monkeypatch.setattr(pelican.shipper, "time", wrong)

    return by


@pytest.mark.parametrize("hours", [-1.0, -0.01, 0.01, 1.0])
def test_changes_arrive_though_pelicans_clock_is_wrong(
    store: Store, sqs: SqsQueue, consumer: Consumer, step: Callable[[float], None], hours: float
) -> None:
    step(hours)
    worker = Pelican(settings_for(store), sqs).worker()
    for price in range(3):
        store.add_products(50, first=1 + price * 50)
        try:
            worker.run_until_idle()
        except QueueError:  # what a running worker meets with its next turn
            worker.run_until_idle()
    consumer.drain()
    assert consumer.state == store.expected()
    assert not consumer.backwards


def test_messages_expire_by_the_queues_clock_once_it_has_told_its_time(
    store: Store, sqs: SqsQueue, consumer: Consumer, step: Callable[[float], None]
) -> None:
    worker = Pelican(settings_for(store), sqs).worker()
    store.add_products(1)
    worker.run_until_idle()
    step(1.0)
    store.execute("UPDATE products SET price = 7")
    worker.run_until_idle()
    consumer.drain()
    assert len(consumer.batches) == 2
    assert all(abs(batch.expires_at_ms - time.time_ns() / 1e6) < 60_000 for batch in consumer.batches)
