"""HTTP around the two planes: keys, size limits, faults, counters and the two shapes of errors."""

import asyncio
import logging
import socket
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from aviary.logs import log
from local.pinecone import control_plane, data_plane, wire
from local.pinecone.control_plane import model
from local.pinecone.data_plane import Handler, serialise
from local.pinecone.errors import ApiProblem, control_plane_answer, data_plane_answer
from local.pinecone.faults import Fault, Faults
from local.pinecone.store import Store

logger = logging.getLogger(__name__)

API_VERSION = "2026-07"
# A body above the limit is read to its end, so that the client sees the answer and not a broken connection; up to here.
MAX_DRAINED_BYTES = 64 * 2**20
HANG_SECONDS = 120
CLIENT_GONE = 499  # nobody reads it

CONTROL_PLANE = {
    "list_indexes": ("GET", "/indexes"),
    "create_index": ("POST", "/indexes"),
    "describe_index": ("GET", "/indexes/{index}"),
    "configure_index": ("PATCH", "/indexes/{index}"),
    "delete_index": ("DELETE", "/indexes/{index}"),
}
DATA_PLANE: list[tuple[str, str, str, Handler]] = [
    ("upsert", "POST", "/vectors/upsert", data_plane.upsert),
    ("query", "POST", "/query", data_plane.query),
    ("fetch", "GET", "/vectors/fetch", data_plane.fetch),
    ("fetch_by_metadata", "POST", "/vectors/fetch_by_metadata", data_plane.fetch_by_metadata),
    ("update", "POST", "/vectors/update", data_plane.update),
    ("delete", "POST", "/vectors/delete", data_plane.delete),
    ("list", "GET", "/vectors/list", data_plane.list_ids),
    ("describe_index_stats", "POST", "/describe_index_stats", data_plane.describe_index_stats),
    ("create_namespace", "POST", "/namespaces", data_plane.create_namespace),
    ("list_namespaces", "GET", "/namespaces", data_plane.list_namespaces),
    ("describe_namespace", "GET", "/namespaces/{namespace:path}", data_plane.describe_namespace),
    ("delete_namespace", "DELETE", "/namespaces/{namespace:path}", data_plane.delete_namespace),
]


class _Visibility(msgspec.Struct):
    delay_ms: float


class _Cut(Response):
    """No answer: the connection is reset, at once or once the client has given up."""

    def __init__(self, *, hang: bool) -> None:
        super().__init__()
        self._hang = hang

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - nothing is sent
        if self._hang:
            try:
                async with asyncio.timeout(HANG_SECONDS):
                    while (await receive())["type"] != "http.disconnect":
                        pass
            except TimeoutError:
                pass
        transport: asyncio.Transport = scope["state"]["transport"]
        connection: socket.socket = transport.get_extra_info("socket")
        # Linger of 0 makes closing a reset (RST) instead of an orderly end (FIN).
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


class Application:
    """The stand-in as an ASGI application (`asgi`)."""

    def __init__(self, store: Store, *, api_key: str | None = None, allow_faults: bool = False) -> None:
        self._store = store
        self._api_key = api_key
        self._faults = Faults({*CONTROL_PLANE, *(name for name, *_ in DATA_PLANE)})
        self._counts: dict[str, dict[str, dict[str, int]]] = defaultdict(
            lambda: defaultdict(lambda: {"requests": 0, "errors": 0, "records": 0})
        )
        routes = [
            Route("/_health", self._health),
            Route("/_stats", self._stats),
            *(Route(path, self._control(name), methods=[method]) for name, (method, path) in CONTROL_PLANE.items()),
        ]
        routes += [
            Route("/_ix/{index}" + path, self._data(name, handler), methods=[method])
            for name, method, path, handler in DATA_PLANE
        ]
        if allow_faults:
            routes.append(Route("/_faults", self._edit_faults, methods=["GET", "POST", "DELETE"]))
            routes.append(Route("/_visibility/{index}", self._set_visibility, methods=["PUT"]))
        self.asgi = Starlette(
            routes=routes,
            exception_handlers={
                404: _no_route,
                405: _no_route,
                ApiProblem: _refuse,
                ClientDisconnect: _gone,
                Exception: _crash,
            },
        )

    async def _health(self, _request: Request) -> Response:
        return _json({"status": "ok"})

    async def _stats(self, _request: Request) -> Response:
        return _json({"indexes": self._counts})

    async def _edit_faults(self, request: Request) -> Response:
        match request.method:
            case "POST":
                return _json(self._faults.add(await request.body()))
            case "DELETE":
                self._faults.clear()
        return _json(self._faults.report())

    async def _set_visibility(self, request: Request) -> Response:
        """Body `{"delay_ms": n}`: from now on, and for what is not visible yet."""
        name = request.path_params["index"]
        control_plane.describe(self._store, name)
        asked = wire.decode(await request.body(), _Visibility)
        self._store.indexes[name].visibility_delay_seconds = asked.delay_ms / 1000
        return _json({"delay_ms": asked.delay_ms})

    def _control(self, operation: str) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            self._check_key(request)
            version = request.headers.get("x-pinecone-api-version", API_VERSION)
            if version != API_VERSION:
                raise ApiProblem(400, f"API version {version[:20]} is not served here, only {API_VERSION}")
            body = await _body(request)
            name = request.path_params.get("index") or _name_in(body)

            def run(fault: Fault | None) -> tuple[Response, int]:
                return self._run_control(request, operation, name, body, fault), 0

            return await self._answer(operation, name, None, run)

        return endpoint

    def _run_control(self, request: Request, operation: str, name: str, body: bytes, fault: Fault | None) -> Response:
        base_url = f"{request.url.scheme}://{request.url.netloc}"
        state = fault.state if fault and fault.outcome == "not_ready" else None
        match operation:
            case "list_indexes":
                indexes = [index.configuration for _, index in sorted(self._store.indexes.items())]
                return _json({"indexes": [model(each, base_url, state) for each in indexes]})
            case "create_index":
                return _json(model(control_plane.create(self._store, body), base_url, state), 201)
            case "configure_index":
                return _json(model(control_plane.configure(self._store, name, body), base_url, state))
            case "delete_index":
                control_plane.delete(self._store, name)
                return Response(status_code=202)
            case _:
                return _json(model(control_plane.describe(self._store, name), base_url, state))

    def _data(self, operation: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            self._check_key(request)
            body = await _body(request)
            asked = data_plane.Request(request.query_params, body, request.path_params.get("namespace", ""))
            name = request.path_params["index"]

            def run(_fault: Fault | None) -> tuple[Response, int]:
                if name not in self._store.indexes:
                    raise ApiProblem(404, f"Index {name} not found")
                answer = handler(self._store.indexes[name], asked)
                response = Response(serialise(answer), 200, answer.headers, "application/json")
                return response, answer.records

            namespace = None
            if self._faults.by_namespace:
                namespace = asked.name or request.query_params.get("namespace") or wire.namespace_of(body)
            return await self._answer(operation, name, namespace, run)

        return endpoint

    async def _answer(
        self,
        operation: str,
        index: str,
        namespace: str | None,
        run: Callable[[Fault | None], tuple[Response, int]],
    ) -> Response:
        """Run one request, with the fault that is due for it, and count it."""
        counts = self._counts[index][operation]
        counts["requests"] += 1
        fault = self._faults.take(operation, index, namespace)
        if fault and fault.delay_ms:
            await asyncio.sleep(fault.delay_ms / 1000)
        try:
            response: Response | None = None
            if fault is None or fault.applied or fault.outcome in {"pass", "not_ready"}:
                response, records = run(fault)
                counts["records"] += records
            if fault and fault.outcome == "status":
                raise fault.problem()
        except ApiProblem:
            counts["errors"] += 1
            raise
        if fault and fault.outcome in {"reset", "hang"}:
            counts["errors"] += 1
            return _Cut(hang=fault.outcome == "hang")
        assert response is not None  # noqa: S101 - only a fault leaves it unset, and each of them has ended above
        return response

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("api-key", "")
        if not given or (self._api_key is not None and given != self._api_key):
            raise ApiProblem(401, "Unauthorized")


async def _body(request: Request) -> bytes:
    """The whole body; ApiProblem 413 above 2 MiB."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= wire.MAX_BODY_BYTES:
            parts.append(part)
        else:
            parts.clear()
            if size > MAX_DRAINED_BYTES:
                break
    if size > wire.MAX_BODY_BYTES:
        raise ApiProblem(413, f"Request size {size / 2**20:.1f}MB exceeds the maximum supported size of 2MB")
    return b"".join(parts)


def _name_in(body: bytes) -> str:
    try:
        name = orjson.loads(body or b"{}").get("name", "")
    except (orjson.JSONDecodeError, AttributeError):
        return ""
    return name if isinstance(name, str) else ""


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")


def _refuse(request: Request, error: Exception) -> Response:
    problem = error if isinstance(error, ApiProblem) else ApiProblem(500, "internal error")
    return data_plane_answer(problem) if request.url.path.startswith("/_ix/") else control_plane_answer(problem)


def _no_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _refuse(request, ApiProblem(status, f"{request.method} {request.url.path[:200]} is not served here"))


def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


def _crash(request: Request, error: Exception) -> Response:
    log(logger, logging.ERROR, "request_failed", path=request.url.path, error=type(error).__name__)
    return _refuse(request, ApiProblem(500, "internal error; see the stand-in's log"))
