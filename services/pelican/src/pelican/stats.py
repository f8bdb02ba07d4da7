"""What a Pelican has done since it started."""

import threading
from collections import Counter


class Stats:
    """Named counters. Thread-safe."""

    NAMES = (
        "claims",  # of shards
        "sent",  # changes that the queue took
        "messages",
        "deletes",  # of `sent`, for rows that are gone
        "blanks",  # of `sent`, for rows whose text is blank
        "set_aside",  # rows that no message can carry
        "voids",  # empty messages sent in the place of an unfinished claim's
        "retries",  # claims given up
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, **counts: int) -> None:
        with self._lock:
            self._counts.update(counts)

    def read(self) -> dict[str, int]:
        with self._lock:
            return {name: self._counts[name] for name in self.NAMES}
