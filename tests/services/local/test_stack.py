"""The whole stack as a person runs it: one is brought up for this file, and every test leaves one up."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from aviary.index import PineconeIndex
from aviary.source import split_chunk_id
from local import ports
from local.folder import Folder
from tests.services.local.helpers import wait_until

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[3]
ROWS = 60
UP_SECONDS = 90
# A message that was on its way to a process that was killed is handed out again when its lease of 3 s ends.
LEASE_SECONDS = 90


class Local:
    """Runs commands on one data folder, and looks at what they leave."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.port = ports.free_port()
        self.folder = Folder(path)

    def command(self, name: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "local", name, *arguments, "--data-dir", str(self.path)]

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(name, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=UP_SECONDS, check=False
        )

    def up(self) -> str:
        done = self.run("up", "--detach", "--rows", str(ROWS), "--port", str(self.port), "--pelicans", "1")
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    @property
    def state(self) -> dict[str, Any]:
        return self.folder.state()

    def process(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = [process for process in self.state["processes"] if process["name"] == name]
        return found[0]

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.state["postgres_dsn"], autocommit=True) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def indexed(self, sku: str) -> dict[str, Any]:
        """The metadata of a product in the index; empty when it is not there."""
        (row,) = self.sql("SELECT id::text FROM products WHERE sku = %s", sku)
        with PineconeIndex(self.state["pinecone_api_key"], self.state["index_host"]) as index:
            found = index.fetch("products", [row[0]])
        return dict(found[row[0]].metadata) if found else {}

    def rename(self, sku: str, name: str) -> None:
        self.sql("UPDATE products SET name = %s, updated_at = now() WHERE sku = %s", name, sku)

    def kill(self, name: str) -> int:
        """SIGKILL; the pid it had."""
        pid = int(self.process(name)["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_restarted(self, name: str, old_pid: int) -> None:
        wait_until(lambda: self.process(name)["pid"] != old_pid and self.process(name)["state"] == "ready", 60)

    def logs(self) -> str:
        texts = [f"== {path.name}\n{path.read_text(errors='replace')[-1_000:]}" for path in self.path.glob("logs/*")]
        return "\n".join(texts)


def children(local: Local) -> list[psutil.Process]:
    return [psutil.Process(process["pid"]) for process in local.state["processes"]]


def socket_folder(local: Local) -> Path:
    """Where Postgres listens: outside of the data folder."""
    return Path(str(conninfo_to_dict(local.state["postgres_dsn"])["host"]))


@pytest.fixture(scope="module")
def local() -> Iterator[Local]:
    # Not below pytest's own folder: each session that starts takes other users' rights on it away, and as root
    # Postgres runs as another user.
    with tempfile.TemporaryDirectory(prefix="aviary-stack-") as folder:
        local = Local(Path(folder) / ".local")
        said = local.up()
        assert f"{ROWS} of {ROWS} rows are searchable" in said
        yield local
        assert local.run("reset", "--yes").returncode == 0


@pytest.fixture
def sku(local: Local) -> str:
    """A product of this test, already in the index."""
    sku = f"T-{time.monotonic_ns()}"
    local.sql("INSERT INTO products (sku, name, description) VALUES (%s, 'Old name', 'Something')", sku)
    wait_until(lambda: local.indexed(sku), 30)
    return sku


def test_what_is_up_is_healthy_searchable_and_described_in_state_json(local: Local) -> None:
    state = json.loads((local.path / "state.json").read_text())
    wanted = {"postgres_dsn", "sqs_endpoint", "queue_url", "dlq_url", "pinecone_host", "index", "frontend_url"}
    assert wanted <= state.keys()
    names = {process["name"] for process in state["processes"]}
    assert names == {"postgres", "sqs", "pinecone", "pelican-1", "emu-1", "frontend"}
    for process in state["processes"]:
        assert psutil.pid_exists(process["pid"])
        assert Path(process["log"]).exists()
    assert state["frontend_url"] == f"http://127.0.0.1:{local.port}"
    found = httpx.get(f"{state['frontend_url']}/api/search", params={"q": "something for the kitchen", "limit": 5})
    assert found.status_code == 200
    assert len(found.json()["results"]) == 5


def test_status_says_what_runs_and_how_far_it_is(local: Local) -> None:
    done = local.run("status", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["running"]
    (source,) = report["sources"]
    assert source["name"] == "products"
    assert source["rows"] == source["vectors"] >= ROWS
    memory = {process["name"]: process["rss_bytes"] for process in report["processes"]}
    assert all(memory.values())
    table = local.run("status").stdout
    assert all(name in table for name in memory)
    assert "dead letters: 0" in table


def test_a_long_description_is_found_by_its_last_sentence_until_it_is_shortened(local: Local, sku: str) -> None:
    last = "Penguins of the Antarctic read its label at dawn."
    search = f"{local.state['frontend_url']}/api/search"

    def best() -> dict[str, Any]:
        found = httpx.get(search, params={"q": last, "limit": 1}, timeout=30).json()["results"]
        return dict(found[0]) if found else {}

    def vectors() -> list[str]:
        (row,) = local.sql("SELECT id::text FROM products WHERE sku = %s", sku)
        with PineconeIndex(local.state["pinecone_api_key"], local.state["index_host"]) as index:
            return [each for each in index.ids("products") if split_chunk_id(each)[0] == row[0]]

    describe = "UPDATE products SET description = %s, updated_at = now() WHERE sku = %s"
    local.sql(describe, "A folding table for markets takes one person to carry. " * 150 + last, sku)
    wait_until(lambda: best().get("row", {}).get("sku") == sku, LEASE_SECONDS)
    assert best()["score"] > 0.3, "the sentence stands in a passage, and is not lost among 1,500 words"
    assert len(vectors()) > 5
    local.sql(describe, "A folding table.", sku)
    wait_until(lambda: len(vectors()) == 1, LEASE_SECONDS)
    assert best()["row"]["sku"] != sku


def test_a_second_up_is_refused(local: Local) -> None:
    done = local.run("up", "--port", str(ports.free_port()))
    assert done.returncode == 1
    assert f"already runs on {local.path}" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["emu-1", "pelican-1"])
def test_a_killed_service_starts_again_and_an_edit_made_meanwhile_arrives(local: Local, sku: str, name: str) -> None:
    before = local.process(name)
    old = local.kill(name)
    local.rename(sku, "New name")
    local.wait_restarted(name, old)
    wait_until(lambda: local.indexed(sku)["name"] == "New name", LEASE_SECONDS)
    assert local.process(name)["restarts"] == before["restarts"] + 1
    assert f"{name} ended (killed by SIGKILL)" in local.folder.events.read_text()


def test_a_killed_queue_server_loses_no_change(local: Local, sku: str) -> None:
    os.kill(local.process("emu-1")["pid"], signal.SIGSTOP)
    try:
        local.rename(sku, "Newer name")
        wait_until(lambda: local.sql("SELECT count(*) FROM sync.outbox") == [(0,)], 30)
        old = local.kill("sqs")
        local.wait_restarted("sqs", old)
    finally:
        os.kill(local.process("emu-1")["pid"], signal.SIGCONT)
    wait_until(lambda: local.indexed(sku)["name"] == "Newer name", LEASE_SECONDS)


def test_a_killed_database_and_a_killed_index_come_back_with_their_data(local: Local, sku: str) -> None:
    for name in ("postgres", "pinecone"):
        local.wait_restarted(name, local.kill(name))
    assert local.indexed(sku)["name"] == "Old name"
    local.rename(sku, "Name after the storm")
    wait_until(lambda: local.indexed(sku)["name"] == "Name after the storm", LEASE_SECONDS)


def test_a_csv_becomes_searchable_or_is_refused_as_a_whole(local: Local, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("SKU,Title,Price\nCSV-1,Brass telescope,120\nCSV-2,Rubber boots,35.5\n")
    bad.write_text("sku,name,price\nCSV-3,Fine,1\nCSV-4,Bad,NaN\n")
    done = local.run("load", str(good), "--map", "name=Title")
    assert (done.returncode, done.stderr) == (0, "")
    assert "rows added: 2;" in done.stdout
    assert local.indexed("CSV-1")["name"] == "Brass telescope"
    done = local.run("load", str(bad))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"{bad}:3: price is not a finite number", "nothing was loaded; problems: 1"]
    assert local.sql("SELECT count(*) FROM products WHERE sku IN ('CSV-3', 'CSV-4')") == [(0,)]


def test_down_leaves_no_process_and_up_finds_everything_again(local: Local, sku: str) -> None:
    before, processes, sockets = local.state, children(local), socket_folder(local)
    assert sockets.is_dir()
    rows = local.sql("SELECT count(*) FROM products")
    local.sql("DELETE FROM products WHERE sku = %s", sku)
    done = local.run("down")
    assert done.returncode == 0
    assert "stopping frontend" in done.stdout
    assert not any(process.is_running() for process in processes)
    assert local.state == {}
    assert not sockets.exists()
    said = local.up()
    after = local.state
    assert local.sql("SELECT count(*) FROM products") == [(rows[0][0] - 1,)]
    assert re.search(r"(\d+) of \1 rows are searchable", said), said
    same = ("postgres_dsn", "queue_url", "pinecone_host", "frontend_url", "health_urls")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}


def test_after_a_killed_supervisor_nothing_lingers_and_up_works_in_a_terminal_too(local: Local, sku: str) -> None:
    processes, sockets = children(local), socket_folder(local)
    os.kill(local.state["supervisor"]["pid"], signal.SIGKILL)
    if sys.platform == "linux":
        assert psutil.wait_procs(processes, timeout=15)[1] == []
    lines: list[str] = []
    with subprocess.Popen(
        local.command("up", "--port", str(local.port)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as up:
        assert up.stdout is not None
        for line in up.stdout:
            lines.append(line)
            if "rows are searchable" in line:
                break
        assert local.indexed(sku)["name"] == "Old name"
        processes = children(local)
        assert socket_folder(local) == sockets
        up.send_signal(signal.SIGINT)
        lines += up.stdout.readlines()
        assert up.wait(60) == 0, lines
    stops = [line.split("stopping ")[1].strip() for line in lines if "stopping" in line]
    assert stops == ["frontend", "pelican-1", "emu-1", "postgres, sqs, pinecone"]
    assert not any(process.is_running() for process in processes)
    assert not sockets.exists()
    local.up()
