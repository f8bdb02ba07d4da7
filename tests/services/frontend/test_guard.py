"""What holds for every request: headers, origin, ids, logs."""

import json
import logging
from collections.abc import Iterator

import httpx
import pytest

from tests.services.frontend.site import LogLines, Site

EVERYWHERE = ["/", "/results?q=a", "/status", "/docs", "/api/search?q=a", "/api/products/1", "/healthz", "/nowhere", "/static/x/no.css"]  # fmt: skip


@pytest.fixture
def logged() -> Iterator[LogLines]:
    lines = LogLines()
    root = logging.getLogger()
    level = root.level
    root.addHandler(lines)
    root.setLevel(logging.INFO)
    yield lines
    root.removeHandler(lines)
    root.setLevel(level)


@pytest.mark.parametrize("path", EVERYWHERE)
def test_every_answer_forbids_what_a_page_of_ours_never_needs(site: Site, path: str) -> None:
    headers = site.client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert "Server" not in headers or "uvicorn" in headers["Server"]
    assert headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "OWN"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "OWN"}, False),
    ],
)
def test_only_our_own_pages_may_change_something(site: Site, headers: dict[str, str], *, allowed: bool) -> None:
    product = site.insert("Lamp")
    given = {name: site.server.url if value == "OWN" else value for name, value in headers.items()}
    for method, path in (
        ("POST", "/api/products"),
        ("POST", "/products"),
        ("PATCH", f"/api/products/{product}"),
        ("DELETE", f"/products/{product}"),
    ):
        answer = site.client.request(method, path, json={"name": "x"}, headers=given)
        assert (answer.status_code != 403) is allowed, (method, path, answer.text)
    names = {row["name"] for row in site.database.execute("SELECT name FROM products").fetchall()}
    assert allowed or names == {"Lamp"}
    assert site.client.get("/api/search?q=a", headers=given).status_code == 200, "reading is open"


def test_a_request_keeps_the_id_it_came_with_unless_that_could_do_harm(site: Site) -> None:
    trace = "Root=1-67891233-abcdef012345678912345678"
    assert site.client.get("/healthz", headers={"X-Request-Id": "abc-12345"}).headers["X-Request-Id"] == "abc-12345"
    assert site.client.get("/healthz", headers={"X-Amzn-Trace-Id": trace}).headers["X-Request-Id"] == trace
    for harmful in ("short", 'quo"te-quo"te', "x" * 200):
        assert site.client.get("/healthz", headers={"X-Request-Id": harmful}).headers["X-Request-Id"] != harmful


def test_a_request_is_one_log_line_without_query_text_key_or_row(site: Site, logged: LogLines) -> None:
    product = site.insert("Zanzibar", "secret-description")
    site.index_rows()
    site.client.get("/api/search", params={"q": "Zanzibar whisper", "wait_for": "4711471147114711"})
    site.client.get(f"/api/products/{product}", headers={"X-Request-Id": "find-this-one"})
    site.client.patch(f"/api/products/{product}", json={"name": "Zanzibar\0"})
    site.client.get("/healthz")
    requests = [fields for fields in logged.fields if fields["event"] == "request"]
    assert [(r["method"], r["route"], r["status"]) for r in requests] == [
        ("GET", "/api/search", 200),
        ("GET", "/api/products/{id}", 200),
        ("PATCH", "/api/products/{id}", 422),
    ]
    assert requests[1]["request_id"] == "find-this-one"
    whole = "\n".join(logged.lines)
    for private in ("Zanzibar", "whisper", "secret", "4711", f"/products/{product}"):
        assert private not in whole
    assert all(len(line) < 1_000 for line in logged.lines)
    assert all(json.loads(line)["service"] == "frontend" for line in logged.lines)


def test_a_failure_of_ours_is_a_plain_answer_and_a_log_line_without_its_text(
    site: Site, logged: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("row contents in a message")

    monkeypatch.setattr(site.server.services.products, "get", fail)
    answer = site.client.get("/api/products/5")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "row contents" not in answer.text + "\n".join(logged.lines)
    failed = [line for line in logged.lines if "request_failed" in line]
    assert answer.json()["request_id"] in failed[0]
    assert "RuntimeError" in failed[0]


def test_a_long_text_is_compressed(site: Site) -> None:
    with httpx.Client(base_url=site.server.url) as client:
        assert client.get("/", headers={"Accept-Encoding": "gzip"}).headers["Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in client.get("/", headers={"Accept-Encoding": "identity"}).headers


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("PUT", "/api/search", 405)])
def test_errors_of_the_api_are_json_in_one_shape(site: Site, method: str, path: str, status: int) -> None:
    answer = site.client.request(method, path.replace("/nowhere", "/api/nowhere"))
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "request_id"}
    assert set(answer.json()["error"]) == {"code", "message", "fields"}
