"""How much may be in the queue at once: the rest is better off in the outbox, where newer states replace older.

Live changes wait behind what a backfill has in the queue, so a backfill may have no more there than keeps the Emus busy.
How many Emus there are nobody says; but messages that wait for one say that there are too few. So the limit grows while all
that was sent is being worked on at once, and shrinks when some of it waits.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from aviary.depth import Depth
from pelican.outbox import LIVE, Work
from pelican.sqs import ChangeQueue

FRESH_SECONDS = 1.0
# While it is full for all, how often to ask whether there is room again.
RECHECK_SECONDS = 0.25
# While it is full for a backfill: at first, and within which bounds. A look that found room came late, or just in time,
# and the next comes a little sooner, or much where half of it is gone; one that found none came too early. So about one look
# in five is in vain, however long a claim takes, and room is found soon after it came to be.
FIRST_PAUSE_SECONDS, SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 0.05, 1.0
SOONER, MUCH_SOONER, LATER = 0.95, 0.7, 1.2
# So long must nothing have waited before the limit grows: by a claim's messages, or by this share where that is more. The
# time is four times as long after a growth that was too much, and half as long after one that was not.
CALM_SECONDS, LONGEST_CALM_SECONDS = 2.0, 60.0
CLAIM_MESSAGES = 3
GROWTH = 0.25
# What may wait for an Emu before it shrinks, to what is being worked on and that: a claim's messages, so that an Emu finds
# work as soon as it wants some, or a share of the limit where that is more, for what waits because somebody has its shard in hand.
MAY_WAIT_SHARE = 0.28
# Fewer rows a message than this are few: more of them would fit one, and cost hardly more.
FEW_ROWS = 50
# How much the latest claim counts for what live messages hold at present.
NEWS_SHARE = 0.5
# Without a live change for so long, a backfill may take larger claims.
QUIET_SECONDS = 30.0
# So often a backfill gets its turn although live changes never cease to come, if the queue has room for it: a worker that
# found some has always found more when it comes back.
BESIDE_LIVE_SECONDS = 0.25
# So often a backfill sends one call however busy the queue is, unless it is full for all: it must end some day.
TRICKLE_SECONDS = 10.0


class Gate:
    """Whether a lane may send now. Thread-safe; asks the queue at most once a second while there is room, and every
    `pause_seconds` while there is none.

    Between two looks it counts what this process sent. Backfills send one call at a time.
    """

    def __init__(
        self,
        queue: ChangeQueue,
        *,
        live_limit: int,
        backfill_limit: int,
        merge_limit: int,
        clock: Callable[[], float] = time.monotonic,
        shuffle: Callable[[list[Work]], None] = random.shuffle,
    ) -> None:
        """Limits in messages; a backfill's is where it begins, and never falls below. `merge_limit`: of those that wait, above
        what a backfill may have waiting, when live messages are small."""
        self._queue = queue
        self._live_limit = live_limit
        self._merge_limit = merge_limit
        self._rows_a_message = 0.0
        self._least = min(backfill_limit, live_limit)
        self._clock = clock
        self._shuffle = shuffle
        self._lock = threading.Lock()
        self._filling = threading.Lock()
        self._backfill_limit = float(self._least)
        self._calm_seconds = CALM_SECONDS
        self._seen = Depth(0, 0)
        self._sent = 0
        self._looked: float | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._calm_since = self._let_at = clock()
        self._live_at = float("-inf")
        self._filled_at: dict[tuple[int, int], float] = {}

    @property
    def depth(self) -> int:
        """Messages in the queue as last seen, and those sent since."""
        return sum(self._seen) + self._sent

    @property
    def pause_seconds(self) -> float:
        """While there is no room: in how many seconds to try again."""
        return min(self._pause, RECHECK_SECONDS)

    @property
    def is_quiet(self) -> bool:
        """Whether no live change came for a while."""
        return self._clock() - self._live_at >= QUIET_SECONDS

    @property
    def owes_backfill(self) -> bool:
        """Whether a backfill was let through so long ago that its turn comes before more live changes."""
        return self._clock() - self._let_at >= BESIDE_LIVE_SECONDS

    @contextmanager
    def room(self, lane: int) -> Iterator[bool]:
        """Whether claims of the lane may be sent, in one call, within this context. Raises QueueError when it had to ask and got no
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

    def in_turn(self, filling: list[Work]) -> list[Work]:
        """Shards of a backfill, those first whose latest claim is the longest ago: what it sent is done, most likely, and a
        claim behind another one of its shard would only wait in the queue."""
        self._shuffle(filling)  # several Pelicans should not begin at the same one
        return sorted(filling, key=lambda work: self._filled_at.get(work.lock, 0.0))

    def filled(self, works: Iterable[Work]) -> None:
        """Claims of these shards went out."""
        self._filled_at.update(dict.fromkeys((work.lock for work in works), self._clock()))

    def sent(self, messages: int) -> None:
        with self._lock:
            self._sent += messages

    def packed(self, rows: int, messages: int) -> None:
        """What a live claim came to."""
        with self._lock:
            self._rows_a_message += NEWS_SHARE * (rows / messages - self._rows_a_message)

    def _allows_live(self) -> bool:
        with self._lock:
            self._live_at = self._clock()
            if self._stops_live():
                self._look(RECHECK_SECONDS)
            # A single change must not wait for a question to SQS: live changes ask only after a few messages.
            elif self._sent > self._live_limit // 10:
                self._look(FRESH_SECONDS)
            return not self._stops_live()

    def _stops_live(self) -> bool:
        waiting = self._seen.waiting + self._sent
        merges = self._rows_a_message < FEW_ROWS
        return self.depth >= self._live_limit or (
            merges and waiting >= self._merge_limit + MAY_WAIT_SHARE * self._backfill_limit
        )

    def _allows_backfill(self) -> bool:
        with self._lock:
            was_full = self.depth >= int(self._backfill_limit)
            looked = self._look(self._pause if was_full else FRESH_SECONDS)
            if looked and was_full:
                self._adapt_pause()
            now = self._clock()
            has_room = self.depth < int(self._backfill_limit)
            if has_room or (self.depth < self._live_limit and now - self._let_at >= TRICKLE_SECONDS):
                self._let_at = now
                return True
            return False

    def _look(self, fresh_seconds: float) -> bool:
        """Ask the queue, unless it was asked less than `fresh_seconds` ago; whether it was asked."""
        now = self._clock()
        if self._looked is not None and now - self._looked < fresh_seconds:
            return False
        was_full = self.depth >= int(self._backfill_limit)
        self._seen = self._queue.depth()
        self._sent = 0
        self._looked = now
        self._adapt(now, was_full)
        return True

    def _adapt_pause(self) -> None:
        if self.depth >= int(self._backfill_limit):
            factor = LATER
        else:
            factor = SOONER if self.depth > self._backfill_limit / 2 else MUCH_SOONER
        self._pause = min(LONGEST_PAUSE_SECONDS, max(SHORTEST_PAUSE_SECONDS, self._pause * factor))

    def _adapt(self, now: float, was_full: bool) -> None:
        may_wait = max(CLAIM_MESSAGES if self.is_quiet else 1, MAY_WAIT_SHARE * self._backfill_limit)
        if self._seen.waiting > may_wait:
            self._calm_since = now
            enough = max(self._least, self._seen.held + may_wait - 1)
            if self._backfill_limit > enough:
                self._backfill_limit = enough
                self._calm_seconds = min(LONGEST_CALM_SECONDS, self._calm_seconds * 4)
        elif not was_full:
            # There is less to send than the limit allows, so nothing shows that more would be worked on at once.
            self._calm_since = now
        elif now - self._calm_since >= self._calm_seconds:
            self._calm_since = now
            self._calm_seconds = max(CALM_SECONDS, self._calm_seconds / 2)
            self._backfill_limit += max(CLAIM_MESSAGES, GROWTH * self._backfill_limit)
            self._backfill_limit = min(self._live_limit, self._backfill_limit)
