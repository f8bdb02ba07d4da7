"""When an edit has arrived in the index: learned by looking at what queries see."""

import threading
import time
from typing import Any

import pytest

from aviary.index import Match
from aviary.source import Document
from frontend.api import duration
from frontend.arrival import matches
from tests.services.frontend.site import Site, until


def indexed(site: Site, product: int, **parameters: Any) -> dict[str, Any]:
    answer = site.client.get(f"/api/products/{product}/indexed", params=parameters)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_new_row_is_searchable_once_the_index_shows_it(site: Site) -> None:
    created = site.client.post("/api/products", json={"name": "Kettle", "price": 20}).json()
    before = site.client.get(created["sync"]["watch"]).json()
    assert (before["settled"], before["searchable"], before["elapsed_ms"]) == (False, False, None)
    site.index_rows()
    after = site.client.get(created["sync"]["watch"]).json()
    assert (after["settled"], after["searchable"]) == (True, True)
    assert 0 <= after["elapsed_ms"] < 60_000
    assert after["message"] == f"searchable after {duration(after['elapsed_ms'])}"


def test_a_change_of_the_metadata_alone_is_waited_for_too(site: Site) -> None:
    product = site.insert("Kettle", price="20", category="Kitchen")
    site.index_rows()
    assert indexed(site, product)["settled"]
    for change in ({"price": 21}, {"category": "Garden"}, {"price": None}, {"sku": "K-9"}):
        site.client.patch(f"/api/products/{product}", json=change)
        assert not indexed(site, product)["settled"], change
        site.index_rows()
        assert indexed(site, product)["settled"], change


def test_a_row_whose_text_went_blank_settles_when_its_vector_is_gone(site: Site) -> None:
    product = site.insert("Kettle", "boils")
    site.index_rows()
    site.client.patch(f"/api/products/{product}", json={"name": "", "description": "  "})
    found = indexed(site, product)
    assert (found["row"], found["settled"], found["message"]) == (
        "blank",
        False,
        "no text: not gone from the index yet",
    )
    site.index_rows()
    found = indexed(site, product)
    assert (found["settled"], found["searchable"]) == (True, False)
    assert found["message"] == "not searchable: no text"


def test_a_deleted_row_settles_when_its_vector_is_gone(site: Site) -> None:
    product = site.insert("Kettle")
    site.index_rows()
    watch = site.client.delete(f"/api/products/{product}").json()["sync"]["watch"]
    assert not site.client.get(watch).json()["settled"]
    site.index_rows()
    found = site.client.get(watch).json()
    assert (found["row"], found["settled"], found["searchable"]) == ("absent", True, False)
    assert found["message"].startswith("gone from the index after ")


def test_a_long_poll_answers_as_soon_as_the_row_is_there(site: Site) -> None:
    product = site.insert("Kettle")
    answers: list[tuple[dict[str, Any], float]] = []
    looks = site.server.services.watcher.looks

    def wait() -> None:
        answer = indexed(site, product, wait_ms=20_000, since=round(time.time() * 1000))
        answers.append((answer, time.monotonic()))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    until(lambda: site.server.services.watcher.looks >= looks + 3)
    assert not answers, "nothing to answer yet"
    site.index_rows()
    written = time.monotonic()
    waiting.join(20)
    answer, answered = answers[0]
    assert answer["searchable"]
    assert answered - written < 2
    assert answer["elapsed_ms"] > 0


def test_a_long_poll_ends_at_its_bound(site: Site) -> None:
    product = site.insert("Kettle")
    began = time.monotonic()
    assert not indexed(site, product, wait_ms=80)["settled"]
    assert 0.08 <= time.monotonic() - began < 5


def test_a_row_changed_again_while_waiting_is_held_to_its_newest_state(site: Site) -> None:
    product = site.insert("Kettle")
    site.database.execute("UPDATE products SET name = 'First' WHERE id = %s", [product])
    site.index_rows()
    site.database.execute("UPDATE products SET name = 'Second' WHERE id = %s", [product])
    assert not indexed(site, product)["settled"]


def test_each_edit_is_measured_once_for_the_status_page(site: Site) -> None:
    measured = len(site.server.services.watcher.measurements)
    created = site.client.post("/api/products", json={"name": "Kettle"}).json()
    site.index_rows()
    found = [site.client.get(created["sync"]["watch"]).json() for _ in range(3)]
    kept = list(site.server.services.watcher.measurements)[measured:]
    assert [measurement.milliseconds for measurement in kept] == [found[0]["elapsed_ms"]]


DOCUMENT = Document(key="1", text="Kettle", text_hash="abc", metadata={"price": 20, "name": "Kettle"})


@pytest.mark.parametrize(
    ("metadata", "same"),
    [
        ({"price": 20.0, "name": "Kettle", "_key": "1", "_version": 3.0, "_text_hash": "abc"}, True),
        ({"price": 20.0, "name": "Kettle", "_key": "1", "_version": 3.0, "_text_hash": "abd"}, False),
        ({"price": 21.0, "name": "Kettle", "_key": "1", "_version": 3.0, "_text_hash": "abc"}, False),
        ({"name": "Kettle", "_key": "1", "_version": 3.0, "_text_hash": "abc"}, False),
        ({"price": 20.0, "name": "Kettle", "left": "over", "_key": "1", "_text_hash": "abc"}, False),
        ({"price": 20.0, "name": "Kettle"}, False),
    ],
)
def test_only_the_same_text_with_the_same_metadata_is_arrived(metadata: dict[str, Any], same: bool) -> None:
    match = Match("1", 1.0, metadata)
    assert matches(DOCUMENT, match) is same
    assert not matches(DOCUMENT, None)
    assert not matches(None, match)
    assert matches(None, None)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0 ms"), (180.4, "180 ms"), (999, "999 ms"), (1_240, "1.2 s"), (90_000, "2 min"), (7_200_000, "2.0 h")],
)
def test_a_duration_reads_at_a_glance(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text
