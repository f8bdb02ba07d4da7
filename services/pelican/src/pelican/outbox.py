"""The one adapter around Pelican's side of Postgres: finding work, claiming it, giving it up, finishing it."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import psycopg

from aviary.source import Source
from pelican import rows, tables
from pelican.watch import SOURCES, Other, to_other, to_source

# FILL goes to a source's other place only, the lanes before it to both.
LIVE, BACKFILL, FILL = 0, 1, 2
# Advisory locks are (class, object): any class will do that nothing else in this database uses.
LOCK_CLASS = 0x61766961
SHARD_BITS = 4

# The text of keys must not depend on the server's settings; no plan may read a table from end to end to look up some
# keys in it (the planner would for small tables, and keep that plan when they have grown); and a table behind row level
# security must fail, not look empty.
_SETTINGS = """
SET search_path = pg_catalog;
SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres';
SET extra_float_digits = 1; SET bytea_output = 'hex';
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET plan_cache_mode = force_generic_plan; SET jit = off; SET row_security = off;
SET lock_timeout = '2s'; SET statement_timeout = '30s'
"""
# Versions must grow after a restored backup too: never let the sequence be a minute behind the clock (milliseconds).
_LIFT_VERSION_LOCK = "SELECT pg_advisory_xact_lock(%s, -1)"
_LIFT_VERSION = """
SELECT setval('sync.version', (extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM sync.version
WHERE last_value < (extract(epoch FROM clock_timestamp()) * 1000)::bigint - 60000"""
# A loose scan: one index probe for each (lane, source, shard) that has rows, however many those are.
_FIND = """
WITH RECURSIVE work AS (
  (SELECT lane, source_id, shard FROM sync.outbox ORDER BY lane, source_id, shard, seq LIMIT 1)
  UNION ALL
  SELECT next.* FROM work CROSS JOIN LATERAL (
    SELECT o.lane, o.source_id, o.shard FROM sync.outbox o
    WHERE (o.lane, o.source_id, o.shard) > (work.lane, work.source_id, work.shard)
    ORDER BY o.lane, o.source_id, o.shard, o.seq LIMIT 1) next)
SELECT lane, source_id, shard FROM work"""
# The lock first, then the version: CASE evaluates in this order. The claim's own query is a later statement, and so
# has a later snapshot; it reads nothing when this one leaves '' behind.
_LOCK = """
SELECT set_config('aviary.version',
  CASE WHEN pg_try_advisory_lock(%s, %s) THEN nextval('sync.version')::text ELSE '' END, false)"""
_UNLOCK = "SELECT pg_advisory_unlock(%s, %s)"
_FENCE = """
UPDATE sync.claim SET version = n.version, messages = n.messages, expires_at = to_timestamp(%s / 1000.0)
FROM unnest(%s::smallint[], %s::bigint[], %s::integer[], %s::bigint[]) AS n(shard, version, messages, earlier)
WHERE claim.source_id = %s AND claim.shard = n.shard AND claim.version = n.earlier"""
_DONE = """
DELETE FROM sync.outbox WHERE lane = %s AND source_id = %s AND shard = %s AND seq = ANY (%s)"""
_CLEAR = "UPDATE sync.claim SET messages = 0 WHERE source_id = %s AND shard = %s AND version = %s"
_ENQUEUE = """
INSERT INTO sync.outbox (source_id, shard, lane, keys, key_count) VALUES (%s, %s, %s, %s, %s)"""
_RAISE_MOST_CHUNKS = "UPDATE sync.source SET most_chunks = %s WHERE id = %s AND most_chunks < %s"


class LostClaimError(RuntimeError):
    """Somebody else has claimed the shard since: nothing of this claim may be sent."""


class SourceError(RuntimeError):
    """A watched table cannot be read as it is mapped; other tables can. The message names it and the way out."""

    def __init__(self, source_id: int, message: str) -> None:
        super().__init__(message)
        self.source_id = source_id


class Work(NamedTuple):
    """A shard of a source with rows in a lane (LIVE before BACKFILL before FILL)."""

    lane: int
    source_id: int
    shard: int

    @property
    def lock(self) -> tuple[int, int]:
        return LOCK_CLASS, self.source_id << SHARD_BITS | self.shard

    @property
    def group(self) -> str:
        """The queue's message group: what must stay in order."""
        return f"{self.source_id}-{self.shard}"


class Row(NamedTuple):
    """One key of a claim. `values` are the mapped columns, meaningless unless `found`."""

    key: str
    text_unchanged: bool
    at_ms: int
    found: bool
    values: tuple[Any, ...]


class Earlier(NamedTuple):
    """The newest claim that this one follows. `messages` > 0: it was never finished, and may still be on its way."""

    version: int
    messages: int
    expires_at_ms: int


class Claim(NamedTuple):
    """What was read of a shard in one snapshot, and the version that all of it carries.

    `columns` names each Row's values. `at` is time.monotonic() before the snapshot was taken. `most_chunks`: what any
    earlier message of this shard may have made of one row, at most.
    """

    work: Work
    source: Source
    other: Other | None
    columns: tuple[str, ...]
    version: int
    most_chunks: int
    earlier: Earlier
    seqs: list[int]
    rows: list[Row]
    at: float


class _Known(NamedTuple):
    source: Source
    other: Other | None
    revision: int
    columns: tuple[str, ...]
    query: str


class PostgresOutbox:
    """One session with Postgres, opened when first needed. Not thread-safe: each worker has its own.

    A claim is held by a session-level advisory lock and no open transaction. Every method raises psycopg.Error; after
    one, call `drop`, and the next method starts a new session.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        self._connect = connect
        self._connection: psycopg.Connection[Any] | None = None
        self._known: dict[int, _Known] = {}

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The session, in autocommit mode and with the settings that keys are printed under."""
        if self._connection is None or self._connection.closed:
            self._known.clear()
            connection = self._connect()
            try:
                prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def drop(self) -> None:
        """End the session and with it every lock it holds."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def find(self) -> list[Work]:
        """All shards that have rows, live ones first."""
        return [Work(*row) for row in self.connection.execute(_FIND, prepare=True)]

    def claim(self, work: Work, keys: int) -> Claim | None:
        """Claim the oldest rows of a shard, some `keys` keys; None when there are none or another session holds it.
        Raises SourceError when the table cannot be read."""
        known = self._source(work.source_id)
        if known is None:
            return None
        connection = self.connection
        at = time.monotonic()
        try:
            # No pipeline: psycopg ends one with a message after which Postgres does not count the session's silence, and
            # that of a Pelican that is stopped now must free its shards.
            version = (connection.execute(_LOCK, work.lock, prepare=True).fetchone() or ("",))[0]
            if not version:
                return None
            found = connection.execute(
                known.query, {"lane": work.lane, "shard": work.shard, "limit": keys}, prepare=True
            ).fetchall()
        except psycopg.errors.LockNotAvailable as error:
            raise self._unreadable(known.source, "is locked by another transaction") from error
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            raise self._unreadable(known.source, f"cannot be read ({type(error).__name__})") from error
        if not found:
            self._unlock(work)
            return None
        seqs, revision, most_chunks, *earlier = found[0][:6]
        claim = Claim(
            work=work,
            source=known.source,
            other=known.other,
            columns=known.columns,
            version=int(version),
            most_chunks=most_chunks or 1,
            earlier=Earlier(*earlier),
            seqs=seqs,
            rows=[Row(r[6], r[7], r[8], bool(r[9]), r[rows.HEAD_COLUMNS :]) for r in found],
            at=at,
        )
        if revision != known.revision:
            # The mapping changed since this session read it; the rows must be read by the new one.
            self._known.clear()
            self.release([claim])
            return self.claim(work, keys)
        return claim

    def raise_most_chunks(self, claim: Claim, most: int) -> None:
        """Note, durably, that rows of the source may have so many vectors from now on; never fewer again."""
        self.connection.execute(_RAISE_MOST_CHUNKS, (most, claim.source.id, most), prepare=True)

    def fence(self, claims: Sequence[tuple[Claim, int]], expires_at_ms: int) -> None:
        """Announce, durably and in one commit, how many messages of each claim are about to be sent; raises LostClaimError
        when a newer claim of one's shard has been announced: send nothing of any then. The flush to disk also makes the
        versions durable that those messages carry."""
        shards = [(c.work.shard, c.version, messages, c.earlier.version) for c, messages in claims]
        # One statement: no pipeline, see `claim`.
        done = self.connection.execute(
            _FENCE, (expires_at_ms, *map(list, zip(*shards, strict=True)), claims[0][0].work.source_id), prepare=True
        )
        if done.rowcount != len(claims):
            groups = ", ".join(claim.work.group for claim, _ in claims)
            raise LostClaimError(f"a shard of {groups} was claimed by another session")

    def finish(self, claims: Sequence[Claim]) -> None:
        """Delete the claims' outbox rows and let go of the shards. After a psycopg.Error the outcome is unknown."""
        connection = self.connection
        with connection.pipeline() as pipeline:
            # Losing this commit in a crash only repeats the claims, so nobody waits for the disk.
            connection.execute("SELECT set_config('synchronous_commit', 'off', true)", prepare=True)
            for claim in claims:
                work = claim.work
                connection.execute(_DONE, (work.lane, work.source_id, work.shard, claim.seqs), prepare=True)
                connection.execute(_CLEAR, (work.source_id, work.shard, claim.version), prepare=True)
            pipeline.sync()  # commits; the locks must not be free earlier
            for claim in claims:
                self._unlock(claim.work)

    def release(self, claims: Sequence[Claim]) -> None:
        """Give the claims up: their outbox rows stay, and somebody will claim them again."""
        for claim in claims:
            self._unlock(claim.work)

    def enqueue(self, work: Work, keys: Sequence[str]) -> None:
        """Put keys into the outbox again, behind all that is there."""
        self.connection.execute(_ENQUEUE, (work.source_id, work.shard, work.lane, list(keys), len(keys)))

    def _unlock(self, work: Work) -> None:
        self.connection.execute(_UNLOCK, work.lock, prepare=True)

    def _source(self, source_id: int) -> _Known | None:
        # A session that is new must forget what it knew, so it is opened first.
        connection = self.connection
        if source_id not in self._known:
            found: dict[int, _Known] = {}
            for row in connection.execute(SOURCES):
                source = to_source(row)
                table = tables.describe(connection, source.schema, source.table)
                if table is None and source.id == source_id:
                    raise self._unreadable(source, "is not there")
                if table is not None and tables.has_columns(table, source):
                    other = to_other(row)
                    places = [source] if other is None else [source, other.source]
                    query = rows.claim_query(places, table, row[9])
                    found[source.id] = _Known(source, other, row[8], rows.mapped_columns(places), query)
                elif source.id == source_id:
                    raise self._unreadable(source, "has lost a column")
            self._known = found
        return self._known.get(source_id)

    def _unreadable(self, source: Source, why: str) -> SourceError:
        # The lock of the claim, prepared statements and what is known of tables all go with the session.
        self.drop()
        return SourceError(
            source.id, f"{source.schema}.{source.table} {why}; its changes wait: mend it, or watch or unwatch it anew"
        )


def prepare(connection: psycopg.Connection[Any]) -> None:
    """Settings of a session that reads watched tables or pages through them."""
    connection.execute(_SETTINGS)
    rows.read_leniently(connection)


def lift_version(connection: psycopg.Connection[Any]) -> None:
    """Call once at start, see _LIFT_VERSION."""
    with connection.transaction():
        connection.execute(_LIFT_VERSION_LOCK, (LOCK_CLASS,))
        connection.execute(_LIFT_VERSION)
