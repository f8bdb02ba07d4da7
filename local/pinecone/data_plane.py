"""The data plane: what one index answers to each request. Pure functions of index and request; no HTTP here."""

import base64
import binascii
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import orjson
from starlette.datastructures import QueryParams

from local.pinecone import wire
from local.pinecone.errors import ApiProblem
from local.pinecone.filters import compile_filter
from local.pinecone.operations import CreateNamespace, Delete, DeleteNamespace, Update
from local.pinecone.store import Index
from local.pinecone.vectors import Namespace
from local.pinecone.wire import DEFAULT_NAMESPACE, namespace_name

REQUEST_LSN = "x-pinecone-request-lsn"
INDEXED_LSN = "x-pinecone-max-indexed-lsn"
READ = {"readUnits": 1}


class Request(NamedTuple):
    """What a handler needs of an HTTP request. `name` is the last part of the path where it is a namespace."""

    params: QueryParams
    body: bytes
    name: str = ""


class Answer(NamedTuple):
    """A JSON body, headers, how many records it was about (for the counters), and how large it may be."""

    body: dict[str, Any]
    headers: dict[str, str]
    records: int = 0
    max_bytes: int | None = None


Handler = Callable[[Index, Request], Answer]


def upsert(index: Index, request: Request) -> Answer:
    configuration = index.configuration
    asked = wire.decode(request.body, wire.UpsertRequest)
    operation = wire.upsert_operation(asked, configuration.dimension, configuration.metric)
    return _written(index.write(operation), {"upsertedCount": len(operation.ids)}, len(operation.ids))


def query(index: Index, request: Request) -> Answer:
    asked = wire.decode(request.body, wire.QueryRequest)
    if not 1 <= asked.top_k <= wire.MAX_TOP_K:
        raise ApiProblem(400, f"topK must be between 1 and {wire.MAX_TOP_K}, got {asked.top_k}")
    if asked.sparse_vector is not None:
        raise ApiProblem(400, "Index configuration does not support sparse values")
    if (asked.id is None) == (asked.vector is None):
        raise ApiProblem(400, "Exactly one of 'id' and 'vector' must be provided")
    predicate = compile_filter(asked.filter)
    name = namespace_name(asked.namespace)
    headers = {INDEXED_LSN: str(index.indexed_lsn(name))}
    namespace = index.namespace(name)
    if asked.vector is not None:
        vector = np.frombuffer(wire.pack(asked.vector, index.configuration.dimension), np.float32)
    else:
        row = namespace.row(wire.check_id(asked.id or "")) if namespace else None
        if namespace is None or row is None:
            return Answer({"matches": [], "namespace": _shown(name), "usage": READ}, headers)
        vector = namespace.values(row)
    found = namespace.query(vector, asked.top_k, predicate) if namespace else []
    matches = []
    for row, score in found:
        assert namespace is not None  # noqa: S101 - there are rows, so there is a namespace
        match: dict[str, Any] = {"id": namespace.id(row), "score": score}
        if asked.include_values:
            match["values"] = namespace.values(row)
        if asked.include_metadata and (metadata := namespace.metadata(row)):
            match["metadata"] = metadata
        matches.append(match)
    body = {"matches": matches, "namespace": _shown(name), "usage": READ}
    return Answer(body, headers, len(matches), wire.MAX_QUERY_ANSWER_BYTES)


def fetch(index: Index, request: Request) -> Answer:
    ids = [wire.check_id(each) for each in request.params.getlist("ids")]
    if not ids:
        raise ApiProblem(400, "No vector ids provided for fetch")
    if len(ids) > wire.MAX_FETCH_IDS:
        raise ApiProblem(400, f"Cannot fetch more than {wire.MAX_FETCH_IDS} records in one request, got {len(ids)}")
    name = namespace_name(request.params.get("namespace"))
    namespace = index.namespace(name)
    vectors = {each: _record(namespace, each) for each in ids if namespace and each in namespace}
    return Answer({"vectors": vectors, "namespace": _shown(name), "usage": READ}, {}, len(vectors))


def fetch_by_metadata(index: Index, request: Request) -> Answer:
    asked = wire.decode(request.body, wire.FetchByMetadataRequest)
    predicate = compile_filter(asked.filter)
    if predicate is None:
        raise ApiProblem(400, "Empty filter provided for fetch by metadata request")
    if not 1 <= asked.limit <= wire.MAX_FETCH_BY_METADATA:
        raise ApiProblem(400, f"limit must be between 1 and {wire.MAX_FETCH_BY_METADATA}, got {asked.limit}")
    name = namespace_name(asked.namespace)
    namespace = index.namespace(name)
    after = _position(asked.pagination_token)
    ids = [each for each in namespace.matching(predicate) if after is None or each > after] if namespace else []
    page, more = ids[: asked.limit], len(ids) > asked.limit
    vectors = {each: _record(namespace, each) for each in page if namespace}
    return Answer(_paged({"vectors": vectors, "namespace": _shown(name), "usage": READ}, page, more), {}, len(page))


def update(index: Index, request: Request) -> Answer:
    asked = wire.decode(request.body, wire.UpdateRequest)
    name = namespace_name(asked.namespace)
    if (asked.id is None) == (asked.filter is None):
        raise ApiProblem(400, "Exactly one of id or filter must be provided")
    if asked.sparse_values is not None:
        raise ApiProblem(400, "Index configuration does not support sparse values")
    changes = wire.check_metadata(asked.set_metadata)
    if asked.filter is not None:
        return _update_by_filter(index, name, asked, changes)
    values = None
    if asked.values is not None:
        values = wire.pack(asked.values, index.configuration.dimension)
        wire.check_not_zero(np.frombuffer(values, np.float32)[None, :], index.configuration.metric)
    operation = Update(namespace=name, id=wire.check_id(asked.id or ""), values=values, set_metadata=changes)
    return _written(index.write(operation), {}, 1)


def _update_by_filter(index: Index, name: str, asked: wire.UpdateRequest, changes: dict[str, Any]) -> Answer:
    predicate = compile_filter(asked.filter)
    if predicate is None:
        raise ApiProblem(400, "Update with empty metadata filter is not allowed")
    if asked.values is not None:
        raise ApiProblem(400, "Update by metadata request does not support updating vector values.")
    namespace = index.namespace(name)
    matched = len(namespace.matching(predicate)) if namespace else 0
    body = {"matchedRecords": matched}
    if asked.dry_run:
        return Answer(body, {}, matched)
    lsn = index.write(Update(namespace=name, filter=asked.filter, set_metadata=changes))
    return _written(lsn, body, matched)


def delete(index: Index, request: Request) -> Answer:
    asked = wire.decode(request.body, wire.DeleteRequest)
    name = namespace_name(asked.namespace)
    if asked.delete_all and asked.ids is not None:
        raise ApiProblem(400, "No explicit IDs allowed when delete_all=true")
    if asked.delete_all and asked.filter is not None:
        raise ApiProblem(400, "No filter allowed when delete_all=true")
    if not asked.delete_all and asked.ids is None and asked.filter is None:
        raise ApiProblem(400, "One of ids, deleteAll or filter must be provided")
    if asked.filter is not None and compile_filter(asked.filter) is None:
        raise ApiProblem(400, "Delete with empty metadata filter is not allowed")
    if asked.ids is not None and len(asked.ids) > wire.MAX_DELETE_IDS:
        raise ApiProblem(
            400, f"Cannot delete more than {wire.MAX_DELETE_IDS} records in one request, got {len(asked.ids)}"
        )
    # With both, Pinecone looks at the filter only.
    ids = [wire.check_id(each) for each in asked.ids] if asked.ids is not None and asked.filter is None else None
    if not index.knows(name):
        raise ApiProblem(404, "Namespace not found")
    lsn = index.write(Delete(namespace=name, ids=ids, filter=asked.filter))
    return _written(lsn, {}, len(ids or ()))


def list_ids(index: Index, request: Request) -> Answer:
    params = request.params
    name = namespace_name(params.get("namespace"))
    limit = _limit(params, wire.MAX_PAGE)
    namespace = index.namespace(name)
    after = _position(params.get("paginationToken"))
    ids, more = namespace.page(params.get("prefix", ""), after, limit) if namespace else ([], False)
    body = {"vectors": [{"id": each} for each in ids], "namespace": _shown(name), "usage": READ}
    return Answer(_paged(body, ids, more), {}, len(ids))


def describe_index_stats(index: Index, request: Request) -> Answer:
    if wire.decode(request.body, wire.StatsRequest).filter:
        raise ApiProblem(400, "Describe index stats with a metadata filter is not supported for serverless indexes")
    counts = {name: len(namespace) for name, namespace in index.namespaces().items()}
    return Answer(
        {
            "namespaces": {name: {"vectorCount": count} for name, count in counts.items()},
            "dimension": index.configuration.dimension,
            "indexFullness": 0,
            "totalVectorCount": sum(counts.values()),
            "metric": index.configuration.metric,
            "vectorType": "dense",
        },
        {},
    )


def create_namespace(index: Index, request: Request) -> Answer:
    asked = wire.decode(request.body, wire.CreateNamespaceRequest)
    name = namespace_name(asked.name)
    if name == DEFAULT_NAMESPACE:
        raise ApiProblem(400, f"namespace name '{DEFAULT_NAMESPACE}' is reserved")
    if index.knows(name):
        raise ApiProblem(409, f"Namespace {name} already exists")
    lsn = index.write(CreateNamespace(namespace=name, schema=asked.schema))
    made = Namespace(index.configuration.dimension, index.configuration.metric)
    made.schema = asked.schema
    return _written(lsn, _described(name, made))


def list_namespaces(index: Index, request: Request) -> Answer:
    prefix, after = request.params.get("prefix", ""), _position(request.params.get("paginationToken"))
    limit = _limit(request.params, wire.MAX_PAGE)
    namespaces = index.namespaces()
    every = sorted(name for name in namespaces if name.startswith(prefix))
    rest = [name for name in every if after is None or name > after]
    page = rest[:limit]
    body = {"namespaces": [_described(name, namespaces[name]) for name in page], "total_count": len(every)}
    return Answer(_paged(body, page, len(rest) > limit), {}, len(page))


def describe_namespace(index: Index, request: Request) -> Answer:
    name = namespace_name(request.name)
    namespace = index.namespace(name)
    if namespace is None:
        raise ApiProblem(404, "Namespace not found")
    return Answer(_described(name, namespace), {})


def delete_namespace(index: Index, request: Request) -> Answer:
    name = namespace_name(request.name)
    if not index.knows(name):
        raise ApiProblem(404, "Namespace not found")
    return _written(index.write(DeleteNamespace(namespace=name)), {})


def _written(lsn: int, body: dict[str, Any], records: int = 0) -> Answer:
    return Answer(body, {REQUEST_LSN: str(lsn)}, records)


def _shown(namespace: str) -> str:
    return "" if namespace == DEFAULT_NAMESPACE else namespace


def _record(namespace: Namespace, id: str) -> dict[str, Any]:
    row = namespace.row(id)
    assert row is not None  # noqa: S101 - the caller has looked
    record: dict[str, Any] = {"id": id, "values": namespace.values(row)}
    if metadata := namespace.metadata(row):
        record["metadata"] = metadata
    return record


def _described(name: str, namespace: Namespace) -> dict[str, Any]:
    # Pinecone writes these two numbers as strings.
    body: dict[str, Any] = {
        "name": name,
        "record_count": str(len(namespace)),
        "size_bytes": str(namespace.size_bytes()),
    }
    if namespace.schema:
        body["schema"] = namespace.schema
        body["indexed_fields"] = {"fields": list(namespace.schema.get("fields", {}))}
    return body


def _limit(params: QueryParams, most: int) -> int:
    given = params.get("limit") or str(most)
    if not given.isdecimal() or not 1 <= int(given) <= most:
        raise ApiProblem(400, f"limit must be between 1 and {most}, got {given[:20]}")
    return int(given)


def _paged(body: dict[str, Any], page: list[str], more: bool) -> dict[str, Any]:
    """`body` with a token for the next page; without `pagination` on the last one, or clients would loop."""
    if more:
        body["pagination"] = {"next": base64.urlsafe_b64encode(page[-1].encode()).decode()}
    return body


def _position(token: str | None) -> str | None:
    """The last id of the page before."""
    if not token:
        return None
    try:
        return base64.urlsafe_b64decode(token).decode("ascii")
    except (binascii.Error, ValueError):
        raise ApiProblem(400, "Invalid pagination token") from None


def serialise(answer: Answer) -> bytes:
    """JSON, float32 rows in their shortest form; ApiProblem 400 when it is larger than it may be."""
    body = orjson.dumps(answer.body, option=orjson.OPT_SERIALIZE_NUMPY)
    if answer.max_bytes is not None and len(body) > answer.max_bytes:
        raise ApiProblem(
            400,
            f"the result is {len(body)} bytes, which exceeds the limit of {answer.max_bytes} bytes; "
            "lower topK, or leave out values or metadata",
        )
    return body
