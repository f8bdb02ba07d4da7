"""Keeps `sync.dead_letter` like the dead letter queue, so that pages can show letters without touching the queue.

Looking at a queue hides its messages for that moment and counts as a receive, so it is done by one Pelican at a time, and
only when the number of letters has changed, or has not been looked into for some minutes.
"""

import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import botocore.exceptions
import psycopg

from aviary.dead_letters import DeadLetterQueue, Letter, read
from aviary.logs import log
from pelican.outbox import LOCK_CLASS

# What a page could ever show; the command reads the queue itself.
MOST_LETTERS = 1_000
MOST_KEYS = 100
MOST_REASON_CHARS = 500
LOOK_ANYWAY_SECONDS = 300.0
LOCK_OBJECT = -2
HOLD_SECONDS = 20

_KNOWN = "SELECT count(*) FROM sync.dead_letter"
_LOCK = "SELECT pg_try_advisory_lock(%s, %s)"
_UNLOCK = "SELECT pg_advisory_unlock(%s, %s)"
_ADD = """
INSERT INTO sync.dead_letter (id, kind, reason, source, namespace, index_host, keys, versions, failed_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING"""
_FORGET = "DELETE FROM sync.dead_letter WHERE id <> ALL (%s)"
_FORGET_OLDEST = """
DELETE FROM sync.dead_letter WHERE id IN (SELECT id FROM sync.dead_letter ORDER BY failed_at DESC, id OFFSET %s)"""

_logger = logging.getLogger(__name__)


class LetterBoard:
    """Not thread-safe; `update` is called now and then on one session in autocommit mode."""

    def __init__(self, queue: DeadLetterQueue) -> None:
        self._queue = queue
        self._seen_depth = -1
        self._due = 0.0
        self._trouble = ""

    def update(self, connection: psycopg.Connection[Any]) -> None:
        """Bring the table up to date where it may not be. A queue that does not answer is logged once and left for some
        minutes; raises psycopg.Error."""
        now = time.monotonic()
        if self._trouble and now < self._due:
            return
        try:
            self._update(connection, now)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            self._due = now + LOOK_ANYWAY_SECONDS
            if self._trouble != type(error).__name__:
                self._trouble = type(error).__name__
                log(_logger, logging.WARNING, "dead_letters_unreadable", error=self._trouble)
        else:
            self._trouble = ""

    def _update(self, connection: psycopg.Connection[Any], now: float) -> None:
        depth = sum(self._queue.depth())
        known = (connection.execute(_KNOWN).fetchone() or (0,))[0]
        if depth in (known, self._seen_depth) and (depth == 0 or now < self._due):
            self._seen_depth = depth
            return
        if not (connection.execute(_LOCK, (LOCK_CLASS, LOCK_OBJECT)).fetchone() or (False,))[0]:
            return
        try:
            self._look(connection)
        finally:
            if not connection.closed:
                connection.execute(_UNLOCK, (LOCK_CLASS, LOCK_OBJECT))
        self._seen_depth = depth
        self._due = now + LOOK_ANYWAY_SECONDS

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        letters: list[Letter] = []
        with self._queue.look(HOLD_SECONDS) as look:
            for held in look.batches():
                letters += map(read, held)
                if len(letters) >= MOST_LETTERS:
                    break
            # What somebody else holds, or stands behind others, is not gone.
            complete = look.depth.held == 0 and look.out_of_reach == 0 and len(letters) < MOST_LETTERS
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(_ADD, [_row(letter) for letter in letters])
            if complete:
                cursor.execute(_FORGET, ([letter.id for letter in letters],))
            cursor.execute(_FORGET_OLDEST, (MOST_LETTERS,))


def _row(letter: Letter) -> tuple[Any, ...]:
    keys = letter.keys[:MOST_KEYS]
    # A letter may be anything that somebody has put into the queue.
    at_ms = min(max(letter.at_ms, 0), time.time_ns() // 1_000_000)
    return (
        letter.id,
        letter.kind,
        _text(letter.reason)[:MOST_REASON_CHARS],
        *_texts((letter.source, letter.namespace, letter.index_host)),
        _texts(key.key for key in keys),
        [key.version if 0 < key.version < 2**63 else 0 for key in keys],
        datetime.fromtimestamp(at_ms / 1000, UTC),
    )


def _texts(given: Iterable[str]) -> list[str]:
    return [_text(text) for text in given]


def _text(text: str) -> str:
    """As Postgres can hold it."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
