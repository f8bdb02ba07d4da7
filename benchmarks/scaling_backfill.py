"""A backfill beside live changes under the stack's scaling rules, message by message: Pelican's real gate
(pelican.throttle) decides how much of it is in the queue, the queue holds back a group that somebody has in hand, and an
Emu takes and works on what emu.hands and emu.worker say. See benchmarks.scaling.

Assumed: SQS counts exactly and answers at once (on AWS its counts lag), it gives the oldest group first, each request to the
index takes `INDEX_SECONDS`, and a backfill's unit makes two after each other and a live one makes one. Which shard is next is
drawn from a seed, so every run gives the same numbers.
"""

import random
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, cast

from aviary.depth import Depth
from benchmarks.machine import percentile
from benchmarks.scaling_rules import HOUR, PERIOD_SECONDS, Rules, Sample, Service
from emu.queue import BATCH_LIMIT
from emu.settings import EmuSettings
from emu.worker import BACKFILL_UNIT_ROWS
from pelican.outbox import BACKFILL, LIVE, SHARD_BITS, Work
from pelican.settings import PelicanSettings
from pelican.shipper import BACKFILL_KEYS, BACKFILL_KEYS_BESIDE_LIVE
from pelican.sqs import ChangeQueue
from pelican.throttle import Gate

STEP_SECONDS = 0.1
STEPS_A_PERIOD = round(PERIOD_SECONDS / STEP_SECONDS)
ROWS_PER_MESSAGE = 100
INDEX_SECONDS = 0.15
# From when nothing of it is left until the fewest tasks run again.
CALM_SECONDS = 40 * 60
SHARDS = 1 << SHARD_BITS
UNITS = int(EmuSettings.model_fields["units_in_flight"].default)
BACKFILL_LIMIT, LIVE_LIMIT, MERGE_LIMIT, OUTBOX_LIMIT = (
    int(PelicanSettings.model_fields[name].default)
    for name in ("backfill_queue_limit", "live_queue_limit", "live_merge_limit", "backfill_outbox_limit")
)


class Backfill(NamedTuple):
    """`rows` asked for after a minute, `live_rows_per_second` beside them. `most_seconds`: when to look no longer."""

    rows: int = 1_000_000
    live_rows_per_second: float = 5.0
    most_seconds: float = 12 * HOUR


class Message(NamedTuple):
    """`at`: when its rows were committed (of live ones)."""

    rows: int
    live: bool
    at: float


class Unit:
    """What an Emu took at once. `rows_left` to embed; then the index has it until `ends_at`."""

    def __init__(self, taken: list[tuple[int, list[Message]]]) -> None:
        self.groups = [group for group, _ in taken]
        self.messages = [message for _, messages in taken for message in messages]
        self.live = all(message.live for message in self.messages)
        self.rows_left = float(sum(message.rows for message in self.messages))
        self.ends_at = 0.0


class Queue:
    """SQS FIFO: of a group that somebody has in hand nothing more is given."""

    def __init__(self) -> None:
        self._groups: list[deque[Message]] = [deque() for _ in range(SHARDS)]
        self._held: set[int] = set()
        self._held_messages = self.waiting = 0

    def depth(self) -> Depth:
        return Depth(self.waiting, self._held_messages)

    def put(self, group: int, message: Message) -> None:
        self._groups[group].append(message)
        self.waiting += 1

    def oldest(self) -> float | None:
        """When the oldest of those that wait was put there."""
        return min((messages[0].at for messages in self._groups if messages), default=None)

    def take(self) -> Unit | None:
        """Live changes of groups that begin with some; else, of a backfill, a unit's rows and what stands behind them."""
        free = sorted(
            (group for group in range(SHARDS) if group not in self._held and self._groups[group]),
            key=lambda group: self._groups[group][0].at,
        )
        live = [group for group in free if self._groups[group][0].live]
        if not free:
            return None
        taken: list[tuple[int, list[Message]]] = []
        rows = count = 0
        for group in live or free:
            some = list(self._from(group, BATCH_LIMIT - count, live_only=bool(live)))
            taken.append((group, some))
            rows, count = rows + sum(message.rows for message in some), count + len(some)
            if count >= BATCH_LIMIT or rows >= BACKFILL_UNIT_ROWS:
                break
        self._held.update(group for group, _ in taken)
        self._held_messages += count
        self.waiting -= count
        return Unit(taken)

    def _from(self, group: int, most: int, *, live_only: bool) -> Iterator[Message]:
        messages = self._groups[group]
        while messages and most and (messages[0].live or not live_only):
            most -= 1
            yield messages.popleft()

    def done(self, unit: Unit) -> None:
        self._held.difference_update(unit.groups)
        self._held_messages -= len(unit.messages)


class Emu:
    """One task. It embeds one unit after the other, live ones first, while others are with the index."""

    def __init__(self, queue: Queue, rows_a_step: float) -> None:
        self._queue = queue
        self._rows_a_step = rows_a_step
        self.units: list[Unit] = []

    def receive(self) -> None:
        """Take what it has hands for."""
        while self._queue.waiting and len(self.units) < UNITS:
            if sum(not unit.live for unit in self.units) >= UNITS - 1 or (taken := self._queue.take()) is None:
                return
            self.units.append(taken)

    def step(self, now: float) -> tuple[float, list[Unit]]:
        """What share of the step it computed, and the units that ended."""
        ended = [unit for unit in self.units if unit.rows_left <= 0 and unit.ends_at <= now]
        for unit in ended:
            self._queue.done(unit)
            self.units.remove(unit)
        can = self._rows_a_step
        for unit in sorted(self.units, key=lambda unit: not unit.live):
            if can > 0 and unit.rows_left > 0:
                done = min(can, unit.rows_left)
                unit.rows_left, can = unit.rows_left - done, can - done
                if unit.rows_left <= 1e-9:
                    unit.rows_left = 0.0
                    unit.ends_at = now + STEP_SECONDS + INDEX_SECONDS * (1 if unit.live else 2)
        return 1 - can / self._rows_a_step, ended


class Outcome(NamedTuple):
    """`seconds` from the request until every row was in the index; ages of live changes in seconds, each as it got there."""

    samples: list[Sample]
    seconds: float
    ages: list[float]
    most_messages: int


class Run:
    """One backfill under one set of rules. `counts_all`: Pelican's rule looks at all keys in the outbox, not the live ones."""

    def __init__(
        self,
        load: Backfill,
        pelican: Rules,
        emu: Rules,
        *,
        rows_per_vcpu: float,
        pelican_rows_per_vcpu: float,
        start_seconds: float,
        counts_all: bool = False,
    ) -> None:
        self._load, self._counts_all = load, counts_all
        self._pelicans, self._emus = Service(pelican, start_seconds), Service(emu, start_seconds)
        self._seconds_a_row = 1 / (pelican.vcpu * pelican_rows_per_vcpu)
        self._rows_a_step = emu.vcpu * rows_per_vcpu * STEP_SECONDS
        self._queue = Queue()
        self._gates: list[tuple[Gate, float]] = []  # and until when each is busy
        self._tasks: list[Emu] = []
        self._draining: list[Emu] = []
        self._live: deque[tuple[int, float]] = deque()  # in the outbox: shard and when
        self._draw = random.Random(0)
        self._now = 0.0
        self._turn = 0
        self._left = float(load.rows)
        self._in_index = 0.0
        self._ages: list[float] = []

    def __call__(self) -> Outcome:
        samples: list[Sample] = []
        dollars = owed = seconds = 0.0
        computed, most_messages, begun, shipped = 0.0, 0, 0, 0
        for step in range(1, round(self._load.most_seconds / STEP_SECONDS) + 1):
            self._now = step * STEP_SECONDS
            self._staff()
            owed += self._load.live_rows_per_second * STEP_SECONDS
            while owed >= 1:
                owed -= 1
                self._live.append((self._draw.randrange(SHARDS), self._now))
            shipped += self._ship(asked=self._now > PERIOD_SECONDS)
            computed += self._embed()
            most_messages = max(most_messages, sum(self._queue.depth()))
            dollars += (
                STEP_SECONDS
                / HOUR
                * sum(service.running * service.rules.dollars_an_hour for service in (self._pelicans, self._emus))
            )
            if not seconds and self._in_index >= self._load.rows:
                seconds = self._now - PERIOD_SECONDS
            if step % STEPS_A_PERIOD == 0:
                samples.append(self._period(dollars, shipped * self._seconds_a_row, computed, self._ages[begun:]))
                begun, shipped, computed = len(self._ages), 0, 0.0
                if seconds and self._now > PERIOD_SECONDS + seconds + CALM_SECONDS:
                    break
        if not seconds:
            raise SystemExit(
                f"the backfill is not through after {self._load.most_seconds / HOUR:.0f} h: {self._in_index:,.0f} of "
                f"{self._load.rows:,} rows; let it have fewer rows (--backfill-rows)"
            )
        return Outcome(samples, seconds, self._ages, most_messages)

    def _staff(self) -> None:
        """As many gates and Emus as tasks run; an Emu that goes ends what it has in hand."""
        self._pelicans.arrive(self._now)
        self._emus.arrive(self._now)
        while len(self._gates) < self._pelicans.running:
            queue = cast("ChangeQueue", self._queue)  # a gate asks nothing but the depth
            gate = Gate(
                queue,
                live_limit=LIVE_LIMIT,
                backfill_limit=BACKFILL_LIMIT,
                merge_limit=MERGE_LIMIT,
                clock=lambda: self._now,
                shuffle=self._draw.shuffle,
            )
            self._gates.append((gate, self._now))
        del self._gates[self._pelicans.running :]
        while len(self._tasks) < self._emus.running:
            self._tasks.append(Emu(self._queue, self._rows_a_step))
        self._draining += self._tasks[self._emus.running :]
        del self._tasks[self._emus.running :]

    def _ship(self, *, asked: bool) -> int:
        """Live changes at once, and of the backfill what the gates allow; rows of it."""
        first = self._gates[0][0]
        while self._live:
            with first.room(LIVE) as allowed:
                if not allowed:
                    break
                shard, at = self._live.popleft()
                self._queue.put(shard, Message(1, live=True, at=at))
                first.sent(1)
        self._receive()
        shipped = 0
        for place, (gate, free_at) in enumerate(self._gates):
            until = free_at
            while asked and self._left > 0 and until <= self._now:
                with gate.room(BACKFILL) as allowed:
                    if not allowed:
                        until = self._now + gate.pause_seconds
                        break
                    keys = BACKFILL_KEYS if gate.is_quiet else BACKFILL_KEYS_BESIDE_LIVE
                    rows = int(min(keys, self._left))
                    self._claim(gate, rows)
                    shipped += rows
                    until = max(until, self._now - STEP_SECONDS) + rows * self._seconds_a_row
            self._gates[place] = gate, until
        return shipped

    def _claim(self, gate: Gate, rows: int) -> None:
        work = gate.in_turn([Work(BACKFILL, 1, shard) for shard in range(SHARDS)])[0]
        gate.filled([work])
        self._left -= rows
        while rows > 0:
            some = min(rows, ROWS_PER_MESSAGE)
            self._queue.put(work.shard, Message(some, live=False, at=self._now))
            gate.sent(1)
            rows -= some
        self._receive()

    def _receive(self) -> None:
        """All Emus poll, so who has room has a message before anybody looks at the queue again."""
        self._turn += 1
        for place in range(len(self._tasks)):
            if not self._queue.waiting:
                return
            self._tasks[(place + self._turn) % len(self._tasks)].receive()

    def _embed(self) -> float:
        """Steps of CPU that the Emus used."""
        computed = 0.0
        for emus, counts in ((self._tasks, True), (self._draining, False)):
            for emu in emus:
                share, ended = emu.step(self._now)
                computed += share if counts else 0.0
                for message in (message for unit in ended for message in unit.messages):
                    if message.live:
                        self._ages.append(self._now - message.at)
                    else:
                        self._in_index += message.rows
        self._draining = [emu for emu in self._draining if emu.units]
        self._receive()
        return computed

    def _period(self, dollars: float, shipping_seconds: float, computed: float, ages: list[float]) -> Sample:
        """Scale by what the last minute showed. The sample's age is that of the latest live change to arrive in it."""
        filling = min(self._left, OUTBOX_LIMIT)
        keys = len(self._live) + (filling if self._counts_all else 0)
        live_age = self._now - self._live[0][1] if self._live else 0.0
        oldest = self._queue.oldest()
        queue_age = 0.0 if oldest is None else self._now - oldest
        sample = Sample(
            round(self._now / PERIOD_SECONDS), len(self._live) + filling, sum(self._queue.depth()), max(ages, default=0.0),
            self._pelicans.running, self._emus.running, dollars,
        )  # fmt: skip
        pelican_cpu = 100 * shipping_seconds / PERIOD_SECONDS / self._pelicans.running
        emu_cpu = 100 * computed / STEPS_A_PERIOD / self._emus.running
        self._pelicans.period(self._now, {"cpu": pelican_cpu, "backlog": keys / self._pelicans.running}, live_age)
        self._emus.period(self._now, {"cpu": emu_cpu, "backlog": self._queue.waiting / self._emus.running}, queue_age)
        return sample


def summary(outcome: Outcome, least_dollars_an_hour: float) -> dict[str, float]:
    """What a person asks of a run."""
    hours = len(outcome.samples) * PERIOD_SECONDS / HOUR
    return {
        "minutes_to_the_end": round(outcome.seconds / 60, 1),
        "most_emus": max(sample.emus for sample in outcome.samples),
        "most_pelicans": max(sample.pelicans for sample in outcome.samples),
        "live_p50_seconds": round(percentile(outcome.ages, 0.5), 2),
        "live_p99_seconds": round(percentile(outcome.ages, 0.99), 2),
        "live_max_seconds": round(max(outcome.ages), 2),
        "most_messages": outcome.most_messages,
        "dollars_above_idle": round(outcome.samples[-1].dollars - hours * least_dollars_an_hour, 3),
    }
