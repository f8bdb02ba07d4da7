"""An index in memory that fails before or after it applied a write, and applies some late.

A write is *under way* from the moment it is sent. It takes effect when its sender goes on, earlier when the model says
so, and at the latest when the time that a request may take has passed: also if its sender was stopped or killed. That
no request takes longer is what the model assumes; what happens if one does, docs/decisions/0020 tells.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from pinecone.errors import PineconeError, PineconeTimeoutError, RateLimitError, ServiceError

from aviary.index import Match, Record, Vector
from tests.model.stepping import Clock, Outcome, pause

REQUEST_SECONDS = 10.0


class Write:
    """A write request under way."""

    def __init__(self, apply: Callable[[], None], until: float) -> None:
        self._apply = apply
        self.until = until
        self.is_over = False

    def arrive(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._apply()


class IndexModel:
    """`VectorIndex` in memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.places: dict[str, dict[str, Record]] = {}
        self.writes: list[Write] = []

    def upsert(self, namespace: str, records: Sequence[Record]) -> None:
        def apply() -> None:
            self.places.setdefault(namespace, {}).update({record.id: record for record in records})

        self._write("index.upsert", apply)

    def delete(self, namespace: str, ids: Sequence[str]) -> None:
        def apply() -> None:
            for each in ids:
                self.places.get(namespace, {}).pop(each, None)

        self._write("index.delete", apply)

    def fetch(self, namespace: str, ids: Sequence[str]) -> dict[str, Record]:
        if pause("index.fetch") is not Outcome.GO:
            raise ServiceError
        place = self.places.get(namespace, {})
        return {each: place[each] for each in ids if each in place}

    def ids(self, namespace: str, prefix: str = "") -> Iterable[str]:
        return sorted(each for each in self.places.get(namespace, {}) if each.startswith(prefix))

    def count(self, namespace: str) -> int:
        return len(self.places.get(namespace, {}))

    def query(
        self,
        namespace: str,
        vector: Vector,
        top_k: int,
        filter: Mapping[str, Any] | None = None,
        *,
        metadata: bool = True,
    ) -> list[Match]:
        raise NotImplementedError

    def find(self, namespace: str, id: str) -> Match | None:
        raise NotImplementedError

    def clear(self, namespace: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to give back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def arrive(self, until: float | None = None) -> None:
        """The oldest write under way takes effect; or all those that must have done so by `until`."""
        due = self.writes[:1] if until is None else [write for write in self.writes if write.until <= until]
        for write in due:
            write.arrive()
        self.writes = [write for write in self.writes if not write.is_over]

    def _write(self, name: str, apply: Callable[[], None]) -> None:
        write = Write(apply, self._clock.monotonic() + REQUEST_SECONDS)
        self.writes.append(write)
        outcome = pause(name)
        error: PineconeError | None = None
        if self._clock.monotonic() >= write.until:
            error = PineconeTimeoutError("the model's index took too long")
        elif outcome in (Outcome.FAIL, Outcome.PART):
            write.is_over = True
            error = ServiceError() if outcome is Outcome.FAIL else RateLimitError(retry_after=1.0)
        elif outcome is not Outcome.GO:
            error = PineconeTimeoutError("the model's index was not heard")
        write.arrive()
        self.writes = [each for each in self.writes if not each.is_over]
        if error is not None:
            raise error
