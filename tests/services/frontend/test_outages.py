"""What a person sees while a part is away, and that it ends when the part is back."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
import pytest

from aviary.index import PineconeIndex
from frontend.embedding import TextEmbedder
from frontend.pool import POOL_SIZE
from local.postgres import PostgresServer, temporary_server
from pelican.migrate import migrate
from tests.services.frontend.conftest import settings
from tests.services.frontend.site import Server, Site, WordEmbedder, until
from tests.services.pinecone.process import PineconeProcess

PART = {"HX-Request": "true", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    with temporary_server() as server:
        yield server


def own_server(postgres: PostgresServer, site: Site) -> Server:
    """A frontend over `postgres` with our schema, so that a test may stop it."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        migrate(connection)
    host = site.server.services.settings.index_host
    return Server(settings(postgres.dsn(user="aviary_frontend"), host), PineconeIndex("test-key", host), WordEmbedder)


@contextmanager
def waiting_requests(server: Server, postgres: PostgresServer, product: int) -> Iterator[list[Future[httpx.Response]]]:
    """As many requests as there are connections, each waiting on its own for a row that is locked until the block ends."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'aviary-frontend' AND wait_event_type = 'Lock'"
    )
    with ThreadPoolExecutor(POOL_SIZE) as threads, closing(psycopg.connect(postgres.dsn())) as holder:
        holder.execute("SELECT FROM products WHERE id = %s FOR UPDATE", [product])
        path = f"/api/products/{product}"
        asked = [threads.submit(server.client.patch, path, json={"price": price}) for price in range(POOL_SIZE)]
        with psycopg.connect(postgres.dsn(), autocommit=True) as watcher:
            until(lambda: watcher.execute(waiting).fetchone() == (POOL_SIZE,))
        yield asked


def test_a_restart_of_the_database_is_told_and_survived(
    own_postgres: PostgresServer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody but this test asks the database, so that nobody else notices that it was away.
    monkeypatch.setattr("frontend.status.SAMPLE_EVERY_SECONDS", 3600.0)
    server = own_server(own_postgres, site)
    try:
        product = server.client.post("/api/products", json={"name": "Kept"}).json()["id"]
        own_postgres.stop(signal.SIGQUIT)
        for path in (f"/api/products/{product}", "/api/products"):
            answer = server.client.get(path)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "database_unavailable"
            assert answer.headers["Retry-After"]
        assert server.client.get("/").status_code == 503
        part = server.client.patch(f"/products/{product}", data={"name": "x"}, headers=PART)
        assert (part.status_code, part.headers["HX-Retarget"]) == (503, "#notice"), "the form stays as it is"
        ready = server.client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json() == {
            "database": "the database cannot be reached; try again in a moment",
            "index": "ok",
            "model": "ok",
        }
        assert server.client.get("/healthz").status_code == 200, "a restart of this process would not help"
        # A sample may be a second old.
        until(lambda: server.client.get("/api/status").json()["state"] == "unknown")
        own_postgres.start()
        assert [server.client.get(f"/api/products/{product}").status_code for _ in range(5)] == [200] * 5
        # A restart that nobody noticed, soon after: every connection in the pool is dead, and no request may get one.
        for _ in range(2):
            with waiting_requests(server, own_postgres, product) as asked:
                pass
            assert [each.result().status_code for each in asked] == [200] * POOL_SIZE
            own_postgres.stop(signal.SIGQUIT)
            own_postgres.start()
            with ThreadPoolExecutor(POOL_SIZE) as threads:
                answers = list(threads.map(server.client.get, [f"/api/products/{product}"] * 2 * POOL_SIZE))
            assert [answer.status_code for answer in answers] == [200] * len(answers)
    finally:
        server.stop()


def test_requests_that_wait_for_an_answer_when_the_database_goes_are_told(
    own_postgres: PostgresServer, site: Site
) -> None:
    server = own_server(own_postgres, site)
    try:
        product = server.client.post("/api/products", json={"name": "Kept"}).json()["id"]
        with waiting_requests(server, own_postgres, product) as asked:
            own_postgres.stop(signal.SIGQUIT)
            answers = [each.result() for each in asked]
        assert [(each.status_code, each.json()["error"]["code"]) for each in answers] == [
            (503, "database_unavailable")
        ] * POOL_SIZE
        own_postgres.start()
        assert server.client.get(f"/api/products/{product}").status_code == 200
    finally:
        server.stop()


def test_a_database_that_hangs_keeps_nobody_waiting(
    own_postgres: PostgresServer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A sample that was asked of the database before it hung is no request, and keeps its connection until it answers.
    monkeypatch.setattr("frontend.status.SAMPLE_EVERY_SECONDS", 3600.0)
    monkeypatch.setattr("frontend.services.PREPARE_EVERY_SECONDS", 3600.0)
    server = own_server(own_postgres, site)
    assert own_postgres.process is not None
    stopped = [own_postgres.process.pid]
    try:
        product = server.client.post("/api/products", json={"name": "Kept"}).json()["id"]
        with psycopg.connect(own_postgres.dsn()) as connection:
            sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = 'aviary-frontend'"
            stopped += [pid for (pid,) in connection.execute(sessions)]
        assert len(stopped) > 1, "a connection rests"
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        # The client gives up after 30 s, and a statement would be cancelled after 5 s if the server did anything.
        answer = server.client.get(f"/api/products/{product}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        assert server.client.get(f"/api/products/{product}").status_code == 200
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        server.stop()


def test_the_service_starts_before_its_database_does(tmp_path: Path, site: Site) -> None:
    host = site.server.services.settings.index_host
    server = Server(
        settings(f"postgresql://aviary_frontend@/x?host={tmp_path}", host),
        PineconeIndex("test-key", host),
        WordEmbedder,
    )
    try:
        assert server.client.get("/healthz").status_code == 200
        assert server.client.get("/readyz").json()["database"] != "ok"
    finally:
        server.stop()


def test_a_database_that_is_not_migrated_says_what_to_run(own_postgres: PostgresServer, site: Site) -> None:
    host = site.server.services.settings.index_host
    server = Server(settings(own_postgres.dsn(), host), PineconeIndex("test-key", host), WordEmbedder)
    try:
        assert "python -m pelican migrate" in server.client.get("/readyz").json()["database"]
        assert server.client.get("/api/search", params={"q": "a"}).status_code == 503
    finally:
        server.stop()


def test_trouble_of_the_index_is_told_and_survived(site: Site, pinecone: PineconeProcess) -> None:
    product = site.insert("Lamp")
    site.index_rows()
    pinecone.faults(index="frontend", status=503)
    try:
        # At once, because the SDK tries several times before it gives up.
        paths = ("/api/search?q=lamp", "/?q=lamp", "/readyz", f"/api/products/{product}/indexed")
        with ThreadPoolExecutor(len(paths)) as threads:
            answer, page, ready, indexed = threads.map(site.client.get, paths)
        assert answer.json()["error"]["code"] == "index_unavailable"
        assert "the search index cannot be reached" in page.text
        assert ready.json()["index"] != "ok"
        for each in (answer, page, ready, indexed):
            assert each.status_code == 503
            assert "Traceback" not in each.text
        assert site.client.get(f"/api/products/{product}").status_code == 200, "rows need no index"
        assert site.client.patch(f"/api/products/{product}", json={"name": "Torch"}).status_code == 200
    finally:
        pinecone.clear_faults()
    assert site.keys("lamp") == [str(product)]


def test_a_model_that_fails_is_told_and_not_kept(site: Site) -> None:
    site.insert("Lamp")
    site.index_rows()
    site.embedder.broken = RuntimeError("out of memory")
    answer = site.client.get("/api/search", params={"q": "broken once"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_failed"
    site.embedder.broken = None
    assert site.keys("broken once")


def test_readiness_waits_for_the_model_and_says_why(site: Site) -> None:
    given = site.server.services.settings
    loaded = threading.Event()

    def load() -> TextEmbedder:
        loaded.wait(20)
        raise FileNotFoundError("weights")

    def starting(server: Server) -> str:
        return str(server.client.get("/readyz").json()["model"])

    server = Server(given, PineconeIndex("test-key", given.index_host), load, wait_for_model=False)
    try:
        assert starting(server) == "the model is loading"
        loaded.set()
        until(lambda: starting(server) == "the model could not be loaded (FileNotFoundError)")
        answer = server.client.get("/api/search", params={"q": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    finally:
        loaded.set()
        server.stop()
