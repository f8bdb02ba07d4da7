"""What Emu counts: for `/stats`, for CloudWatch, and for tests."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence

from aviary.logs import metrics

LOGGER = logging.getLogger(__name__)
RECENT = 2_000
COUNTERS = (
    "received",
    "acknowledged",
    "upserted",
    "deleted",
    "embedded",
    "reused",
    "chunks",
    "cut",
    "fenced",
    "void",
    "poisoned",
    "retries",
    "throttled",  # answers 429, of `retries`
    "limit_wait_ms",  # what units waited to stay below the index's limits
    "errors",
    "leases_lost",
)
# Counter → CloudWatch metric.
METRICS = {
    "upserted": "RowsUpserted",
    "deleted": "RowsDeleted",
    "embedded": "RowsEmbedded",
    "poisoned": "RowsPoisoned",
    "throttled": "Throttled",
    "errors": "Errors",
    "leases_lost": "LeasesLost",
}


class Stats:
    """Counters since the start, and the freshness of recent live changes: milliseconds from capture to the index."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._published: Counter[str] = Counter()
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._unpublished: list[float] = []

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter of `COUNTERS`."""
        with self._lock:
            self._counts[name] += amount

    def fresh(self, captured_at_ms: int) -> None:
        """A live change captured then is in the index now."""
        age_ms = max(0.0, time.time() * 1000 - captured_at_ms)
        with self._lock:
            self._recent.append(age_ms)
            if len(self._unpublished) < RECENT:
                self._unpublished.append(age_ms)

    def snapshot(self) -> dict[str, object]:
        """All counters, and `freshness_ms` with p50 and p99 of the most recent changes (None before the first)."""
        with self._lock:
            counts, recent = self._counts.copy(), list(self._recent)
        freshness = {"p50": percentile(recent, 50), "p99": percentile(recent, 99), "samples": len(recent)}
        return {name: counts[name] for name in COUNTERS} | {"freshness_ms": freshness}

    def publish(self) -> None:
        """Write what has changed since the last time as one metrics line."""
        with self._lock:
            since = self._counts - self._published
            self._published = self._counts.copy()
            fresh, self._unpublished = self._unpublished, []
        values: dict[str, tuple[float, str]] = {METRICS[name]: (since[name], "Count") for name in METRICS}
        for percent in (50, 99):
            value = percentile(fresh, percent)
            if value is not None:
                values[f"FreshnessP{percent}"] = (round(value, 1), "Milliseconds")
        metrics(LOGGER, "emu", values)


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The nearest-rank percentile, or None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
