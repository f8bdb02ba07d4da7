"""How uvicorn serves us, and HTTP connections that do not wait for ever."""

import asyncio
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from frontend.settings import FrontendSettings

# The page itself says what is wrong with a query that is too long, so its request line must get through.
MAX_HEAD_BYTES = 256 * 1024
# Below the 1,024 files that a process may have open unless somebody raised it.
MAX_CONNECTIONS = 900
# Longer than a load balancer's 60 s, so that it never sends a request into a connection that is just closing.
KEEP_ALIVE_SECONDS = 75
# From the first byte of a request, or from the connection's beginning, to the end of the head; and from an answer that
# did not need the whole body to the body's end.
HEAD_SECONDS = 10.0


def server_config(app: FastAPI, settings: FrontendSettings) -> uvicorn.Config:
    """Where and how to serve `app`."""
    return uvicorn.Config(
        app,
        host=settings.http_host,
        port=settings.http_port,
        http=ImpatientProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Whom X-Forwarded-For is believed, AVIARY_TRUSTED_PROXIES says.
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.drain_seconds,
    )


class ImpatientProtocol(H11Protocol):
    """Closes a connection that keeps us waiting: for a head that was to come or has begun, and for the rest of a body
    that is not wanted any more. uvicorn has a limit only for connections that rest between requests."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_if(wanted=True)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_if(wanted=self.conn.their_state is h11.IDLE or self._is_answered_early())

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_if(wanted=self._is_answered_early())

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_if(wanted=False)
        super().connection_lost(exc)

    def _is_answered_early(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete

    def _wait_if(self, *, wanted: bool) -> None:
        """Begin to wait, go on waiting, or stop."""
        if wanted and self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECONDS, self.transport.close)
        elif not wanted and self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
