"""Two places of one source beside each other: is the one complete, and how well do they answer?"""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from aviary.chunking import Chunking
from aviary.index import Vector, VectorIndex
from aviary.source import Source, render, vector_id
from pelican import rows, tables

NEIGHBOURS = 10
HITS = 5
# Several vectors may be of one row (chunks), and a row is not its own neighbour.
DEPTH_FACTOR = 4
FETCH_KEYS = 200
LOOK_SECONDS = 0.3

_COUNT = "SELECT count(*) FILTER (WHERE NOT ({blank})) FROM ONLY {table} r"
_ABOUT = "SELECT greatest(reltuples, pg_stat_get_live_tuples(oid), 1)::float8 FROM pg_class WHERE oid = %s"
_KEY = "SELECT sync.key_expression(%s)"

Row = tuple[str, dict[str, Any]]


class Embeds(Protocol):
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Side:
    """The source as it is in one place, the index that this place is in, and how texts are cut."""

    source: Source
    index: VectorIndex
    chunking: Chunking


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Of one place. `sampled` rows were looked at, `in_step` of them are there as their row and template say. `hits`:
    share of the queries that find a right answer among the first five, None without queries."""

    namespace: str
    index_host: str
    model: str
    text_template: str
    metadata_columns: tuple[str, ...]
    rows: int
    vectors: int
    sampled: int
    in_step: int
    hits: float | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """`overlap`: of a sampled row's ten nearest rows, the share that both places name, on the average (None without a
    sample); `least_overlap` is the lowest of them. `missing`: some sampled keys that the other place lacks."""

    source: str
    active: Quality
    other: Quality
    overlap: float | None
    least_overlap: float | None
    queries: int
    missing: tuple[str, ...]


def compare(
    connection: psycopg.Connection[Any],
    active: Side,
    other: Side,
    *,
    sample: int,
    queries: Mapping[str, frozenset[str]],
    embedder: Callable[[str], Embeds],
    settle_seconds: float,
) -> Comparison:
    """`queries`: right keys by query. `embedder` gives a model by its name, and is asked only where there are queries.
    `settle_seconds`: a row that was written a moment ago is on its way; it counts as missing only after so long."""
    found = sample_rows(connection, [active.source, other.source], sample)
    late = [late_keys(connection, side, found, settle_seconds) for side in (active, other)]
    shares = overlaps(active, other, [key for key, _ in found])
    qualities = [
        Quality(
            namespace=side.source.namespace,
            index_host=side.source.index_host,
            model=side.source.model,
            text_template=side.source.text_template,
            metadata_columns=side.source.metadata_columns,
            rows=rows_with_text(connection, side.source),
            vectors=side.index.count(side.source.namespace),
            sampled=len(found),
            in_step=len(found) - len(missing),
            hits=hit_rate(side, embedder(side.source.model), queries) if queries else None,
        )
        for side, missing in zip((active, other), late, strict=True)
    ]
    return Comparison(
        source=active.source.name,
        active=qualities[0],
        other=qualities[1],
        overlap=sum(shares) / len(shares) if shares else None,
        least_overlap=min(shares, default=None),
        queries=len(queries),
        missing=tuple(late[1][:5]),
    )


class Short(NamedTuple):
    """A place with fewer vectors than rows have text."""

    rows: int
    vectors: int


def too_few(connection: psycopg.Connection[Any], side: Side, seconds: float) -> Short | None:
    """Whether the place holds fewer vectors than there are rows with text, also `seconds` later. Chunks are vectors too,
    so that None does not say that none is missing."""
    deadline = time.monotonic() + seconds
    before = rows_with_text(connection, side.source)
    while True:
        vectors = side.index.count(side.source.namespace)
        after = rows_with_text(connection, side.source)
        if vectors >= min(before, after):
            return None
        if time.monotonic() > deadline:
            return Short(after, vectors)
        time.sleep(LOOK_SECONDS)
        before = after


def rows_with_text(connection: psycopg.Connection[Any], source: Source) -> int:
    """Rows that have a vector by the rule of `aviary.source.render`."""
    blank = sql.SQL(" AND ").join(
        sql.SQL("coalesce(r.{}::text, '') !~ '\\S'").format(rows.identifier(column)) for column in source.text_columns
    )
    query = sql.SQL(_COUNT).format(blank=blank, table=rows.identifier(source.schema, source.table))
    row = connection.execute(query, {}).fetchone()
    return int(row[0]) if row else 0


def sample_rows(connection: psycopg.Connection[Any], places: Sequence[Source], count: int) -> list[Row]:
    """Some `count` rows by chance: key, and the columns that the places map."""
    source = places[0]
    table = tables.describe(connection, source.schema, source.table)
    if table is None:
        return []
    about = connection.execute(_ABOUT, (table.oid,)).fetchone()
    percent = min(100.0, 200.0 * count / (about[0] if about else 1.0))
    query = rows.sample_query(places, table, _key_text(connection, source))
    found = connection.execute(query, {"percent": percent}).fetchall()
    return _rows(places, random.sample(found, min(count, len(found))))


def late_keys(connection: psycopg.Connection[Any], side: Side, sampled: Sequence[Row], seconds: float) -> list[str]:
    """Keys of the sampled rows that the place does not hold as they are now, also not `seconds` later."""
    deadline = time.monotonic() + seconds
    waiting = dict(sampled)
    while True:
        stored = _fetch(side, waiting)
        for key, values in list(waiting.items()):
            document = render(side.source, key, values, side.chunking)
            record = stored.get(vector_id(key))
            wanted = None if document is None else document.text_hash
            if (None if record is None else record.metadata.get("_text_hash")) == wanted:
                del waiting[key]
        if not waiting or time.monotonic() > deadline:
            return sorted(waiting)
        time.sleep(LOOK_SECONDS)
        waiting = _again(connection, side.source, waiting)


def overlaps(active: Side, other: Side, keys: Sequence[str]) -> list[float]:
    """For each key that both places hold: the share of its nearest rows that both name."""
    first, second = _fetch(active, keys), _fetch(other, keys)
    shares = []
    for key in keys:
        one, two = first.get(vector_id(key)), second.get(vector_id(key))
        if one is not None and two is not None:
            near = [
                set(nearest(side, record.values, NEIGHBOURS, but=key)) for side, record in ((active, one), (other, two))
            ]
            if most := max(map(len, near)):
                shares.append(len(near[0] & near[1]) / most)
    return shares


def hit_rate(side: Side, embedder: Embeds, queries: Mapping[str, frozenset[str]]) -> float:
    """The share of queries with a right key among the first HITS rows, by meaning alone."""
    vectors = embedder.embed(list(queries))
    found = [
        bool(right & set(nearest(side, vector, HITS))) for right, vector in zip(queries.values(), vectors, strict=True)
    ]
    return sum(found) / len(found)


def nearest(side: Side, vector: Vector, count: int, but: str = "") -> list[str]:
    """The keys of the nearest `count` rows, best first."""
    matches = side.index.query(side.source.namespace, vector, DEPTH_FACTOR * count)
    keys = dict.fromkeys(str(match.metadata["_key"]) for match in matches if "_key" in match.metadata)
    keys.pop(but, None)
    return list(keys)[:count]


def _fetch(side: Side, keys: Iterable[str]) -> dict[str, Any]:
    """By id, those of the keys' records that are there."""
    ids = [vector_id(key) for key in keys]
    found: dict[str, Any] = {}
    for start in range(0, len(ids), FETCH_KEYS):
        found |= side.index.fetch(side.source.namespace, ids[start : start + FETCH_KEYS])
    return found


def _again(connection: psycopg.Connection[Any], source: Source, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The rows of these keys as they are now; one that is gone cannot be late."""
    table = tables.describe(connection, source.schema, source.table)
    if table is None:
        return {}
    query = rows.lookup_query(source, table, _key_text(connection, source))
    return dict(_rows([source], connection.execute(query, {"keys": list(keys)}).fetchall()))


def _rows(places: Sequence[Source], found: Iterable[Sequence[Any]]) -> list[Row]:
    columns = rows.mapped_columns(places)
    return [(row[0], dict(zip(columns, row[2:], strict=True))) for row in found if row[1]]


def _key_text(connection: psycopg.Connection[Any], source: Source) -> str:
    made = connection.execute(_KEY, (list(source.key_columns),)).fetchone()
    return str(made and made[0])
