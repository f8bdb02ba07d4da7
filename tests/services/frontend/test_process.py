"""`python -m frontend` as it runs in production: a process of its own, with the real model."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from aviary.embedder import Embedder
from aviary.index import Record
from aviary.source import index_metadata, render, vector_id
from tests.services.frontend.site import Site, until

MEMORY_LIMIT_BYTES = 400 * 1024 * 1024
PRODUCTS = {
    "Food flask": "Vacuum jar that keeps porridge or stew warm for eight hours.",
    "Weighted blanket": "Gentle even pressure that calms a restless night.",
    "Solar power bank": "Charges a phone from sunlight on the trail.",
    "Arched mirror": "Throws daylight back into a narrow room.",
    "Marble run": "Ramps and funnels for children from three.",
}


class Process:
    """A frontend process, its port and its log."""

    def __init__(self, site: Site, folder: Path, **environment: str) -> None:
        given = site.server.services.settings
        self.log = folder / "frontend.log"
        variables = {
            "AVIARY_POSTGRES_DSN": given.postgres_dsn.get_secret_value(),
            "AVIARY_INDEX_HOST": given.index_host,
            "PINECONE_API_KEY": "test-key",
            "AVIARY_HTTP_HOST": "127.0.0.1",
            "AVIARY_HTTP_PORT": "0",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "frontend"],
                stderr=log,
                stdout=log,
                env={**os.environ, **variables, **environment},
            )
        self.url = ""
        until(self._listening)

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def _listening(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        self.url = next((str(line["url"]) for line in self.lines() if line["event"] == "listening"), "")
        return bool(self.url)


@pytest.fixture
def process(site: Site, tmp_path: Path) -> Iterator[Process]:
    running = Process(site, tmp_path)
    yield running
    running.process.kill()
    running.process.wait(10)


def fill(site: Site) -> None:
    """The products, embedded by the real model."""
    for name, description in PRODUCTS.items():
        site.insert(name, description)
    source = site.sources()[0]
    rows = site.database.execute("SELECT * FROM products ORDER BY id").fetchall()
    documents = [document for row in rows if (document := render(source, str(row["id"]), row))]
    vectors = Embedder(threads=1).embed([document.text for document in documents])
    site.index.upsert(
        "products",
        [Record(vector_id(d.key), v, index_metadata(d, 1)) for d, v in zip(documents, vectors, strict=True)],
    )


def test_it_searches_by_meaning_within_its_memory(site: Site, process: Process) -> None:
    fill(site)
    with httpx.Client(base_url=process.url, timeout=30) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        for query, name in (
            ("something to keep soup hot until lunch", "Food flask"),
            ("cannot sleep", "Weighted blanket"),
            ("my battery is empty while hiking", "Solar power bank"),
        ):
            answer = client.get("/api/search", params={"q": query}).json()
            assert answer["results"][0]["row"]["name"] == name
            assert len(answer["results"]) == len(PRODUCTS)
        for number in range(50):
            client.get("/api/search", params={"q": f"a present for child number {number}"}).raise_for_status()
        client.get("/", params={"q": "soup", "mode": "hybrid"})
        client.get("/status")
    used = psutil.Process(process.process.pid).memory_info().rss
    assert used <= MEMORY_LIMIT_BYTES, f"{used / 1024**2:.0f} MB"


def test_sigterm_ends_long_polls_with_an_answer_and_the_process_with_zero(site: Site, process: Process) -> None:
    product = site.insert("Never indexed")
    answers: list[httpx.Response] = []
    with httpx.Client(base_url=process.url, timeout=30) as client:
        before = client.get(f"/api/products/{product}/indexed").json()
        assert not before["settled"]
        looked = _queries(site)
        path = f"/api/products/{product}/indexed?wait_ms=20000"
        waiting = threading.Thread(target=lambda: answers.append(client.get(path)), daemon=True)
        waiting.start()
        until(lambda: _queries(site) > looked + 1)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(10) == 0, process.log.read_text()
        waiting.join(10)
    assert answers[0].status_code == 200
    assert answers[0].json()["settled"] is False
    assert process.lines()[-1]["event"] == "stopped"


def _queries(site: Site) -> int:
    stats = httpx.get(site.server.services.settings.index_host.split("/_ix/")[0] + "/_stats").json()
    return int(stats["indexes"]["frontend"]["query"]["requests"])


def test_a_missing_setting_is_named_and_no_given_value_is_shown(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AVIARY_", "PINECONE"))}
    done = subprocess.run(
        [sys.executable, "-m", "frontend"],
        env=environment | {"AVIARY_INDEX_HOST": "http://h", "PINECONE_API_KEY": "very-secret-key"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "AVIARY_POSTGRES_DSN" in done.stderr
    assert "very-secret" not in done.stderr + done.stdout
