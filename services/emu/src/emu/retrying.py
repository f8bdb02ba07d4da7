"""Calling Pinecone below its limits and until it answers: which errors pass, which are a row's own fault."""

import enum
import logging
import random
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from pinecone.errors import (
    ApiError,
    PineconeError,
    PineconeTypeError,
    PineconeValueError,
    RateLimitError,
)

from aviary.index import is_missing_namespace
from aviary.limits import Limiter, Work
from aviary.logs import log
from emu.stats import Stats

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 5.0
LONGEST_RETRY_AFTER_SECONDS = 60.0
WRONG_DIMENSION = re.compile(r"vector dimension \d+ does not match", re.IGNORECASE)


class Verdict(enum.Enum):
    """What an error says about the request that met it."""

    TRANSIENT = "the index does not answer"  # it passes by itself
    OPERATOR = "the index refuses us"  # key, quota or index: passes when a person has mended it
    CONTENT = "the index refuses the rows"  # the same request fails for ever


class StoppingError(RuntimeError):
    """Emu stops, and the index did not take a request, or not yet: what is left is for another Emu."""


def verdict(error: PineconeError) -> Verdict:
    """Only a 400, 413 or 422, and what the SDK refuses to send, is a row's own fault.

    A wrong dimension is a 400 too, but of every row alike: the index was not made for this model.
    """
    match error:
        case PineconeValueError() | PineconeTypeError():
            return Verdict.CONTENT
        case ApiError(status_code=400 | 413 | 422):
            return Verdict.OPERATOR if WRONG_DIMENSION.search(error.message) else Verdict.CONTENT
        case ApiError(status_code=401 | 402 | 403 | 404 | 405 | 409 | 412 | 415):
            return Verdict.OPERATOR
        case _:
            return Verdict.TRANSIENT


def describe(error: PineconeError) -> str:
    """The error for logs and readiness: its kind only, because its text may quote a row."""
    return f"{error.status_code}" if isinstance(error, ApiError) else type(error).__name__


def delay_seconds(attempt: int, retry_after: float | None, jitter: float) -> float:
    """How long to wait after failure number `attempt` (from 1); `jitter` is from 0 to 1.

    Doubles up to five seconds, and is never shorter than the server asked for.
    """
    backoff = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(attempt - 1, 16)) * (0.5 + jitter / 2)
    return max(backoff, min(retry_after or 0.0, LONGEST_RETRY_AFTER_SECONDS) * (1 + jitter / 4))


class IndexState:
    """How the last requests of each kind went: "ok", or a sentence. Each change of it is logged once.

    By kind, because an index that answers reads and refuses writes would otherwise seem to change at every request.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bad: dict[str, str] = {"probe": "not reached yet"}

    @property
    def sentence(self) -> str:
        return next(iter(self._bad.copy().values()), "ok")

    def is_ok(self, kind: str | None = None) -> None:
        """A request of this kind went well; without a kind, all is well."""
        with self._lock:
            before = self.sentence
            for known in ("probe", kind) if kind else tuple(self._bad):
                self._bad.pop(known, None)
            self._log(before)

    def is_bad(self, kind: str, error: PineconeError) -> None:
        """A request of this kind failed, and not by its content."""
        with self._lock:
            before = self.sentence
            self._bad[kind] = f"{verdict(error).value} ({describe(error)})"
            self._log(before)

    def _log(self, before: str) -> None:
        after = self.sentence
        if after != before:
            log(LOGGER, logging.INFO if after == "ok" else logging.ERROR, "index_state", state=after)


class Caller:
    """Calls an index for as long as it takes, or until Emu stops. Thread-safe."""

    def __init__(
        self,
        stats: Stats,
        state: IndexState,
        stopping: threading.Event,
        host: str = "",
        limiter: Limiter | None = None,
    ) -> None:
        """`host` tells the states and the quotas of several indexes apart; `limiter` is shared by all callers."""
        self._host = host
        self._limiter = limiter or Limiter()
        self._stats = stats
        self._state = state
        self._stopping = stopping

    def __call__(
        self, work: Work, call: Callable[[], T], allowed: Callable[[], AbstractContextManager[None]], *, live: bool
    ) -> T:
        """What `call` returns. `work` is what it costs. `allowed` makes the context that each attempt happens in, and may
        refuse it; no time passes in it before the request is sent.

        Raises the PineconeError when it is the rows' own fault, StoppingError, and what `allowed` raises.
        """
        kind = f"{'read' if work.operation == 'fetch' else 'write'} {self._host}".strip()
        attempt = 0
        while True:
            attempt += 1
            self._wait(work, live=live)
            try:
                with allowed():
                    result = call()
            except PineconeError as error:
                if is_missing_namespace(error) or verdict(error) is Verdict.CONTENT:
                    self._state.is_ok(kind)
                    raise
                self._state.is_bad(kind, error)
                self._stats.count("retries")
                self._stats.count("errors")
                after = _retry_after(error)
                if isinstance(error, RateLimitError):
                    self._stats.count("throttled")
                    self._limiter.refused(self._host, work, after)
                if self._stopping.wait(delay_seconds(attempt, after, random.random())):  # noqa: S311 - only spreads load
                    raise StoppingError from error
            else:
                self._state.is_ok(kind)
                return result

    def _wait(self, work: Work, *, live: bool) -> None:
        waited = self._limiter.wait(self._host, work, live=live, stopping=self._stopping)
        if waited is None:
            raise StoppingError
        if waited:
            self._stats.count("limit_wait_ms", round(waited * 1000))


def _retry_after(error: PineconeError) -> float | None:
    if isinstance(error, RateLimitError):
        return error.retry_after
    if isinstance(error, ApiError):
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        try:
            return float(headers.get("retry-after", ""))
        except ValueError:
            return None
    return None
