"""Making tables watched, and forgetting them: what `python -m pelican watch` and `unwatch` do."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import psycopg

from aviary.source import InvalidSourceError, Source, template_columns
from pelican import tables

# A name is also the namespace in the index and a part of metrics, so it is plain.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
# Longer than this, writers of the table would pile up behind us while we wait for a long transaction.
LOCK_TIMEOUT = "10s"

# One statement, so that a source is never read half before and half after its places changed roles.
SOURCES = """
SELECT s.id, s.name, s.schema_name, s.table_name, s.key_columns, s.text_template, s.metadata_columns, s.namespace,
       s.revision, sync.key_expression(s.key_columns), s.index_host, s.model,
       r.state, r.namespace, r.index_host, r.model, r.text_template, r.metadata_columns
FROM sync.source s LEFT JOIN sync.reindex r ON r.source_id = s.id ORDER BY s.id"""


BUILDING, READY, PREVIOUS, DROPPING = "building", "ready", "previous", "dropping"


class Other(NamedTuple):
    """The other place of a source (see sync.reindex): its state, and the source as it is there."""

    state: str
    source: Source


class Watched(NamedTuple):
    """What `watch` did: `is_new`, or `changed` when rows must be sent again, or neither."""

    source: Source
    is_new: bool
    changed: bool


def to_source(row: Sequence[Any]) -> Source:
    """From a row of SOURCES, with its active place."""
    return Source(
        id=row[0],
        name=row[1],
        schema=row[2],
        table=row[3],
        key_columns=tuple(row[4]),
        text_template=row[5],
        metadata_columns=tuple(row[6]),
        namespace=row[7],
        index_host=row[10],
        model=row[11],
    )


def to_other(row: Sequence[Any]) -> Other | None:
    """From a row of SOURCES; None where there is no other place."""
    state, namespace, index_host, model, text_template, metadata_columns = row[12:18]
    if state is None:
        return None
    source = msgspec.structs.replace(
        to_source(row),
        namespace=namespace,
        index_host=index_host,
        model=model,
        text_template=text_template,
        metadata_columns=tuple(metadata_columns),
    )
    return Other(state, source)


def sources(connection: psycopg.Connection[Any]) -> list[Source]:
    """Every watched table."""
    return [to_source(row) for row in connection.execute(SOURCES)]


def source_named(connection: psycopg.Connection[Any], name: str) -> Source:
    """The source of that name, or InvalidSourceError."""
    known = {source.name: source for source in sources(connection)}
    if name not in known:
        there = ", ".join(known) or "none"
        raise InvalidSourceError(f"no table is watched under the name {name!r}; watched are: {there}")
    return known[name]


def watch(
    connection: psycopg.Connection[Any],
    *,
    table: str,
    key: Sequence[str],
    text: str,
    metadata: Sequence[str],
    name: str | None = None,
    backfill: bool = True,
) -> Watched:
    """Watch a table, or change what is watched of it; rows that are there already are enqueued where that is needed
    and `backfill` says so. One transaction, on a connection of the table's owner. Raises InvalidSourceError."""
    text_columns = template_columns(text)
    if numeric := [column for column in text_columns if column.isdigit()]:
        raise InvalidSourceError(f"text template field {{{numeric[0]}}} is a position, not a column; write {{column}}")
    with connection.transaction():
        found = tables.find(connection, table)
        tables.check(found, key, text_columns, metadata)
        rows = connection.execute(SOURCES).fetchall()
        before = {(s.schema, s.table): s for s in map(to_source, rows)}
        taken = {name for row in rows for name in (row[1], row[7], row[13]) if name}
        known = before.get((found.schema, found.name))
        name = _choose_name(found, name, known, taken)
        if known is not None and known.key_columns != tuple(key):
            raise InvalidSourceError(
                f"{found.title} is watched with the key ({', '.join(known.key_columns)}), which names its vectors; "
                f"run `unwatch --source {known.name}`, empty that namespace, and watch it anew"
            )
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
        try:
            row = connection.execute(
                "SELECT source_id, changed FROM sync.watch(%s::oid::regclass, %s, %s, %s, %s, %s)",
                (found.oid, name, list(key), list(text_columns), text, list(metadata)),
            ).fetchone()
        except psycopg.errors.LockNotAvailable:
            raise InvalidSourceError(
                f"{found.title} is in use: a transaction that wrote to it has been open for {LOCK_TIMEOUT}; try again later"
            ) from None
        if row is None:
            raise RuntimeError("sync.watch returned no row")
        source_id, changed = row
        if changed and backfill:
            connection.execute("SELECT sync.request_backfill(%s)", (source_id,))
        return Watched(source_named(connection, name), known is None, changed)


def unwatch(connection: psycopg.Connection[Any], name: str, *, other_too: bool = False) -> Source:
    """Forget a watched table; its rows and its vectors stay. Raises InvalidSourceError; also when it has another place in
    the index, which nobody would remember, unless `other_too`."""
    with connection.transaction():
        source = source_named(connection, name)
        rows = connection.execute(SOURCES).fetchall()
        other = next((to_other(row) for row in rows if row[1] == name), None)
        if other is not None and not other_too:
            raise InvalidSourceError(
                f"{name} has another place in the index, {other.source.namespace}, which is {other.state}; "
                f"`reindex {'drop' if other.state in (PREVIOUS, DROPPING) else 'cancel'} --source {name}` first"
            )
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
        try:
            connection.execute("SELECT sync.unwatch(%s)", (name,))
        except psycopg.errors.LockNotAvailable:
            raise InvalidSourceError(
                f"{source.schema}.{source.table} is in use: a transaction that wrote to it has been open for "
                f"{LOCK_TIMEOUT}; try again later"
            ) from None
        return source


def _choose_name(table: tables.Table, given: str | None, known: Source | None, taken: set[str]) -> str:
    if known is not None:
        if given not in (None, known.name):
            raise InvalidSourceError(
                f"{table.title} is watched under the name {known.name}; unwatch it first to give it another"
            )
        return known.name
    if given is None:
        parts = [table.name] if table.schema == "public" else [table.schema, table.name]
        name = re.sub(r"[^a-z0-9_]+", "-", "-".join(parts).lower()).strip("-_")
    else:
        name = given
    if not NAME.fullmatch(name):
        raise InvalidSourceError(
            f"the name {name!r} cannot be a namespace; give --name 1 to 63 letters, digits, - and _, a letter or digit first"
        )
    if name in taken:
        raise InvalidSourceError(f"another table is watched under the name {name}; give this one --name")
    return name
