"""A source is searched in its active place in the index, with that place's model; a switch to another is one step."""

import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pinecone import Pinecone

from aviary.index import PineconeIndex, Record, VectorIndex
from aviary.source import Source, index_metadata, render, vector_id
from frontend.embedding import TextEmbedder
from frontend.services import Parts
from tests.services.frontend.conftest import settings
from tests.services.frontend.html import Page
from tests.services.frontend.site import Server, Site, WordEmbedder, until
from tests.services.pinecone.process import PineconeProcess

OTHER = "other-model"


class Mirrored(WordEmbedder):
    """Another model: every vector points the other way, so that a vector of the one model is far from all of the other."""

    model = OTHER

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return -super().embed(texts)


class Means:
    """What the frontend asked for."""

    def __init__(self, api_key: str) -> None:
        self.models: list[str] = []
        self.hosts: list[str] = []
        self._api_key = api_key

    def load(self, name: str) -> TextEmbedder:
        self.models.append(name)
        if name != OTHER:
            raise LookupError(name)
        return Mirrored()

    def open(self, host: str) -> VectorIndex:
        self.hosts.append(host)
        return PineconeIndex(self._api_key, host)


@pytest.fixture
def means(pinecone: PineconeProcess) -> Means:
    return Means(pinecone.api_key)


@pytest.fixture
def server(site: Site, means: Means, pinecone: PineconeProcess) -> Iterator[Server]:
    given = site.server.services.settings
    made = Server(
        settings(given.postgres_dsn.get_secret_value(), given.index_host),
        Parts(
            index=PineconeIndex(pinecone.api_key, given.index_host),
            load_embedder=WordEmbedder,
            open_index=means.open,
            load_model=means.load,
        ),
    )
    yield made
    made.stop()
    site.database.execute("DELETE FROM sync.reindex")
    site.database.execute("UPDATE sync.source SET namespace = 'products', index_host = '', model = 'all-MiniLM-L6-v2'")


@pytest.fixture
def second(pinecone: PineconeProcess) -> Iterator[tuple[str, PineconeIndex]]:
    """Another index of the project, and its address."""
    name = f"second-{uuid.uuid4().hex[:12]}"
    with Pinecone(api_key=pinecone.api_key, host=pinecone.control_host, ssl_verify=False) as client:
        client.create_index(
            name=name,
            dimension=384,
            metric="cosine",
            spec={"serverless": {"cloud": "aws", "region": "us-east-1"}},
        )
        with PineconeIndex(pinecone.api_key, pinecone.index_host(name)) as index:
            yield pinecone.index_host(name), index
        client.delete_index(name)


def start(site: Site, *, model: str = OTHER, host: str = "") -> str:
    """Another place for the products; its namespace."""
    site.database.execute(
        "SELECT sync.start_reindex(id, %s, %s, text_columns, text_template, metadata_columns) FROM sync.source",
        (host, model),
    )
    row = site.database.execute("SELECT namespace FROM sync.reindex").fetchone()
    assert row is not None
    return str(row["namespace"])


def swap(site: Site, state: str = "previous") -> None:
    site.database.execute("SELECT sync.swap_places(id, %s) FROM sync.source", (state,))


def put(site: Site, index: VectorIndex, source: Source, keys: Sequence[int], sign: float) -> None:
    """Vectors of these rows, and of no others."""
    records = []
    for row in site.database.execute("SELECT * FROM products WHERE id = ANY (%s)", (list(keys),)).fetchall():
        document = render(source, str(row["id"]), row)
        assert document is not None
        vector = (sign * WordEmbedder.vector(document.text)).astype(np.float32)
        records.append(Record(vector_id(document.key), vector, index_metadata(document, 1)))
    index.upsert(source.namespace, records)


def search(server: Server, **parameters: Any) -> dict[str, Any]:
    answer = server.client.get("/api/search", params={"q": "kettle", **parameters})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_search_asks_one_place_with_its_own_model_however_often_the_roles_change(
    site: Site, server: Server, means: Means, second: tuple[str, PineconeIndex]
) -> None:
    host, index = second
    keys = [site.insert(f"kettle {number}") for number in range(8)]
    (source,) = site.sources()
    put(site, site.index, source, keys[:4], 1.0)
    namespace = start(site, host=host)
    put(site, index, Source(**{**_fields(source), "namespace": namespace, "model": OTHER}), keys[4:], -1.0)
    until(lambda: OTHER in means.models)
    sides = [{str(key) for key in keys[:4]}, {str(key) for key in keys[4:]}]
    stop = threading.Event()
    wrong: list[str] = []
    seen: set[int] = set()

    def ask() -> None:
        while not stop.is_set():
            answer = server.client.get("/api/search", params={"q": "kettle", "similar": "each"})
            results = answer.json().get("results", [])
            found = {result["key"] for result in results}
            if answer.status_code != 200 or found not in sides or results[0]["score"] < 0.5:
                wrong.append(answer.text)
            seen.add(sides.index(found) if found in sides else -1)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for state in ("previous", "ready", "previous"):
        swap(site, state)
        wanted = 0 if state == "ready" else 1
        seen.clear()
        until(lambda: wanted in seen)  # noqa: B023 - asked at once
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert means.hosts == [host], "an index is opened once and kept"
    assert means.models == [OTHER], "and a model is loaded before the switch, once"


def _fields(source: Source) -> dict[str, Any]:
    return {name: getattr(source, name) for name in source.__struct_fields__}


def test_a_switch_is_noticed_within_four_seconds(site: Site, server: Server) -> None:
    keys = [site.insert("kettle"), site.insert("kettle again")]
    (source,) = site.sources()
    put(site, site.index, source, keys[:1], 1.0)
    namespace = start(site, model=source.model)
    put(site, site.index, Source(**{**_fields(source), "namespace": namespace}), keys[1:], 1.0)
    assert [result["key"] for result in search(server)["results"]] == [str(keys[0])]
    swap(site)
    until(lambda: [result["key"] for result in search(server)["results"]] == [str(keys[1])], seconds=4)


def test_a_place_with_a_model_that_is_not_known_here_is_said_and_not_guessed(site: Site, server: Server) -> None:
    site.insert("kettle")
    start(site, model="nobody-has-it")
    swap(site)
    until(lambda: server.client.get("/api/search", params={"q": "kettle"}).status_code == 503)
    assert server.client.get("/api/search", params={"q": "kettle"}).json()["error"]["code"] == "model_unavailable"
    ready = server.client.get("/readyz")
    assert (ready.status_code, ready.json()["model"]) == (503, "the model could not be loaded (LookupError)")


def test_an_index_at_a_foreign_address_gets_no_api_key(site: Site, server: Server, means: Means) -> None:
    site.insert("kettle")
    start(site, model="all-MiniLM-L6-v2", host="https://example.com")
    swap(site)
    until(lambda: server.client.get("/api/search", params={"q": "kettle"}).status_code == 503)
    assert server.client.get("/api/search", params={"q": "kettle"}).json()["error"]["code"] == "index_refused"
    assert means.hosts == []


def test_the_status_shows_a_second_place(site: Site, server: Server) -> None:
    keys = [site.insert("kettle"), site.insert("lamp")]
    (source,) = site.sources()
    namespace = start(site)
    put(site, site.index, Source(**{**_fields(source), "namespace": namespace}), keys[:1], 1.0)

    def other() -> dict[str, Any]:
        found: dict[str, Any] = server.client.get("/api/status").json()["sources"][0]["other_place"] or {}
        return found

    until(lambda: other().get("vectors") == 1)
    assert (other()["state"], other()["namespace"], other()["model"]) == ("building", namespace, OTHER)
    assert any(
        f"Being built beside it: {namespace}, {OTHER}, 0 of about" in " ".join(text.split())
        for text in Page(server.client.get("/status")).texts("td")
    )
