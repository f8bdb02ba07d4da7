"""The frontend under test: the real application behind a real socket, over a real Postgres and the stand-in."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import psycopg
import uvicorn
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import dict_row

from aviary.index import PineconeIndex, Record, Vector, VectorIndex
from aviary.logs import JsonFormatter
from aviary.source import DIMENSION, Source, index_metadata, key_text, render, vector_id
from frontend.app import create_app
from frontend.connections import server_config
from frontend.embedding import TextEmbedder
from frontend.services import Parts, Services
from frontend.settings import FrontendSettings

DEADLINE_SECONDS = 20.0


class WordEmbedder:
    """Vectors that say which words two texts share, and nothing of meaning: each word is a fixed random direction."""

    model = "all-MiniLM-L6-v2"
    dimension = DIMENSION

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken: Exception | None = None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.broken is not None:
            raise self.broken
        self.calls.extend(texts)
        return np.stack([self.vector(text) for text in texts])

    @staticmethod
    def vector(text: str) -> Vector:
        words = text.lower().replace(".", " ").replace(",", " ").split() or [""]
        seeds = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:8]) for word in words]
        summed = np.sum([np.random.default_rng(seed).standard_normal(DIMENSION) for seed in seeds], axis=0)
        return np.asarray(summed / np.linalg.norm(summed), np.float32)


class Server:
    """An application served from a thread, on a port of its own."""

    def __init__(
        self,
        settings: FrontendSettings,
        index: VectorIndex | Parts,
        load: Callable[[], TextEmbedder] | None = None,
        *,
        wait_for_model: bool = True,
    ) -> None:
        if not isinstance(index, Parts):
            index = Parts(index=index, load_embedder=load or WordEmbedder)
        app = create_app(settings, index)
        config = server_config(app, settings)
        self.services: Services = app.state.services
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="frontend", daemon=True)
        self._thread.start()
        until(lambda: self._server.started)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        self.client = httpx.Client(base_url=self.url, timeout=30)
        if wait_for_model:
            until(lambda: self.services.embedder.status() == "ok")

    def stop(self) -> None:
        self.client.close()
        self.services.watcher.stopping.set()
        self._server.should_exit = True
        self._thread.join(DEADLINE_SECONDS)
        assert not self._thread.is_alive(), "the server did not stop"


class Site:
    """The running frontend with its database and index, and the pipeline's part played by `index_rows`."""

    def __init__(self, server: Server, index: PineconeIndex, embedder: WordEmbedder, owner_dsn: str) -> None:
        self.server = server
        self.client = server.client
        self.index = index
        self.embedder = embedder
        self.database: psycopg.Connection[dict[str, Any]] = psycopg.connect(
            owner_dsn, autocommit=True, row_factory=dict_row
        )
        self._version = 0

    def close(self) -> None:
        self.database.close()

    def empty(self) -> None:
        """No rows, no vectors, nothing remembered."""
        self.database.execute("TRUNCATE products, sync.outbox, sync.dead_letter")
        self.server.services.letters.forget()
        for source in self.sources():
            if source.name != "products":
                self.database.execute("SELECT sync.unwatch(%s)", [source.name])
                self.database.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(source.schema, source.table)))
            self.index.delete(source.namespace, list(self.index.ids(source.namespace)))
        self.server.services.database.forget()
        self.server.services.products.forget()
        self.embedder.calls.clear()
        self.embedder.broken = None

    def sources(self) -> list[Source]:
        rows = self.database.execute(
            "SELECT id, name, schema_name AS schema, table_name AS table, key_columns, text_template, "
            "metadata_columns, namespace FROM sync.source"
        ).fetchall()
        return [
            Source(
                **(row | {"key_columns": tuple(row["key_columns"]), "metadata_columns": tuple(row["metadata_columns"])})
            )
            for row in rows
        ]

    def insert(self, name: str, description: str | None = "", **columns: Any) -> int:
        """A product's id, written past the frontend."""
        self._version += 1
        values = {"sku": f"S-{time.monotonic_ns()}-{self._version}", "name": name, "description": description} | columns
        row = self.database.execute(
            sql.SQL("INSERT INTO products ({}) VALUES ({}) RETURNING id").format(
                sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Placeholder, values))
            ),
            values,
        ).fetchone()
        assert row is not None
        return int(row["id"])

    def index_rows(self, source_name: str = "products") -> None:
        """What Pelican and Emu do: index = f(table), at once."""
        source = next(source for source in self.sources() if source.name == source_name)
        keys = sql.SQL(", ").join(
            sql.SQL("{}::text AS {}").format(sql.Identifier(column), sql.Identifier(f"_key{position}"))
            for position, column in enumerate(source.key_columns)
        )
        rows = self.database.execute(
            sql.SQL("SELECT *, {} FROM {}").format(keys, sql.Identifier(source.schema, source.table))
        ).fetchall()
        records = []
        for row in rows:
            key = key_text([row[f"_key{position}"] for position in range(len(source.key_columns))])
            if document := render(source, key, row):
                self._version += 1
                vector = self.embedder.vector(document.text)
                records.append(Record(vector_id(key), vector, index_metadata(document, self._version)))
        wanted = {record.id for record in records}
        self.index.delete(source.namespace, [each for each in self.index.ids(source.namespace) if each not in wanted])
        self.index.upsert(source.namespace, records)

    def search(self, q: str, **parameters: Any) -> dict[str, Any]:
        # Each row for itself: the rows of most tests are made of the same few words.
        answer = self.client.get("/api/search", params={"q": q, "similar": "each", **parameters})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def keys(self, q: str, **parameters: Any) -> list[str]:
        return [result["key"] for result in self.search(q, **parameters)["results"]]


class LogLines(logging.Handler):
    """Log records of this process, as the fields they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.fields: list[Mapping[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        # The libraries speak from WARNING up, see aviary.logs.configure.
        if record.levelno < logging.WARNING and not record.name.startswith("frontend"):
            return
        self.lines.append(JsonFormatter("frontend").format(record))
        self.fields.append({"event": record.getMessage(), **getattr(record, "fields", {})})


def until(condition: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
    """Return once `condition` holds; an AssertionError when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold in time"
        time.sleep(0.01)
