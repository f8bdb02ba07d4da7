"""One namespace: its records in one growing float32 matrix, searched exactly.

Rows are dense: a deleted row is filled with the last one, so a search is one matrix-vector product over a view.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from local.pinecone.filters import Predicate
from local.pinecone.operations import Metadata

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]
GUESSED_RECORD_BYTES = 256
_FIRST_ROWS = 256
# With a filter, this many times as many of the nearest as wanted are tried first.
_WIDEN = 4


class Found(NamedTuple):
    """A match of a query: the record's row, and its score in the index's metric."""

    row: int
    score: float


class Namespace:
    """Records by id. `metric`: cosine, dotproduct (higher is nearer) or euclidean (squared distance, lower is nearer)."""

    def __init__(self, dimension: int, metric: str) -> None:
        self.schema: dict[str, Any] | None = None
        self._dimension = dimension
        self._metric = metric
        self._matrix: Floats = np.empty((0, dimension), np.float32)
        # 1/|x| for cosine, |x|² for euclidean: what a dot product lacks.
        self._factor: Floats = np.empty(0, np.float32)
        self._ids: list[str] = []
        self._metadata: list[Metadata] = []
        self._row: dict[str, int] = {}
        self._sorted: list[str] | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: str) -> bool:
        return id in self._row

    def size_bytes(self) -> int:
        """Roughly what the records take: values, and a guess at ids and metadata."""
        return len(self._ids) * (self._dimension * 4 + GUESSED_RECORD_BYTES)

    def upsert(self, ids: Sequence[str], values: Floats, metadata: Sequence[Metadata]) -> None:
        """Write whole records; `values` has shape (len(ids), dimension). Of equal ids the last one counts."""
        rows = np.empty(len(ids), np.intp)
        for position, (each, fields) in enumerate(zip(ids, metadata, strict=True)):
            row = self._row.get(each)
            if row is None:
                row = self._row[each] = len(self._ids)
                self._ids.append(each)
                self._metadata.append(fields)
                self._sorted = None
            else:
                self._metadata[row] = fields
            rows[position] = row
        self._fit()
        self._matrix[rows] = values
        if self._metric != "dotproduct":
            squares = np.einsum("ij,ij->i", values, values)
            self._factor[rows] = squares if self._metric == "euclidean" else 1 / np.sqrt(squares)

    def merge_metadata(self, row: int, changes: Metadata) -> None:
        """Set these fields; the others stay."""
        self._metadata[row] = {**self._metadata[row], **changes}

    def delete(self, ids: Iterable[str]) -> None:
        """Delete what is there of `ids`."""
        for each in ids:
            row = self._row.pop(each, None)
            if row is None:
                continue
            self._sorted = None
            last = len(self._ids) - 1
            last_id, last_metadata = self._ids.pop(), self._metadata.pop()
            if row != last:
                self._ids[row], self._metadata[row] = last_id, last_metadata
                self._row[last_id] = row
                self._matrix[row] = self._matrix[last]
                self._factor[row] = self._factor[last]
        self._fit()

    def row(self, id: str) -> int | None:
        return self._row.get(id)

    def id(self, row: int) -> str:
        return self._ids[row]

    def metadata(self, row: int) -> Metadata:
        return self._metadata[row]

    def values(self, row: int) -> Floats:
        """A view of the row: not to be kept beyond the next write."""
        view: Floats = self._matrix[row]
        return view

    def matching(self, predicate: Predicate) -> list[str]:
        """The ids of all records that match, in byte order."""
        return sorted(each for each, fields in zip(self._ids, self._metadata, strict=True) if predicate(fields))

    def page(self, prefix: str, after: str | None, limit: int) -> tuple[list[str], bool]:
        """Up to `limit` ids with `prefix` that sort after `after`, in byte order, and whether more follow."""
        if self._sorted is None:
            self._sorted = sorted(self._ids)  # ids are ASCII, so the order of characters is that of bytes
        start = bisect_left(self._sorted, prefix)
        if after is not None:
            start = max(start, bisect_right(self._sorted, after))
        ids = [each for each in self._sorted[start : start + limit + 1] if each.startswith(prefix)]
        return ids[:limit], len(ids) > limit

    def query(self, vector: Floats, top_k: int, predicate: Predicate | None) -> list[Found]:
        """The `top_k` nearest of the records that match, nearest first."""
        count = len(self._ids)
        if not count:
            return []
        nearness = self._nearness(vector)
        rows = _largest(nearness, top_k) if predicate is None else self._filtered(nearness, top_k, predicate)
        scores = -nearness[rows] if self._metric == "euclidean" else nearness[rows]
        return [Found(row, score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]

    def chunks(self, rows: int) -> Iterable[tuple[list[str], list[Metadata], bytes]]:
        """Everything, `rows` records at a time: ids, metadata, values."""
        for start in range(0, len(self._ids), rows):
            part = slice(start, min(start + rows, len(self._ids)))
            yield self._ids[part], self._metadata[part], self._matrix[part].tobytes()

    def _filtered(self, nearness: Floats, top_k: int, predicate: Predicate) -> Rows:
        """The rows of the `top_k` nearest records that match, nearest first."""
        # Most filters let through enough of the nearest few; only where they do not is every record looked at.
        kept = [row for row in _largest(nearness, top_k * _WIDEN).tolist() if predicate(self._metadata[row])]
        if len(kept) >= top_k or top_k * _WIDEN >= len(nearness):
            return np.array(kept[:top_k], np.intp)
        every = np.array([row for row, fields in enumerate(self._metadata) if predicate(fields)], np.intp)
        return every[_largest(nearness[every], top_k)]

    def _nearness(self, vector: Floats) -> Floats:
        """One number a record, higher is nearer."""
        count = len(self._ids)
        products: Floats = self._matrix[:count] @ vector
        if self._metric == "euclidean":
            products *= 2
            products -= self._factor[:count]
            products -= np.dot(vector, vector)
            return np.minimum(products, 0, out=products)
        if self._metric == "cosine":
            products *= self._factor[:count]
            products /= np.linalg.norm(vector) or 1
            return np.clip(products, -1, 1, out=products)
        return products

    def _fit(self) -> None:
        """Room for all rows, growing by half and giving back what three quarters empty."""
        rows, capacity = len(self._ids), len(self._matrix)
        if rows > capacity:
            capacity = max(rows, capacity + capacity // 2, _FIRST_ROWS)
        elif rows < capacity // 4 and capacity > _FIRST_ROWS:
            capacity = max(rows * 2, _FIRST_ROWS)
        else:
            return
        # In place (realloc), so that growing does not need the old and the new matrix at once. No view outlives a call.
        self._matrix.resize((capacity, self._dimension), refcheck=False)
        self._factor.resize(capacity, refcheck=False)


def _largest(values: Floats, count: int) -> Rows:
    """Positions of the `count` largest, largest first."""
    if count < len(values):
        top = np.argpartition(values, -count)[-count:]
        return top[np.argsort(-values[top], kind="stable")]
    return np.argsort(-values, kind="stable")
