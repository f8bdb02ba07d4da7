"""The benchmark's searches are asked when they are due, and answers are read whole, however late and in however many pieces."""

import json
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from benchmarks.asking import open_loop

QUERIES = ["first", "second", "third"]
PER_SECOND = 200
TIMING = {"embed_ms": 1.0, "index_ms": 2.0, "rows_ms": 3.0}


class Site(ThreadingHTTPServer):
    """Answers searches with what `answer` makes of the query, once that returns. Requests wait for each other for 10 s."""

    daemon_threads = True
    answer: Callable[[str], tuple[HTTPStatus, bytes]] = staticmethod(lambda query: (HTTPStatus.OK, _found(query)))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        (query,) = parse_qs(urlsplit(self.path).query)["q"]
        status, body = self.server.answer(query)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Request-Id", query)
        self.end_headers()
        for start in range(0, len(body), 50_000):
            self.wfile.write(body[start : start + 50_000])
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Not into the test's output."""


def _found(query: str, size: int = 10) -> bytes:
    return json.dumps({"query": query, "results": "x" * size, "timing": TIMING}).encode()


@pytest.fixture
def site() -> Iterator[Site]:
    with Site(("127.0.0.1", 0), Handler) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        site.shutdown()
        thread.join()


def test_what_is_due_is_asked_though_nothing_was_answered_yet_and_waits_from_when_it_was_due(site: Site) -> None:
    all_here = threading.Barrier(len(QUERIES))

    def answer(query: str) -> tuple[HTTPStatus, bytes]:
        all_here.wait(10)
        return HTTPStatus.OK, _found(query)

    site.answer = answer
    asked = open_loop(site.server_port, QUERIES, PER_SECOND)
    assert [each.request_id for each in asked] == QUERIES
    # The first can be answered only when the last was due.
    assert asked[0].waited_ms >= 1_000 * (len(QUERIES) - 1) / PER_SECOND


def test_an_answer_in_many_pieces_is_read_whole(site: Site) -> None:
    site.answer = lambda query: (HTTPStatus.OK, _found(query, 2_000_000))
    asked = open_loop(site.server_port, QUERIES, PER_SECOND)
    assert [(each.embed_ms, each.index_ms, each.rows_ms) for each in asked] == [(1.0, 2.0, 3.0)] * len(QUERIES)


def test_a_search_that_is_refused_ends_the_measurement_and_says_why(site: Site) -> None:
    site.answer = lambda _: (HTTPStatus.SERVICE_UNAVAILABLE, b"the model is loading")
    with pytest.raises(SystemExit, match="answered with 503: b'the model is loading'"):
        open_loop(site.server_port, QUERIES, PER_SECOND)
