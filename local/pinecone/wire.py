"""Requests of the data plane as they come over the wire, checked and turned into operations.

Limits: https://docs.pinecone.io/reference/api/database-limits. Texts are Pinecone's own where they are known.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from local.pinecone.errors import ApiProblem
from local.pinecone.operations import Metadata, Upsert
from local.pinecone.vectors import Floats

MAX_BODY_BYTES = 2 * 2**20
MAX_RECORDS = 1_000
MAX_METADATA_BYTES = 40_960
MAX_ID_CHARS = 512
MAX_TOP_K = 10_000
MAX_FETCH_IDS = 1_000
MAX_DELETE_IDS = 1_000
MAX_QUERY_ANSWER_BYTES = 4 * 2**20
MAX_PAGE = 100
MAX_FETCH_BY_METADATA = 10_000
DEFAULT_NAMESPACE = "__default__"
_SHOWN_BYTES = 16

RequestT = TypeVar("RequestT")


class VectorIn(msgspec.Struct, gc=False):
    id: str
    values: list[float] = []
    metadata: dict[str, Any] | None = None
    sparseValues: Any = None  # noqa: N815 - the wire's name


class UpsertRequest(msgspec.Struct):
    vectors: list[VectorIn]
    namespace: str | None = None


class QueryRequest(msgspec.Struct, rename="camel"):
    top_k: int
    namespace: str | None = None
    vector: list[float] | None = None
    id: str | None = None
    filter: dict[str, Any] | None = None
    include_values: bool = False
    include_metadata: bool = False
    sparse_vector: Any = None


class FetchByMetadataRequest(msgspec.Struct, rename="camel"):
    filter: dict[str, Any] | None = None
    namespace: str | None = None
    limit: int = MAX_PAGE
    pagination_token: str | None = None


class UpdateRequest(msgspec.Struct, rename="camel"):
    namespace: str | None = None
    id: str | None = None
    filter: dict[str, Any] | None = None
    values: list[float] | None = None
    set_metadata: dict[str, Any] | None = None
    sparse_values: Any = None
    dry_run: bool = False


class DeleteRequest(msgspec.Struct, rename="camel"):
    namespace: str | None = None
    ids: list[str] | None = None
    delete_all: bool = False
    filter: dict[str, Any] | None = None


class StatsRequest(msgspec.Struct):
    filter: dict[str, Any] | None = None


class CreateNamespaceRequest(msgspec.Struct):
    name: str
    schema: dict[str, Any] | None = None


class _NamespaceOnly(msgspec.Struct):
    namespace: str | None = None


_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def decode(body: bytes, kind: type[RequestT]) -> RequestT:
    """The typed request; ApiProblem 400 that names the field otherwise. Nulls among values are refused here."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        request: RequestT = decoder.decode(body or b"{}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ApiProblem(400, f"invalid request: {error}") from None
    return request


def namespace_of(body: bytes) -> str | None:
    """The namespace that a body names, or None when it names none or cannot be read."""
    try:
        return decode(body, _NamespaceOnly).namespace
    except ApiProblem:
        return None


def namespace_name(given: str | None) -> str:
    """The stored name: absent, empty and `__default__` are one. ApiProblem 400 for a name that is not allowed."""
    if not given:
        return DEFAULT_NAMESPACE
    if len(given) > MAX_ID_CHARS or not given.isascii() or "\0" in given:
        raise ApiProblem(400, f"namespace must be 1 to {MAX_ID_CHARS} ASCII characters without NUL")
    return given


def check_id(id: str) -> str:
    """The id itself; ApiProblem 400 when Pinecone would refuse it."""
    if not id or len(id) > MAX_ID_CHARS:
        raise ApiProblem(400, f"Vector ID must be 1 to {MAX_ID_CHARS} characters long, got {len(id)}")
    if not id.isascii() or "\0" in id:
        raise ApiProblem(400, "Vector ID must be ASCII and must not contain NUL")
    return id


def pack(values: Sequence[float], dimension: int) -> bytes:
    """`values` as float32; ApiProblem 400 for a wrong dimension or a value that float32 cannot hold."""
    if len(values) != dimension:
        raise ApiProblem(400, f"Vector dimension {len(values)} does not match the dimension of the index {dimension}")
    try:
        return struct.pack(f"<{dimension}f", *values)
    except (OverflowError, struct.error):
        raise ApiProblem(400, "Vector values must be finite 32-bit floating point numbers") from None


def check_not_zero(values: Floats, metric: str) -> None:
    """ApiProblem 400 when a row of (rows, dimension) is all zeros or too large or small for its length to be a float32."""
    squares = np.einsum("ij,ij->i", values, values)
    if not squares.all() and not values.any(axis=1).all():
        raise ApiProblem(400, "Dense vectors must contain at least one non-zero value")
    if metric == "cosine" and not (np.isfinite(squares) & (squares > 0)).all():
        raise ApiProblem(
            400, "Vector values are too large or too small: their length is not a 32-bit floating point number"
        )


def check_metadata(given: dict[str, Any] | None) -> Metadata:
    """Metadata as Pinecone stores it: nulls stripped, numbers as 64-bit floats. ApiProblem 400 where it would refuse."""
    if not given:
        return {}
    kept: Metadata = {}
    for key, value in given.items():
        if key.startswith("$"):
            raise ApiProblem(400, f"Metadata keys must not start with '$', got '{key[:60]}'")
        match value:
            case str() | bool():
                kept[key] = value
            case int() | float():
                kept[key] = _number(key, value)
            case list() if all(isinstance(item, str) for item in value):
                kept[key] = value
            case None:
                pass
            case _:
                raise ApiProblem(
                    400,
                    "Metadata value must be a string, number, boolean or list of strings, "
                    f"got '{_shown(value)}' for field '{key}'",
                )
    size = len(msgspec.json.encode(kept))
    if size > MAX_METADATA_BYTES:
        raise ApiProblem(
            400, f"metadata size is {size} bytes, which exceeds the limit of {MAX_METADATA_BYTES} bytes per vector"
        )
    return kept


def upsert_operation(request: UpsertRequest, dimension: int, metric: str) -> Upsert:
    """The whole request or nothing: one bad record refuses its neighbours, as in Pinecone."""
    if not request.vectors:
        raise ApiProblem(400, "No vectors provided for upsert")
    if len(request.vectors) > MAX_RECORDS:
        raise ApiProblem(
            400, f"Cannot upsert more than {MAX_RECORDS} records in one request, got {len(request.vectors)}"
        )
    for vector in request.vectors:
        if vector.sparseValues is not None:
            raise ApiProblem(400, "Index configuration does not support sparse values")
    ids = [check_id(vector.id) for vector in request.vectors]
    values = b"".join([pack(vector.values, dimension) for vector in request.vectors])
    check_not_zero(np.frombuffer(values, np.float32).reshape(len(ids), dimension), metric)
    metadata = [check_metadata(vector.metadata) for vector in request.vectors]
    return Upsert(namespace=namespace_name(request.namespace), ids=ids, metadata=metadata, values=values)


def _number(key: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ApiProblem(400, f"Metadata value for field '{key}' is not a finite 64-bit number")
    return number


def _shown(value: Any) -> str:
    """Compact JSON with numbers as floats, cut to 16 bytes: how Pinecone quotes a value that it refuses."""

    def floats(item: Any) -> Any:
        match item:
            case bool():
                return item
            case int() | float():
                return float(item)
            case list():
                return [floats(each) for each in item]
            case dict():
                return {name: floats(each) for name, each in item.items()}
            case _:
                return item

    text = msgspec.json.encode(floats(value))
    return text.decode() if len(text) <= _SHOWN_BYTES else text[:_SHOWN_BYTES].decode(errors="ignore") + "..."
