"""What every request passes: an id, who may ask how often and from where, limits, security headers, one log line."""

import asyncio
import logging
import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aviary.logs import log
from frontend.limiting import Limiter
from frontend.origin import Sender, known_host, same_origin, sender
from frontend.problems import ProblemError
from frontend.settings import FrontendSettings

logger = logging.getLogger(__name__)

# A description of a million characters, however it is escaped, and no more.
MAX_BODY_BYTES = 8 * 1024 * 1024
# A larger body is still read to its end, and thrown away, so that its sender gets to read the refusal.
DRAINED_BODY_BYTES = 64 * 1024 * 1024
# The whole of a body; 8 MiB at 2 Mbit/s.
BODY_SECONDS = 30.0
# An id that comes from outside goes into logs and headers: only what is harmless there.
REQUEST_ID = re.compile(r"[A-Za-z0-9._=;:-]{8,128}")
UNSAFE_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
PROBES = frozenset({"/healthz", "/readyz"})
# Everything comes from this host; no inline script or style, so that text from a row can never run.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# A year. Over plain HTTP it would mean nothing, and a browser ignores it.
HSTS = {"Strict-Transport-Security": "max-age=31536000"}
# Rows change under their addresses; assets say otherwise themselves.
UNSTORED = {"Cache-Control": "no-store"}


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


# As they travel: a request should not encode them again.
PLAIN_HEADERS = _raw(SECURITY_HEADERS | UNSTORED)
ENCRYPTED_HEADERS = _raw(SECURITY_HEADERS | HSTS | UNSTORED)

Refuse = Callable[[Request, ProblemError], Awaitable[Response]]


class Guard:
    """Pure ASGI, because a request should pay microseconds for it. `refuse` makes a refusal's answer."""

    def __init__(self, app: ASGIApp, settings: FrontendSettings, refuse: Refuse) -> None:
        self._app = app
        self._settings = settings
        self._refuse = refuse
        self._limiter = Limiter(
            client_reads=settings.client_reads_per_second,
            client_writes=settings.client_writes_per_second,
            total_reads=settings.total_reads_per_second,
            total_writes=settings.total_writes_per_second,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        asked_by = sender(scope, headers, self._settings.trusted_proxies)
        if asked_by.encrypted:
            scope["scheme"] = "https"
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = [*message["headers"], (b"x-request-id", request_id.encode())]
                names = {name for name, _ in given}
                added = ENCRYPTED_HEADERS if asked_by.encrypted else PLAIN_HEADERS
                message["headers"] = given + [header for header in added if header[0] not in names]
            await send(message)

        async def refuse(problem: ProblemError) -> None:
            response = await self._refuse(Request(scope), problem)
            await response(scope, receive, answer)

        try:
            problem = None if scope["path"] in PROBES else self._objection(scope["method"], headers, asked_by)
            if problem:
                await refuse(problem)
            else:
                await self._app(scope, _limited(receive), answer)
        except Exception:
            # The traceback's text may quote a row: the log gets the error's type and place only.
            logger.exception("request_failed", extra={"fields": {"request_id": request_id}})
            if status:
                raise
            message = "something went wrong here; the request id finds it in the log"
            await refuse(ProblemError(500, "internal", message))
        finally:
            if scope["path"] not in PROBES or status >= 400:
                route = scope.get("route")
                log(
                    logger,
                    logging.INFO,
                    "request",
                    method=scope["method"],
                    # The pattern, not the path: a path holds keys.
                    route=getattr(route, "path", None),
                    status=status,
                    ms=round((time.perf_counter() - began) * 1000, 1),
                    request_id=request_id,
                )

    def _objection(self, method: str, headers: Headers, asked_by: Sender) -> ProblemError | None:
        """What speaks against even looking at the request."""
        if not known_host(headers, self._settings.hosts):
            return ProblemError(
                421,
                "unknown_host",
                "this server does not answer under that name; AVIARY_ALLOWED_HOSTS lists those it does",
            )
        writes = method in UNSAFE_METHODS
        if wait := (self._limiter.writes if writes else self._limiter.reads).admit(asked_by.client):
            seconds = math.ceil(wait)
            message = f"too many requests; come back in {seconds} s"
            return ProblemError(429, "too_many_requests", message, headers={"Retry-After": str(seconds)})
        if writes and self._settings.shows_only:
            return ProblemError(403, "read_only", "this site shows rows and changes none (AVIARY_READ_ONLY)")
        if writes and not same_origin(headers):
            message = "a change must come from this site's own pages (or from a client that is no browser)"
            return ProblemError(403, "cross_origin", message)
        return None


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id") or headers.get("x-amzn-trace-id") or ""
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _limited(receive: Receive) -> Receive:
    """`receive` that raises HTTPException 413 once the body is larger than it may be, and 408 when it does not come to
    its end in time."""
    size = 0
    whole = False
    ends_at: float | None = None

    async def part() -> Message:
        nonlocal size, whole, ends_at
        if whole:
            return await receive()
        ends_at = ends_at or asyncio.get_running_loop().time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(ends_at):
                message = await receive()
        except TimeoutError:
            raise HTTPException(status_code=408, headers={"Connection": "close"}) from None
        size += len(message.get("body", b""))
        whole = not message.get("more_body")
        return message

    async def limited() -> Message:
        message = await part()
        if size <= MAX_BODY_BYTES:
            return message
        while not whole and size <= DRAINED_BODY_BYTES:
            await part()
        raise HTTPException(status_code=413)

    return limited
