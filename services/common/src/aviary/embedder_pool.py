"""The threads that infer: what is urgent goes before what waited longer, and of both what was asked for first."""

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import PriorityQueue
from typing import Any, TypeVar

T = TypeVar("T")

# Each thread takes memory of its own, some 20 MB in bf16 and 30 MB in f32.
MAX_DEFAULT_THREADS = 4

# Rank, number, what to do; the number is unique, so the rest is never compared. None ends a thread, after all else.
_Task = tuple[int, int, Callable[[], None] | None]
URGENT, PATIENT, ENDING = range(3)


class Pool:
    """Daemon threads. All methods are thread-safe; several embedders may share one, so that they take turns."""

    def __init__(self, threads: int | None = None) -> None:
        """`threads`: default is the cores this process may use, at most 4."""
        self.threads = threads or default_threads()
        self._tasks: PriorityQueue[_Task] = PriorityQueue()
        self._numbers = itertools.count()
        workers = [
            threading.Thread(target=_work, args=(self._tasks,), name=f"embedder-{number}", daemon=True)
            for number in range(self.threads)
        ]
        for thread in workers:
            thread.start()
        weakref.finalize(self, _end, self._tasks, workers, self._numbers)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for a thread just now."""
        return self._tasks.empty()

    def each(self, function: Callable[[T], Any], items: Sequence[T], *, urgent: bool) -> None:
        """Call the function with every item and return when all calls have ended; raises what the first failed one did."""
        futures: list[Future[None]] = [Future() for _ in items]
        for item, future in zip(items, futures, strict=True):
            rank = URGENT if urgent else PATIENT
            self._tasks.put((rank, next(self._numbers), _call(function, item, future)))
        errors = [error for future in futures if (error := future.exception())]
        if errors:
            raise errors[0]


def default_threads() -> int:
    """The cores this process may use, at most 4."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_DEFAULT_THREADS)


def _call(function: Callable[[T], Any], item: T, future: "Future[None]") -> Callable[[], None]:
    def call() -> None:
        try:
            function(item)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever asked, who raises it
            future.set_exception(error)
        else:
            future.set_result(None)

    return call


def _work(tasks: "PriorityQueue[_Task]") -> None:
    while (call := tasks.get()[2]) is not None:
        call()
        # It may be the last to hold a model: a thread that waits keeps none alive.
        del call


def _end(tasks: "PriorityQueue[_Task]", threads: Sequence[threading.Thread], numbers: "itertools.count[int]") -> None:
    for _ in threads:
        tasks.put((ENDING, next(numbers), None))
    for thread in threads:
        # The interpreter, when it ends, aborts on a thread that comes back from native code.
        if thread is not threading.current_thread():
            thread.join()
