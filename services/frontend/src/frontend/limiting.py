"""How often a client, and all clients together, may ask: a bounded memory of who asked lately."""

import time
from collections import OrderedDict
from collections.abc import Callable

# Who has rested may ask this much at once: a page with its assets, somebody who types, a script that starts.
BURST_SECONDS = 5.0
# Some 150 bytes each. Whoever is forgotten begins anew; the limit for all together still holds.
MAX_CLIENTS = 20_000
# Sums of an interval such as 1/3 s are not exact.
ROUNDING_SECONDS = 1e-6


class Rate:
    """At most `per_second` in the long run and `burst` at once for each name (0: no limit). GCRA: one moment a name says all.

    https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
    """

    def __init__(self, per_second: float, max_names: int = MAX_CLIENTS) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._slack = max(BURST_SECONDS, self._interval) - self._interval
        self._max_names = max_names
        self._next: OrderedDict[str, float] = OrderedDict()

    def wait_seconds(self, name: str, now: float) -> float:
        """How long `name` must wait; 0 when it may go on. Takes nothing."""
        wait = self._next.get(name, now) - now - self._slack
        return wait if self._interval and wait > ROUNDING_SECONDS else 0.0

    def take(self, name: str, now: float) -> None:
        if not self._interval:
            return
        self._next[name] = max(self._next.get(name, now), now) + self._interval
        self._next.move_to_end(name)
        while len(self._next) > self._max_names:
            self._next.popitem(last=False)

    def __len__(self) -> int:
        return len(self._next)


class Limits:
    """One kind of request: a rate for each client, and one for all together."""

    def __init__(self, client_per_second: float, total_per_second: float, clock: Callable[[], float]) -> None:
        self.clients = Rate(client_per_second)
        self._total = Rate(total_per_second)
        self._clock = clock

    def admit(self, client: str) -> float:
        """0 when the request may go on, else the seconds after which it may come again. A client that is refused takes
        nothing from the others."""
        now = self._clock()
        wait = self.clients.wait_seconds(client, now) or self._total.wait_seconds("", now)
        if not wait:
            self.clients.take(client, now)
            self._total.take("", now)
        return wait


class Limiter:
    """Reads and writes apart, so that a flood of searches does not keep anybody from saving."""

    def __init__(
        self,
        *,
        client_reads: float,
        client_writes: float,
        total_reads: float,
        total_writes: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """All in requests a second; 0 is no limit."""
        self.reads = Limits(client_reads, total_reads, clock)
        self.writes = Limits(client_writes, total_writes, clock)
