"""Leases on messages: who may still write.

SQS hides a received message for a while; when that has passed, another Emu gets it and may write a newer state of the
same rows. So a write is sent only while the lease *certainly* holds, by a clock that goes on while the process is
stopped or the machine asleep. What is certain is counted from before the request that took or extended the lease.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from emu.queue import AwsError, ChangeQueue, Received

# Linux's CLOCK_MONOTONIC stands still while the machine is suspended; CLOCK_BOOTTIME does not.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds on the leases' clock."""
    return time.clock_gettime(_CLOCK)


class LeaseLostError(RuntimeError):
    """The messages may belong to another Emu by now: nothing more may be written or acknowledged for them."""


class Lease:
    """The right to write for some messages until `deadline` (on `now()`'s clock). Thread-safe.

    `touched_at`: when the unit's work last moved on.
    """

    def __init__(self, messages: Sequence[Received], deadline: float) -> None:
        self.messages = tuple(messages)
        self.touched_at = now()
        self._deadline = deadline
        self._lost = False
        self._writing = False
        self._lock = threading.Lock()

    def remaining(self) -> float:
        """Seconds for which the lease certainly holds; 0 once it is lost."""
        with self._lock:
            return 0.0 if self._lost else max(0.0, self._deadline - now())

    def extended(self, deadline: float) -> None:
        """SQS agreed to an extension. An answer that comes after the old deadline is worth nothing: the messages may
        have been given away in between."""
        with self._lock:
            if now() >= self._deadline:
                self._lost = True
            self._deadline = max(deadline, self._deadline)

    def lose(self) -> None:
        """Give up for good."""
        with self._lock:
            self._lost = True

    def revoke(self) -> bool:
        """Give up, unless a write is on its way: then it must end, or the lease run out, first. True when given up."""
        with self._lock:
            if self._writing:
                return False
            self._lost = True
            return True

    @contextmanager
    def write(self, margin_seconds: float) -> Iterator[None]:
        """Around each write request; LeaseLostError unless the lease holds for `margin_seconds` more."""
        with self._lock:
            if self._lost or self._deadline - now() < margin_seconds:
                self._lost = True
                raise LeaseLostError
            self._writing = True
        try:
            yield
        finally:
            with self._lock:
                self._writing = False


class LeaseKeeper:
    """Extends the leases of the units in work; a thread of its own calls `tick()` every `tick_seconds`."""

    def __init__(self, queue: ChangeQueue, visibility_seconds: int, margin_seconds: float) -> None:
        self._queue = queue
        self._visibility_seconds = visibility_seconds
        self._margin_seconds = margin_seconds
        self._leases: dict[Lease, None] = {}
        self._lock = threading.Lock()
        # Held while SQS is asked, so that no extension can follow a release.
        self._asking = threading.Lock()

    @property
    def tick_seconds(self) -> float:
        """Several ticks fit into the time in which an extension is due."""
        return min(self._visibility_seconds / 12, 2.0)

    def take(self, messages: Sequence[Received], asked_at: float) -> Lease:
        """The lease on messages whose receive was asked for at `asked_at`; kept until `drop` or `release`.

        A message that is still in work here has come back to us, so its earlier lease has run out, whatever our
        clock says.
        """
        lease = Lease(messages, asked_at + self._visibility_seconds)
        ids = {message.id for message in messages}
        with self._lock:
            for other in self._leases:
                if any(message.id in ids for message in other.messages):
                    other.lose()
            self._leases[lease] = None
        return lease

    def held(self) -> list[Lease]:
        """The leases of the units in work."""
        with self._lock:
            return list(self._leases)

    def drop(self, lease: Lease) -> None:
        """Stop extending."""
        with self._lock:
            self._leases.pop(lease, None)

    def release(self, lease: Lease, messages: Sequence[Received]) -> None:
        """Let another Emu have the messages now. When SQS does not answer they come free when the lease ends."""
        self.drop(lease)
        with self._asking:
            if not messages or lease.remaining() <= 0 or not lease.revoke():
                return
            try:
                self._queue.change_visibility(messages, 0)
            except AwsError:
                return

    def tick(self) -> None:
        """Extend what has used up a third of its time. SQS not answering is no error yet: the next tick tries again."""
        for lease in self.held():
            if 0 < lease.remaining() < self._visibility_seconds * 2 / 3:
                self._extend(lease)

    @contextmanager
    def read(self, lease: Lease) -> Iterator[None]:
        """Around each read request for the lease's messages; LeaseLostError when it would be of no use."""
        lease.touched_at = now()
        if lease.remaining() <= 0:
            raise LeaseLostError
        yield

    @contextmanager
    def write(self, lease: Lease) -> Iterator[None]:
        """Around each write request for the lease's messages; LeaseLostError when it may not be sent."""
        lease.touched_at = now()
        if 0 < lease.remaining() < self._margin_seconds:
            self._extend(lease)
        with lease.write(self._margin_seconds):
            yield

    def _extend(self, lease: Lease) -> None:
        with self._asking:
            asked_at = now()
            if lease not in self.held():
                return
            try:
                ours = self._queue.change_visibility(lease.messages, self._visibility_seconds)
            except AwsError:
                return
            if ours:
                lease.extended(asked_at + self._visibility_seconds)
            else:
                lease.lose()
