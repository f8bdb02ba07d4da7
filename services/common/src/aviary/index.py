"""The one adapter around the Pinecone SDK: what Emu writes through and the frontend reads through."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import quote_plus, urlsplit

import numpy as np
import orjson
import pinecone
from numpy.typing import NDArray
from pinecone import Pinecone
from pinecone.errors import NotFoundError, PineconeValueError

from aviary.source import MetadataValue, split_chunk_id

Vector = NDArray[np.float32]

# https://docs.pinecone.io/reference/api/database-limits; 2 MB of JSON is the reading that is safe either way.
MAX_UPSERT_RECORDS = 1_000
MAX_UPSERT_BYTES = 2_000_000
MAX_DELETE_IDS = 1_000
# Ids of a fetch stand in the URL, and what lies between us and Pinecone may allow no more than 8 KB of it.
MAX_FETCH_IDS = 400
MAX_FETCH_URL_BYTES = 7_000
PAGE_IDS = 100
DEFAULT_NAMESPACE = "__default__"
# What JSON adds to a record besides its parts: keys, quotes and commas; and to a request.
_RECORD_OVERHEAD_BYTES = 40
_REQUEST_OVERHEAD_BYTES = 600


class Record(NamedTuple):
    """A vector to write, or one as fetched. `values` has shape (dimension,), float32; `json` is the same as it travels,
    where that is known already (see `upsert_requests`)."""

    id: str
    values: Vector
    metadata: dict[str, MetadataValue]
    json: bytes = b""


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

    def query(
        self,
        namespace: str,
        vector: Vector,
        top_k: int,
        filter: Mapping[str, Any] | None = None,
        *,
        metadata: bool = True,
    ) -> list[Match]:
        """The `top_k` nearest records in order of falling score, with their metadata unless told otherwise."""

    def find(self, namespace: str, id: str) -> Match | None:
        """The record as queries see it now: None until the index has made it searchable."""

    def count(self, namespace: str) -> int:
        """Vectors in the namespace, as the index reports it."""

    def ids(self, namespace: str, prefix: str = "") -> Iterable[str]:
        """Every id, in byte order, page by page."""

    def clear(self, namespace: str) -> None:
        """Delete every vector of the namespace; one that does not exist is fine."""

    def close(self) -> None:
        """Give the connections back."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PineconeIndex:
    """`VectorIndex` over the official SDK, REST. `host` is the full URL of the index's data plane.

    The SDK itself tries each request up to 4 times; `timeout_seconds` is for one attempt. It keeps a budget of
    retries for each host name in the process, so during an outage errors come after the first attempt. With
    `sdk_retries=False` each request is tried once: for a caller that must decide anew before every attempt.
    """

    def __init__(self, api_key: str, host: str, timeout_seconds: float = 10.0, *, sdk_retries: bool = True) -> None:
        # Reading the certificate authorities takes 0.1 s, and a plain http host (a laptop's) has no certificate.
        verify = not host.startswith("http://")
        with Pinecone(api_key=api_key, timeout=timeout_seconds, ssl_verify=verify) as client:
            self._index = client.index(host=host)
        if not sdk_retries:
            # The SDK's own retry_config does not reach the client of an index. A version of the SDK that keeps this
            # elsewhere fails here with an AttributeError, and not by retrying in silence.
            transport: Any = self._index._http._client._transport  # noqa: SLF001 - no public way, see above
            transport._config = dataclasses.replace(transport._config, max_retries=0)  # noqa: SLF001 - as above

    def upsert(self, namespace: str, records: Sequence[Record]) -> None:
        """See VectorIndex. Values arrive exactly as they are: they travel as the shortest decimals that make the
        same float32. PineconeValueError for values that are not finite, which JSON cannot carry."""
        for request in upsert_requests(records):
            # Without batch_size: the SDK's own batching reports failures instead of raising them.
            self._index.upsert(vectors=[to_sdk(record) for record in request], namespace=namespace)

    def delete(self, namespace: str, ids: Sequence[str]) -> None:
        """See VectorIndex."""
        for start in range(0, len(ids), MAX_DELETE_IDS):
            try:
                self._index.delete(ids=list(ids[start : start + MAX_DELETE_IDS]), namespace=namespace)
            except NotFoundError as error:
                if not is_missing_namespace(error):
                    raise
                return

    def fetch(self, namespace: str, ids: Sequence[str]) -> dict[str, Record]:
        """See VectorIndex."""
        records: dict[str, Record] = {}
        for part in fetch_requests(ids):
            for found, vector in self._index.fetch(ids=part, namespace=namespace).vectors.items():
                records[found] = Record(found, np.array(vector.values, np.float32), vector.metadata or {})
        return records

    def metadata(self, namespace: str, ids: Sequence[str]) -> dict[str, Mapping[str, MetadataValue]]:
        """Of the records that exist, by id. Their numbers come too, as no request leaves them out, but are made nothing of."""
        return {
            found: vector.metadata or {}
            for part in fetch_requests(ids)
            for found, vector in self._index.fetch(ids=part, namespace=namespace).vectors.items()
        }

    def query(
        self,
        namespace: str,
        vector: Vector,
        top_k: int,
        filter: Mapping[str, Any] | None = None,
        *,
        metadata: bool = True,
    ) -> list[Match]:
        """See VectorIndex."""
        answer = self._index.query(
            vector=values_json(vector),
            top_k=top_k,
            namespace=namespace,
            filter=dict(filter) if filter else None,
            include_metadata=metadata,
        )
        return [Match(match.id, match.score, match.metadata or {}) for match in answer.matches]

    def find(self, namespace: str, id: str) -> Match | None:
        """See VectorIndex. It asks by query and not by fetch, because the two see a write at different times."""
        # Records with equal vectors tie, so the nearest to a record need not be itself. The filter keeps the others
        # out where the id is the key; a hashed id (see source.vector_id) has to be looked for among the nearest.
        main, chunk = split_chunk_id(id)
        same: dict[str, Any] = {"_chunk": {"$eq": chunk} if chunk else {"$exists": False}}
        if not main.startswith("~"):
            return self._among_nearest(namespace, id, 1, same | {"_key": {"$eq": main}})
        return next((match for k in (1, 100, 1_000) if (match := self._among_nearest(namespace, id, k, same))), None)

    def count(self, namespace: str) -> int:
        """See VectorIndex."""
        summary = self._index.describe_index_stats().namespaces.get(namespace or DEFAULT_NAMESPACE)
        return summary.vector_count if summary else 0

    def ids(self, namespace: str, prefix: str = "") -> Iterator[str]:
        """See VectorIndex."""
        for page in self._index.list(namespace=namespace, prefix=prefix or None, limit=PAGE_IDS):
            yield from (item.id for item in page.vectors if item.id is not None)

    def ids_page(self, namespace: str, token: str | None = None) -> tuple[list[str], str | None]:
        """One page of `ids`, and the token that the next one is asked for by: None on the last. A token may be kept."""
        page = self._index.list_paginated(namespace=namespace, limit=PAGE_IDS, pagination_token=token)
        following = page.pagination.next if page.pagination is not None else None
        return [item.id for item in page.vectors if item.id is not None], following

    def clear(self, namespace: str) -> None:
        """See VectorIndex."""
        try:
            self._index.delete(delete_all=True, namespace=namespace)
        except NotFoundError as error:
            if not is_missing_namespace(error):
                raise

    def dimension(self) -> int:
        """How many numbers a vector of this index has."""
        return int(self._index.describe_index_stats().dimension or 0)

    def close(self) -> None:
        """See VectorIndex."""
        self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _among_nearest(self, namespace: str, id: str, top_k: int, filter: dict[str, Any] | None = None) -> Match | None:
        answer = self._index.query(id=id, top_k=top_k, namespace=namespace, filter=filter, include_metadata=True)
        for match in answer.matches:
            if match.id == id:
                return Match(match.id, match.score, match.metadata or {})
        return None


def is_missing_namespace(error: Exception) -> bool:
    """A namespace exists from its first upsert on; before that there is nothing to read or to delete."""
    return isinstance(error, NotFoundError) and "namespace" in str(error.message).lower()


def is_index_host(host: str, configured: str) -> bool:
    """Whether an index's address that came by a database or a message may be given the API key: it is Pinecone's own, or
    on the host of the configured index (which a laptop's stand-in is)."""
    try:
        url, ours = urlsplit(host), urlsplit(configured)
        same = (url.scheme, url.hostname, url.port) == (ours.scheme, ours.hostname, ours.port)
        pinecone = url.scheme == "https" and (url.hostname or "").endswith(".pinecone.io") and url.port in (None, 443)
    except ValueError:
        return False
    plain = url.username is None and url.password is None and not url.query and not url.fragment
    return plain and bool(url.hostname) and (same or pinecone)


def values_json(values: Vector) -> Any:
    """Values as the SDK sends them: it encodes with orjson, which copies a Fragment as it stands. The shortest decimals that
    make the same float32 are about half as long as those of the same number as float64."""
    return orjson.Fragment(orjson.dumps(np.ascontiguousarray(values, np.float32), option=orjson.OPT_SERIALIZE_NUMPY))


def request_bytes(record: Record) -> int:
    """About as many bytes as the record has in an upsert request."""
    return 11 * record.values.size + len(orjson.dumps(record.metadata)) + len(record.id) + _RECORD_OVERHEAD_BYTES


def upsert_requests(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records in order, in lists that each fit one request, with their values as JSON: making that is most of what a
    write costs here, so it is done once, by whoever cuts the requests."""
    request: list[Record] = []
    size = _REQUEST_OVERHEAD_BYTES
    for record in records:
        text = record.json
        if not text:
            values = np.ascontiguousarray(record.values, np.float32)
            if not math.isfinite(np.dot(values, values)) and not np.isfinite(values).all():
                raise PineconeValueError("values must be finite: NaN and infinity cannot be sent as JSON")
            # The shortest decimals of a float32 are about half as long as those of the same number as float64.
            text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
        added = len(text) + len(orjson.dumps(record.metadata)) + len(record.id) + _RECORD_OVERHEAD_BYTES
        if request and (size + added > MAX_UPSERT_BYTES or len(request) == MAX_UPSERT_RECORDS):
            yield request
            request, size = [], _REQUEST_OVERHEAD_BYTES
        request.append(record._replace(json=text))
        size += added
    if request:
        yield request


def to_sdk(record: Record) -> pinecone.Vector:
    """The record as the SDK takes it. It encodes with orjson, which copies a Fragment as it stands."""
    return pinecone.Vector(record.id, orjson.Fragment(record.json), metadata=record.metadata)  # type: ignore[arg-type] # a Fragment


def fetch_requests(ids: Iterable[str]) -> Iterator[list[str]]:
    """The ids in order, in lists that each fit one request."""
    request: list[str] = []
    size = 0
    for each in ids:
        added = len(quote_plus(each)) + len("&ids=")
        if request and (size + added > MAX_FETCH_URL_BYTES or len(request) == MAX_FETCH_IDS):
            yield request
            request, size = [], 0
        request.append(each)
        size += added
    if request:
        yield request
