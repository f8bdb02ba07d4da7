"""Walks a watched table and its vectors, finds what is not in step, and mends it by the ordinary path.

    rows, page by page ► their vectors: missing, stale        vectors, page by page ► their rows: orphaned
                                    └────────► sync.drift ◄────────┘
    settle: once outbox and queue have been seen past a difference, look again; what is just the same is drift
    repair: the keys into the outbox; only what no key stands for is deleted here, while nobody can write it

Every page is one short transaction with the cursor in it, so a run can be killed anywhere and goes on; memory holds a
page of rows and of vectors.
"""

import contextlib
import datetime
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import psycopg

from aviary.source import Source
from pelican.drift import Drift, Kind
from pelican.ledger import DONE, PAGE_KEYS, REPAIR, ROWS, SETTLE, VECTORS, Ledger
from pelican.looking import Looker
from pelican.outbox import LOCK_CLASS, SHARD_BITS
from pelican.sqs import ChangeQueue

# Between two looks at queue and outbox.
LOOK_SECONDS = 0.5
# A read of the index may be behind its writes by seconds, and SQS's counts by as much: for so long the queue must look
# empty, and what is not in step must be seen not to be.
GRACE_SECONDS = 5.0
# While a vector is deleted here, nobody claims its shard: live changes wait for so long at most.
FENCE_SECONDS = 2.0
FENCE_TRIES = 5
SHARDS = 1 << SHARD_BITS

_UNFINISHED = """
SELECT FROM sync.claim WHERE source_id = %s AND shard = ANY (%s) AND messages > 0
  AND expires_at > clock_timestamp() - interval '1 minute'"""


class Step(NamedTuple):
    """How far a run is: `done` of about `total` rows or vectors, or of differences."""

    stage: str
    done: int
    total: int


class Outcome(NamedTuple):
    """What a run came to. `found` is what persisted, `pending` what may still be on its way, `left` what was found and is
    not mended. `examples` are keys: for the person who asked, never for a log."""

    source: Source
    rows: int
    vectors: int
    found: dict[Kind, int]
    pending: int
    left: int
    examples: dict[Kind, list[str]]
    seconds: float

    @property
    def drift(self) -> int:
        """All that was found."""
        return sum(self.found.values())


class Reconcile:
    """One run for one source, on a ledger that has begun. `outbox_limit`: keys that a repair keeps in the outbox at once."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        ledger: Ledger,
        looker: Looker,
        queue: ChangeQueue,
        source: Source,
        *,
        settle_seconds: float,
        outbox_limit: int,
        since: Callable[[datetime.datetime], datetime.datetime] | None,
        report: Callable[[Step], None] = lambda _: None,
        pause: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._ledger = ledger
        self._looker = looker
        self._queue = queue
        self._source = source
        self._settle_seconds = settle_seconds
        self._outbox_limit = outbox_limit
        self._grace_seconds = min(GRACE_SECONDS, settle_seconds / 4)
        self._since = since
        self._report = report
        self._pause = pause
        self._clock = clock

    def run(self, *, repair: bool, examples: int) -> Outcome:
        """All of it, from where the ledger says. Raises SourceError, QueueError, psycopg.Error and the SDK's errors; run
        again, it goes on."""
        began = self._clock()
        if self._ledger.progress().stage == ROWS:
            self._walk_rows(VECTORS if self._since is None else SETTLE)
        if self._ledger.progress().stage == VECTORS:
            self._walk_vectors()
        if self._ledger.progress().stage == SETTLE:
            self._settle()
            self._ledger.keep_found()
            self._ledger.enter(REPAIR)
        pending = self._ledger.count("seen", "still")
        shown = self._ledger.examples(examples)
        if repair:
            self._repair()
        left = self._ledger.count("drift", "sent")
        self._ledger.enter(DONE)
        progress = self._ledger.progress()
        return Outcome(
            source=self._source,
            rows=progress.rows,
            vectors=progress.vectors,
            found=self._ledger.found(),
            pending=pending,
            left=left,
            examples=shown,
            seconds=self._clock() - began,
        )

    def _walk_rows(self, following: str) -> None:
        progress = self._ledger.progress()
        since = self._since(progress.started_at) if self._since else None
        cursor, done, total = progress.cursor, progress.rows, self._looker.table_size
        while True:
            page = self._looker.row_page(cursor, PAGE_KEYS, since)
            found = self._looker.compare(page.documents)
            done, cursor = done + page.rows, page.cursor
            self._ledger.turn(found, cursor, rows=page.rows, following=following)
            self._report(Step(ROWS, done, max(done, total)))
            if cursor is None:
                return

    def _walk_vectors(self) -> None:
        progress = self._ledger.progress()
        token = progress.cursor[0] if progress.cursor else None
        done, total = progress.vectors, self._looker.namespace_size
        while True:
            ids, token = self._looker.vector_page(token)
            found = self._looker.orphans(ids)
            done += len(ids)
            self._ledger.turn(found, [token] if token else None, vectors=len(ids), following=SETTLE)
            self._report(Step(VECTORS, done, max(done, total)))
            if token is None:
                return

    def _settle(self) -> None:
        """Tell drift from what is on its way. What cannot be told in time stays in the states `seen` and `still`."""
        deadline = self._clock() + self._settle_seconds
        total = self._ledger.count("seen", "still")
        while (unsettled := self._ledger.count("seen", "still")) and self._clock() < deadline:
            self._report(Step(SETTLE, total - unsettled, total))
            self._ledger.reset()
            self._ledger.mark_still()
            shards = self._ledger.shards_in("still")
            if shards:
                # Drawn after that look: what is written with a higher version comes behind all that was on its way then.
                passed = self._await_passing(self._ledger.draw_version(), shards, deadline)
                self._judge(passed)
            else:
                self._pause(LOOK_SECONDS)

    def _await_passing(self, version: int, shards: Collection[int | None], deadline: float) -> set[int] | None:
        """Wait until what the queue holds of these shards now has been worked off; None: of all of them. Either the queue
        is empty for a while; or, as a shard's messages are worked on in order, a newer one has been."""
        passed: set[int] = set()
        quiet_since: float | None = None
        while True:
            now = self._clock()
            if any(self._queue.depth()):
                quiet_since = None
            elif quiet_since is None:
                quiet_since = now
            if quiet_since is not None and now - quiet_since >= self._grace_seconds:
                return None
            if now >= deadline:
                return passed
            if quiet_since is None:
                passed |= self._ledger.shards(self._looker.newer(version))
                if passed.issuperset(shards):
                    self._pause(self._grace_seconds)
                    return passed
            self._pause(min(LOOK_SECONDS, self._grace_seconds))

    def _judge(self, shards: Collection[int] | None) -> None:
        """Look again at what is still in no outbox: the same difference as before is drift; another one, or none, shows
        that it is being worked on."""
        for page in self._ledger.pages("still", shards):
            now = self._looker.again(page)
            self._ledger.move([each.id for each in page if now.get(each.id) == each], "drift")
            self._ledger.forget([each.id for each in page if now.get(each.id) != each])

    def _repair(self) -> None:
        self._delete_strays()
        self._ledger.lift_version()
        for page in self._ledger.pages("drift"):
            while self._ledger.waiting() > self._outbox_limit:
                self._pause(LOOK_SECONDS)
            if keyed := [each.id for each in page if not each.direct]:
                self._ledger.enqueue(keyed)
        self._verify()

    def _verify(self) -> None:
        """Until all that was sent is in step, or nothing has moved for as long as a difference may settle."""
        total = self._ledger.count("sent")
        moved, least = self._clock(), (total, self._ledger.waiting())
        while (left := self._ledger.count("sent")) and self._clock() - moved < self._settle_seconds:
            if (state := (left, self._ledger.waiting())) < least:
                moved, least = self._clock(), state
            self._report(Step(REPAIR, total - left, total))
            self._pause(LOOK_SECONDS)
            for page in self._ledger.pages("sent"):
                now = self._looker.again(page)
                self._ledger.forget([each.id for each in page if each.id not in now])

    def _delete_strays(self) -> None:
        """Delete vectors that no key stands for, each while nothing that could write it is under way."""
        for page in self._ledger.pages("drift"):
            strays = [each for each in page if each.direct]
            shards = self._ledger.shards([each.key for each in strays if each.key is not None])
            if any(each.key is None for each in strays):
                shards = set(range(SHARDS))
            tries = FENCE_TRIES if strays else 0
            while tries and not self._delete_fenced(strays, sorted(shards)):
                tries -= 1
                self._pause(LOOK_SECONDS)

    def _delete_fenced(self, strays: list[Drift], shards: list[int]) -> bool:
        with self._holding(shards) as held:
            if not held:
                return False
            until = self._clock() + FENCE_SECONDS
            while any(self._queue.depth()):
                if self._clock() >= until:
                    return False
                self._pause(0.1)
            # Nobody can send anything of these shards, and nothing of them is in the queue.
            now = self._looker.again(strays)
            self._looker.delete([each.id for each in strays if now.get(each.id) == each])
        self._ledger.forget([each.id for each in strays])
        return True

    @contextlib.contextmanager
    def _holding(self, shards: list[int]) -> Iterator[bool]:
        """Hold shards, so that no Pelican claims them; yields False when one is in use, or a claim of it was given up
        half-way and may still reach the queue."""
        locks = [(LOCK_CLASS, self._source.id << SHARD_BITS | shard) for shard in shards]
        held = []
        try:
            for lock in locks:
                row = self._connection.execute("SELECT pg_try_advisory_lock(%s, %s)", lock).fetchone()
                if row is None or not row[0]:
                    break
                held.append(lock)
            all_held = len(held) == len(locks)
            unfinished = self._connection.execute(_UNFINISHED, (self._source.id, shards)).fetchone()
            yield all_held and unfinished is None
        finally:
            for lock in held:
                self._connection.execute("SELECT pg_advisory_unlock(%s, %s)", lock)
