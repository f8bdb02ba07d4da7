"""Another place in the index for a source: the steps, each one transaction, in Postgres alone.

    start ► building ► (every row has arrived) ready ► switch ► previous ► drop ► dropping ► gone
                  └── cancel ──► dropping            ◄ rollback ┘

Live changes go to both places from `start` until `drop`. What a step finds done already it leaves alone, so that a
command which was killed is simply run again. The connection is the owner's, in autocommit mode.
"""

import datetime
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg

from aviary.source import InvalidSourceError, Source, check_metadata_columns
from pelican import tables
from pelican.outbox import FILL
from pelican.watch import (
    BUILDING,
    DROPPING,
    LOCK_TIMEOUT,
    PREVIOUS,
    READY,
    SOURCES,
    Other,
    source_named,
    to_other,
    to_source,
)

_STATUS = """
SELECT name, enqueued, total, waiting_keys, started_at, finished_at, changed_at FROM sync.reindex_status"""
_STATE = "SELECT state FROM sync.reindex WHERE source_id = %s FOR UPDATE"
_NEW_MAPPING = "UPDATE sync.source SET revision = revision + 1 WHERE id = %s"


class Progress(NamedTuple):
    """How far the other place of `source` is. `enqueued` of about `total` keys have been read from the table, `waiting`
    of them are not sent yet; `finished_at` is when the last one was read. `changed_at`: since when it is in its state."""

    source: Source
    other: Other
    enqueued: int
    total: int
    waiting: int
    started_at: datetime.datetime
    finished_at: datetime.datetime | None
    changed_at: datetime.datetime

    @property
    def filled(self) -> bool:
        """Whether all its rows have been sent to the queue."""
        return self.finished_at is not None and not self.waiting


def progress(connection: psycopg.Connection[Any]) -> list[Progress]:
    """Of every source that has another place."""
    states = {row[0]: row[1:] for row in connection.execute(_STATUS)}
    found = []
    for row in connection.execute(SOURCES):
        source, other = to_source(row), to_other(row)
        if other is not None and source.name in states:
            found.append(Progress(source, other, *states[source.name]))
    return found


def progress_of(connection: psycopg.Connection[Any], name: str) -> Progress:
    """Of one source; InvalidSourceError when there is no such source, or it has no other place."""
    source = source_named(connection, name)
    for found in progress(connection):
        if found.source.name == name:
            return found
    raise InvalidSourceError(
        f"{name} is in {source.namespace} only; `reindex start --source {name}` makes another place"
    )


def start(connection: psycopg.Connection[Any], wanted: Source) -> bool:
    """Make another place, which `wanted` describes but for its namespace; Pelican fills it. False when it is there
    already. InvalidSourceError when the table lacks a column, or when there is another one."""
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
        table = tables.describe(connection, wanted.schema, wanted.table)
        if table is None:
            raise InvalidSourceError(f"{wanted.schema}.{wanted.table} is not there any more; unwatch it")
        tables.check(table, wanted.key_columns, wanted.text_columns, wanted.metadata_columns)
        check_metadata_columns(wanted.metadata_columns)
        connection.execute("SELECT FROM sync.source WHERE id = %s FOR UPDATE", (wanted.id,))
        for found in progress(connection):
            if found.source.id == wanted.id:
                _check_same(found, wanted)
                return False
        try:
            connection.execute(
                "SELECT sync.start_reindex(%s::smallint, %s, %s, %s, %s, %s)",
                (
                    wanted.id,
                    wanted.index_host,
                    wanted.model,
                    list(wanted.text_columns),
                    wanted.text_template,
                    list(wanted.metadata_columns),
                ),
            )
        except psycopg.errors.LockNotAvailable:
            raise _in_use(wanted) from None
    return True


def ready(connection: psycopg.Connection[Any], source: Source) -> None:
    """Note that every row has arrived in the place that was being built."""
    connection.execute(
        "UPDATE sync.reindex SET state = %s, changed_at = clock_timestamp() WHERE source_id = %s AND state = %s",
        (READY, source.id, BUILDING),
    )


def switch(connection: psycopg.Connection[Any], source: Source) -> bool:
    """Make the other place the active one; the one that was is kept, and kept in step. Whether it was still to do."""
    return _swap(connection, source, (BUILDING, READY), PREVIOUS, done=(PREVIOUS,))


def roll_back(connection: psycopg.Connection[Any], source: Source) -> bool:
    """Make the place that was active before the switch active again. Whether it was still to do."""
    return _swap(connection, source, (PREVIOUS,), READY, done=(BUILDING, READY))


def _swap(
    connection: psycopg.Connection[Any], source: Source, of: Sequence[str], becomes: str, *, done: Sequence[str]
) -> bool:
    with connection.transaction():
        row = connection.execute(_STATE, (source.id,)).fetchone()
        state = row[0] if row else None
        if state in done:
            return False
        if state not in of:
            raise InvalidSourceError(
                f"{source.name} has no place to change to: the other one is {'gone' if state is None else 'being dropped'}"
            )
        connection.execute("SELECT sync.swap_places(%s::smallint, %s)", (source.id, becomes))
    return True


def begin_drop(connection: psycopg.Connection[Any], source: Source, states: Sequence[str]) -> None:
    """Send no changes to the other place any more. InvalidSourceError unless its state is one of `states`."""
    with connection.transaction():
        row = connection.execute(_STATE, (source.id,)).fetchone()
        if row is not None and row[0] == DROPPING:
            return
        if row is None or row[0] not in states:
            wanted = "cancel" if row and row[0] in (BUILDING, READY) else "drop"
            raise InvalidSourceError(
                f"the other place of {source.name} is {row[0] if row else 'gone'}; "
                f"if you mean to delete it, `reindex {wanted} --source {source.name}`"
            )
        connection.execute(
            "UPDATE sync.reindex SET state = %s, finished_at = coalesce(finished_at, clock_timestamp()), "
            "changed_at = clock_timestamp() WHERE source_id = %s",
            (DROPPING, source.id),
        )
        connection.execute("DELETE FROM sync.outbox WHERE lane = %s AND source_id = %s", (FILL, source.id))
        connection.execute(_NEW_MAPPING, (source.id,))


def forget(connection: psycopg.Connection[Any], source: Source) -> None:
    """The other place is empty: forget it. The triggers look at the columns of the active one only from now on."""
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
        connection.execute("DELETE FROM sync.reindex WHERE source_id = %s AND state = %s", (source.id, DROPPING))
        connection.execute("DELETE FROM sync.outbox WHERE lane = %s AND source_id = %s", (FILL, source.id))
        connection.execute(_NEW_MAPPING, (source.id,))
        try:
            connection.execute("SELECT sync.capture(%s::smallint)", (source.id,))
        except psycopg.errors.LockNotAvailable:
            raise _in_use(source) from None


def _check_same(found: Progress, wanted: Source) -> None:
    there, state = found.other.source, found.other.state
    same = (there.index_host, there.model, there.text_template, set(there.metadata_columns)) == (
        wanted.index_host,
        wanted.model,
        wanted.text_template,
        set(wanted.metadata_columns),
    )
    if state not in (BUILDING, READY) or not same:
        way = {BUILDING: "cancel", READY: "cancel"}.get(state, "drop")
        raise InvalidSourceError(
            f"{wanted.name} has another place already, {there.namespace}, which is {state}"
            f"{' and of another kind' if state in (BUILDING, READY) else ''}; "
            f"`reindex {way} --source {wanted.name}` first"
        )


def _in_use(source: Source) -> InvalidSourceError:
    return InvalidSourceError(
        f"{source.schema}.{source.table} is in use: a transaction that wrote to it has been open for {LOCK_TIMEOUT}; "
        "try again later"
    )
