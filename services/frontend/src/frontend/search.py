"""Search: a query's words to rows of a table, in rank order."""

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from aviary.source import Source, as_metadata, as_text
from frontend.alike import group
from frontend.arrival import Watcher
from frontend.embedding import QueryEmbedder
from frontend.limits import MAX_DEPTH, PRODUCTS, Filters, Mode, Similar
from frontend.problems import invalid
from frontend.ranking import rrf
from frontend.store import Database, FoundRow, Watched
from frontend.vectors import AsyncIndex

# Rows asked for beyond the page, to stand in for those deleted a moment ago.
SPARE = 6
# Rows in each list of a hybrid search. Fixed, so that a later page does not change the order of an earlier one.
HYBRID_DEPTH = 200
# Pinecone answers a query with so many records at most.
MAX_MATCHES = 10_000


class Query(NamedTuple):
    """One search. `similar`: rows that say nearly the same stand under the best of them, or each for itself.
    `wait_for` is a key whose present state the index should hold first, for at most `wait_ms`."""

    text: str
    limit: int = 20
    offset: int = 0
    source: str = PRODUCTS
    filters: Filters = Filters()
    mode: Mode = "semantic"
    similar: Similar = "group"
    wait_for: str | None = None
    wait_ms: int = 2_000


class Hit(NamedTuple):
    """One result. `rank` counts from 1 over all pages. `score` falls with the rank: the cosine similarity in a semantic search,
    the fused score (1.0 is first by meaning and by words) in a hybrid one. `similarity` is the cosine where known.
    `similar`: rows that say nearly the same and rank lower, as far as the search had to look, in rank order."""

    rank: int
    score: float
    similarity: float | None
    row: FoundRow
    similar: tuple["SimilarRow", ...] = ()


class SimilarRow(NamedTuple):
    """A row under a result that says nearly the same."""

    score: float
    row: FoundRow


class Timing(NamedTuple):
    """Milliseconds of the server's time. `total_ms` is without `waited_ms`, which the caller asked for."""

    embed_ms: float
    index_ms: float
    rows_ms: float
    total_ms: float
    waited_ms: float


class Found(NamedTuple):
    """The answer. `waited` is None unless the query had `wait_for`; then whether the state arrived in time."""

    query: Query
    watched: Watched
    hits: list[Hit]
    more: bool
    waited: bool | None
    timing: Timing


class Searcher:
    """Searches. Belongs to one event loop."""

    def __init__(self, database: Database, index: AsyncIndex, embedder: QueryEmbedder, watcher: Watcher) -> None:
        self._database = database
        self._index = index
        self._embedder = embedder
        self._watcher = watcher

    async def search(self, query: Query) -> Found:
        """Raises a `ProblemError` for a query that breaks a rule and when a part that is needed cannot be reached."""
        watched = await self._database.source(query.source)
        check(query, watched.source)
        clock = _Clock()
        waited = None
        if query.wait_for is not None:
            waited = (await self._watcher.wait(watched, query.wait_for, query.wait_ms)).settled
        waited_ms = clock.lap()
        if not query.text.strip():
            return Found(query, watched, [], False, waited, Timing(0, 0, 0, 0, waited_ms))
        # From here on one place of the source is asked, and with its own model, whatever changes meanwhile.
        watched = await self._database.source(query.source)
        vector = await self._embedder.embed(query.text, watched.source.model)
        clock.embed += clock.lap()
        if query.mode == "hybrid":
            hits, more = await self._hybrid(query, watched, vector, clock)
        else:
            hits, more = await self._semantic(query, watched, vector, clock)
        timing = Timing(clock.embed, clock.index, clock.rows, clock.embed + clock.index + clock.rows, waited_ms)
        return Found(query, watched, hits, more, waited, timing)

    async def _semantic(self, query: Query, watched: Watched, vector: Any, clock: "_Clock") -> tuple[list[Hit], bool]:
        need = _needed(query)
        # Where rows are put together, about two of them make a result; looking once costs less than looking twice.
        wanted = min((2 if query.similar == "group" else 1) * need + SPARE, MAX_DEPTH + SPARE)
        while True:
            scores, is_all = await self._nearest(query, watched, vector, wanted, clock)
            rows = await self._rows(query, watched, list(scores), clock)
            groups = _groups(query, watched.source, [key for key in scores if key in rows], rows, need)
            if len(groups) >= need or is_all or wanted >= MAX_DEPTH:
                break
            # Many rows have gone since they were indexed, or are alike: look deeper for as many as the page needs.
            wanted = min(2 * wanted, MAX_DEPTH)
        hits, more = _page(query, groups, rows, scores, scores)
        clock.rows += clock.lap()
        return hits, more

    async def _hybrid(self, query: Query, watched: Watched, vector: Any, clock: "_Clock") -> tuple[list[Hit], bool]:
        nearest, _ = await self._nearest(query, watched, vector, HYBRID_DEPTH, clock)
        similarity = dict(islice(nearest.items(), HYBRID_DEPTH))
        by_words = await self._database.rank_by_words(watched, query.text, HYBRID_DEPTH, query.filters)
        clock.rows += clock.lap()
        fused = dict(rrf([list(similarity), by_words]))
        rows = await self._rows(query, watched, list(fused), clock)
        groups = _groups(query, watched.source, [key for key in fused if key in rows], rows, _needed(query))
        hits, more = _page(query, groups, rows, fused, similarity)
        clock.rows += clock.lap()
        return hits, more

    async def _nearest(
        self, query: Query, watched: Watched, vector: Any, rows: int, clock: "_Clock"
    ) -> tuple[dict[str, float], bool]:
        """Keys of the nearest rows with their scores, best first: `rows` of them or more, or all that there are, and
        whether it is all. A long text has several vectors; the nearest of them is the row's score."""
        depth = rows
        while True:
            found = await self._index.nearest(watched.source, vector, depth, conditions(query.filters))
            clock.index += clock.lap()
            scores: dict[str, float] = {}
            for key, score in found:
                if key is not None:
                    scores.setdefault(key, score)
            is_all = len(found) < depth
            if len(scores) >= rows or is_all or depth >= MAX_MATCHES:
                return scores, is_all
            # As deep as it takes when further rows have as many vectors in the way, at least twice as deep.
            depth = min(max(2, -(-rows // max(1, len(scores)))) * depth, MAX_MATCHES)

    async def _rows(self, query: Query, watched: Watched, keys: list[str], clock: "_Clock") -> dict[str, FoundRow]:
        """Rows that exist and still pass the filters: the index may be a moment behind the table."""
        rows = await self._database.rows(watched, keys)
        clock.rows += clock.lap()
        if not query.filters:
            return rows
        return {key: row for key, row in rows.items() if passes(row.values, query.filters)}


def _needed(query: Query) -> int:
    """Results up to the page's end, and one that tells that more follow."""
    return query.offset + query.limit + 1


def _groups(
    query: Query, source: Source, keys: list[str], rows: Mapping[str, FoundRow], most: int
) -> Mapping[str, Sequence[str]]:
    """The first `most` keys that are results, in rank order, each with those that stand under it."""
    if query.similar == "each":
        return dict.fromkeys(keys[:most], ())
    columns = source.text_columns
    return group(keys, {key: " ".join(as_text(rows[key].values[column]) for column in columns) for key in keys}, most)


def _page(
    query: Query,
    groups: Mapping[str, Sequence[str]],
    rows: Mapping[str, FoundRow],
    scores: Mapping[str, float],
    similarity: Mapping[str, float],
) -> tuple[list[Hit], bool]:
    """The page's hits, and whether another page follows."""
    end = query.offset + query.limit
    hits = [
        Hit(
            rank,
            scores[key],
            similarity.get(key),
            rows[key],
            tuple(SimilarRow(scores[other], rows[other]) for other in groups[key]),
        )
        for rank, key in enumerate(list(groups)[query.offset : end], start=query.offset + 1)
    ]
    return hits, len(groups) > end


def check(query: Query, source: Source) -> None:
    """Raise a `ProblemError` that names the parameter, the rule and the way out."""
    if query.offset + query.limit > MAX_DEPTH:
        raise invalid("offset", f"offset + limit may be at most {MAX_DEPTH:,}; ask a narrower question instead")
    lowest, highest = query.filters.min_price, query.filters.max_price
    if lowest is not None and highest is not None and lowest > highest:
        raise invalid("min_price", "must not be greater than max_price")
    wanted = {"category": query.filters.category is not None, "price": lowest is not None or highest is not None}
    for column, asked in wanted.items():
        if asked and column not in source.metadata_columns:
            raise invalid(
                column, f"this source is not watched with the metadata column {column!r}, so it cannot filter by it"
            )


def conditions(filters: Filters) -> dict[str, Any] | None:
    """The filters in Pinecone's language; None for no filter."""
    found: dict[str, Any] = {}
    if filters.category is not None:
        found["category"] = {"$eq": filters.category}
    price = {"$gte": filters.min_price, "$lte": filters.max_price}
    if price := {operator: value for operator, value in price.items() if value is not None}:
        found["price"] = price
    return found or None


def passes(row: Mapping[str, Any], filters: Filters) -> bool:
    """Whether the row itself passes, by the same rules as its metadata does in the index."""
    if filters.category is not None and as_metadata(row.get("category")) != filters.category:
        return False
    if filters.min_price is None and filters.max_price is None:
        return True
    price = as_metadata(row.get("price"))
    if not isinstance(price, int | float):
        return False
    return (filters.min_price is None or price >= filters.min_price) and (
        filters.max_price is None or price <= filters.max_price
    )


class _Clock:
    """Milliseconds by part; `lap()` is the time since the last lap."""

    def __init__(self) -> None:
        self.embed = self.index = self.rows = 0.0
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        return passed * 1000
