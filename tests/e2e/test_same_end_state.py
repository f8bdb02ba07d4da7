"""Whatever runs, and whatever is killed meanwhile: in the end index = f(table)."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aviary.chunking import Chunking, split
from aviary.embedder import Embedder
from aviary.index import PineconeIndex
from aviary.source import Source, chunk_id, index_metadata, render, vector_id
from local.gauges import Gauges
from local.ports import free_port

OPERATIONS = 2_000
SETTLE_SECONDS = 90
WORDS = [
    "kettle",
    "lamp",
    "soup",
    "rain",
    "boots",
    "quiet",
    "fan",
    "travel",
    "pillow",
    "garden",
    "hose",
    "dog",
    "toy",
    "ink",
    "brush",
    "oven",
    "glove",
    "tent",
    "bike",
    "bell",
]


def control(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "local", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A running stack with as many Pelicans and Emus as the test asks for, over an empty table."""
    many = str(request.param)
    folder = ["--data-dir", str(tmp_path / "data")]
    size = ["--pelicans", many, "--emus", many, "--port", str(free_port())]
    try:
        control("up", "--detach", "--no-catalogue", *size, *folder)
        yield tmp_path / "data"
    finally:
        control("down", *folder)


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=6))


def operations(rng: random.Random) -> Iterator[Callable[[psycopg.Cursor[Any]], object]]:
    """2,000 operations on products; half-way a TRUNCATE. Keys are few, so that changes of one key meet."""

    def insert(cursor: psycopg.Cursor[Any], key: int) -> None:
        cursor.execute(
            "INSERT INTO products (id, sku, name, description, category, price) VALUES (%s, %s, %s, %s, %s, %s) "
            "ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description",
            (key, f"S{key}", sentence(rng), sentence(rng), rng.choice(WORDS), rng.randint(1, 9999) / 100),
        )

    def update(cursor: psycopg.Cursor[Any], key: int) -> None:
        text = rng.choice([sentence(rng), "", None])
        cursor.execute("UPDATE products SET description = %s WHERE id = %s", (text, key))

    def lengthen(cursor: psycopg.Cursor[Any], key: int) -> None:
        text = " ".join(f"{sentence(rng).capitalize()}." for _ in range(rng.randint(20, 120)))
        cursor.execute("UPDATE products SET description = %s WHERE id = %s", (text, key))

    def reprice(cursor: psycopg.Cursor[Any], key: int) -> None:
        cursor.execute("UPDATE products SET price = %s WHERE id %% 7 = %s", (rng.randint(1, 9999) / 100, key % 7))

    def blank(cursor: psycopg.Cursor[Any], key: int) -> None:
        cursor.execute("UPDATE products SET name = '', description = NULL WHERE id = %s", (key,))

    def nothing(cursor: psycopg.Cursor[Any], key: int) -> None:
        cursor.execute("UPDATE products SET name = name WHERE id = %s", (key,))

    def delete(cursor: psycopg.Cursor[Any], key: int) -> None:
        cursor.execute("DELETE FROM products WHERE id = %s", (key,))

    def replace(cursor: psycopg.Cursor[Any], key: int) -> None:
        delete(cursor, key)
        insert(cursor, key)

    def rename(cursor: psycopg.Cursor[Any], key: int) -> None:
        cursor.execute(
            "UPDATE products SET id = id + 1000, sku = sku || 'x' WHERE id = %s "
            "AND NOT EXISTS (SELECT FROM products WHERE id = %s + 1000)",
            (key, key),
        )

    kinds = [insert] * 8 + [update] * 6 + [lengthen, reprice, blank, nothing] + [delete] * 3 + [replace] * 3 + [rename]
    for number in range(OPERATIONS):
        if number == OPERATIONS // 2:
            yield lambda cursor: cursor.execute("TRUNCATE products")
            continue
        kind, key = rng.choice(kinds), rng.randint(1, 300)
        yield lambda cursor, kind=kind, key=key: kind(cursor, key)  # type: ignore[misc] # mypy infers no lambda with a default


def kill_one_of_each(folder: Path) -> set[int]:
    """SIGKILL to the first Pelican, the first Emu and the frontend; their pids."""
    processes = json.loads((folder / "state.json").read_text())["processes"]
    killed = set()
    for kind in ("pelican", "emu", "frontend"):
        pid = next(p["pid"] for p in processes if p["name"].startswith(kind))
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    return killed


def expected(dsn: str) -> dict[str, dict[str, Any]]:
    """f(table), by vector id, without versions."""
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as connection:
        row = connection.execute("SELECT * FROM sync.source WHERE name = 'products'").fetchone()
        assert row is not None
        source = Source(
            id=row["id"],
            name=row["name"],
            schema=row["schema_name"],
            table=row["table_name"],
            key_columns=tuple(row["key_columns"]),
            text_template=row["text_template"],
            metadata_columns=tuple(row["metadata_columns"]),
            namespace=row["namespace"],
        )
        documents = [render(source, str(r["id"]), r) for r in connection.execute("SELECT * FROM products")]
    model, rule = Embedder("f32", threads=1), Chunking()
    wanted: dict[str, dict[str, Any]] = {}
    for document in filter(None, documents):
        chunks = (
            len(split(document.text, model.tokens([document.text])[0], rule)) if rule.most_of(document.text) > 1 else 1
        )
        for number in range(chunks):
            wanted[chunk_id(vector_id(document.key), number)] = index_metadata(document, 0, number, chunks)
    return {each: {k: v for k, v in metadata.items() if k != "_version"} for each, metadata in wanted.items()}


def found(index: PineconeIndex) -> dict[str, dict[str, Any]]:
    """What the index holds, without versions."""
    records = index.fetch("products", list(index.ids("products")))
    return {i: {k: v for k, v in r.metadata.items() if k != "_version"} for i, r in records.items()}


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("stack", [1, 3], indirect=True, ids=["1 Pelican and 1 Emu", "3 Pelicans and 3 Emus"])
def test_the_index_is_f_of_the_table_whatever_was_killed(stack: Path) -> None:
    state = json.loads((stack / "state.json").read_text())
    rng = random.Random(20261120)
    killed: set[int] = set()
    with psycopg.connect(state["postgres_dsn"], autocommit=True) as connection:
        for number, operation in enumerate(operations(rng)):
            with connection.transaction(), connection.cursor() as cursor:
                operation(cursor)
            if number in (OPERATIONS // 4, 3 * OPERATIONS // 4):
                killed |= kill_one_of_each(stack)
        rows = connection.execute("SELECT count(*) FROM products").fetchone()
    assert len(killed) == 6
    assert rows is not None
    assert rows[0] > 100, "the test must end with something to compare"

    with PineconeIndex(state["pinecone_api_key"], state["index_host"]) as index, Gauges(state) as gauges:
        wait_until(lambda: gauges.read().settled, SETTLE_SECONDS, "every captured change is processed")
        wanted = expected(state["postgres_dsn"])
        assert any("_chunks" in metadata for metadata in wanted.values()), "the test must end with long texts too"
        assert found(index) == wanted
        assert gauges.read().dead_letters == 0
