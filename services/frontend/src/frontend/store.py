"""Postgres: the pool, and the watched tables as the search reads them."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from aviary.database import connection_parameters
from aviary.logs import log
from aviary.settings import DatabaseSettings
from aviary.source import Source, key_text
from frontend.limits import PRODUCTS, Filters
from frontend.pool import Connection, Pool
from frontend.problems import ProblemError, from_database

logger = logging.getLogger(__name__)

APPLICATION_NAME = "aviary-frontend"
# Keys are texts: those of dates and times must print here as they do where they are captured.
SESSION = "-c statement_timeout=5000 -c timezone=UTC -c datestyle=ISO,YMD"
# How soon a source is searched in another place once the two have changed roles. Asking costs a millisecond.
SOURCES_KEPT_SECONDS = 1.0
# A list shows the beginning of a text; the whole of it comes with its own row.
TEXT_SHOWN_CHARS = 2_000
# What ranks by words reads no more of a text than what ranks by meaning, and a tsvector must stay below 1 MB.
WORDS_READ_CHARS = 20_000
PRODUCT_COLUMNS = (
    "id", "sku", "name", "description", "category", "price", "attributes", "created_at", "updated_at",
)  # fmt: skip

Row = dict[str, Any]


class Watched(NamedTuple):
    """A source, and what the catalogue says of its table. `types` maps each column to its type as SQL writes it.
    `most_chunks`: how many vectors a row may have. `models`: those of all places that the source has in the index, of
    which `source` names the one that is searched."""

    source: Source
    types: dict[str, str]
    texts: frozenset[str]
    most_chunks: int = 1
    models: frozenset[str] = frozenset()

    @property
    def columns(self) -> tuple[str, ...]:
        """What a search shows of a row: the products whole, of any other table only the columns it is mapped by."""
        if self.source.name == PRODUCTS and set(PRODUCT_COLUMNS) <= self.types.keys():
            return PRODUCT_COLUMNS
        mapped = (*self.source.key_columns, *self.source.text_columns, *self.source.metadata_columns)
        return tuple(dict.fromkeys(mapped))


class FoundRow(NamedTuple):
    """A row as a list shows it. `cut` names the columns whose texts were longer than `TEXT_SHOWN_CHARS`."""

    key: str
    values: Row
    cut: tuple[str, ...]


class Database:
    """The watched tables, and connections. Every failure leaves here as a `ProblemError`; after an outage the next call works."""

    def __init__(self, settings: DatabaseSettings) -> None:
        async def parameters() -> dict[str, Any]:
            # An IAM token is made by the AWS SDK, which blocks.
            given = await asyncio.to_thread(connection_parameters, settings, APPLICATION_NAME)
            given["options"] = f"{given.get('options') or ''} {SESSION}".strip()
            # The pool's attempts are not the requests', whose time ends: without this one would hang for 10 s.
            return {**given, "connect_timeout": 2, "row_factory": dict_row, "autocommit": True}

        self._pool = Pool(parameters)
        self._sources: tuple[float, dict[str, Watched]] = (float("-inf"), {})
        self._rows_queries: dict[str, tuple[Watched, bytes]] = {}

    async def close(self) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit mode; use `connection.transaction()` for more than one statement."""
        with self._told():
            async with self._pool.connection() as connection:
                yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Its errors leave as a `ProblemError`."""
        try:
            yield
        except psycopg.Error as error:
            problem = from_database(error)
            if problem.status >= 500:
                log(logger, logging.WARNING, "database_trouble", error=type(error).__name__, sqlstate=error.sqlstate)
            raise problem from error

    async def check(self) -> None:
        """Raise a `ProblemError` unless the database answers and holds our schema."""
        async with self.connection() as connection:
            await connection.execute("SELECT 1 FROM sync.source LIMIT 1")

    async def sources(self) -> dict[str, Watched]:
        """The watched tables by name, at most 1 s old."""
        read_at, known = self._sources
        if time.monotonic() - read_at < SOURCES_KEPT_SECONDS:
            return known
        async with self.connection() as connection:
            cursor = await connection.execute(_SOURCES)
            found = {row["name"]: _watched(row) for row in await cursor.fetchall()}
        self._sources = (time.monotonic(), found)
        return found

    def forget(self) -> None:
        """Read the watched tables anew at the next question."""
        self._sources = (float("-inf"), {})

    async def source(self, name: str) -> Watched:
        """One watched table; 404 when there is none of that name."""
        known = await self.sources()
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ProblemError(
                404, "unknown_source", f"source: no table is watched under this name (there are: {names})"
            )
        if not known[name].types:
            raise ProblemError(404, "unknown_source", "source: the table that it watches does not exist any more")
        return known[name]

    async def rows(self, watched: Watched, keys: Sequence[str]) -> dict[str, FoundRow]:
        """The rows that exist for `keys`, by key, their texts cut to what a list shows."""
        parts = [_key_parts(watched.source, key) for key in keys]
        wanted = [part for part in parts if part is not None]
        if not wanted:
            return {}
        with self._told():
            rows = await self._pool.ask(self._rows_query(watched), list(map(list, zip(*wanted, strict=True))))
        found = [_found(watched, row) for row in rows]
        return {row.key: row for row in found}

    def _rows_query(self, watched: Watched) -> bytes:
        """Composed once for each state of a source: it takes a third of a millisecond."""
        known = self._rows_queries.get(watched.source.name)
        if known is None or known[0] is not watched:
            known = self._rows_queries[watched.source.name] = (watched, _rows_query(watched).as_bytes())
        return known[1]

    async def row(self, watched: Watched, key: str) -> Row | None:
        """One row with its whole texts, as `aviary.source.render` wants it; None when there is none."""
        parts = _key_parts(watched.source, key)
        if parts is None:
            return None
        statement = sql.SQL("SELECT {} FROM {} t JOIN {}").format(
            sql.SQL(", ").join(
                sql.SQL("t.{}").format(name_of(column))
                for column in dict.fromkeys((*watched.source.text_columns, *watched.source.metadata_columns))
            ),
            name_of(watched.source.schema, watched.source.table),
            _join_keys(watched),
        )
        async with self.connection() as connection:
            cursor = await connection.execute(statement, [[part] for part in parts])
            return await cursor.fetchone()

    async def rank_by_words(self, watched: Watched, query: str, limit: int, filters: Filters) -> list[str]:
        """Keys of the rows that share words with the query, best first, by Postgres full text search (English).

        Any word may match: people write sentences, and rows that hold every word of one are rare.
        """
        conditions = [sql.SQL("words.query @@ document.words")]
        values: list[Any] = [query]
        for condition, value in (
            ("t.category = %s", filters.category),
            ("t.price >= %s", filters.min_price),
            ("t.price <= %s", filters.max_price),
        ):
            if value is not None:
                conditions.append(sql.SQL(condition))
                values.append(value)
        statement = sql.SQL(
            "SELECT {keys} FROM {table} t"
            " CROSS JOIN (SELECT nullif(replace(plainto_tsquery('english', %s)::text, '&', '|'), '')::tsquery AS query) words"
            " CROSS JOIN LATERAL (SELECT to_tsvector('english', {text}) AS words) document"
            " WHERE {conditions} ORDER BY ts_rank_cd(document.words, words.query, 1) DESC, {keys} LIMIT %s"
        ).format(
            keys=sql.SQL(", ").join(
                sql.SQL("t.{}::text").format(name_of(column)) for column in watched.source.key_columns
            ),
            table=name_of(watched.source.schema, watched.source.table),
            # Immutable, so that an index on the same expression serves it (the README has it for the products).
            text=sql.SQL("left({}, {})").format(
                sql.SQL(" || ' ' || ").join(
                    sql.SQL("coalesce(t.{}::text, '')").format(name_of(c)) for c in watched.source.text_columns
                ),
                sql.Literal(WORDS_READ_CHARS),
            ),
            conditions=sql.SQL(" AND ").join(conditions),
        )
        async with self.connection() as connection:
            cursor = await connection.execute(statement, [*values, limit])
            return [key_text(list(row.values())) for row in await cursor.fetchall()]


def _rows_query(watched: Watched) -> sql.Composed:
    """The rows for some keys; one array of texts a key column."""
    shown = sql.SQL(", ").join(_shown(watched, column) for column in watched.columns)
    return sql.SQL("SELECT {}, {} FROM {} t JOIN {}").format(
        sql.SQL(", ").join(
            sql.SQL("t.{}::text AS {}").format(name_of(column), sql.Identifier(f"_key{position}"))
            for position, column in enumerate(watched.source.key_columns)
        ),
        shown,
        name_of(watched.source.schema, watched.source.table),
        _join_keys(watched),
    )


def name_of(*parts: str) -> sql.Identifier:
    """A name for a statement that has parameters, where psycopg reads a percent sign twice as one."""
    return sql.Identifier(*(part.replace("%", "%%") for part in parts))


def _watched(row: DictRow) -> Watched:
    names = ("id", "name", "schema", "table", "text_template", "namespace", "index_host", "model")
    source = Source(
        **{name: row[name] for name in names},
        key_columns=tuple(row["key_columns"]),
        metadata_columns=tuple(row["metadata_columns"]),
    )
    columns = row["columns"] or []
    return Watched(
        source,
        types={column["name"]: column["type"] for column in columns},
        texts=frozenset(column["name"] for column in columns if column["text"]),
        models=frozenset(filter(None, (row["model"], row["other_model"]))),
        most_chunks=row["most_chunks"],
    )


def _key_parts(source: Source, key: str) -> list[str] | None:
    """The texts of a key's columns; None when the string is no key of this source (its key columns were changed)."""
    if len(source.key_columns) == 1:
        return [key]
    try:
        parts = json.loads(key)
    except ValueError:
        return None
    fits = isinstance(parts, list) and len(parts) == len(source.key_columns)
    return parts if fits and all(isinstance(part, str) for part in parts) else None


def _join_keys(watched: Watched) -> sql.Composed:
    """`unnest(%s::text[], …) k(k0, …) ON t.id = …`, each text cast to its column's type so that the key's index is
    used; a text that is no value of that type matches nothing instead of failing the statement."""
    columns = watched.source.key_columns
    names = [sql.Identifier(f"k{position}") for position in range(len(columns))]
    conditions = [
        sql.SQL("t.{} = CASE WHEN pg_input_is_valid(k.{}, {}) THEN k.{}::{} END").format(
            name_of(column), name, sql.Literal(watched.types[column]), name, sql.SQL(watched.types[column])
        )
        for column, name in zip(columns, names, strict=True)
    ]
    return sql.SQL("unnest({}) AS k({}) ON {}").format(
        sql.SQL(", ").join([sql.SQL("%s::text[]")] * len(columns)),
        sql.SQL(", ").join(names),
        sql.SQL(" AND ").join(conditions),
    )


def _shown(watched: Watched, column: str) -> sql.Composed:
    name = name_of(column)
    if column not in watched.texts:
        return sql.SQL("t.{} AS {}").format(name, name)
    return sql.SQL("left(t.{}, {}) AS {}").format(name, sql.Literal(TEXT_SHOWN_CHARS + 1), name)


def _found(watched: Watched, row: DictRow) -> FoundRow:
    key = key_text([row.pop(f"_key{position}") for position in range(len(watched.source.key_columns))])
    cut = []
    for column in watched.texts & row.keys():
        if row[column] is not None and len(row[column]) > TEXT_SHOWN_CHARS:
            row[column] = row[column][:TEXT_SHOWN_CHARS]
            cut.append(column)
    return FoundRow(key, row, tuple(sorted(cut)))


# regtype::text is a type's name as SQL reads it back, quoted where it must be.
_SOURCES = """
SELECT s.id, s.name, s.schema_name AS schema, s.table_name AS table, s.key_columns, s.text_template,
       s.metadata_columns, s.namespace, s.index_host, s.model,
       (SELECT r.model FROM sync.reindex r WHERE r.source_id = s.id AND r.state <> 'dropping') AS other_model, s.most_chunks,
       (SELECT json_agg(json_build_object('name', a.attname, 'type', a.atttypid::regtype::text,
                                          'text', ty.typcategory = 'S'))
          FROM pg_attribute a JOIN pg_type ty ON ty.oid = a.atttypid
         WHERE a.attrelid = to_regclass(format('%I.%I', s.schema_name, s.table_name))
           AND a.attnum > 0 AND NOT a.attisdropped) AS columns
  FROM sync.source s
 ORDER BY s.name
"""
