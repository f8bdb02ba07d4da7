"""What an Emu has in hand: received and not done. Live changes are taken up first, and a backfill leaves room for them.

SQS does not say what it will give. So an Emu with enough of a backfill in hand receives nothing until it has less: what is in
the queue stays there, for other Emus to take, or for Pelican to see that there are none.
"""

import threading
from collections import deque
from typing import NamedTuple

from emu.lease import Lease
from emu.queue import Received


class Job(NamedTuple):
    """One unit's messages and their lease. `live`: it holds a change that somebody made just now."""

    messages: list[Received]
    lease: Lease
    live: bool


class Hands:
    """Jobs that wait for a thread, and how many are in work. Thread-safe."""

    def __init__(self, units: int) -> None:
        """`units`: jobs in hand above which nothing is received; one less of a backfill is enough of it. Two are enough to
        keep the embedder busy: one is embedded while the other is fetched or written."""
        self._units = units
        self._enough = max(1, units - 1)
        self._condition = threading.Condition()
        self._waiting: dict[bool, deque[Job]] = {True: deque(), False: deque()}
        self._held = {True: 0, False: 0}
        self._closed = False

    def wait_for_room(self, timeout: float) -> bool:
        """Whether to receive, at once or within `timeout` seconds."""
        with self._condition:
            return self._condition.wait_for(self._has_room, timeout)

    def put(self, job: Job) -> None:
        with self._condition:
            self._held[job.live] += 1
            self._waiting[job.live].append(job)
            self._condition.notify_all()

    def take(self) -> Job | None:
        """The next job, a live one if there is any; None when there will be no more. Follow it with `done`."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or any(self._waiting.values()))
            waiting = self._waiting[True] or self._waiting[False]
            return waiting.popleft() if waiting else None

    def done(self, job: Job) -> None:
        with self._condition:
            self._held[job.live] -= 1
            self._condition.notify_all()

    def close(self) -> None:
        """What waits is still given out, and then None."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _has_room(self) -> bool:
        return sum(self._held.values()) < self._units and self._held[False] < self._enough
