"""How long to wait after trouble, and saying so once."""

import logging
import random
import threading
import time

from aviary.logs import log

FIRST_SECONDS = 0.1
MOST_SECONDS = 5.0


class Backoff:
    """Doubling pauses with jitter, so that several Pelicans do not come back in step."""

    def __init__(self, first_seconds: float = FIRST_SECONDS, most_seconds: float = MOST_SECONDS) -> None:
        self._first = first_seconds
        self._most = most_seconds
        self._failures = 0

    def pause_seconds(self) -> float:
        """The next pause: between a half and the whole of 0.1 s, 0.2 s, … 5 s."""
        whole = min(self._most, self._first * float(1 << min(self._failures, 16)))
        self._failures += 1
        return whole * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    def reset(self) -> None:
        self._failures = 0


class Dependency:
    """Whether an outside system answers. Logs when that changes, and only then. Thread-safe."""

    def __init__(self, name: str, logger: logging.Logger) -> None:
        self.name = name
        self._logger = logger
        self._lock = threading.Lock()
        self._trouble = "not tried yet"
        self._down_since: float | None = None
        self.failures = 0

    @property
    def state(self) -> str:
        """ "ok", or one sentence about what is wrong."""
        return self._trouble or "ok"

    def works(self) -> None:
        with self._lock:
            self._trouble = ""
            if self._down_since is not None:
                seconds = round(time.monotonic() - self._down_since, 1)
                self._down_since = None
                log(self._logger, logging.INFO, f"{self.name}_back", down_seconds=seconds)

    def failed(self, reason: str) -> None:
        """`reason` must quote nothing of a row: the class of an error, or a text of ours."""
        with self._lock:
            self.failures += 1
            self._trouble = reason
            if self._down_since is None:
                self._down_since = time.monotonic()
                log(self._logger, logging.WARNING, f"{self.name}_trouble", reason=reason)
