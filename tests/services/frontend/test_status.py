"""The status page and its data."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.index import PineconeIndex
from frontend.arrival import Measurement
from frontend.sparkline import HEIGHT, MARGIN, WIDTH, points
from frontend.status import SourceStatus, Totals, judge, summary
from tests.conftest import Queues
from tests.services.frontend.conftest import settings
from tests.services.frontend.html import Page
from tests.services.frontend.site import Server, Site, WordEmbedder, until


@pytest.fixture
def queued(site: Site, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A second server over the same rows, which knows its queues."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", queues.endpoint)
    given = site.server.services.settings
    with_queues = settings(
        given.postgres_dsn.get_secret_value(), given.index_host, queue_url=queues.queue_url, dlq_url=queues.dlq_url
    )
    server = Server(with_queues, PineconeIndex("test-key", given.index_host), WordEmbedder)
    yield server
    server.stop()


def status(server: Server, **wanted: int) -> dict[str, Any]:
    """The first sample whose `totals` have all that is `wanted`. A sample is as old as a second, and its rows are
    counted at another moment than its outbox: name everything that the test itself has just changed."""
    found: dict[str, Any] = {}

    def has_it_all() -> bool:
        found.update(server.client.get("/api/status").json())
        return all(found["totals"][name] == value for name, value in wanted.items())

    until(has_it_all)
    return found


def send(queues: Queues, url: str, body: str) -> None:
    queues.client.send_message(QueueUrl=url, MessageBody=body, MessageGroupId="1-0", MessageDeduplicationId=body)


def test_status_counts_rows_vectors_outbox_and_queues(site: Site, queued: Server, queues: Queues) -> None:
    for name, description in (("a", "b"), ("", "  \n"), (" ", None), ("c", None)):
        site.insert(name, description)
    found = status(queued, rows=4, without_text=2, vectors=0, outbox=4)
    assert found["state"] == "catching_up"
    assert found["totals"]["oldest_pending_ms"] >= 0
    assert found["sources"][0]["table"] == "public.products"

    site.database.execute("DELETE FROM sync.outbox")
    send(queues, queues.queue_url, "one")
    assert status(queued, outbox=0, queue=1)["state"] == "catching_up"
    queues.client.purge_queue(QueueUrl=queues.queue_url)
    site.index_rows()
    found = status(queued, queue=0, vectors=2)
    assert (found["state"], found["troubles"]) == ("in_step", [])

    send(queues, queues.dlq_url, "poison")
    assert status(queued, dead_letters=1)["state"] == "attention"


def test_a_missing_vector_with_nothing_on_its_way_is_not_in_step(site: Site) -> None:
    site.insert("a")
    site.database.execute("DELETE FROM sync.outbox")
    assert status(site.server, rows=1, outbox=0)["state"] == "catching_up"


def test_without_a_queue_to_ask_the_rest_is_still_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9")
    given = site.server.services.settings
    far = settings(given.postgres_dsn.get_secret_value(), given.index_host, queue_url="http://127.0.0.1:9/q.fifo")
    server = Server(far, PineconeIndex("test-key", given.index_host), WordEmbedder)
    try:
        site.insert("a")
        found = status(server, rows=1)
        assert found["totals"]["queue"] is None
        assert "queue: its depth cannot be read" in found["troubles"][0]
        assert server.client.get("/status").status_code == 200
        assert server.client.get("/readyz").status_code == 200, "searching does not need the queue"
    finally:
        server.stop()
    unset = site.client.get("/api/status").json()
    assert "AVIARY_QUEUE_URL is not set" in unset["troubles"][0]


def test_the_page_shows_the_numbers_and_renews_itself(site: Site) -> None:
    for number in range(3):
        site.insert(f"thing {number}")
    status(site.server, rows=3, outbox=3)
    page = Page(site.client.get("/status"))
    assert page.texts("h2") == ["Catching up"]
    assert page.all("div", id="panel")[0].attributes["hx-trigger"] == "every 2s"
    assert page.texts("b")[:2] == ["3", "3"]
    assert page.texts("td")[:2] == ["public.products", "3"]
    part = site.client.get("/status/panel")
    assert "<html" not in part.text
    assert Page(part).texts("h2") == ["Catching up"]


def test_pictures_are_drawn_once_there_is_a_past(site: Site) -> None:
    board = site.server.services.board
    until(lambda: site.client.get("/api/status").is_success and len(board.history) > 2)
    lines = Page(site.client.get("/status/panel")).all("polyline", points="")
    assert len(lines) >= 3


def source(**changes: Any) -> SourceStatus:
    plain: dict[str, Any] = {
        "name": "a",
        "table": "public.a",
        "rows": 5,
        "without_text": 1,
        "estimated": False,
        "vectors": 4,
        "long_texts": False,
        "pending": 0,
        "backfill": 0,
        "oldest_pending_ms": None,
    }
    return SourceStatus(**plain | changes)


def totals(**changes: Any) -> Totals:
    plain: dict[str, Any] = {
        "rows": 5,
        "without_text": 1,
        "vectors": 4,
        "outbox": 0,
        "queue": 0,
        "dead_letters": 0,
        "oldest_pending_ms": None,
    }
    return Totals(**plain | changes)


@pytest.mark.parametrize(
    ("sources", "sums", "state"),
    [
        ([source()], totals(), "in_step"),
        ([source()], totals(queue=None, dead_letters=None), "in_step"),
        ([source(vectors=3)], totals(), "catching_up"),
        ([source(vectors=3, estimated=True)], totals(), "in_step"),
        ([source(vectors=5)], totals(), "catching_up"),
        ([source(vectors=9, long_texts=True)], totals(), "in_step"),
        ([source(vectors=3, long_texts=True)], totals(), "catching_up"),
        ([source(vectors=2, rows=1, long_texts=True)], totals(), "catching_up"),
        ([source()], totals(outbox=1), "catching_up"),
        ([source()], totals(queue=1), "catching_up"),
        ([source()], totals(dead_letters=1), "attention"),
        ([source(vectors=None)], totals(), "unknown"),
        ([source(rows=None)], totals(), "unknown"),
        ([], totals(), "unknown"),
    ],
)
def test_the_state_in_one_word(sources: list[SourceStatus], sums: Totals, state: str) -> None:
    assert judge(sources, sums) == state


def test_the_measurements_are_summed_up_by_their_median() -> None:
    now = datetime.now(UTC).timestamp()
    found = summary([Measurement(now, float(ms)) for ms in (500, 100, 300)])
    assert (found.last_ms, found.p50_ms, found.measured) == (300, 300, 3)
    assert summary([]).last_ms is None


NUMBERS = st.none() | st.floats(min_value=0, max_value=1e12)


@given(st.lists(NUMBERS, max_size=30))
def test_a_picture_stays_in_its_frame_and_runs_from_left_to_right(values: list[float | None]) -> None:
    drawn = [tuple(map(float, pair.split(","))) for pair in points(values).split()]
    known = [value for value in values if value is not None]
    assert len(drawn) == (len(known) if len(known) > 1 else 0)
    assert all(MARGIN <= x <= WIDTH - MARGIN and MARGIN <= y <= HEIGHT - MARGIN for x, y in drawn)
    assert [x for x, _ in drawn] == sorted(x for x, _ in drawn)
    if drawn and max(known) > min(known):
        heights = {value: y for value, (_, y) in zip(known, drawn, strict=True)}
        assert heights[max(known)] == MARGIN
        assert heights[min(known)] == HEIGHT - MARGIN
