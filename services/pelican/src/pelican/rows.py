"""The SQL that reads a claim's outbox rows with the current rows of the watched table, and how values arrive."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.types import datetime as datetimes
from psycopg.types.json import set_json_loads

from aviary.source import METADATA_STRING_LIMIT_CHARS, TEXT_LIMIT_CHARS, Source
from pelican.tables import CUT_TYPE_NAMES, Column, Table

# What stands before the mapped columns in a row of a claim.
HEAD_COLUMNS = 10

# One snapshot for all of it: what the outbox says changed, and what those rows are now. `limit` keys or a little more:
# an outbox row is taken whole, and holds one at least. `place` is the same for all keys of an outbox row, and counts
# those of the rows before it. The planner knows that a rank() only grows, and stops reading the outbox at the limit; of
# a sum of `key_count` it does not know, and read `limit` rows for the few that were wanted. What belongs to the claim
# and not to a key stands in the first row only, and is MATERIALIZED because the planner, once it has statistics of the
# outbox, would read it for each key.
_CLAIM = """
WITH taken AS MATERIALIZED (
  SELECT p.seq, p.number, p.key, p.text_unchanged, p.enqueued_at
  FROM (SELECT o.seq, k.number, k.key, o.text_unchanged, o.enqueued_at, rank() OVER (ORDER BY o.seq) AS place
        FROM (SELECT * FROM sync.outbox
              WHERE lane = %(lane)s AND source_id = {source_id} AND shard = %(shard)s
                AND pg_catalog.current_setting('aviary.version') <> ''
              ORDER BY lane, source_id, shard, seq LIMIT %(limit)s) o
        CROSS JOIN LATERAL unnest(o.keys) WITH ORDINALITY AS k(key, number)) p
  WHERE p.place <= %(limit)s),
wanted AS MATERIALIZED (
  SELECT t.key, bool_and(t.text_unchanged) AS text_unchanged,
         (extract(epoch FROM min(t.enqueued_at)) * 1000)::bigint AS at_ms
  FROM taken t GROUP BY t.key),
head AS MATERIALIZED (
  SELECT (SELECT key FROM wanted LIMIT 1) AS key, (SELECT array_agg(seq) FROM taken WHERE number = 1) AS seqs,
         s.revision, s.most_chunks, c.version, c.messages,
         (extract(epoch FROM greatest(c.expires_at, 'epoch')) * 1000)::bigint AS expires_at_ms
  FROM sync.claim c LEFT JOIN sync.source s ON s.id = c.source_id
  WHERE c.source_id = {source_id} AND c.shard = %(shard)s)
SELECT h.seqs, h.revision, h.most_chunks, h.version, h.messages, h.expires_at_ms,
       w.key, w.text_unchanged, w.at_ms, r.found {aliases}
FROM wanted w
LEFT JOIN head h ON h.key IS NOT DISTINCT FROM w.key
LEFT JOIN LATERAL (
  SELECT true AS found {columns} FROM ONLY {table} r WHERE {matches} AND {key_text} = w.key) r ON true"""
# A page in order of the key. Rows that did not change are not read beyond their key.
_PAGE = """
SELECT {key_text} AS key, ARRAY[{texts}] AS cursor, p.changed {columns}
FROM ONLY {table} r CROSS JOIN LATERAL (SELECT {changed} AS changed) p {after} ORDER BY {keys} LIMIT {limit}"""
_LOOKUP = """
SELECT w.key, r.found {aliases} FROM unnest(%(keys)s::text[]) AS w(key)
LEFT JOIN LATERAL (
  SELECT true AS found {columns} FROM ONLY {table} r WHERE {matches} AND {key_text} = w.key) r ON true"""
_SAMPLE = "SELECT {key_text} AS key, true AS found {columns} FROM ONLY {table} r TABLESAMPLE BERNOULLI (%(percent)s)"


class Keyset(NamedTuple):
    """Parts of a query that pages through a table in order of its key. `texts` are the key columns as text, to go on
    from; `after`, when it resumes, is the condition of the next page, with them as parameters k0, k1, …"""

    columns: sql.Composed
    texts: sql.Composed
    after: sql.Composable


def keyset(source: Source, table: Table, *, resumes: bool) -> Keyset:
    """Of the rows `r` of the table."""
    columns = [sql.SQL("r.{}").format(identifier(column)) for column in source.key_columns]
    cursor = [
        sql.SQL("{}::text::{}").format(sql.Placeholder(f"k{n}"), sql.SQL(table.columns[c].type.replace("%", "%%")))
        for n, c in enumerate(source.key_columns)
    ]
    comma = sql.SQL(", ")
    after = sql.SQL("WHERE ({}) > ({})").format(comma.join(columns), comma.join(cursor))
    return Keyset(
        columns=comma.join(columns),
        texts=comma.join(column + sql.SQL("::text") for column in columns),
        after=after if resumes else sql.SQL(""),
    )


def page_query(
    source: Source, table: Table, key_text: str, limit: int, *, resumes: bool, changed_column: str | None = None
) -> sql.Composed:
    """Rows of a page as (key, cursor, changed, mapped columns …). Parameters: the keyset's, and `since` when there is a
    `changed_column`: rows where that is earlier come with `changed` false and no values."""
    page = keyset(source, table, resumes=resumes)
    changed: sql.Composable = sql.SQL("true")
    if changed_column is not None:
        changed = sql.SQL("coalesce(r.{} >= %(since)s, true)").format(identifier(changed_column))
    return sql.SQL(_PAGE).format(
        key_text=sql.SQL(key_text.replace("%", "%%")),
        texts=page.texts,
        columns=_listed(
            sql.SQL("CASE WHEN p.changed THEN {} END").format(_value([source], table, c))
            for c in mapped_columns([source])
        ),
        table=identifier(source.schema, source.table),
        changed=changed,
        after=page.after,
        keys=page.columns,
        limit=sql.Literal(limit),
    )


def lookup_query(source: Source, table: Table, key_text: str) -> sql.Composed:
    """What the rows of some keys are now: (key, found, mapped columns …). Parameter: keys."""
    return _for_rows(sql.SQL(_LOOKUP), [source], table, key_text)


def mapped_columns(places: Sequence[Source]) -> tuple[str, ...]:
    """The columns that f(row) reads for any of a source's places, in the order in which a claim returns them after
    HEAD_COLUMNS others."""
    return tuple(dict.fromkeys(c for place in places for c in (*place.text_columns, *place.metadata_columns)))


def identifier(*names: str) -> sql.SQL:
    """A quoted name for a query that has parameters too, in which a % must stand twice."""
    return sql.SQL(sql.Identifier(*names).as_string().replace("%", "%%"))


def from_key_text(text: sql.Composable, column: Column) -> sql.Composed:
    """The value of a key column from its text, NULL where the text is none of its type (after an ALTER TYPE)."""
    if column.type_name in ("text", "varchar", "bpchar"):
        return sql.SQL("{}::{}").format(text, sql.SQL(column.type))
    checked = sql.SQL("CASE WHEN pg_catalog.pg_input_is_valid({text}, {name}) THEN {text}::{type} END")
    literal = sql.SQL(sql.Literal(column.type).as_string().replace("%", "%%"))
    return checked.format(text=text, name=literal, type=sql.SQL(column.type.replace("%", "%%")))


def sample_query(places: Sequence[Source], table: Table, key_text: str) -> sql.Composed:
    """Some rows by chance: (key, true, mapped columns of all places …). Parameter: percent."""
    return _for_rows(sql.SQL(_SAMPLE), places, table, key_text)


def claim_query(places: Sequence[Source], table: Table, key_text: str) -> str:
    """Parameters: lane, shard, limit. `places`: the source as it is in each. `key_text` is sync.key_expression of the
    key columns.

    The key's text is cast back to the columns' own types, so that the unique index finds the row; then the texts are
    compared, because equal values may print differently (1.0 and 1.00) and are different keys then.
    """
    return _for_rows(sql.SQL(_CLAIM), places, table, key_text).as_string()


def _for_rows(form: sql.SQL, places: Sequence[Source], table: Table, key_text: str) -> sql.Composed:
    source, columns = places[0], mapped_columns(places)
    return form.format(
        source_id=sql.Literal(source.id),
        table=identifier(source.schema, source.table),
        columns=_listed(sql.SQL("{} AS {}").format(_value(places, table, c), _alias(n)) for n, c in enumerate(columns)),
        aliases=_listed(sql.SQL("r.{}").format(_alias(n)) for n, _ in enumerate(columns)),
        matches=_matches(source, table),
        key_text=sql.SQL(key_text.replace("%", "%%")),
    )


def _value(places: Sequence[Source], table: Table, column: str) -> sql.Composable:
    # Only the other place can lack a column here (see PostgresOutbox): what is gone is NULL for it, and the active one
    # goes on.
    if column not in table.columns:
        return sql.SQL("NULL::text")
    # Cut here and not in Python, so that a megabyte is neither read from disk whole nor sent.
    if table.columns[column].type_name not in CUT_TYPE_NAMES:
        return sql.SQL("r.{}").format(identifier(column))
    is_text = any(column in place.text_columns for place in places)
    limit = TEXT_LIMIT_CHARS if is_text else METADATA_STRING_LIMIT_CHARS
    return sql.SQL("pg_catalog.left(r.{}::text, {})").format(identifier(column), sql.Literal(limit))


def _matches(source: Source, table: Table) -> sql.Composed:
    composite = len(source.key_columns) > 1
    texts = [
        sql.SQL("(w.key::json ->> {})").format(sql.Literal(n)) if composite else sql.SQL("w.key")
        for n, _ in enumerate(source.key_columns)
    ]
    return sql.SQL(" AND ").join(
        sql.SQL("r.{} = {}").format(identifier(column), from_key_text(text, table.columns[column]))
        for column, text in zip(source.key_columns, texts, strict=True)
    )


def _alias(number: int) -> sql.SQL:
    return sql.SQL(f"c{number}")


def _listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.Composed([sql.SQL(", ") + part for part in parts])


def read_leniently(connection: psycopg.Connection[Any]) -> None:
    """Let values that Python cannot hold arrive as None instead of failing everything they came with: dates of BC,
    beyond the year 9999 and infinite, the time 24:00. JSON that is nested too deep arrives as its text."""
    for kind, loader in _LOADERS.items():
        connection.adapters.register_loader(kind, loader)
    set_json_loads(_load_json, connection)


def _load_json(data: str | bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        return data if isinstance(data, str) else data.decode()


def _lenient(strict: type[Loader]) -> type[Loader]:
    class Lenient(strict):  # type: ignore[misc, valid-type]  # a class made from each of six
        def load(self, data: Buffer) -> Any:
            try:
                return super().load(data)
            except (psycopg.DataError, OverflowError):
                return None

    return Lenient


_LOADERS = {
    "date": _lenient(datetimes.DateLoader),
    "time": _lenient(datetimes.TimeLoader),
    "timetz": _lenient(datetimes.TimetzLoader),
    "timestamp": _lenient(datetimes.TimestampLoader),
    "timestamptz": _lenient(datetimes.TimestamptzLoader),
    "interval": _lenient(datetimes.IntervalLoader),
}
