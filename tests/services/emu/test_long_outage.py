"""Ten minutes without Pinecone, by a clock that the test moves: leases, visibility and receive counts follow it."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import moto.sqs.models
import pytest
from botocore.exceptions import EndpointConnectionError

import emu.lease
import emu.retrying
import emu.worker
import local.sqs
from emu.lease import LeaseKeeper
from emu.queue import Received, SqsQueue
from emu.worker import Emu
from tests.services.emu.embedders import HashEmbedder
from tests.services.emu.helpers import Bench, batch, upsert, wait_until

OUTAGE_SECONDS = 600
STEP_SECONDS = 10
# More restarts than the ten receives that SQS allows a message.
STEPS_BETWEEN_RESTARTS = 3
GROUPS = 8


class Clock:
    """The real clock, and how far the test has moved it. Emu's leases, moto's queue and its receivers go by it."""

    def __init__(self) -> None:
        self.moved = 0.0
        self.ticked = threading.Condition()
        self.ticks = 0

    def of(self, real: Callable[[], float], unit: float = 1.0) -> Callable[..., float]:
        return lambda *_: real() + self.moved * unit

    def move(self, seconds: float) -> None:
        """Move on, and wait until every thread that keeps leases has had two chances to extend them."""
        self.moved += seconds
        with self.ticked:
            seen = self.ticks
            self.ticked.wait_for(lambda: self.ticks >= seen + 2, 5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (emu.lease, emu.worker):
        monkeypatch.setattr(module, "now", clock.of(emu.lease.now))
    monkeypatch.setattr(local.sqs.Clock, "now", clock.of(lambda: time.time() * 1000, 1000))
    monkeypatch.setattr(moto.sqs.models, "unix_time", clock.of(time.time))
    # What Emu waits for in real time passes quickly.
    monkeypatch.setattr(emu.retrying, "delay_seconds", lambda *_: 0.02)
    monkeypatch.setattr(emu.worker, "CHORE_SECONDS", 0.02)
    monkeypatch.setattr(emu.worker, "PROBE_INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(LeaseKeeper, "tick_seconds", 0.01)
    tick = LeaseKeeper.tick

    def counted(keeper: LeaseKeeper) -> None:
        tick(keeper)
        with clock.ticked:
            clock.ticks += 1
            clock.ticked.notify_all()

    monkeypatch.setattr(LeaseKeeper, "tick", counted)
    return clock


class Mortal(SqsQueue):
    """An Emu's way to the queue; once `killed`, none of its requests arrives, as if the process were gone."""

    killed = False

    def receive(self, wait_seconds: int, visibility_seconds: int) -> list[Received]:
        self._check()
        return super().receive(wait_seconds, visibility_seconds)

    def delete(self, messages: Sequence[Received]) -> list[Received]:
        self._check()
        return super().delete(messages)

    def change_visibility(self, messages: Sequence[Received], seconds: int) -> bool:
        self._check()
        return super().change_visibility(messages, seconds)

    def _check(self) -> None:
        if self.killed:
            raise EndpointConnectionError(endpoint_url="nowhere")


class Life:
    """An Emu from its start to its end."""

    def __init__(self, bench: Bench) -> None:
        settings = bench.settings(receive_wait_seconds=0, drain_seconds=0)
        self.queue = Mortal(bench.queues.client, settings.queue_url, settings.dlq_url)
        self.emu = Emu(settings, queue=self.queue, index=bench.index, embedder=HashEmbedder())
        self._thread = threading.Thread(target=self.emu.run)
        self._thread.start()

    def end(self, *, killed: bool) -> None:
        """Stop in order, or be killed: then its messages rest until their leases end."""
        self.queue.killed = killed
        self.emu.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()


def receives(bench: Bench) -> list[int]:
    """How often each message in the queue was received so far."""
    backend: Any = moto.sqs.models.sqs_backends["123456789012"]["us-east-1"]
    return [m.approximate_receive_count for m in backend.queues[bench.queues.queue_url.rpartition("/")[2]]._messages]


def test_ten_minutes_without_pinecone_while_emus_come_and_go_end_with_everything_indexed_and_no_dead_letter(
    bench: Bench, clock: Clock
) -> None:
    keys: list[str] = []

    def write() -> None:
        """A live change in each of some groups; valid for as long as it takes."""
        now_ms = int((time.time() + clock.moved) * 1000)
        for group in range(2):
            keys.append(f"{len(keys)}")
            change = batch(upsert(keys[-1], len(keys)), captured_at_ms=now_ms, expires_at_ms=now_ms + 25_000)
            bench.send(change, group=f"1-{(len(keys) + group) % GROUPS}")

    lives = [Life(bench), Life(bench)]
    restarts = 0
    try:
        for life in lives:
            wait_until(lambda life=life: life.emu.ready()["index"] == "ok", "the index is reached")  # type: ignore[misc] # mypy infers no lambda with a default
        write()
        wait_until(lambda: bench.left() == 0, "what came before the outage is indexed")
        bench.pinecone.faults(operation="*", status=503)
        for step in range(OUTAGE_SECONDS // STEP_SECONDS):
            write()
            clock.move(STEP_SECONDS)
            if step % STEPS_BETWEEN_RESTARTS == 0:
                lives.pop(0).end(killed=restarts % 2 == 1)
                lives.append(Life(bench))
                restarts += 1
        assert restarts >= 20
        assert max(receives(bench)) <= 4, "restarts in an outage must not use up the ten receives of a message"
        assert len(receives(bench)) == len(keys) - 2, "nothing was acknowledged or set aside"
        clock.move(70)  # every lease of the killed has ended
        bench.pinecone.server.clear_faults()
        wait_until(lambda: bench.left() == 0, "all is indexed after the outage", 30)
    finally:
        for life in lives:
            life.end(killed=False)
    assert sorted(bench.stored(), key=int) == keys
    assert bench.dead_bodies() == []
