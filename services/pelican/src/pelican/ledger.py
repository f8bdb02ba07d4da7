"""What a reconcile keeps in Postgres: how far it is, and the differences it has seen (sync.reconcile, sync.drift)."""

import datetime
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from aviary.source import Source
from pelican.drift import KINDS, Drift, Kind
from pelican.outbox import BACKFILL, LOCK_CLASS

# What one look is about: as many ids as fit one request to the index.
PAGE_KEYS = 200
# A source with more keys than this in the outbox is not in step, and asking which of ours wait there would be slow.
OUTBOX_LIMIT_KEYS = 50_000
# Differences that are older belong to another day: a run that was given up so long ago starts anew.
STALE_HOURS = 24
ROWS, VECTORS, SETTLE, REPAIR, DONE = "rows", "vectors", "settle", "repair", "done"

_BEGIN = """
INSERT INTO sync.reconcile AS r (source_id, question) VALUES (%(source)s, %(question)s)
ON CONFLICT (source_id) DO UPDATE
SET question = excluded.question, stage = 'rows', cursor = NULL, rows = 0, vectors = 0, found = '{}',
    started_at = clock_timestamp(), finished_at = NULL
WHERE %(restart)s OR r.stage = 'done' OR r.question <> excluded.question
   OR r.started_at < clock_timestamp() - make_interval(hours => %(hours)s)
RETURNING true"""
_NOTE = """
INSERT INTO sync.drift (source_id, id, key, kind, direct, seen, version)
SELECT %s, d.* FROM unnest(%s::text[], %s::text[], %s::text[], %s::bool[], %s::text[], %s::float8[]) d
ON CONFLICT DO NOTHING"""
_PAGE = """
SELECT id, key, kind, seen, version, direct FROM sync.drift
WHERE source_id = %s AND id > %s AND state = %s AND (shard = ANY (%s) OR %s) ORDER BY id LIMIT %s"""
_BACKFILLING = "SELECT FROM sync.backfill WHERE source_id = %s AND finished_at IS NULL"
_WAITING_KEYS = "SELECT live_keys + backfill_keys FROM sync.status WHERE source_id = %s"
# A claim's keys leave the outbox only after the queue has taken all of its messages.
_STILL = """
UPDATE sync.drift d SET state = 'still'
WHERE d.source_id = %(source)s AND d.state = 'seen'
  AND NOT EXISTS (SELECT FROM (
        SELECT unnest(o.keys) AS key FROM sync.outbox o
        WHERE o.source_id = %(source)s AND o.lane <> 2) w WHERE w.key = d.key)"""
_LIFT = """
SELECT setval('sync.version', greatest(s.last_value, d.version::bigint + 1))
FROM sync.version s, (SELECT max(version) AS version FROM sync.drift WHERE source_id = %s AND state = 'drift') d
WHERE d.version >= s.last_value AND d.version < 2::float8 ^ 52"""


class Progress(NamedTuple):
    """Where a run is, and how many rows and vectors it has looked at."""

    stage: str
    cursor: list[str] | None
    rows: int
    vectors: int
    started_at: datetime.datetime


class Ledger:
    """Of one source. Every method raises psycopg.Error. `connection` is in autocommit mode."""

    def __init__(self, connection: psycopg.Connection[Any], source: Source) -> None:
        self._connection = connection
        self._source = source

    def begin(self, question: str, *, restart: bool) -> bool:
        """Take the source, for this session; False when another session has it. A run that was killed goes on, unless
        it was asked something else, or `restart`."""
        held = self._value("SELECT pg_try_advisory_lock(%s, %s)", LOCK_CLASS, -2 - self._source.id)
        if not held:
            return False
        with self._connection.transaction():
            parameters = {"source": self._source.id, "question": question, "restart": restart, "hours": STALE_HOURS}
            if self._connection.execute(_BEGIN, parameters).fetchone():
                self._connection.execute("DELETE FROM sync.drift WHERE source_id = %s", (self._source.id,))
        return True

    def progress(self) -> Progress:
        row = self._connection.execute(
            "SELECT stage, cursor, rows, vectors, started_at FROM sync.reconcile WHERE source_id = %s",
            (self._source.id,),
        ).fetchone()
        if row is None:
            raise RuntimeError("a reconcile that has begun has no row")
        return Progress._make(row)

    def turn(
        self, found: Sequence[Drift], cursor: list[str] | None, *, rows: int = 0, vectors: int = 0, following: str
    ) -> None:
        """Keep what a page showed and move behind it, at once: to `cursor`, or from the last page to the stage
        `following`."""
        with self._connection.transaction():
            if found:
                parts = zip(*((d.id, d.key, d.kind, d.direct, d.seen, d.version) for d in found), strict=True)
                self._connection.execute(_NOTE, (self._source.id, *map(list, parts)))
            self._connection.execute(
                "UPDATE sync.reconcile SET cursor = %s, rows = rows + %s, vectors = vectors + %s, "
                "stage = coalesce(%s, stage) WHERE source_id = %s",
                (cursor, rows, vectors, following if cursor is None else None, self._source.id),
            )

    def enter(self, stage: str) -> None:
        self._connection.execute(
            "UPDATE sync.reconcile SET stage = %s, cursor = NULL, "
            "finished_at = CASE WHEN %s = 'done' THEN clock_timestamp() END WHERE source_id = %s",
            (stage, stage, self._source.id),
        )

    def mark_still(self) -> None:
        """Note which differences are not on their way to the queue now. None while a backfill or a heap of other changes
        is."""
        if self._connection.execute(_BACKFILLING, (self._source.id,)).fetchone() is not None:
            return
        if self._value(_WAITING_KEYS, self._source.id) > OUTBOX_LIMIT_KEYS:
            return
        with self._connection.transaction():
            # Sessions that read watched tables may use none of these, and this one query must.
            self._connection.execute("SET LOCAL enable_hashjoin = on; SET LOCAL enable_seqscan = on")
            self._connection.execute(_STILL, {"source": self._source.id})

    def draw_version(self) -> int:
        """Newer than every claim made so far."""
        return int(self._value("SELECT nextval('sync.version')"))

    def shards(self, keys: Sequence[str]) -> set[int]:
        """The shards of some keys."""
        found = self._connection.execute(
            'SELECT DISTINCT (hashtextextended(k COLLATE "C", 0) & 15)::int FROM unnest(%s::text[]) k', (list(keys),)
        )
        return {row[0] for row in found}

    def shards_in(self, state: str) -> set[int | None]:
        """Those of the differences in a state; None stands for keys that nobody can tell."""
        found = self._connection.execute(
            "SELECT DISTINCT shard FROM sync.drift WHERE source_id = %s AND state = %s", (self._source.id, state)
        )
        return {row[0] for row in found}

    def pages(self, state: str, shards: Collection[int] | None = None) -> Iterator[list[Drift]]:
        """Differences in a state, of these shards (None: all), page by page. A page may be changed once it is out."""
        last = ""
        while True:
            rows = self._connection.execute(
                _PAGE, (self._source.id, last, state, list(shards or ()), shards is None, PAGE_KEYS)
            ).fetchall()
            if not rows:
                return
            yield [Drift._make(row) for row in rows]
            last = rows[-1][0]

    def forget(self, ids: Sequence[str]) -> None:
        """They are no differences any more."""
        self._connection.execute(
            "DELETE FROM sync.drift WHERE source_id = %s AND id = ANY (%s)", (self._source.id, list(ids))
        )

    def move(self, ids: Sequence[str], state: str) -> None:
        self._connection.execute(
            "UPDATE sync.drift SET state = %s WHERE source_id = %s AND id = ANY (%s)",
            (state, self._source.id, list(ids)),
        )

    def reset(self) -> None:
        """What was still is to be looked for in the outbox again."""
        self._connection.execute(
            "UPDATE sync.drift SET state = 'seen' WHERE source_id = %s AND state = 'still'", (self._source.id,)
        )

    def count(self, *states: str) -> int:
        return int(
            self._value(
                "SELECT count(*) FROM sync.drift WHERE source_id = %s AND state = ANY (%s)",
                self._source.id,
                list(states),
            )
        )

    def keep_found(self) -> None:
        """Write down how many differences of each kind there are, before any is mended."""
        self._connection.execute(
            "UPDATE sync.reconcile SET found = (SELECT coalesce(jsonb_object_agg(kind, n), '{}') FROM ("
            "  SELECT kind, count(*) AS n FROM sync.drift WHERE source_id = %(source)s AND state = 'drift' GROUP BY kind) k)"
            " WHERE source_id = %(source)s",
            {"source": self._source.id},
        )

    def found(self) -> dict[Kind, int]:
        found = self._value("SELECT found FROM sync.reconcile WHERE source_id = %s", self._source.id)
        return {kind: found.get(kind, 0) for kind in KINDS}

    def examples(self, count: int) -> dict[Kind, list[str]]:
        """Some keys of each kind, the vector's id where nobody can tell the key."""
        query = (
            "SELECT coalesce(key, id) FROM sync.drift WHERE source_id = %s AND state IN ('drift', 'sent') AND kind = %s "
            "ORDER BY id LIMIT %s"
        )
        return {
            kind: [row[0] for row in self._connection.execute(query, (self._source.id, kind, count))] for kind in KINDS
        }

    def lift_version(self) -> None:
        """Make the next versions higher than those of the vectors that are to be replaced: a table restored from a
        backup may be behind its own index."""
        self._connection.execute(_LIFT, (self._source.id,))

    def enqueue(self, ids: Sequence[str]) -> None:
        """Put the keys of these differences into the outbox, behind live changes, and note it, at once."""
        rows = "SELECT key, false AS text_unchanged FROM sync.drift WHERE source_id = %(source)s AND id = ANY (%(ids)s)"
        code = self._value("SELECT sync.enqueue_code(%s::smallint, %s, %s::smallint)", self._source.id, rows, BACKFILL)
        with self._connection.transaction():
            self._connection.execute(sql.SQL(code), {"source": self._source.id, "ids": list(ids)})
            self.move(ids, "sent")
            self._connection.execute("SELECT pg_notify('aviary', '')")

    def waiting(self) -> int:
        """Keys of the source in the outbox."""
        return int(self._value(_WAITING_KEYS, self._source.id))

    def _value(self, query: str, *parameters: Any) -> Any:
        row = self._connection.execute(query, parameters).fetchone()
        return row and row[0]
