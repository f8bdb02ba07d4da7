"""Enqueues whole tables, page by page in the order of the key, for Pelican to ship in a lane behind live changes: for
a backfill, or to fill another place of the source (pelican.reindex).

The cursor moves in the transaction that enqueues its page, so this can be killed at any point. Writes may go on: rows
inserted behind the cursor, or moved there, are captured by the triggers, and a page only says which keys to look at.
"""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from aviary.source import Source
from pelican import tables
from pelican.outbox import BACKFILL, FILL, SourceError
from pelican.rows import identifier, keyset
from pelican.watch import SOURCES, to_source

# Some 140 for each of the 16 shards, which are claimed whole: one page's keys beside live changes, else those of two.
PAGE_KEYS = 2_240
# Seconds between looks while the outbox is full.
PAUSE_SECONDS = 0.2

# Several may page at once, each through another source.
_NEXT = """
SELECT source_id, cursor, enqueued, total FROM {progress}
WHERE finished_at IS NULL AND (%(only)s::smallint[] IS NULL OR source_id = ANY (%(only)s))
  AND source_id <> ALL (%(but)s)
ORDER BY started_at LIMIT 1 FOR UPDATE SKIP LOCKED"""
_AHEAD = "SELECT coalesce(sum(key_count), 0) FROM sync.outbox WHERE lane = %s AND source_id = %s"
_PAGE = """
WITH page AS MATERIALIZED (
  SELECT {columns} FROM ONLY {table} r {after} ORDER BY {columns} LIMIT {limit}),
put AS ({enqueue} RETURNING 1)
SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM put),
       (SELECT ARRAY[{texts}] FROM page r ORDER BY {backwards} LIMIT 1)"""
_MOVE = """
UPDATE {progress} SET cursor = coalesce(%s, cursor), enqueued = enqueued + %s,
  finished_at = CASE WHEN %s THEN clock_timestamp() END
WHERE source_id = %s"""


# Where the progress of each lane's pages is kept.
_PROGRESS_OF = {BACKFILL: sql.Identifier("sync", "backfill"), FILL: sql.Identifier("sync", "reindex")}


class Page(NamedTuple):
    """One step: `keys` enqueued now (0 while the outbox is full), `enqueued` of about `total` so far."""

    source_id: int
    keys: int
    enqueued: int
    total: int
    is_last: bool


def turn_page(
    connection: psycopg.Connection[Any],
    outbox_limit: int,
    *,
    only: Collection[int] | None = None,
    but: Collection[int] = (),
    page_keys: int = PAGE_KEYS,
    lane: int = BACKFILL,
) -> Page | None:
    """Enqueue the next page of an unfinished backfill (or of a filling, in the lane FILL), unless `outbox_limit` keys of
    it are waiting already; None when no backfill is unfinished, or others are at them. `connection` is in autocommit mode, with outbox.prepare's
    settings. Raises psycopg.Error, and SourceError when the table cannot be read."""
    with connection.transaction():
        row = connection.execute(
            sql.SQL(_NEXT).format(progress=_PROGRESS_OF[lane]),
            {"only": None if only is None else list(only), "but": list(but)},
        ).fetchone()
        if row is None:
            return None
        source_id, cursor, enqueued, total = row
        ahead = (connection.execute(_AHEAD, (lane, source_id)).fetchone() or (0,))[0]
        if ahead >= outbox_limit:
            return Page(source_id, 0, enqueued, total, is_last=False)
        parameters = {f"k{number}": text for number, text in enumerate(cursor or ())}
        try:
            query = _page_query(connection, source_id, lane, page_keys, resumes=cursor is not None)
            keys, _, last = connection.execute(query, parameters).fetchone() or (0, 0, None)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            raise SourceError(
                source_id,
                f"a watched table cannot be paged through ({type(error).__name__}): mend it, or watch it anew",
            ) from error
        connection.execute(
            sql.SQL(_MOVE).format(progress=_PROGRESS_OF[lane]), (last, keys, keys < page_keys, source_id)
        )
        if keys:
            connection.execute("SELECT pg_notify('aviary', '')")
        return Page(source_id, keys, enqueued + keys, total, is_last=keys < page_keys)


def _page_query(
    connection: psycopg.Connection[Any], source_id: int, lane: int, page_keys: int, *, resumes: bool
) -> str:
    """Parameters, when it resumes: k0, k1, … the cursor's texts."""
    row = next(row for row in connection.execute(SOURCES) if row[0] == source_id)
    source, key_text = to_source(row), row[9]
    table = tables.describe(connection, source.schema, source.table)
    if table is None or not tables.has_columns(table, source):
        raise psycopg.errors.UndefinedTable(
            f"{source.schema}.{source.table} is not there any more, or has lost a column"
        )
    page = keyset(source, table, resumes=resumes)
    # key_text comes from sync.key_expression, which quotes.
    rows = f"SELECT {key_text} AS key, false AS text_unchanged FROM page r"  # noqa: S608 - see above
    code = connection.execute("SELECT sync.enqueue_code(%s, %s, %s)", (source_id, rows, lane)).fetchone()
    query = sql.SQL(_PAGE).format(
        columns=page.columns,
        table=identifier(source.schema, source.table),
        after=page.after,
        limit=sql.Literal(page_keys),
        enqueue=sql.SQL(str(code and code[0]).replace("%", "%%")),
        texts=page.texts,
        backwards=sql.SQL(", ").join(sql.SQL("r.{} DESC").format(identifier(column)) for column in source.key_columns),
    )
    return query.as_string()


class Progress(NamedTuple):
    """Of all backfills asked for: keys enqueued of about `total`, keys waiting in the lane, whether all pages are
    enqueued, and how many seconds the last of them will take (None: nobody can tell yet, or nothing is left)."""

    enqueued: int
    total: int
    waiting: int
    finished: bool
    seconds_left: float | None = None

    @property
    def sent(self) -> int:
        """Keys that the queue has taken."""
        return max(0, self.enqueued - self.waiting)


_PROGRESS = """
SELECT coalesce(sum(backfill_enqueued), 0), coalesce(sum(greatest(backfill_total, backfill_enqueued)), 0),
       coalesce(sum(backfill_keys), 0), coalesce(bool_and(backfill_finished_at IS NOT NULL), true),
       max(backfill_seconds_left)
FROM sync.status WHERE source_id = ANY (%s)"""


def request(connection: psycopg.Connection[Any], sources: Sequence[Source], *, restart: bool) -> list[Source]:
    """Ask for backfills of these sources; returns those that begin now. One that is under way goes on where it is
    unless `restart`."""
    begun = []
    for source in sources:
        unfinished = connection.execute(
            "SELECT FROM sync.backfill WHERE source_id = %s AND finished_at IS NULL", (source.id,)
        ).fetchone()
        if restart or unfinished is None:
            connection.execute("SELECT sync.request_backfill(%s)", (source.id,))
            begun.append(source)
    return begun


def run(
    connection: psycopg.Connection[Any],
    sources: Sequence[Source],
    outbox_limit: int,
    *,
    wait: bool,
    report: Callable[[Progress], None],
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Page until the backfills of these sources are finished (together with any Pelican that is at it), and with
    `wait` until their keys have been shipped. Calls `report` after each step."""
    ids = [source.id for source in sources]
    while True:
        page = turn_page(connection, outbox_limit, only=ids)
        row = connection.execute(_PROGRESS, (ids,)).fetchone() or (0, 0, 0, True, None)
        enqueued, total, waiting, finished, left = row
        report(Progress(int(enqueued), int(total), int(waiting), bool(finished), left))
        if finished and not (wait and waiting):
            return
        if page is None or not page.keys:
            pause(PAUSE_SECONDS)
