"""How far the index is behind the tables: samples for the status page and `GET /api/status`."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

import psycopg
from psycopg import sql
from psycopg.rows import DictRow
from pydantic import BaseModel

from aviary.logs import log
from frontend.arrival import Measurement, Watcher
from frontend.pool import Connection
from frontend.problems import ProblemError
from frontend.queues import QueueDepths
from frontend.store import Database, Watched
from frontend.vectors import AsyncIndex

logger = logging.getLogger(__name__)

SAMPLE_EVERY_SECONDS = 5.0
# A page that polls every 2 s gets a new sample each time; ten pages at once share it.
FRESH_SECONDS = 1.0
# 15 minutes of samples in the background, less while a page is open.
SAMPLES_KEPT = 180
# Counting a big table takes its time, so it is counted anew only after 50 times as long.
COUNT_REST_FACTOR = 50
COUNT_TIMEOUT_MS = 3_000

State = Literal["in_step", "catching_up", "attention", "unknown"]


class OtherPlace(BaseModel):
    """A second place of a source in the index: being built, ready, kept after a switch (previous), or being deleted.
    `enqueued` of about `total` keys were read to fill it, `pending` of them wait to be sent. Changes go to both places."""

    state: Literal["building", "ready", "previous", "dropping"]
    namespace: str
    model: str
    vectors: int | None
    enqueued: int
    total: int
    pending: int


class SourceStatus(BaseModel):
    """One watched table. Where `long_texts` is true, a row may have several vectors. `rows` and `without_text` come from counting; `estimated` says that the table was too big
    to count in 3 s and the numbers are the planner's. `pending` counts keys in the outbox, of which `backfill` are
    in the slow lane. Unknown numbers are null."""

    name: str
    table: str
    rows: int | None
    without_text: int | None
    estimated: bool
    vectors: int | None
    long_texts: bool
    pending: int | None
    backfill: int | None
    oldest_pending_ms: int | None
    other_place: OtherPlace | None = None


class Totals(BaseModel):
    """Sums over all sources, and the queues (messages, each with up to 100 rows)."""

    rows: int | None
    without_text: int | None
    vectors: int | None
    outbox: int | None
    queue: int | None
    dead_letters: int | None
    oldest_pending_ms: int | None


class Searchable(BaseModel):
    """Commit to searchable in milliseconds, of the latest edits made through this process."""

    last_ms: float | None
    p50_ms: float | None
    measured: int


class Status(BaseModel):
    """One sample. `state`: `in_step` (nothing pending, index equals tables as far as counting tells), `catching_up`, `attention`
    (dead letters), or `unknown` (a part cannot be reached; `troubles` says which)."""

    at: datetime
    state: State
    totals: Totals
    commit_to_searchable: Searchable
    sources: list[SourceStatus]
    troubles: list[str]


class StatusBoard:
    """Takes samples and keeps the recent ones. Belongs to one event loop."""

    def __init__(self, database: Database, index: AsyncIndex, queues: QueueDepths, watcher: Watcher) -> None:
        self._database = database
        self._index = index
        self._queues = queues
        self._watcher = watcher
        self._lock = asyncio.Lock()
        self._taken_at = float("-inf")
        self._counts: dict[str, tuple[float, int | None, int | None, bool]] = {}
        self.history: deque[Status] = deque(maxlen=SAMPLES_KEPT)

    async def run(self) -> None:
        """Sample for ever, so that the page has a past to show when it is opened."""
        while True:
            try:
                await self.current()
            except Exception as error:  # noqa: BLE001 - a sample that fails must not end the sampling
                log(logger, logging.WARNING, "status_sample_failed", error=type(error).__name__)
            await asyncio.sleep(SAMPLE_EVERY_SECONDS)

    async def current(self) -> Status:
        """A sample at most 1 s old. Never raises for a part that cannot be reached: it is named in `troubles`."""
        async with self._lock:
            if self.history and time.monotonic() - self._taken_at < FRESH_SECONDS:
                return self.history[-1]
            sample = await self._sample()
            self._taken_at = time.monotonic()
            self.history.append(sample)
            return sample

    async def _sample(self) -> Status:
        troubles: list[str] = []
        depths = asyncio.create_task(self._queues.read())
        sources = await self._sources(troubles)
        queue, dead_letters, trouble = await depths
        if trouble:
            troubles.append(trouble)
        totals = Totals(
            rows=_sum(s.rows for s in sources),
            without_text=_sum(s.without_text for s in sources),
            vectors=_sum(s.vectors for s in sources),
            outbox=_sum(s.pending for s in sources),
            queue=queue,
            dead_letters=dead_letters,
            oldest_pending_ms=max(
                (s.oldest_pending_ms for s in sources if s.oldest_pending_ms is not None), default=None
            ),
        )
        return Status(
            at=datetime.now(UTC),
            state=judge(sources, totals),
            totals=totals,
            commit_to_searchable=summary(list(self._watcher.measurements)),
            sources=sources,
            troubles=troubles,
        )

    async def _sources(self, troubles: list[str]) -> list[SourceStatus]:
        pending: dict[str, DictRow] = {}
        others: dict[str, DictRow] = {}
        try:
            watched = await self._database.sources()
            async with self._database.connection() as connection:
                pending = {row["name"]: row for row in await (await connection.execute(_PENDING)).fetchall()}
                others = {row["name"]: row for row in await (await connection.execute(_OTHERS)).fetchall()}
                for name, one in watched.items():
                    await self._count(connection, name, one)
        except ProblemError as problem:
            troubles.append(f"database: {problem.detail.message}")
            return []
        found = []
        for name, one in watched.items():
            _, rows, without_text, estimated = self._counts[name]
            waiting = pending.get(name)
            other = others.get(name)
            found.append(
                SourceStatus(
                    name=name,
                    table=f"{one.source.schema}.{one.source.table}",
                    rows=rows,
                    without_text=without_text,
                    estimated=estimated,
                    vectors=await self._vectors(one.source.namespace, one.source.index_host, troubles),
                    long_texts=one.most_chunks > 1,
                    pending=waiting["pending"] if waiting else 0,
                    backfill=waiting["backfill"] if waiting else 0,
                    oldest_pending_ms=waiting["oldest_ms"] if waiting else None,
                    other_place=None
                    if other is None
                    else OtherPlace(
                        **{name: value for name, value in other.items() if name not in ("name", "index_host")},
                        vectors=await self._vectors(other["namespace"], other["index_host"], troubles),
                    ),
                )
            )
        return found

    async def _vectors(self, namespace: str, host: str, troubles: list[str]) -> int | None:
        try:
            return await self._index.count(namespace, host)
        except ProblemError as problem:
            trouble = f"index: {problem.detail.message}"
            if trouble not in troubles:
                troubles.append(trouble)
            return None

    async def _count(self, connection: Connection, name: str, watched: Watched) -> None:
        due, *_ = self._counts.get(name, (float("-inf"), None, None, False))
        began = time.monotonic()
        if began < due:
            return
        if not watched.types:
            self._counts[name] = (began + FRESH_SECONDS, None, None, False)
            return
        # The same rule as render(): a row counts as blank when every text column is.
        blank = sql.SQL(" AND ").join(
            sql.SQL("coalesce({}::text, '') !~ '\\S'").format(sql.Identifier(column))
            for column in watched.source.text_columns
        )
        statement = sql.SQL("SELECT count(*) AS rows, count(*) FILTER (WHERE {}) AS blank FROM {}").format(
            blank, sql.Identifier(watched.source.schema, watched.source.table)
        )
        try:
            async with connection.transaction():
                await connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(COUNT_TIMEOUT_MS))
                row = await (await connection.execute(statement)).fetchone()
            counted, without_text, estimated = (row or {}).get("rows"), (row or {}).get("blank"), False
        except psycopg.errors.QueryCanceled:
            guess = await connection.execute(_ESTIMATE, [watched.source.schema, watched.source.table])
            row = await guess.fetchone()
            counted, without_text, estimated = (row or {}).get("rows"), None, True
        rest = max(FRESH_SECONDS, COUNT_REST_FACTOR * (time.monotonic() - began))
        self._counts[name] = (began + rest, counted, without_text, estimated)


def judge(sources: list[SourceStatus], totals: Totals) -> State:
    """The state in one word."""
    if totals.dead_letters:
        return "attention"
    if not sources or any(s.vectors is None or s.rows is None for s in sources) or totals.outbox is None:
        return "unknown"
    behind = any(not s.estimated and not _holds_all(s) for s in sources)
    return "catching_up" if totals.outbox or totals.queue or behind else "in_step"


def _holds_all(source: SourceStatus) -> bool:
    """Whether there are as many vectors as there should be. How many a long text has is known to nobody who only counts,
    so in a source with long texts they must be at least as many as rows."""
    if source.rows is None or source.vectors is None:
        return False
    expected = source.rows - (source.without_text or 0)
    return source.vectors >= expected if source.long_texts and expected else source.vectors == expected


def summary(measurements: list[Measurement]) -> Searchable:
    """The latest measurement, and the median of all that are kept."""
    if not measurements:
        return Searchable(last_ms=None, p50_ms=None, measured=0)
    ordered = sorted(m.milliseconds for m in measurements)
    return Searchable(
        last_ms=measurements[-1].milliseconds, p50_ms=ordered[len(ordered) // 2], measured=len(measurements)
    )


def _sum(values: Iterable[int | None]) -> int | None:
    """None when there is nothing to add up, or a part of it is unknown."""
    known = list(values)
    return None if not known or None in known else sum(value for value in known if value is not None)


_PENDING = """
SELECT name, live_keys + backfill_keys AS pending, backfill_keys AS backfill,
       (extract(epoch FROM clock_timestamp() - oldest_enqueued_at) * 1000)::bigint AS oldest_ms
  FROM sync.status
"""
_OTHERS = """
SELECT name, state, namespace, index_host, model, enqueued, total, waiting_keys AS pending FROM sync.reindex_status
"""
_ESTIMATE = "SELECT greatest(reltuples, 0)::bigint AS rows FROM pg_class WHERE oid = to_regclass(format('%%I.%%I', %s::text, %s::text))"
