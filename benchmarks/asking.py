"""Searches over HTTP: at a steady rate whatever the answers take (an open loop), or as fast as they come."""

import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

THREADS = 32


class Asked(NamedTuple):
    """One search. Milliseconds: `waited_ms` from when it was due until its answer was read, the others as the server
    says."""

    waited_ms: float
    embed_ms: float
    index_ms: float
    rows_ms: float
    request_id: str


class Asker:
    """Keeps a connection for each thread. `port` on loopback."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._local = threading.local()

    def ask(self, query: str, due: float, **parameters: str) -> Asked:
        """Search now; `due` (time.perf_counter()) is when it should have been asked."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        connection.request("GET", "/api/search?" + urllib.parse.urlencode({"q": query, "limit": "10", **parameters}))
        answer = connection.getresponse()
        body = answer.read()
        waited = (time.perf_counter() - due) * 1000
        if answer.status != http.client.OK:
            raise SystemExit(f"a search was answered with {answer.status}: {body[:200]!r}")
        timing: dict[str, Any] = json.loads(body)["timing"]
        return Asked(waited, timing["embed_ms"], timing["index_ms"], timing["rows_ms"], answer.headers["X-Request-Id"])


def open_loop(port: int, queries: Sequence[str], per_second: float) -> list[Asked]:
    """Each query once, one every 1/per_second s: who waits for a thread has waited too."""
    asker = Asker(port)
    with ThreadPoolExecutor(THREADS) as pool:
        began = time.perf_counter() + 0.1
        waiting = []
        for number, query in enumerate(queries):
            due = began + number / per_second
            time.sleep(max(0.0, due - time.perf_counter()))
            waiting.append(pool.submit(asker.ask, query, due))
        return [each.result() for each in waiting]


def one_by_one(port: int, queries: Sequence[str]) -> list[Asked]:
    """Each query once, as soon as the one before is answered."""
    asker = Asker(port)
    return [asker.ask(query, time.perf_counter()) for query in queries]


def closed_loop(port: int, queries: Sequence[str], askers: int) -> float:
    """Queries a second when `askers` ask one after another."""
    asker = Asker(port)
    with ThreadPoolExecutor(askers) as pool:
        began = time.perf_counter()
        done = list(pool.map(lambda query: asker.ask(query, time.perf_counter()), queries))
        return len(done) / (time.perf_counter() - began)
