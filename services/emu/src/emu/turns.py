"""Whose texts the model reads next: one at a time, live changes first."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """The embedder uses every core for each, and finishing one early beats finishing two late. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._held = False
        self._live_waiting = 0

    @contextmanager
    def turn(self, *, live: bool) -> Iterator[None]:
        """Wait for the turn and hold it. What is not live gives way to all that is."""
        with self._condition:
            self._live_waiting += live
            self._condition.wait_for(lambda: not self._held and (live or not self._live_waiting))
            self._live_waiting -= live
            self._held = True
        try:
            yield
        finally:
            with self._condition:
                self._held = False
                self._condition.notify_all()
