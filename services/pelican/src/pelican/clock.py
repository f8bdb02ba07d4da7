"""The clock that messages expire by: the queue's."""

from collections.abc import Callable


class QueueClock:
    """The queue's wall clock, as its answers tell it; the host's own until the first one.

    Emu compares when SQS took a message with when the message says that it expires. With the host's clock behind
    SQS's by more than a claim lasts, every message would be void for Emu, and its changes lost.
    """

    def __init__(self, monotonic: Callable[[], float], host_ms: Callable[[], int]) -> None:
        """`monotonic`: seconds that only go forward; `host_ms`: Unix milliseconds by the host."""
        self._monotonic = monotonic
        self._host_ms = host_ms
        self._told: tuple[int, float] | None = None

    @property
    def is_known(self) -> bool:
        """Whether the queue has told its time."""
        return self._told is not None

    def learn(self, at_ms: int | None) -> None:
        """The queue said, a moment ago, that it is `at_ms` (Unix milliseconds); None: it did not say."""
        if at_ms is not None:
            self._told = at_ms, self._monotonic()

    def now_ms(self) -> int:
        """Unix milliseconds."""
        if self._told is None:
            return self._host_ms()
        told_ms, at = self._told
        return told_ms + int((self._monotonic() - at) * 1000)
