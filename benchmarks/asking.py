"""Searches over HTTP: at a steady rate whatever the answers take (an open loop), or as fast as they come."""

import http.client
import io
import json
import re
import select
import socket
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

# A search that has no answer by then is an error.
LONGEST_SECONDS = 30.0
HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


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

    def ask(self, query: str) -> Asked:
        """Search now."""
        began = time.perf_counter()
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=LONGEST_SECONDS
            )
        connection.request("GET", _path(query))
        answer = connection.getresponse()
        body = answer.read()
        return _asked(answer, body, (time.perf_counter() - began) * 1000)


def _path(query: str) -> str:
    return "/api/search?" + urllib.parse.urlencode({"q": query, "limit": "10"})


def _asked(answer: http.client.HTTPResponse, body: bytes, waited_ms: float) -> Asked:
    if answer.status != http.client.OK:
        raise SystemExit(f"a search was answered with {answer.status}: {body[:200]!r}")
    timing: dict[str, Any] = json.loads(body)["timing"]
    return Asked(waited_ms, timing["embed_ms"], timing["index_ms"], timing["rows_ms"], answer.headers["X-Request-Id"])


class Exchange:
    """A search on a connection that nobody else uses, and what has come of its answer. `due` is a time of
    time.perf_counter()."""

    def __init__(self, connection: socket.socket, query: str, due: float) -> None:
        self.connection = connection
        self._due = due
        self._waited_ms = 0.0
        self._came = b""
        connection.sendall(f"GET {_path(query)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def fileno(self) -> int:
        return self.connection.fileno()

    def read(self) -> bool:
        """Take what is there; whether the answer has come to its end."""
        came = self.connection.recv(1 << 20)
        if not came:
            raise SystemExit("a search's connection was closed before its answer had come")
        self._came += came
        head, _, body = self._came.partition(HEAD_END)
        length = LENGTH.search(head + HEAD_END)
        whole = length is not None and len(body) >= int(length[1])
        if whole:
            self._waited_ms = (time.perf_counter() - self._due) * 1000
        return whole

    def asked(self) -> Asked:
        """What the answer says, read when no other is waited for: reading it must not make another late."""
        answer = http.client.HTTPResponse(cast("socket.socket", _Came(self._came)))
        answer.begin()
        return _asked(answer, answer.read(), self._waited_ms)


class _Came(NamedTuple):
    """Bytes that came, as `http.client` reads them."""

    content: bytes

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self.content)


def open_loop(port: int, queries: Sequence[str], per_second: float) -> list[Asked]:
    """Each query once, one every 1/per_second s, whatever the answers take; in the queries' order.

    By one thread, which does nothing between a question and its answer but wait: what a client does besides is no part of
    how long a search takes, and on the cores of the one who answers it would be."""
    began = time.perf_counter() + 0.1
    to_ask = deque((began + number / per_second, query) for number, query in enumerate(queries))
    free: list[socket.socket] = []
    waiting: set[Exchange] = set()
    exchanges: list[Exchange] = []
    try:
        while to_ask or waiting:
            left = max(0.0, to_ask[0][0] - time.perf_counter()) if to_ask else LONGEST_SECONDS
            readable = select.select(waiting, [], [], left)[0]
            for exchange in readable:
                if exchange.read():
                    waiting.remove(exchange)
                    free.append(exchange.connection)
            if to_ask and time.perf_counter() >= to_ask[0][0]:
                due, query = to_ask.popleft()
                connection = free.pop() if free else socket.create_connection(("127.0.0.1", port), LONGEST_SECONDS)
                exchanges.append(Exchange(connection, query, due))
                waiting.add(exchanges[-1])
            elif not to_ask and not readable:
                raise SystemExit(f"{len(waiting)} searches had no answer after {LONGEST_SECONDS:.0f} s")
    finally:
        for connection in (*free, *(exchange.connection for exchange in waiting)):
            connection.close()
    return [exchange.asked() for exchange in exchanges]


def one_by_one(port: int, queries: Sequence[str]) -> list[Asked]:
    """Each query once, as soon as the one before is answered."""
    asker = Asker(port)
    return [asker.ask(query) for query in queries]


def closed_loop(port: int, queries: Sequence[str], askers: int) -> float:
    """Queries a second when `askers` ask one after another."""
    asker = Asker(port)
    with ThreadPoolExecutor(askers) as pool:
        began = time.perf_counter()
        done = list(pool.map(asker.ask, queries))
        return len(done) / (time.perf_counter() - began)
