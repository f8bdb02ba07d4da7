"""Code that stops at each call to the outside, so that somebody else decides who goes on next, and how the call ends.

A Task runs a service's own code in a greenlet. The adapters of the model call `pause` where the real ones would talk to
the outside; the task then stands still until `step` says how the call ends. A task that is never stepped again is a
process that was stopped; `crash` is a process that was killed.
"""

import enum
from collections.abc import Callable
from types import TracebackType
from typing import ClassVar

from greenlet import getcurrent, greenlet

LOCK = "lock"


class Outcome(enum.Enum):
    """How a call to the outside ends."""

    GO = "as it should"
    FAIL = "with an error, and nothing was done"
    LOSE = "with an error, though it was done"
    PART = "a part was done"
    LATE = "with an error, and it is done later"


class Crash(BaseException):
    """The process is gone."""


class Task:
    """Some work of a process. `at`: the call that it is about to make, or makes."""

    current: ClassVar["Task | None"] = None

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self.name = name
        self.at = "start"
        self.done = False
        self.crashed = False
        self.skew_ms = 0
        self._work = work
        self._greenlet = greenlet(self._run)

    def step(self, outcome: Outcome = Outcome.GO) -> None:
        """Go on to the next call, or to the end."""
        before, Task.current = Task.current, self
        try:
            self._greenlet.switch(outcome)
        finally:
            Task.current = before

    def finish(self) -> None:
        """Go on to the end with all well, or to a lock that another task of the process holds."""
        self.advance("")

    def advance(self, until: str) -> None:
        """The same, or to the first call whose name ends with `until`."""
        while not self.done and not (until and self.at.endswith(until)):
            self.step()
            if self.at == LOCK:
                return

    def crash(self) -> None:
        """The work ends here. What it still tries to say (`finally:`) is not heard."""
        self.crashed = True
        if self._greenlet:
            before, Task.current = Task.current, self
            try:
                self._greenlet.throw(Crash)
            finally:
                Task.current = before
        self.done = True

    def pause(self, at: str) -> Outcome:
        if self.crashed:
            raise Crash
        self.at = at
        outcome = self._greenlet.parent.switch()
        assert isinstance(outcome, Outcome)
        return outcome

    def _run(self, _: Outcome) -> None:
        try:
            self._work()
        except Crash:
            pass
        finally:
            self.done = True


def pause(at: str) -> Outcome:
    """Stand still before the call `at`; how it shall end. Outside of tasks every call goes well at once."""
    task = Task.current
    return Outcome.GO if task is None else task.pause(at)


class Turnstile:
    """A lock for tasks: who must wait for it pauses, where a thread's lock would stop the whole machine."""

    def __init__(self) -> None:
        self._holder: object = None

    def __enter__(self) -> None:
        while self._holder is not None:
            pause(LOCK)
        self._holder = getcurrent()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder = None


class Clock:
    """Time of the model: stands still unless `seconds` is moved. `skew_ms` of the task in hand is its host's error."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.epoch_ms = 1_800_000_000_000

    def monotonic(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        """The queue's own clock, which is right."""
        return self.epoch_ms + int(self.seconds * 1_000)

    def time_ns(self) -> int:
        """The clock of the host that the task in hand runs on."""
        skew_ms = 0 if Task.current is None else Task.current.skew_ms
        return (self.wall_ms() + skew_ms) * 1_000_000
