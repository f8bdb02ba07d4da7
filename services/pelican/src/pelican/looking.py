"""Reads rows and vectors of one source, as reconcile compares them."""

import datetime
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import psycopg
from pinecone.errors import ApiError, NotFoundError
from psycopg import sql

from aviary.chunking import Chunking
from aviary.index import PineconeIndex, is_missing_namespace
from aviary.logs import log
from aviary.source import (
    Document,
    InvalidSourceError,
    MetadataValue,
    Source,
    chunk_id,
    render,
    split_chunk_id,
    vector_id,
)
from pelican import drift, rows, tables
from pelican.drift import Drift
from pelican.outbox import SourceError

BAD_REQUEST = 400

_logger = logging.getLogger(__name__)


class RowPage(NamedTuple):
    """Rows in order of the key: f of each that is looked at, how many there were, and where the next page begins (None
    on the last)."""

    documents: dict[str, Document | None]
    rows: int
    cursor: list[str] | None


class Looker:
    """One source's table and namespace. Raises SourceError, psycopg.Error and the SDK's errors. `connection` is in
    autocommit mode, with outbox.prepare's settings."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        index: PineconeIndex,
        source: Source,
        key_text: str,
        *,
        dimension: int,
        chunking: Chunking,
        changed_column: str | None = None,
    ) -> None:
        table = tables.describe(connection, source.schema, source.table)
        if table is None or not tables.has_columns(table, source):
            raise SourceError(
                source.id, f"{source.schema}.{source.table} is not there any more, or has lost a column; unwatch it"
            )
        if changed_column is not None and changed_column not in table.columns:
            raise InvalidSourceError(
                f"{table.title} has no column {changed_column!r} to tell what changed; its columns are "
                f"{', '.join(table.columns)}"
            )
        self._connection = connection
        self._index = index
        self._source = source
        self._table = table
        self._key_text = key_text
        self._chunking = chunking
        self._changed_column = changed_column
        self._columns = rows.mapped_columns([source])
        self._probe = np.ones(dimension, np.float32)
        self._lookup = rows.lookup_query(source, table, key_text)

    @property
    def table_size(self) -> int:
        """Rows of the table, as the database estimates them."""
        row = self._connection.execute(
            "SELECT greatest(reltuples, pg_stat_get_live_tuples(oid), 0)::bigint FROM pg_class WHERE oid = %s",
            (self._table.oid,),
        ).fetchone()
        return int(row[0]) if row else 0

    @property
    def namespace_size(self) -> int:
        """Vectors of the source, as the index reports them."""
        return self._index.count(self._source.namespace)

    def row_page(self, cursor: Sequence[str] | None, limit: int, since: datetime.datetime | None) -> RowPage:
        """The next `limit` rows after `cursor`."""
        query = rows.page_query(
            self._source,
            self._table,
            self._key_text,
            limit,
            resumes=cursor is not None,
            changed_column=self._changed_column,
        )
        parameters: dict[str, Any] = {f"k{number}": text for number, text in enumerate(cursor or ())}
        found = self._read(query, parameters | {"since": since})
        return RowPage(
            documents={row[0]: self._document(row[0], row[3:]) for row in found if row[2]},
            rows=len(found),
            cursor=list(found[-1][1]) if len(found) == limit else None,
        )

    def documents(self, keys: Sequence[str]) -> dict[str, Document | None]:
        """f of the rows of these keys; None also where there is no row."""
        found = self._read(self._lookup, {"keys": list(keys)})
        return {row[0]: self._document(row[0], row[2:]) if row[1] else None for row in found}

    def compare(self, documents: Mapping[str, Document | None]) -> list[Drift]:
        """What is wrong with the vectors of these keys."""
        mains = {key: vector_id(key) for key in documents}
        vectors = self._fetch(mains.values())
        further = {key: _further(main, vectors.get(main)) for key, main in mains.items()}
        vectors |= self._fetch(vid for ids in further.values() for vid in ids)
        found = (
            drift.difference(key, documents[key], [vectors.get(vid) for vid in (main, *further[key])])
            for key, main in mains.items()
        )
        return [each for each in found if each is not None]

    def orphans(self, ids: Sequence[str]) -> list[Drift]:
        """Those of a page of ids that no row accounts for. A row whose text is blank does here: whoever compares the rows
        finds its vector."""
        mains = {vid: split_chunk_id(vid) for vid in ids}
        # What does not say its key itself, or whose main vector must say whether it belongs to it.
        opaque = [vid for vid in ids if vector_id(vid) != vid or not drift.is_key(self._source, vid)]
        seen = self._fetch(dict.fromkeys([*opaque, *(mains[vid][0] for vid in opaque)]))
        keys = {main: drift.key_of(self._source, main, seen.get(main)) for main, _ in mains.values()}
        known = [key for key in keys.values() if key is not None]
        there = {row[0] for row in self._read(self._lookup, {"keys": known}) if row[1]} if known else set()
        lost = [keys[main] for main, chunk in mains.values() if chunk == 0]
        strays = self._strays({vid: keys[mains[vid][0]] for vid in opaque}, seen)
        return [*self.compare({key: None for key in lost if key is not None and key not in there}), *strays]

    def again(self, seen: Sequence[Drift]) -> dict[str, Drift]:
        """What these differences are now, by id; those that are gone are left out."""
        keyed = [each.key for each in seen if each.key is not None and not each.direct]
        now = {each.id: each for each in (self.compare(self.documents(keyed)) if keyed else ())}
        if direct := {each.id: each.key for each in seen if each.direct}:
            mains = [split_chunk_id(vid)[0] for vid in direct]
            vectors = self._fetch(dict.fromkeys([*direct, *mains]))
            now |= {each.id: each for each in self._strays(direct, vectors)}
        return now

    def delete(self, ids: Sequence[str]) -> None:
        """From the index, for good."""
        self._index.delete(self._source.namespace, ids)

    def vector_page(self, token: str | None) -> tuple[list[str], str | None]:
        """See PineconeIndex.ids_page. With a token that the index does not know any more, the first page."""
        try:
            return self._index.ids_page(self._source.namespace, token)
        except ApiError as error:
            if is_missing_namespace(error):
                return [], None
            if token is None or error.status_code != BAD_REQUEST:
                raise
            return self._index.ids_page(self._source.namespace)

    def newer(self, version: int) -> list[str]:
        """Keys (some, at most 1,000) of vectors that were written with a higher version."""
        matches = self._index.query(self._source.namespace, self._probe, 1_000, {"_version": {"$gt": version}})
        return [key for match in matches if isinstance(key := match.metadata.get("_key"), str)]

    def _strays(
        self, keys: Mapping[str, str | None], vectors: Mapping[str, Mapping[str, MetadataValue]]
    ) -> list[Drift]:
        """Those of the ids (each with its key, as far as that is known) that belong to no main vector of ours."""
        strays = []
        for vid, key in keys.items():
            main, chunk = split_chunk_id(vid)
            belongs = chunk < drift.count(vectors.get(main)) if chunk else key is not None
            if vid in vectors and not belongs:
                strays.append(drift.stray(vid, key, vectors[vid]))
        return strays

    def _fetch(self, ids: Iterable[str]) -> dict[str, Mapping[str, MetadataValue]]:
        """Metadata by id."""
        try:
            return self._index.metadata(self._source.namespace, list(ids))
        except NotFoundError as error:
            if not is_missing_namespace(error):
                raise
            return {}

    def _read(self, statement: sql.Composed, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            raise SourceError(
                self._source.id,
                f"{self._table.title} cannot be read ({type(error).__name__}): mend it, or watch it anew",
            ) from error

    def _document(self, key: str, values: Sequence[Any]) -> Document | None:
        try:
            return render(self._source, key, dict(zip(self._columns, values, strict=True)), self._chunking)
        except Exception as error:  # noqa: BLE001 - Pelican sets such a row aside, so it has no place in the index
            log(_logger, logging.WARNING, "row_without_document", source=self._source.name, error=type(error).__name__)
            return None


def _further(main: str, metadata: Mapping[str, MetadataValue] | None) -> list[str]:
    return [chunk_id(main, number) for number in range(1, drift.count(metadata))]
