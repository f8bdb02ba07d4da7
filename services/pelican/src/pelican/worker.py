"""A worker turns the outbox over: looks for shards with work, ships them, waits for the bell."""

import contextlib
import enum
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Iterable

import psycopg

from aviary.logs import log
from pelican.backoff import Backoff, Dependency
from pelican.outbox import BACKFILL, FILL, LIVE, LostClaimError, PostgresOutbox, SourceError, Work
from pelican.packing import MAX_CALL_MESSAGES
from pelican.shipper import Shipper
from pelican.sqs import QueueError
from pelican.throttle import Gate

RUSH_SECONDS = 0.01

_logger = logging.getLogger(__name__)


class Bell:
    """Wakes workers, and the house. Who waits remembers `rings` before it looks, so that no ring during its look is lost.

    In a `rush` it does not ring, and workers look every RUSH_SECONDS; after each of the `calms` that end one they look
    less and less often. `found_at` is when one last found rows (time.monotonic()).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers = threading.Condition(self._lock)
        self._house = threading.Condition(self._lock)
        self.rings = 0
        self.rush = False
        self.calms = 0
        self.found_at = 0.0

    def ring(self) -> None:
        """Wake all."""
        with self._lock:
            self.rings += 1
            self._workers.notify_all()
            self._house.notify_all()

    def nudge(self) -> None:
        """Wake one of the workers that wait, and the house: two workers would each send a half of what fits one call."""
        with self._lock:
            self.rings += 1
            self._workers.notify()
            self._house.notify_all()

    def wait(self, heard: int, seconds: float, *, house: bool = False) -> None:
        """Return when woken by a ring after the first `heard`, or after `seconds`."""
        with self._lock:
            (self._house if house else self._workers).wait_for(lambda: self.rings != heard, seconds)


class Turn(enum.Enum):
    """How a look at the outbox ended."""

    WORKED = "shipped something, so there may be more"
    IDLE = "nothing to do, or others do it"
    WAITING = "there is work that may not be done now"


class Paused:
    """Sources that cannot be read, each left alone for a while. Shared by workers; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[int, tuple[float, Backoff]] = {}

    def add(self, error: SourceError) -> None:
        with self._lock:
            is_new = error.source_id not in self._until
            backoff = Backoff(most_seconds=30.0) if is_new else self._until[error.source_id][1]
            self._until[error.source_id] = (time.monotonic() + backoff.pause_seconds(), backoff)
        if is_new:
            log(_logger, logging.ERROR, "source_unreadable", reason=str(error))

    def has(self, source_id: int) -> bool:
        return source_id in self.all()

    def all(self) -> list[int]:
        with self._lock:
            return [source_id for source_id, (until, _) in self._until.items() if time.monotonic() < until]

    def clear(self, source_id: int) -> None:
        with self._lock:
            known = self._until.pop(source_id, None)
        if known:
            log(_logger, logging.INFO, "source_readable_again")


class Worker:
    """One thread's loop. `turned_at` is when it last came round (time.monotonic())."""

    def __init__(
        self,
        outbox: PostgresOutbox,
        shipper: Shipper,
        gate: Gate,
        bell: Bell,
        stop: threading.Event,
        *,
        paused: Paused,
        database: Dependency,
        queue: Dependency,
        poll_seconds: float,
    ) -> None:
        self._outbox = outbox
        self._shipper = shipper
        self._gate = gate
        self._bell = bell
        self._stop = stop
        self._paused = paused
        self._database = database
        self._queue = queue
        self._poll_seconds = poll_seconds
        self._backoff = Backoff()
        self._idle = poll_seconds
        self._calms = 0
        self.turned_at = time.monotonic()

    def run(self) -> None:
        """Work until `stop` is set; then finish the claim in hand and return. No outside trouble ends it."""
        try:
            while not self._stop.is_set():
                heard = self._bell.rings
                match self._guarded_turn():
                    case Turn.IDLE:
                        self._bell.wait(heard, self._idle_seconds())
                    case Turn.WAITING:
                        # A live change may come meanwhile, and need not wait.
                        self._bell.wait(heard, min(self._gate.pause_seconds, self._idle_seconds()))
                    case None:
                        self._stop.wait(self._backoff.pause_seconds())
        finally:
            with contextlib.suppress(psycopg.Error):
                self._shipper.settle()
            self._outbox.drop()

    def run_until_idle(self) -> None:
        """Ship all that can be shipped now, and end the session. Trouble is raised."""
        try:
            while self.turn() is Turn.WORKED:
                pass
        finally:
            self._outbox.drop()

    def turn(self) -> Turn:
        """One look at the outbox. Every live shard is shipped from once; then, if there was none, or a backfill has waited
        for long enough, one call of a backfill's (or, if there is none either, of another place's). So live changes never
        wait for more than that, and however many there are, a backfill goes on."""
        self.turned_at = time.monotonic()
        self._shipper.settle()
        found = self._outbox.find()
        self._database.works()
        work = [w for w in found if not self._paused.has(w.source_id)]
        if work:
            self._bell.found_at = time.monotonic()
        turn = Turn.WAITING if len(work) < len(found) else Turn.IDLE
        live = [w for w in work if w.lane == LIVE]
        random.shuffle(live)  # so that workers start at different shards and seldom reach for the same one
        for works in _by_source(live):
            while works:
                if self._stop.is_set():
                    return Turn.IDLE
                turn = self._ship(works, turn)
        if turn is Turn.WORKED and not self._gate.owes_backfill:
            return turn
        return self._fill(work, turn)

    def _fill(self, work: list[Work], turn: Turn) -> Turn:
        for lane in (BACKFILL, FILL):
            for works in _by_source(self._gate.in_turn([w for w in work if w.lane == lane])):
                while works:
                    filled = self._ship(works, Turn.IDLE)
                    if filled is not Turn.IDLE:
                        return filled if turn is not Turn.WORKED else turn
        return turn

    def _idle_seconds(self) -> float:
        self._idle = min(self._poll_seconds, self._idle * 2)
        if self._bell.rush or self._calms != self._bell.calms:
            self._calms = self._bell.calms
            self._idle = RUSH_SECONDS
        return self._idle

    def _ship(self, works: deque[Work], turn: Turn) -> Turn:
        """Ship some of these shards, which are of one source and lane; none is left of them when that may not be done now."""
        with self._gate.room(works[0].lane) as allowed:
            if allowed:
                return self._ship_claims(works, turn)
        works.clear()
        return _waiting(turn)

    def _ship_claims(self, works: deque[Work], turn: Turn) -> Turn:
        self.turned_at = time.monotonic()
        tried = list(works)
        try:
            shipped = self._shipper.ship(works)
        except SourceError as error:
            self._paused.add(error)
            works.clear()
            return _waiting(turn)
        except LostClaimError:
            return Turn.WORKED
        work, tried = tried[0], tried[: len(tried) - len(works)]
        if work.lane == LIVE and works and len(tried) < MAX_CALL_MESSAGES:
            # Claims are large, so that there is enough for one more worker.
            self._bell.nudge()
        if shipped:
            if work.lane != LIVE:
                self._gate.filled(tried)
            self._queue.works()
            self._backoff.reset()
            self._paused.clear(work.source_id)
            return Turn.WORKED
        return turn

    def _guarded_turn(self) -> Turn | None:
        try:
            return self.turn()
        except QueueError as error:
            self._queue.failed(str(error))
        except psycopg.Error as error:
            self._outbox.drop()
            self._database.failed(type(error).__name__)
        except Exception:
            # A defect of ours must show in the logs and must not end the thread: the next turn may do other work.
            self._outbox.drop()
            _logger.exception("turn_failed")
        return None


def _by_source(works: Iterable[Work]) -> Iterable[deque[Work]]:
    found: dict[int, deque[Work]] = {}
    for work in works:
        found.setdefault(work.source_id, deque()).append(work)
    return found.values()


def _waiting(turn: Turn) -> Turn:
    """How the look has ended so far, now that something may not be done."""
    return Turn.WORKED if turn is Turn.WORKED else Turn.WAITING
