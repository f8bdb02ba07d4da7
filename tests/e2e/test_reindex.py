"""A source moves to another model and text while it is written and searched, and every part of it is killed on the way."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg
import pytest

from aviary.index import PineconeIndex
from aviary.source import Source, render, vector_id
from local.ports import free_port
from pelican import reindex
from pelican.watch import source_named
from tests.services.models import cut_model

ROWS = 300
NOUNS = ["kettle", "lamp", "tent", "pillow", "hose", "brush", "oven", "glove", "bell", "fan"]
TEMPLATE = "{category}: {name}"


def control(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "local", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The state of a running stack with a second model and an empty table."""
    folder = ["--data-dir", str(tmp_path / "data")]
    model = cut_model(tmp_path / "small", layers=2)
    try:
        control("up", "--detach", "--no-catalogue", "--port", str(free_port()), "--model", f"small={model}", *folder)
        yield json.loads((tmp_path / "data" / "state.json").read_text()) | {"folder": str(tmp_path / "data")}
    finally:
        control("down", *folder)


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)


class Operator:
    """Somebody at a terminal, whose commands may be killed."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._folder = Path(state["folder"])
        shell = subprocess.run(
            [sys.executable, "-m", "local", "env", "--data-dir", state["folder"]],
            capture_output=True,
            check=True,
            text=True,
        )
        words = [shlex.split(line)[1] for line in shell.stdout.splitlines()]
        self._environment = {**os.environ, **dict(word.split("=", 1) for word in words)}
        self._connection = psycopg.connect(state["postgres_dsn"], autocommit=True)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pelican", "reindex", *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> str:
        output, _ = (command := self.begin(*arguments)).communicate(timeout=180)
        assert command.returncode == 0, output
        return output

    def run_killed_when(self, condition: str, *arguments: str) -> None:
        """Kill the command as soon as the condition on sync.reindex holds; then run it again, to its end."""
        command = self.begin(*arguments)
        found = f"SELECT count(*) FROM sync.reindex WHERE {condition}"
        wait_until(lambda: self._value(found) or command.poll() is not None, condition)
        command.kill()
        output, _ = command.communicate(timeout=20)
        assert command.returncode == -signal.SIGKILL, f"it had ended before: {output}"
        self.run(*arguments)

    def kill(self, kind: str) -> None:
        processes = json.loads((self._folder / "state.json").read_text())["processes"]
        os.kill(next(p["pid"] for p in processes if p["name"].startswith(kind)), signal.SIGKILL)

    def state(self) -> str:
        return str(self._value("SELECT max(state) FROM sync.reindex"))

    def _value(self, query: str) -> Any:
        row = self._connection.execute(query).fetchone()
        return row and row[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


class Traffic:
    """Writes and searches that go on all the time."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._write, self._search)]
        self.searches = 0
        self.writes = 0
        self.failed: list[str] = []

    def _write(self) -> None:
        with psycopg.connect(self._state["postgres_dsn"], autocommit=True) as connection:
            while not self._stop.wait(0.05):
                self.writes += 1
                key = self.writes * 7 % ROWS + 1
                noun = NOUNS[self.writes % len(NOUNS)]
                if self.writes % 5 == 0:
                    connection.execute("DELETE FROM products WHERE id = %s", (key,))
                else:
                    connection.execute(
                        "INSERT INTO products (id, sku, name, description, category) VALUES (%s, %s, %s, 'new', 'Home') "
                        "ON CONFLICT (id) DO UPDATE SET name = excluded.name",
                        (key, f"S{key}", f"{noun} {self.writes}"),
                    )

    def _search(self) -> None:
        with httpx.Client(base_url=self._state["frontend_url"], timeout=30) as client:
            while not self._stop.wait(0.02):
                noun = NOUNS[self.searches % len(NOUNS)]
                answer = client.get("/api/search", params={"q": noun, "limit": 5})
                self.searches += 1
                found = answer.json().get("results", []) if answer.status_code == 200 else []
                if not found:
                    self.failed.append(f"{answer.status_code} {answer.text[:300]}")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def in_step(index: PineconeIndex, dsn: str, source: Source) -> bool:
    """Whether the place holds f(table), and nothing else."""
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as connection:
        rows = connection.execute("TABLE products").fetchall()
    documents = [document for row in rows if (document := render(source, str(row["id"]), row))]
    ids = list(index.ids(source.namespace))
    stored = index.fetch(source.namespace, ids) if ids else {}
    return {each: record.metadata["_text_hash"] for each, record in stored.items()} == {
        vector_id(document.key): document.text_hash for document in documents
    }


@pytest.mark.timeout(600)
def test_no_search_fails_while_a_source_moves_and_every_step_is_killed_once(stack: dict[str, Any]) -> None:
    dsn = stack["postgres_dsn"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO products (id, sku, name, description, category) "
            "SELECT i, 'S' || i, (%s::text[])[i %% 10 + 1] || ' ' || i, 'first', 'Home' FROM generate_series(1, %s) AS i",
            (NOUNS, ROWS),
        )
        old = source_named(connection, "products")
    with Operator(stack) as operator, PineconeIndex(stack["pinecone_api_key"], stack["index_host"]) as index:
        wait_until(lambda: in_step(index, dsn, old), "the rows are searchable")
        with Traffic(stack) as traffic:
            start = ("start", "--source", "products", "--model", "small", "--template", TEMPLATE, "--wait")
            command = operator.begin(*start)
            wait_until(lambda: operator.state() == "building", "it is being built")
            operator.kill("pelican")
            operator.kill("emu")
            command.kill()
            command.communicate(timeout=20)
            operator.run(*start)
            assert operator.state() == "ready"
            operator.run_killed_when("marker IS NOT NULL", "switch", "--source", "products")
            assert operator.state() == "previous"
            with psycopg.connect(dsn) as connection:
                found = reindex.progress_of(connection, "products")
            new, before = found.source, found.other.source
            assert (new.model, new.text_template, before) == ("small", TEMPLATE, old)
            operator.kill("pelican")
        wait_until(lambda: in_step(index, dsn, new) and in_step(index, dsn, old), "both places hold f(table)")
        with Traffic(stack) as later:
            operator.run_killed_when("state = 'dropping' AND marker IS NOT NULL", "drop", "--source", "products")
        wait_until(lambda: in_step(index, dsn, new), "the new place holds f(table)")
        assert list(index.ids(old.namespace)) == []
        assert traffic.failed + later.failed == []
        assert min(traffic.searches, traffic.writes, later.searches, later.writes) > 0
    status = subprocess.run(
        [sys.executable, "-m", "local", "status", "--json", "--data-dir", stack["folder"]],
        capture_output=True,
        text=True,
        check=True,
    )
    (source,) = json.loads(status.stdout)["sources"]
    assert source["other"] is None
    assert source["vectors"] == source["rows"]
