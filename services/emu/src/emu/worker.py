"""Emu's threads: one receives, a few work on units, one keeps leases, one does chores; and how they start and stop."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from pinecone.errors import PineconeError

from aviary.index import VectorIndex
from aviary.limits import Limiter
from aviary.logs import log
from emu.hands import Hands, Job
from emu.lease import LeaseKeeper, LeaseLostError, now
from emu.places import Means, Places
from emu.planning import apart, backfill_rows, plan
from emu.processor import TextEmbedder, Unit
from emu.queue import AwsError, ChangeQueue
from emu.retrying import Caller, IndexState, StoppingError
from emu.setaside import Notices, SetAside
from emu.settings import EmuSettings
from emu.stats import Stats

if TYPE_CHECKING:
    from types_boto3_sns import SNSClient

LOGGER = logging.getLogger(__name__)

# A backfill's unit grows to so many rows, what Pelican claims of one at a time, so that requests are few; live changes of
# its groups wait for all of it.
BACKFILL_UNIT_ROWS = 240
METRICS_INTERVAL_SECONDS = 60.0
PROBE_INTERVAL_SECONDS = 1.0
HOLD_OFF_SECONDS = 0.1
CHORE_SECONDS = 1.0
# Between two receives while SQS does not answer: so much later than SQS itself Emu is back.
LONGEST_DELAY_SECONDS = 2.0
FIRST_DELAY_SECONDS = 0.1
ACKNOWLEDGE_ATTEMPTS = 5
# A thread that has not moved for so long is stuck: every wait in it is shorter.
STUCK_SECONDS = 300.0
ENDING_SECONDS = 1.0


def _refuse(name: str) -> NoReturn:
    raise LookupError(f"this Emu was not told how to reach {name!r}")


class Emu:
    """One worker process. `run()` until `stop()`, or `run_until_idle()`; build a new one to run again."""

    def __init__(
        self,
        settings: EmuSettings,
        *,
        queue: ChangeQueue,
        index: VectorIndex,
        embedder: TextEmbedder,
        sns: "SNSClient | None" = None,
        open_index: Callable[[str], VectorIndex] = _refuse,
        load_embedder: Callable[[str], TextEmbedder] = _refuse,
    ) -> None:
        """`open_index` gives the index at another address than the configured one's, `load_embedder` another model of
        AVIARY_MODELS; each is asked once for each name. Raises ValueError when the embedder is not of the settings'
        model and dimension."""
        if (embedder.model, embedder.dimension) != (settings.model, settings.dimension):
            raise ValueError(
                f"the embedder makes {embedder.dimension} numbers with {embedder.model!r}, and the settings ask for "
                f"{settings.dimension} with {settings.model!r}; set AVIARY_MODEL and AVIARY_DIMENSION to the embedder's"
            )
        self.stats = Stats()
        self._settings = settings
        self._queue = queue
        self._index = index
        self._stopping = threading.Event()
        self._stop_at = 0.0
        self._crash: BaseException | None = None
        self._queue_state = "not reached yet"
        self._index_state = IndexState()
        self._limiter = Limiter()
        self._keeper = LeaseKeeper(queue, settings.visibility_seconds, settings.write_margin_seconds)
        self._notices = Notices(sns, settings.topic_arn, settings.dlq_url)
        self._places = Places(
            settings,
            Means(index=index, embedder=embedder, open_index=open_index, load_embedder=load_embedder),
            caller=lambda host: Caller(self.stats, self._index_state, self._stopping, host, self._limiter),
            keeper=self._keeper,
            aside=SetAside(queue, self._notices, self.stats, self._stopping),
            stats=self.stats,
        )
        self._hands = Hands(settings.units_in_flight)
        self._ended = threading.Event()
        self._pulses: dict[str, float] = {}

    # ---- what people and orchestrators see

    def alive(self) -> bool:
        """False when a thread or a unit has not moved for five minutes."""
        moved = [*self._pulses.values(), *(lease.touched_at for lease in self._keeper.held())]
        return all(now() - at < STUCK_SECONDS for at in moved)

    def ready(self) -> Mapping[str, str]:
        """Each dependency, as the last request to it went."""
        return {"queue": self._queue_state, "index": self._index_state.sentence}

    def snapshot(self) -> Mapping[str, object]:
        """Counters, freshness, units in work, and what share of its quotas each operation allows itself (those below 1)."""
        held, shares = len(self._keeper.held()), self._limiter.shares()
        return self.stats.snapshot() | {"units": held, "rate_shares": shares, **self.ready()}

    # ---- running

    def run(self) -> bool:
        """Work until `stop()`, then drain: end what is in work within the drain time, release the rest.

        False when a thread was still busy at the end of the drain time.
        """
        with self._threads():
            receiver = self._start("receiver", self._receive_forever)
            self._stopping.wait()
            log(LOGGER, logging.INFO, "draining", units=len(self._keeper.held()))
            receiver.join(self._drain_seconds_left())
            while self._keeper.held() and self._drain_seconds_left() > 0:
                time.sleep(0.01)
            unfinished = self._keeper.held()
            for lease in unfinished:
                self._keeper.release(lease, lease.messages)
        self._notices.flush(at_once=True)
        self.stats.publish()
        if self._crash is not None:
            raise self._crash
        return not unfinished

    def run_until_idle(self) -> None:
        """Work until the queue has nothing to give and no unit is in work; for tests and one-off drains."""
        with self._threads():
            while self._crash is None:
                if not self._hands.wait_for_room(timeout=1):
                    continue
                idle = not self._keeper.held()
                jobs = self._receive(wait_seconds=0)
                for job in jobs:
                    self._hands.put(job)
                if jobs:
                    continue
                if idle:
                    break
                time.sleep(0.005)
        self._notices.flush(at_once=True)
        if self._crash is not None:
            raise self._crash

    def stop(self) -> None:
        """Receive no more and make `run()` return."""
        if not self._stopping.is_set():
            self._stop_at = now()
            self._stopping.set()

    def _drain_seconds_left(self) -> float:
        return max(0.0, self._stop_at + self._settings.drain_seconds - now())

    @contextmanager
    def _threads(self) -> Iterator[None]:
        workers = [self._start(f"unit-{n}", self._work_forever) for n in range(self._settings.units_in_flight)]
        helpers = [self._start("leases", self._keep_leases), self._start("chores", self._do_chores)]
        try:
            yield
        finally:
            self._ended.set()
            self._hands.close()
            # Threads are daemons: one that waits for a dead connection must not hold the process up.
            deadline = now() + ENDING_SECONDS
            for thread in (*workers, *helpers):
                thread.join(max(0.0, deadline - now()))

    def _start(self, name: str, target: Callable[[], None]) -> threading.Thread:
        def body() -> None:
            try:
                target()
            except BaseException as error:
                LOGGER.exception("thread_failed")
                self._crash = error
                self.stop()
            finally:
                self._pulses.pop(name, None)

        thread = threading.Thread(target=body, name=name, daemon=True)
        thread.start()
        return thread

    # ---- receiving

    def _receive_forever(self) -> None:
        delay = FIRST_DELAY_SECONDS
        while not self._stopping.is_set():
            self._pulses["receiver"] = now()
            if self._index_state.sentence != "ok":
                # SQS moves a message away after ten receives. Were they received while the index is down, ten
                # restarts in one outage would be enough.
                self._stopping.wait(HOLD_OFF_SECONDS)
                continue
            if not self._hands.wait_for_room(timeout=1):
                continue
            jobs: list[Job] = []
            try:
                # Not knowing whether SQS answers, ask it for a quick answer.
                jobs = self._receive(self._settings.receive_wait_seconds if self._queue_state == "ok" else 0)
                delay = FIRST_DELAY_SECONDS
            except AwsError as error:
                self._queue_is(f"SQS does not answer ({type(error).__name__})")
                self.stats.count("errors")
                self._stopping.wait(delay)
                delay = min(delay * 2, LONGEST_DELAY_SECONDS)
            for job in jobs:
                if self._stopping.is_set():
                    self._keeper.release(job.lease, job.messages)
                else:
                    self._hands.put(job)

    def _receive(self, wait_seconds: int) -> list[Job]:
        asked_at = now()
        messages = self._queue.receive(wait_seconds, self._settings.visibility_seconds)
        self._queue_is("ok")
        rows = backfill_rows(messages)
        while messages and rows is not None and rows < BACKFILL_UNIT_ROWS and not self._stopping.is_set():
            try:
                more = self._queue.receive(0, self._settings.visibility_seconds)
            except AwsError:
                break
            if not more:
                break
            messages += more
            added = backfill_rows(more)
            rows = None if added is None else rows + added
        self.stats.count("received", len(messages))
        return [Job(some, self._keeper.take(some, asked_at), live) for live, some in apart(messages).items() if some]

    def _queue_is(self, state: str) -> None:
        if state != self._queue_state:
            self._queue_state = state
            log(LOGGER, logging.INFO if state == "ok" else logging.ERROR, "queue_state", state=state)

    # ---- working

    def _work_forever(self) -> None:
        while (job := self._hands.take()) is not None:
            try:
                self._work(job)
            finally:
                self._keeper.drop(job.lease)
                self._hands.done(job)

    def _work(self, job: Job) -> None:
        messages, lease, _ = job
        unit = Unit(messages, lease, plan(messages, self._places.refusal))
        try:
            self._places.process(unit)
        except LeaseLostError:
            self.stats.count("leases_lost")
            log(LOGGER, logging.WARNING, "lease_lost", messages=len(messages))
            return
        except (StoppingError, *AwsError):
            log(LOGGER, logging.INFO, "unit_given_back", messages=len(messages))
            self._acknowledge(unit)
            finished = unit.finished()
            self._keeper.release(lease, [message for message in messages if message not in finished])
        except Exception:
            # Not released: the messages come back when the lease ends, which keeps a fault of ours from spinning.
            self.stats.count("errors")
            LOGGER.exception("unit_failed")
            self._acknowledge(unit)
        else:
            self._acknowledge(unit)

    def _acknowledge(self, unit: Unit) -> None:
        """Delete the finished messages. Where SQS does not agree, they come again and change nothing."""
        waiting = unit.finished()
        total = len(waiting)
        for attempt in range(ACKNOWLEDGE_ATTEMPTS):
            if not waiting or unit.lease.remaining() <= 0:
                break
            if attempt:
                self._stopping.wait(FIRST_DELAY_SECONDS * 2**attempt)
            try:
                waiting = self._queue.delete(waiting)
            except AwsError:
                LOGGER.exception("acknowledge_failed")
                self.stats.count("errors")
        self.stats.count("acknowledged", total - len(waiting))

    # ---- helpers

    def _keep_leases(self) -> None:
        while not self._ended.wait(self._keeper.tick_seconds):
            self._pulses["leases"] = now()
            self._keeper.tick()

    def _do_chores(self) -> None:
        probed = -PROBE_INTERVAL_SECONDS
        published = time.monotonic()
        while True:
            self._pulses["chores"] = now()
            # Work itself shows how the index is; without work, a failing or unknown one is looked at now and then.
            bad = self._index_state.sentence != "ok" and not self._keeper.held()
            if bad and time.monotonic() - probed >= PROBE_INTERVAL_SECONDS:
                self._probe()
                probed = time.monotonic()
            self._notices.flush()
            if time.monotonic() - published >= METRICS_INTERVAL_SECONDS:
                self.stats.publish()
                published = time.monotonic()
            if self._ended.wait(CHORE_SECONDS):
                return

    def _probe(self) -> None:
        try:
            self._index.count("")
        except PineconeError as error:
            self._index_state.is_bad("probe", error)
        else:
            self._index_state.is_ok()
