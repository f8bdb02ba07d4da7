"""Staying below the rates that Pinecone publishes, and below what it grants right now.

https://docs.pinecone.io/reference/api/database-limits: each rate is of a namespace or of an index, and whoever exceeds one
is answered 429. Several processes share a quota without knowing of each other, so each also listens: a 429 halves what
it allows itself (once a second at most) and stops it for as long as `Retry-After` says; then its share grows back slowly.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

Operation = Literal["upsert", "delete", "fetch", "query", "list", "stats"]

# What may be sent at once after a pause, in seconds of the quota.
BURST_SECONDS = 1.0
# Of that, what only live changes may use: a backfill waits while less than this is left.
RESERVED_SECONDS = 0.3
SHRINK = 0.5
SMALLEST_SHARE = 1 / 64
# From half of the quota back to all of it in 25 s.
GROWTH_PER_SECOND = 0.02
SHRINK_PAUSE_SECONDS = 1.0
LONGEST_STOP_SECONDS = 60.0
# Places that were not used for so long have their whole quota again, and need not be remembered.
FORGET_SECONDS = 300.0


class Quota(NamedTuple):
    """Requests a second, and bytes (of an upsert) or records (of a delete) a second."""

    requests: float
    amount: float = math.inf
    of_namespace: bool = True


QUOTAS: Mapping[Operation, Quota] = {
    "upsert": Quota(requests=100, amount=50e6),
    "delete": Quota(requests=100, amount=5_000),
    "query": Quota(requests=100),
    "fetch": Quota(requests=100, of_namespace=False),
    "list": Quota(requests=200, of_namespace=False),
    "stats": Quota(requests=100, of_namespace=False),
}


class Work(NamedTuple):
    """What one call costs: so many requests with so many bytes (upsert) or records (delete) in all."""

    operation: Operation
    namespace: str
    requests: int = 1
    amount: float = 0


class _Meter:
    """One quota of one place. `level` is what may be sent now, in seconds of the quota."""

    def __init__(self, now: float) -> None:
        self.share = 1.0
        self.level = BURST_SECONDS
        self.at = now
        self._shrunk_at = -math.inf
        self._stopped_until = -math.inf

    def delay(self, cost: float, now: float, *, live: bool) -> float:
        """Seconds until `cost` may be sent; 0 when it may be sent now, and then it counts as sent."""
        self._advance(now)
        if now < self._stopped_until:
            return self._stopped_until - now
        reserved = 0.0 if live else RESERVED_SECONDS
        missing = reserved + min(cost, BURST_SECONDS - reserved) - self.level
        # A tolerance, or a wait of exactly what is missing would be followed by another of some attoseconds.
        if missing > 1e-9:
            return missing / self.share
        self.level -= cost
        return 0.0

    def refuse(self, retry_after: float | None, now: float) -> None:
        self._advance(now)
        self.level = min(self.level, 0.0)
        self._stopped_until = max(self._stopped_until, now + min(retry_after or 0.0, LONGEST_STOP_SECONDS))
        # The requests that were on their way together are refused together, and say so only once.
        if now - self._shrunk_at >= SHRINK_PAUSE_SECONDS:
            self.share = max(SMALLEST_SHARE, self.share * SHRINK)
            self._shrunk_at = now

    def _advance(self, now: float) -> None:
        passed = max(0.0, now - self.at)
        self.level = min(BURST_SECONDS, self.level + passed * self.share)
        self.share = min(1.0, self.share + passed * GROWTH_PER_SECOND)
        self.at = now


class Limiter:
    """Shared by all that talk to Pinecone in a process. Thread-safe."""

    def __init__(self, quotas: Mapping[Operation, Quota] = QUOTAS, clock: Callable[[], float] = time.monotonic) -> None:
        self._quotas = quotas
        self._clock = clock
        self._lock = threading.Lock()
        self._meters: dict[tuple[Operation, str, str], _Meter] = {}

    def wait(self, host: str, work: Work, *, live: bool, stopping: threading.Event) -> float | None:
        """Return when the work may be sent to the index at `host`: the seconds that took, or None when `stopping` was
        set first. Live work goes before other work."""
        began = self._clock()
        while delay := self.delay(host, work, live=live):
            if stopping.wait(delay):
                return None
        return self._clock() - began

    def delay(self, host: str, work: Work, *, live: bool) -> float:
        """Seconds until the work may be sent; 0 when it may be sent now, and then it counts as sent."""
        quota = self._quotas[work.operation]
        cost = max(work.requests / quota.requests, work.amount / quota.amount)
        with self._lock:
            now = self._clock()
            return self._meter(host, work, now).delay(cost, now, live=live)

    def refused(self, host: str, work: Work, retry_after: float | None) -> None:
        """The index answered 429, and said how many seconds to wait, or not."""
        with self._lock:
            now = self._clock()
            self._meter(host, work, now).refuse(retry_after, now)

    def shares(self) -> dict[str, float]:
        """The smallest share of its quota that each operation allows itself at present, of those below 1."""
        with self._lock:
            shares: dict[str, float] = {}
            for (operation, *_), meter in self._meters.items():
                share = min(1.0, meter.share + (self._clock() - meter.at) * GROWTH_PER_SECOND)
                if share < 1:
                    shares[operation] = round(min(share, shares.get(operation, 1.0)), 3)
            return shares

    def _meter(self, host: str, work: Work, now: float) -> _Meter:
        of_namespace = self._quotas[work.operation].of_namespace
        place = (work.operation, host, work.namespace if of_namespace else "")
        if place not in self._meters:
            self._meters = {key: meter for key, meter in self._meters.items() if now - meter.at < FORGET_SECONDS}
            self._meters[place] = _Meter(now)
        return self._meters[place]
