"""One run: episode after episode, and what was seen in each."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

import psycopg

from chaos.checker import Checker, Drift
from chaos.faults import inject
from chaos.plan import Episode
from chaos.probe import Prober, Recovery
from chaos.users import Users
from chaos.world import STOCK, World
from local.gauges import Gauges

SETTLE_SECONDS = 90.0
SETTLED_POLL_SECONDS = 0.05
# In the quiet nothing is on its way, so a difference need not be looked at for a minute.
RECONCILE_SETTLE_SECONDS = 10
# What is in SQS's hands and in nobody's count for an instant is seen by the second look.
SETTLED_LOOKS = 2
THREADS = 16

Say = Callable[[str], None]


class Seen(NamedTuple):
    """What an episode came to. `drift`: what was wrong in the quiet after it, before any repair; `left`: what was
    wrong after reconcile (the same where none was run)."""

    episode: Episode
    recovery: Recovery
    drift: Drift
    left: Drift
    repaired: bool


class Outcome(NamedTuple):
    """What a run came to."""

    seen: list[Seen]
    final: Drift
    wrong_vectors: int
    went_back: int
    dead_letters: int
    unsettled: int


class InterruptedRunError(RuntimeError):
    """The run was told to stop before its end, so nothing can be said of it."""


class Run:
    """Goes through the episodes on a running world. Use it as a context: leaving it ends users and watchers."""

    def __init__(self, world: World, episodes: Sequence[Episode], say: Say) -> None:
        self._world = world
        self._episodes = episodes
        self._say = say
        self._unsettled = 0
        self._began = time.monotonic()
        state = world.state
        with psycopg.connect(state["postgres_dsn"], autocommit=True) as connection:
            connection.execute(STOCK)
        world.pelican(
            "watch", "--table", "stock", "--key", "warehouse,sku", "--text", "{label}", "--metadata", "amount"
        )
        with contextlib.ExitStack() as opened:
            self.users = opened.enter_context(Users(state["postgres_dsn"], lambda: world.postgres_is_faulty))
            self._checker = Checker(state["postgres_dsn"], state["pinecone_api_key"], state["index_host"])
            opened.callback(self._checker.close)
            self._prober = Prober(state, world.ending)
            opened.callback(self._prober.close)
            self._pool = opened.enter_context(ThreadPoolExecutor(THREADS, "fault"))
            ended = threading.Event()
            watching = threading.Thread(target=self._checker.watch, args=(ended,), daemon=True)
            watching.start()
            opened.callback(watching.join)
            opened.callback(ended.set)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._world.resume_all()
        self._opened.close()

    def go(self) -> Outcome:
        """All of it; raises InterruptedRunError when the world is ending."""
        seen = []
        for number, episode in enumerate(self._episodes, 1):
            seen.append(self._episode(episode))
            self._tell(number, seen[-1])
        return self._end(seen)

    def _episode(self, episode: Episode) -> Seen:
        began = time.monotonic()
        self.users.begin(episode.operations, episode.seconds - 1)
        faults = [self._pool.submit(inject, self._world, injection, began) for injection in episode.injections]
        ended = max(fault.result() for fault in faults)
        with self.users.looking:
            recovery = self._prober.measure(ended, episode.injections[-1].target)
        self._world.clear_faults()
        self.users.finish()
        self._settle()
        drift = self._checker.drift()
        left, repaired = drift, False
        if drift.total:
            repaired = True
            self._world.pelican("reconcile", "--repair", "--settle", str(RECONCILE_SETTLE_SECONDS))
            self._settle()
            left = self._checker.drift()
        return Seen(episode, recovery, drift, left, repaired)

    def _settle(self) -> None:
        """Return once every captured change is processed, or after 90 s."""
        deadline = time.monotonic() + SETTLE_SECONDS
        looks = 0
        with Gauges(self._world.state) as gauges:
            while looks < SETTLED_LOOKS:
                if self._world.ending.is_set():
                    raise InterruptedRunError
                reading = gauges.try_read()
                looks = looks + 1 if reading is not None and reading.settled else 0
                if time.monotonic() > deadline:
                    self._unsettled += 1
                    return
                self._world.ending.wait(SETTLED_POLL_SECONDS)

    def _end(self, seen: list[Seen]) -> Outcome:
        self._settle()
        with Gauges(self._world.state) as gauges:
            dead_letters = gauges.read().dead_letters
        return Outcome(
            seen=seen,
            final=self._checker.drift(),
            wrong_vectors=len(self._checker.wrong_vectors()),
            went_back=len(self._checker.went_back),
            dead_letters=dead_letters,
            unsettled=self._unsettled,
        )

    def _tell(self, number: int, seen: Seen) -> None:
        passed = time.monotonic() - self._began
        names = " + ".join(injection.kind.name for injection in seen.episode.injections)
        first, every = (f"{s:.2f} s" if s is not None else "never" for s in seen.recovery)
        found = f"{seen.drift}" if seen.drift.total else "index = f(table)"
        after = f"; after reconcile: {seen.left}" if seen.repaired else ""
        self._say(
            f"[{passed:5.0f} s] {number}/{len(self._episodes)} {names}: next change after {first}, every shard after "
            f"{every}; {found}{after}"
        )
