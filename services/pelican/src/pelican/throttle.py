"""How much may be in the queue at once: the rest is better off in the outbox, where newer states replace older.

Live changes wait behind what a backfill has in the queue, so a backfill may have no more there than keeps the Emus busy.
How many Emus there are nobody says; but messages that wait for one say that there are too few. So the limit grows while all
that was sent is being worked on at once, and shrinks when some of it waits.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aviary.depth import Depth
from pelican.outbox import LIVE
from pelican.sqs import ChangeQueue

FRESH_SECONDS = 1.0
# While it is full, how often to ask whether there is room again.
RECHECK_SECONDS = 0.25
# So long must nothing have waited before the limit grows: by a claim's messages, or by this share where that is more. The
# time is four times as long after a growth that was too much, and half as long after one that was not.
CALM_SECONDS, LONGEST_CALM_SECONDS = 2.0, 60.0
CLAIM_MESSAGES = 3
GROWTH = 0.25
# The share of its limit that may wait for an Emu before it shrinks (one message always may), and by how much it does.
WAITING_SHARE = 0.1
SHRINKAGE = 0.25
# So often a backfill sends one claim however busy the queue is, unless it is full for all: it must end some day.
TRICKLE_SECONDS = 1.0


class Gate:
    """Whether a lane may send now. Thread-safe; asks the queue at most four times a second.

    Between two looks it counts what this process sent. Backfills send one claim at a time.
    """

    def __init__(
        self,
        queue: ChangeQueue,
        *,
        live_limit: int,
        backfill_limit: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Limits in messages; a backfill's is where it begins, and never falls below."""
        self._queue = queue
        self._live_limit = live_limit
        self._least = min(backfill_limit, live_limit)
        self._clock = clock
        self._lock = threading.Lock()
        self._filling = threading.Lock()
        self._backfill_limit = float(self._least)
        self._calm_seconds = CALM_SECONDS
        self._seen = Depth(0, 0)
        self._sent = 0
        self._looked: float | None = None
        self._calm_since = self._let_at = clock()

    @property
    def depth(self) -> int:
        """Messages in the queue as last seen, and those sent since."""
        return sum(self._seen) + self._sent

    @contextmanager
    def room(self, lane: int) -> Iterator[bool]:
        """Whether one claim of the lane may be sent within this context. Raises QueueError when it had to ask and got no
        answer."""
        if lane == LIVE:
            yield self._allows_live()
        elif self._filling.acquire(blocking=False):
            try:
                yield self._allows_backfill()
            finally:
                self._filling.release()
        else:
            yield False

    def sent(self, messages: int) -> None:
        with self._lock:
            self._sent += messages

    def _allows_live(self) -> bool:
        with self._lock:
            if self.depth >= self._live_limit:
                self._look(RECHECK_SECONDS)
            # A single change must not wait for a question to SQS: live changes ask only after a few messages.
            elif self._sent > self._live_limit // 10:
                self._look(FRESH_SECONDS)
            return self.depth < self._live_limit

    def _allows_backfill(self) -> bool:
        with self._lock:
            self._look(RECHECK_SECONDS if self.depth >= int(self._backfill_limit) else FRESH_SECONDS)
            now = self._clock()
            has_room = self.depth < int(self._backfill_limit)
            if has_room or (self.depth < self._live_limit and now - self._let_at >= TRICKLE_SECONDS):
                self._let_at = now
                return True
            return False

    def _look(self, fresh_seconds: float) -> None:
        """Ask the queue, unless it was asked less than `fresh_seconds` ago."""
        now = self._clock()
        if self._looked is not None and now - self._looked < fresh_seconds:
            return
        was_full = self.depth >= int(self._backfill_limit)
        self._seen = self._queue.depth()
        self._sent = 0
        self._looked = now
        self._adapt(now, was_full)

    def _adapt(self, now: float, was_full: bool) -> None:
        if self._seen.waiting > max(1.0, WAITING_SHARE * self._backfill_limit):
            self._calm_since = now
            if self._backfill_limit > self._least:
                self._backfill_limit = max(self._least, self._backfill_limit * (1 - SHRINKAGE))
                self._calm_seconds = min(LONGEST_CALM_SECONDS, self._calm_seconds * 4)
        elif not was_full:
            # There is less to send than the limit allows, so nothing shows that more would be worked on at once.
            self._calm_since = now
        elif now - self._calm_since >= self._calm_seconds:
            self._calm_since = now
            self._calm_seconds = max(CALM_SECONDS, self._calm_seconds / 2)
            self._backfill_limit += max(CLAIM_MESSAGES, GROWTH * self._backfill_limit)
            self._backfill_limit = min(self._live_limit, self._backfill_limit)
