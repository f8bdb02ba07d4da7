"""The one adapter around the Pinecone SDK: what Emu writes through and the frontend reads through."""

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from aviary.source import MetadataValue

Vector = NDArray[np.float32]


class Record(NamedTuple):
    """A vector to write, or one as fetched. `values` has shape (dimension,), float32."""

    id: str
    values: Vector
    metadata: dict[str, MetadataValue]


class Match(NamedTuple):
    """One answer of a query, best first. `score` is the cosine similarity, -1 to 1."""

    id: str
    score: float
    metadata: dict[str, MetadataValue]


class VectorIndex(Protocol):
    """What the services need of an index. All methods are blocking and thread-safe; errors are the SDK's own
    (`pinecone.errors`), never swallowed. Each call splits its input below Pinecone's limits, in order."""

    def upsert(self, namespace: str, records: Sequence[Record]) -> None:
        """Write all records, ≤ 2 MB and ≤ 1,000 records a request; raises on the first request that fails."""

    def delete(self, namespace: str, ids: Sequence[str]) -> None:
        """Delete ids, ≤ 1,000 a request; ids that are not there are fine."""

    def fetch(self, namespace: str, ids: Sequence[str]) -> dict[str, Record]:
        """The records that exist, by id."""

    def query(self, namespace: str, vector: Vector, top_k: int, filter: Mapping[str, Any] | None = None) -> list[Match]:
        """The `top_k` nearest records with their metadata, in order of falling score."""

    def find(self, namespace: str, id: str) -> Match | None:
        """The record as queries see it now: None until the index has made it searchable."""

    def count(self, namespace: str) -> int:
        """Vectors in the namespace, as the index reports it."""

    def ids(self, namespace: str, prefix: str = "") -> Iterable[str]:
        """Every id, in byte order, page by page."""

    def close(self) -> None:
        """Give the connections back."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
