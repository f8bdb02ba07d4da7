"""What every request passes: an id, the same-origin rule, security headers, one log line."""

import json
import logging
import re
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aviary.logs import log

logger = logging.getLogger(__name__)

# An id that comes from outside goes into logs and headers: only what is harmless there.
# A description of a million characters, however it is escaped, and no more.
MAX_BODY_BYTES = 8 * 1024 * 1024
# A larger body is still read to its end, and thrown away, so that its sender gets to read the refusal.
DRAINED_BODY_BYTES = 64 * 1024 * 1024
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


class Guard:
    """Pure ASGI, because a request should pay microseconds for it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["X-Request-Id"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    out.setdefault(name, value)
                # Rows change under their addresses; assets say otherwise themselves.
                out.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            if scope["method"] in UNSAFE_METHODS and not same_origin(headers):
                message = "a change must come from this site's own pages (or from a client that is no browser)"
                await _refuse(answer, 403, "cross_origin", message, request_id)
            else:
                await self._app(scope, _limited(receive), answer)
        except Exception:
            # The traceback's text may quote a row: the log gets the error's type and place only.
            logger.exception("request_failed", extra={"fields": {"request_id": request_id}})
            if status:
                raise
            message = "something went wrong here; the request id finds it in the log"
            await _refuse(answer, 500, "internal", message, request_id)
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


def same_origin(headers: Headers) -> bool:
    """Whether a request that changes something may: it comes from our own pages, or from no browser at all.

    Every browser of today sends Sec-Fetch-Site, older ones send Origin with a POST; a program sends neither.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    # Only the host: behind a load balancer the scheme differs.
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id") or headers.get("x-amzn-trace-id") or ""
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _limited(receive: Receive) -> Receive:
    """`receive` that raises HTTPException 413 once the body is larger than it may be."""
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size <= MAX_BODY_BYTES:
            return message
        while message.get("more_body") and size <= DRAINED_BODY_BYTES:
            message = await receive()
            size += len(message.get("body", b""))
        raise HTTPException(status_code=413)

    return limited


async def _refuse(send: Send, status: int, code: str, message: str, request_id: str) -> None:
    body = {"error": {"code": code, "message": message, "fields": []}, "request_id": request_id}
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
