"""What must happen now and then beside shipping: pages of backfills, a look at the queues, metrics."""

import logging
import threading
import time
from typing import Any

import psycopg

from aviary.logs import metrics
from pelican.backfill import PAUSE_SECONDS, Page, turn_page
from pelican.backoff import Backoff, Dependency
from pelican.letters import LetterBoard
from pelican.outbox import BACKFILL, FILL, LIVE, PostgresOutbox, SourceError
from pelican.settings import PelicanSettings
from pelican.sqs import ChangeQueue, QueueError
from pelican.stats import Stats
from pelican.worker import Bell, Paused

METRICS_SECONDS = 60.0
LOOK_SECONDS = 15.0
# After one that failed.
LOOK_AGAIN_SECONDS = 2.0

# What sync.status is made of, at the same price. A backfill or another place that is filled waits in the outbox by design,
# most of it until Emus have room, so neither may look like lateness: scaling and alarms go by live changes.
_BEHIND = """
SELECT coalesce(sum(d.outbox_keys) FILTER (WHERE lane = %(live)s), 0)::bigint,
       coalesce(sum(d.outbox_keys) FILTER (WHERE lane <> %(live)s), 0)::bigint,
       coalesce(extract(epoch FROM clock_timestamp() - min(d.oldest_enqueued_at) FILTER (WHERE lane = %(live)s)), 0)::float8
FROM sync.source s CROSS JOIN unnest(%(lanes)s::smallint[]) AS lane CROSS JOIN LATERAL sync.depth(s.id, lane) d"""
_LANES = {"live": LIVE, "lanes": [LIVE, BACKFILL, FILL]}

_logger = logging.getLogger("pelican")


class House:
    """One thread's loop. `behind` is the outbox as last seen: keys by lane (whatever fills an index counts as backfill), and
    the age of the oldest live row in seconds."""

    def __init__(
        self,
        outbox: PostgresOutbox,
        queue: ChangeQueue,
        stats: Stats,
        bell: Bell,
        stop: threading.Event,
        *,
        database: Dependency,
        queue_state: Dependency,
        settings: PelicanSettings,
        letters: LetterBoard | None = None,
    ) -> None:
        self._outbox = outbox
        self._queue = queue
        self._stats = stats
        self._bell = bell
        self._stop = stop
        self._database = database
        self._queue_state = queue_state
        self._settings = settings
        self._letters = letters
        self._unpageable = Paused()
        self._measured = {"sent": 0, "messages": 0}
        self._look_due = time.monotonic()
        self._metrics_due = time.monotonic() + METRICS_SECONDS
        self.behind: dict[str, float] = {}

    def run(self) -> None:
        """Until `stop` is set. No outside trouble ends it."""
        backoff = Backoff()
        while not self._stop.is_set():
            pause, heard = self._settings.poll_seconds, self._bell.rings
            try:
                if self._page(self._outbox.connection):
                    pause = PAUSE_SECONDS
                self._look(self._outbox.connection)
                backoff.reset()
            except QueueError as error:
                self._queue_state.failed(str(error))
                self._look_due = time.monotonic() + LOOK_AGAIN_SECONDS
            except psycopg.Error as error:
                self._outbox.drop()
                self._database.failed(type(error).__name__)
                pause = backoff.pause_seconds()
            except Exception:
                self._outbox.drop()
                _logger.exception("housekeeping_failed")
                pause = backoff.pause_seconds()
            # A ring may be for a backfill; most are for a live change, which should not wait for a look at backfills.
            self._bell.wait(heard, pause - PAUSE_SECONDS, house=True)
            self._stop.wait(min(pause, PAUSE_SECONDS))
        self._outbox.drop()

    def _page(self, connection: psycopg.Connection[Any]) -> bool:
        """Enqueue what there is room for; whether there is more to come."""
        limit = self._settings.backfill_outbox_limit
        for lane in (BACKFILL, FILL):
            page: Page | None = None
            while not self._stop.is_set():
                try:
                    page = turn_page(connection, limit, but=self._unpageable.all(), lane=lane)
                except SourceError as error:
                    self._unpageable.add(error)
                    return True
                if page is None or (not page.keys and not page.is_last):
                    break
            if page is not None:
                return True
        return False

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        now = time.monotonic()
        if now < self._look_due:
            return
        self._look_due = now + LOOK_SECONDS
        live, backfill, age = connection.execute(_BEHIND, _LANES).fetchone() or (0, 0, 0.0)
        self.behind = {"live_keys": live, "backfill_keys": backfill, "live_oldest_seconds": round(age, 3)}
        if now >= self._metrics_due:
            self._metrics_due = now + METRICS_SECONDS
            self._tell()
        depth = sum(self._queue.depth())
        self.behind["queue_messages"] = depth
        self._queue_state.works()
        if self._letters is not None:
            self._letters.update(connection)

    def _tell(self) -> None:
        counts = self._stats.read()
        since = {name: counts[name] - before for name, before in self._measured.items()}
        self._measured = {name: counts[name] for name in self._measured}
        metrics(
            _logger,
            "pelican",
            {
                "RowsSent": (since["sent"], "Count"),
                "MessagesSent": (since["messages"], "Count"),
                "OutboxLiveKeys": (self.behind["live_keys"], "Count"),
                "OutboxBackfillKeys": (self.behind["backfill_keys"], "Count"),
                "OutboxLiveOldestSeconds": (self.behind["live_oldest_seconds"], "Seconds"),
            },
        )
