"""How much, how often and how slowly anybody may ask, and under which name."""

import contextlib
import http.client
import socket
from collections.abc import Iterator

import httpx
import pytest
from starlette.datastructures import Headers

from aviary.index import PineconeIndex
from frontend import connections, middleware
from frontend.limiting import BURST_SECONDS, Limiter, Limits, Rate
from frontend.origin import known_host, sender
from frontend.settings import FrontendSettings
from tests.services.frontend.conftest import settings
from tests.services.frontend.site import Server, Site, until

WRITES = [("POST", "/api/products"), ("PATCH", "/api/products/1"), ("POST", "/products"), ("PATCH", "/products/1"), ("POST", "/products/restore")]  # fmt: skip
CHUNK = b"x" * 65_536


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@contextlib.contextmanager
def serving(site: Site, **given: object) -> Iterator[Server]:
    """Another frontend over the same database and index, with settings of its own."""
    ours = site.server.services.settings
    server = Server(
        settings(ours.postgres_dsn.get_secret_value(), ours.index_host, **given),
        PineconeIndex("test-key", ours.index_host),
        lambda: site.embedder,
    )
    yield server
    server.stop()


# How often


def test_a_client_may_ask_in_a_burst_then_at_its_rate_and_again_after_a_rest() -> None:
    clock = Clock()
    limits = Limits(2, 0, clock)
    burst = round(2 * BURST_SECONDS)
    assert [limits.admit("a") for _ in range(burst)] == [0] * burst
    assert limits.admit("a") == pytest.approx(0.5)
    assert limits.admit("b") == 0, "each client has its own"
    clock.now += 0.5
    assert limits.admit("a") == 0
    assert limits.admit("a") > 0
    clock.now += 3600
    assert [limits.admit("a") for _ in range(burst)] == [0] * burst, "no more than a burst is saved up"
    assert limits.admit("a") > 0


def test_all_clients_together_have_a_limit_and_a_refused_one_takes_nothing_from_it() -> None:
    clock = Clock()
    limits = Limits(1, 3, clock)
    for _ in range(100):
        limits.admit("greedy")
    admitted = sum(limits.admit(f"client {n}") == 0 for n in range(100))
    assert admitted == round(3 * BURST_SECONDS) - round(1 * BURST_SECONDS)


def test_reads_do_not_use_up_writes_and_zero_is_no_limit() -> None:
    clock = Clock()
    limiter = Limiter(client_reads=1, client_writes=1, total_reads=0, total_writes=0, clock=clock)
    while not limiter.reads.admit("a"):
        pass
    assert limiter.writes.admit("a") == 0
    free = Limits(0, 0, clock)
    assert all(free.admit("a") == 0 for _ in range(10_000))


def test_a_slow_rate_still_lets_one_request_through() -> None:
    clock = Clock()
    limits = Limits(0.1, 0, clock)
    assert limits.admit("a") == 0
    assert limits.admit("a") == pytest.approx(10)


def test_the_memory_of_clients_is_bounded_and_forgets_who_asked_longest_ago() -> None:
    rate = Rate(0.1, max_names=100)
    for number in range(1_000):
        rate.take(f"client {number}", 0.0)
    assert len(rate) == 100
    assert rate.wait_seconds("client 999", 0.0) > 0
    assert rate.wait_seconds("client 0", 0.0) == 0


def test_who_asks_too_often_is_told_when_to_come_back_and_probes_are_always_answered(site: Site) -> None:
    with serving(site, client_reads_per_second=0.2, client_writes_per_second=0.2, trusted_proxies=1) as server:
        one, other = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
        assert server.client.get("/api/search", headers=one).status_code == 200
        refused = server.client.get("/api/products", headers=one)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 5
        assert refused.json()["error"]["code"] == "too_many_requests"
        assert refused.headers["Content-Security-Policy"]
        page = server.client.get("/", headers=one)
        assert (page.status_code, page.headers["Content-Type"]) == (429, "text/html; charset=utf-8")
        part = server.client.get("/results?q=a", headers=one | {"HX-Request": "true"})
        assert (part.status_code, part.headers["HX-Retarget"]) == (429, "#notice")
        created = server.client.post("/api/products", json={"name": "x"}, headers=one)
        assert created.status_code == 201, "a write after too many reads"
        assert server.client.delete("/api/products/1", headers=one).status_code == 429
        assert server.client.get("/api/search", headers=other).status_code == 200
        assert all(server.client.get(path, headers=one).status_code == 200 for path in ("/healthz", "/readyz") * 5)


# Who asks


@pytest.mark.parametrize(
    ("trusted", "forwarded", "client"),
    [
        (0, ["192.0.2.9"], "203.0.113.5"),
        (1, [], "203.0.113.5"),
        (1, ["192.0.2.9"], "192.0.2.9"),
        (1, ["198.51.100.1, 192.0.2.9"], "192.0.2.9"),
        (1, ["198.51.100.1", "192.0.2.9"], "192.0.2.9"),
        (2, ["198.51.100.1, 192.0.2.9, 10.0.0.7"], "192.0.2.9"),
        (3, ["192.0.2.9"], "192.0.2.9"),
        (1, ["192.0.2.9, nonsense"], "203.0.113.5"),
        (1, [""], "203.0.113.5"),
        (1, ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        (1, ["2001:db8:1:2::99"], "2001:db8:1:2::/64"),
        (1, ["::ffff:192.0.2.9"], "192.0.2.9"),
    ],
)
def test_the_client_is_who_the_last_trusted_proxy_was_asked_by(trusted: int, forwarded: list[str], client: str) -> None:
    headers = Headers(raw=[(b"x-forwarded-for", line.encode()) for line in forwarded])
    assert sender({"type": "http", "client": ("203.0.113.5", 4711)}, headers, trusted).client == client


def test_a_client_cannot_choose_whose_limit_it_uses(site: Site) -> None:
    with serving(site, client_reads_per_second=0.2) as server:
        answers = [
            server.client.get("/api/products", headers={"X-Forwarded-For": f"192.0.2.{n}"}).status_code
            for n in range(1, 4)
        ]
        assert answers == [200, 429, 429]


@pytest.mark.parametrize(
    ("trusted", "proto", "sent"), [(1, "https", True), (1, "http", False), (1, None, False), (0, "https", False)]
)
def test_browsers_are_told_to_stay_with_tls_where_they_came_by_it(
    site: Site, trusted: int, proto: str | None, *, sent: bool
) -> None:
    with serving(site, trusted_proxies=trusted) as server:
        for path in ("/", "/api/search", "/nowhere", "/static/x"):
            answer = server.client.get(path, headers={"X-Forwarded-Proto": proto} if proto else {})
            assert (answer.headers.get("Strict-Transport-Security") == "max-age=31536000") is sent


def test_nobody_is_given_a_cookie(site: Site) -> None:
    for path in ("/", "/results?q=a", "/status", "/docs", "/api/search", "/nowhere"):
        assert "Set-Cookie" not in site.client.get(path).headers


# Under which name


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("search.example.org", True),
        ("SEARCH.example.org:443", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("evil.example", False),
        ("search.example.org.evil.example", False),
        ("evil.example:search.example.org", False),
        ("", False),
    ],
)
def test_only_our_own_names_are_answered(host: str, *, known: bool) -> None:
    assert known_host(Headers({"host": host}), {"search.example.org", "[::1]"}) is known
    assert known_host(Headers({"host": host}), ())


def test_a_name_of_somebody_else_that_leads_here_reads_and_changes_nothing(site: Site) -> None:
    """To a browser that page is our own origin: Sec-Fetch-Site and Origin do not tell them apart."""
    product = site.insert("Lamp")
    rebound = {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}
    for method, path in (("GET", "/"), ("GET", "/api/products"), ("DELETE", f"/api/products/{product}")):
        assert site.client.request(method, path, headers=rebound).status_code == 421
    assert site.client.get("/api/products", headers=rebound).json()["error"]["code"] == "unknown_host"
    assert site.client.get("/healthz", headers=rebound).status_code == 200, "a load balancer probes by address"
    assert site.client.get(f"/api/products/{product}").status_code == 200


# Read-only


def test_a_site_that_is_read_only_shows_everything_and_changes_nothing(site: Site) -> None:
    product = site.insert("Lamp")
    site.index_rows()
    with serving(site, read_only=True) as server:
        for method, path in (*WRITES, ("DELETE", f"/api/products/{product}"), ("DELETE", f"/products/{product}")):
            answer = server.client.request(method, path.replace("/1", f"/{product}"), json={"name": "x"})
            assert answer.status_code == 403, (method, path)
        assert server.client.post("/api/products", json={"name": "x"}).json()["error"]["code"] == "read_only"
        page = server.client.get("/?q=lamp").text
        assert "Lamp" in page
        assert "New product" not in page
        assert "/edit" not in page
        assert server.client.get(f"/products/{product}").status_code == 200
    assert [row["name"] for row in site.database.execute("SELECT name FROM products")] == ["Lamp"]


@pytest.mark.parametrize(
    ("given", "shows_only", "hosts"),
    [
        ({"http_host": "0.0.0.0"}, True, set()),
        ({"http_host": "10.0.0.5"}, True, set()),
        ({"http_host": "0.0.0.0", "read_only": False, "allowed_hosts": ["A.example"]}, False, {"a.example"}),
        ({"http_host": "127.0.0.1"}, False, {"localhost", "127.0.0.1", "[::1]"}),
        ({"http_host": "localhost"}, False, {"localhost", "127.0.0.1", "[::1]"}),
        ({"http_host": "::1", "read_only": True}, True, {"localhost", "127.0.0.1", "[::1]"}),
    ],
)
def test_what_others_can_reach_is_read_only_unless_somebody_says_otherwise(
    given: dict[str, object], *, shows_only: bool, hosts: set[str]
) -> None:
    made: FrontendSettings = settings("postgresql://", "http://index", **given)
    assert made.shows_only is shows_only
    assert made.hosts == hosts


# How much


JSON, FORM, PARTS = "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"
FIELD = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n'


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [(m, p, JSON) for m, p in WRITES if p.startswith("/api")]
    + [(m, p, kind) for m, p in WRITES if not p.startswith("/api") for kind in (FORM, PARTS)],
)
def test_a_body_without_a_length_is_limited_too(site: Site, method: str, path: str, kind: str) -> None:
    product = site.insert("Lamp")

    def chunks() -> Iterator[bytes]:
        yield {PARTS: FIELD, FORM: b"name="}.get(kind, b"")
        yield from (CHUNK for _ in range(middleware.MAX_BODY_BYTES // len(CHUNK) + 1))

    answer = site.client.request(
        method, path.replace("/1", f"/{product}"), content=chunks(), headers={"Content-Type": kind}
    )
    assert answer.status_code == (413 if kind == JSON else 400), "a form's field may be a mebibyte"


def test_a_form_holds_no_files_and_no_more_fields_than_ours(site: Site) -> None:
    assert site.client.post("/products", files={"name": ("name.txt", "Lamp")}).status_code == 400
    assert site.client.post("/products", data={f"field{n}": "x" for n in range(50)}).status_code == 400
    assert site.database.execute("SELECT FROM products").fetchone() is None


@pytest.mark.parametrize("path", ["/", "/api/search", "/api/products/1", "/status", "/docs", "/healthz", "/static/x"])
def test_a_body_where_none_is_wanted_is_not_kept(site: Site, path: str) -> None:
    answer = site.client.request("GET", path, content=(CHUNK for _ in range(200)))
    assert answer.status_code < 500


@pytest.mark.parametrize(
    "head", [b"GET /?q=" + b"a" * 300_000 + b" HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * 300_000]
)
def test_a_head_that_grows_without_end_is_cut_off(site: Site, head: bytes) -> None:
    with _connection(site) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(head)
        assert connection.recv(65_536).startswith((b"HTTP/1.1 400", b"HTTP/1.1 431", b""))
        until(lambda: _is_closed(connection))


# How slowly


def test_a_head_that_does_not_come_to_its_end_costs_its_connection(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with _connection(site) as silent, _connection(site) as begun, _connection(site) as second:
        begun.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        second.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert second.recv(65_536).startswith(b"HTTP/1.1 200")
        second.sendall(b"GET /healthz HT")
        for connection in (silent, begun, second):
            assert connection.recv(65_536) in (b"", b'{"status":"ok"}')


def test_a_connection_that_rests_between_requests_is_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    with _connection(site) as resting, _connection(site) as silent:
        assert _asked(resting) == 200
        assert silent.recv(1) == b"", "longer than the limit has passed"
        assert _asked(resting) == 200


def _asked(line: socket.socket) -> int:
    """The status of one request on a connection, whose answer may come in any number of pieces."""
    line.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    answer = http.client.HTTPResponse(line)
    answer.begin()
    answer.read()
    return answer.status


def test_the_rest_of_a_body_that_was_refused_is_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    answer = _answer_to_half_a_body(site, "Origin: http://evil.example")
    assert answer.startswith(b"HTTP/1.1 403")


def test_a_body_that_trickles_is_answered_and_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.2)
    answer = _answer_to_half_a_body(site, "Content-Type: application/json")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"too_slow" in answer


def _answer_to_half_a_body(site: Site, header: str) -> bytes:
    """All that comes until the server closes the connection."""
    head = f"POST /api/products HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\nContent-Length: 100\r\n\r\n"
    with _connection(site) as connection:
        connection.sendall(head.encode() + b'{"name": ')
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


@contextlib.contextmanager
def _connection(site: Site) -> Iterator[socket.socket]:
    url = httpx.URL(site.server.url)
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        yield connection


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(65_536) == b""
    except ConnectionError:
        return True
