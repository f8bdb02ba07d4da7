"""Hears the NOTIFY of writers, and asks them to stop when they come thick.

Commits that notify take one lock, cluster-wide, over their flush to disk; eight busy writers get a tenth of their
throughput. So NOTIFY is for the change that comes out of the quiet. Once they come in numbers, writers are told to
leave it (`sync.quiet`), and workers look by themselves every few milliseconds until nothing comes any more.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from aviary.logs import log
from pelican.backoff import Backoff, Dependency
from pelican.worker import Bell

LISTEN_SECONDS = 0.2
# As many notifications within a window make it a rush; no work found for as long ends it.
RUSH_NOTIFICATIONS = 25
WINDOW_SECONDS = 0.5
# A Pelican that was killed in a rush leaves writers silent; another one notices within this.
STALE_SECONDS = 1.0

_SET_QUIET = "SELECT setval('sync.quiet', %s) FROM sync.quiet WHERE last_value <> %s"

_logger = logging.getLogger(__name__)


class Listener:
    """One thread's loop, with a connection of its own in autocommit mode."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        bell: Bell,
        stop: threading.Event,
        database: Dependency,
    ) -> None:
        self._connect = connect
        self._bell = bell
        self._stop = stop
        self._database = database
        self._heard = 0
        self._window_from = 0.0
        self._checked_at = 0.0

    def run(self) -> None:
        """Until `stop` is set. What was missed while not connected is found by looking once."""
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                with self._connect() as connection:
                    connection.execute("LISTEN aviary")
                    self._calm(connection)
                    backoff.reset()
                    while not self._stop.is_set():
                        self._listen(connection)
            except psycopg.Error as error:
                self._database.failed(type(error).__name__)
                self._stop.wait(backoff.pause_seconds())

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
            self._heard += 1
            self._bell.nudge()
        now = time.monotonic()
        if self._bell.rush:
            if now - self._bell.found_at > WINDOW_SECONDS:
                self._calm(connection)
        elif self._heard >= RUSH_NOTIFICATIONS:
            connection.execute(_SET_QUIET, (1, 1))
            self._bell.rush = True
            self._bell.ring()
            log(_logger, logging.DEBUG, "rush")
        elif now - self._checked_at > STALE_SECONDS:
            self._calm(connection)
        if now - self._window_from > WINDOW_SECONDS:
            self._heard, self._window_from = 0, now

    def _calm(self, connection: psycopg.Connection[Any]) -> None:
        changed = connection.execute(_SET_QUIET, (0, 0)).rowcount > 0
        self._checked_at = time.monotonic()
        if changed or self._bell.rush:
            self._bell.rush = False
            self._bell.calms += 1
            # Whoever wrote before this and did not notify is found now, or by the next looks, which come less and
            # less often: a transaction waits at most about as long again as it was open.
            self._bell.ring()
