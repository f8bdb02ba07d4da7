"""Liveness and readiness over HTTP for the services that have no web server of their own.

`/healthz`: 200 while the process turns over its work, 503 once `alive` says no (the orchestrator restarts it).
`/readyz`: 200 with each dependency named, 503 when one is not reachable. `/stats`: counters, for people and tests.
"""

import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import orjson

PROBE_TIMEOUT_SECONDS = 4


class HealthServer:
    """Serves the three paths on a daemon thread; use as a context manager. `port` is the real one, also for 0."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        alive: Callable[[], bool],
        ready: Callable[[], Mapping[str, str]],
        stats: Callable[[], Mapping[str, object]],
    ) -> None:
        """`ready` maps each dependency to "ok" or to one sentence that says what is wrong."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status = 404
                body: Mapping[str, object] = {"error": "only /healthz, /readyz and /stats are here"}
                match self.path:
                    case "/healthz":
                        up = alive()
                        status, body = (200, {"status": "ok"}) if up else (503, {"status": "stuck"})
                    case "/readyz":
                        checks = dict(ready())
                        status, body = 200 if all(v == "ok" for v in checks.values()) else 503, checks
                    case "/stats":
                        status, body = 200, dict(stats())
                payload = orjson.dumps(body, default=str)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: object) -> None:
                """Health checks come every few seconds: not logged."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def probe(url: str) -> bool:
    """Whether `url` answers 200 within 4 s. The images' health check: `python -m aviary.health URL`."""
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_SECONDS) as answer:  # noqa: S310 - the image names it
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(0 if probe(sys.argv[1]) else 1)
