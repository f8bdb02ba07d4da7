"""How much may be in the queue at once: the rest is better off in the outbox, where newer states replace older."""

import threading
import time
from collections.abc import Callable

from pelican.outbox import LIVE
from pelican.sqs import ChangeQueue

FRESH_SECONDS = 1.0
# While it is full, how often to ask whether there is room again.
RECHECK_SECONDS = 0.25


class Gate:
    """Whether a lane may send now. Thread-safe; asks the queue at most once a second while there is room.

    Between two looks it counts what this process sent. A backfill is let through to a low limit, because live changes
    queue up behind it; live changes to a high one.
    """

    def __init__(
        self,
        queue: ChangeQueue,
        *,
        live_limit: int,
        backfill_limit: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._live_limit = live_limit
        self._backfill_limit = min(backfill_limit, live_limit)
        self._clock = clock
        self._lock = threading.Lock()
        self._depth = 0
        self._sent = 0
        self._looked: float | None = None

    @property
    def depth(self) -> int:
        """Messages in the queue as last seen, and those sent since."""
        return self._depth + self._sent

    def allows(self, lane: int) -> bool:
        """Raises QueueError when it had to ask and got no answer."""
        limit = self._live_limit if lane == LIVE else self._backfill_limit
        with self._lock:
            age = None if self._looked is None else self._clock() - self._looked
            # A single change must not wait for a question to SQS: live changes ask only after a few messages.
            asks = (
                (lane != LIVE or self._sent > limit // 10)
                if age is None or age >= FRESH_SECONDS
                else (self.depth >= limit and age >= RECHECK_SECONDS)
            )
            if asks:
                self._depth = self._queue.depth()
                self._sent = 0
                self._looked = self._clock()
            return self.depth < limit

    def sent(self, messages: int) -> None:
        with self._lock:
            self._sent += messages
