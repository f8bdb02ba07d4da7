"""The real processes, every kind of trouble, and a mark in all that is private: no line they write holds one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from aviary.messages import Change, encode
from pelican.migrate import migrate
from tests.conftest import Database, Queues
from tests.services.emu.helpers import batch, upsert, wait_until
from tests.services.pinecone.process import PineconeTestIndex

MARK = "Zq7mark"
REPOSITORY = Path(__file__).resolve().parents[3]
# `python -m NAME` without the second that loading OpenVINO and the model takes.
WITH_TEST_EMBEDDER = """
import runpy, sys, tests.services.emu.embedders as embedders
embedders.Embedder = embedders.HashEmbedder
sys.modules["aviary.embedder"] = embedders
name = sys.argv.pop(1)
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


class Process:
    """A service with all its output in one file."""

    def __init__(self, folder: Path, name: str, module: str, **environment: str) -> None:
        self.path = folder / f"{name}.log"
        with self.path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", WITH_TEST_EMBEDDER, module],
                cwd=REPOSITORY,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        return [line for line in lines if line["event"] == name]

    def wait_for(self, name: str, times: int = 1) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.events(name)) >= times, f"{name} in {self.path.name}", 60)
        return self.events(name)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)


class Stage:
    """What the services are connected to, and the services."""

    def __init__(self, folder: Path, database: Database, queues: Queues, pinecone: PineconeTestIndex) -> None:
        self.folder, self.database, self.queues, self.pinecone = folder, database, queues, pinecone
        self.processes: list[Process] = []
        self.owner = psycopg.connect(database.dsn(), autocommit=True)
        migrate(self.owner)
        self.owner.execute("CREATE TABLE notes (id text PRIMARY KEY, body text, tags text[])")
        self.owner.execute("SELECT sync.watch('notes', 'notes', '{id}', '{body}', '{body}', '{tags}')")

    def start(self, name: str, module: str, **environment: str) -> Process:
        role = "aviary_frontend" if module == "frontend" else "aviary_pelican"
        given = {
            "AVIARY_POSTGRES_DSN": make_conninfo(self.database.dsn(user=role), password=f"{MARK}-password"),
            "AVIARY_QUEUE_URL": self.queues.queue_url,
            "AVIARY_DLQ_URL": self.queues.dlq_url,
            "AVIARY_INDEX_HOST": self.pinecone.host,
            "PINECONE_API_KEY": self.pinecone.api_key,
            "AWS_ENDPOINT_URL_SQS": self.queues.endpoint,
            "AWS_ENDPOINT_URL_SNS": self.queues.endpoint,
            "AVIARY_HEALTH_HOST": "127.0.0.1",
            "AVIARY_HEALTH_PORT": "0",
            "AVIARY_HTTP_HOST": "127.0.0.1",
            "AVIARY_HTTP_PORT": "0",
            "AVIARY_RECEIVE_WAIT_SECONDS": "1",
            "AVIARY_LOG_LEVEL": "DEBUG",
        }
        self.processes.append(Process(self.folder, name, module, **(given | environment)))
        return self.processes[-1]

    def send(self, body: str, group: str) -> None:
        self.queues.client.send_message(
            QueueUrl=self.queues.queue_url,
            MessageBody=body,
            MessageGroupId=group,
            MessageDeduplicationId=str(time.monotonic_ns()),
        )

    def end(self) -> None:
        for process in self.processes:
            process.stop()
        self.owner.close()


@pytest.fixture
def stage(tmp_path: Path, database: Database, queues: Queues, pinecone_index: PineconeTestIndex) -> Iterator[Stage]:
    made = Stage(tmp_path, database, queues, pinecone_index)
    yield made
    made.end()


def trouble_for_the_frontend(stage: Stage, frontend: Process) -> None:
    url = frontend.wait_for("listening")[0]["url"]
    with httpx.Client(base_url=url, timeout=30) as client:

        def ask(method: str, path: str, expected: int, **given: Any) -> None:
            answer = client.request(method, path, **given)
            assert answer.status_code == expected, f"{method} {path}: {answer.status_code} {answer.text}"

        new = {"sku": f"{MARK}-sku", "name": f"{MARK} name", "description": f"{MARK} text", "attributes": {"a": MARK}}
        wait_until(lambda: client.get("/readyz").status_code == 200, "the frontend is ready", 30)
        ask("GET", "/api/search", 200, params={"q": f"{MARK} query", "category": MARK})
        ask("GET", "/", 200, params={"q": f"{MARK} query"})
        ask("GET", "/api/search", 422, params={MARK: MARK})
        ask("GET", "/api/search", 422, params={"q": MARK * 1_000, "min_price": MARK})
        ask("GET", "/api/search", 404, params={"q": "a", "source": MARK})
        ask("GET", f"/api/products/{MARK}", 422)
        ask("GET", f"/{MARK}?{MARK}={MARK}", 404)
        ask("GET", "/", 421, headers={"Host": MARK})
        ask("POST", "/api/products", 201, json=new)
        ask("POST", "/api/products", 409, json=new)
        ask("POST", "/api/products", 422, json=new | {MARK: MARK, "price": MARK})
        ask("POST", "/api/products", 422, content=f'{{"name": "{MARK}', headers={"Content-Type": "application/json"})
        ask("POST", "/api/products", 403, json=new, headers={"Origin": f"http://{MARK}"})
        ask("PATCH", "/api/products/1", 412, json={"name": MARK}, headers={"If-Match": MARK})
        ask("POST", "/products", 422, data={"name": f"{MARK}\0", "price": MARK})
        for status in (400, 401, 429, 500):
            stage.pinecone.faults(operation="query", status=status, message=f"{MARK} refused", count=3)
            assert client.get("/api/search", params={"q": f"{MARK} {status}"}).status_code in (200, 503)
            stage.pinecone.server.clear_faults()
        raw = httpx.URL(url)
        with socket.create_connection((raw.host, raw.port or 80)) as connection:
            connection.sendall(f"{MARK} {MARK}\r\n\r\n".encode())
            connection.recv(1_000)
        # The database says no, quoting the row; then it is not the one that was expected; then it is away.
        stage.owner.execute(f"ALTER TABLE products ADD CONSTRAINT no CHECK (name <> '{MARK} no')")
        ask("PATCH", "/api/products/1", 422, json={"name": f"{MARK} no"})
        stage.owner.execute(
            "CREATE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no: %', NEW; END $$;"
            "CREATE TRIGGER complain BEFORE INSERT ON products FOR EACH ROW EXECUTE FUNCTION complain()"
        )
        ask("POST", "/api/products", 500, json=new | {"sku": f"{MARK}-other"})
        stage.owner.execute(f'ALTER TABLE products RENAME COLUMN category TO "{MARK}"')
        ask("GET", "/api/products", 503)
        stage.owner.execute(
            f'ALTER TABLE products RENAME COLUMN "{MARK}" TO category; DROP TRIGGER complain ON products;'
            "ALTER TABLE products DROP CONSTRAINT no"
        )
        stage.owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'aviary%'"
        )
        client.get("/api/products")
    for event in ("request", "database_trouble", "database_error", "database_not_ready", "index_unavailable"):
        frontend.wait_for(event)


def trouble_for_pelican(stage: Stage, pelican: Process) -> None:
    pelican.wait_for("started")
    stage.owner.execute("INSERT INTO notes VALUES (%s, %s, %s)", (f"{MARK}-key", f"{MARK} body", [MARK]))
    # What no message can carry is set aside; then the table is not what it was; then the connections break.
    stage.owner.execute("INSERT INTO notes VALUES (%s, 'a', %s)", (f"{MARK}-big", [MARK * 280] * 200))
    pelican.wait_for("rows_set_aside")
    stage.owner.execute(f'ALTER TABLE notes RENAME COLUMN body TO "{MARK}"')
    stage.owner.execute("UPDATE notes SET tags = '{}'")
    pelican.wait_for("source_unreadable")
    stage.owner.execute(f'ALTER TABLE notes RENAME COLUMN "{MARK}" TO body')
    pelican.wait_for("source_readable_again")
    stage.owner.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%pelican%'"
    )
    pelican.wait_for("database_trouble")


def trouble_for_emu(stage: Stage, emu: Process) -> None:
    send = stage.send
    emu.wait_for("started")
    send(f"{MARK} is no message", "bad-1")
    send(json.dumps({"v": 1, "changes": [{"key": MARK, "text": MARK}], MARK: MARK}), "bad-2")
    emu.wait_for("set_aside", 2)
    for status in (400, 401, 429, 500):
        stage.pinecone.faults(operation="upsert", status=status, message=f"{MARK} refused", count=1)
        key = f"{MARK}-{status}"
        send(_encoded(upsert(key, 1, f"{MARK} text", metadata={"name": MARK, "price": 1.5})), f"1-{status}")
        wait_until(lambda: stage.pinecone.server.fault_report()["rules"][0]["injected"] >= 1, f"{status} was met", 30)
        stage.pinecone.server.clear_faults()
    huge = upsert(f"{MARK}-poison", 1, MARK, metadata={"name": MARK * 8_000, "price": 1.0})
    send(_encoded(huge), "1-9")
    emu.wait_for("set_aside", 3)
    emu.wait_for("notice_failed")
    emu.wait_for("index_state", 2)


def trouble_for_a_stranger(stage: Stage, stranger: Process) -> None:
    """An Emu whose key Pinecone does not know."""
    stranger.wait_for("started")
    stage.send(_encoded(upsert(f"{MARK}-stranger", 1, MARK)), "1-3")
    stranger.wait_for("index_state")


def _encoded(change: Change) -> str:
    return encode(batch(change))


@pytest.mark.timeout(300)  # five processes that import much, on a machine with other work
def test_no_line_of_any_log_holds_a_secret_a_row_a_key_or_a_query(stage: Stage) -> None:
    frontend = stage.start("frontend", "frontend")
    pelican = stage.start("pelican", "pelican")
    trouble_for_pelican(stage, pelican)
    pelican.stop()
    lost = stage.start("pelican-lost", "pelican", AVIARY_QUEUE_URL=f"{stage.queues.queue_url[:-5]}-{MARK}.fifo")
    stage.owner.execute("INSERT INTO notes VALUES (%s, %s, %s)", (f"{MARK}-lost", f"{MARK} body", [MARK]))
    lost.wait_for("queue_trouble")
    lost.stop()
    trouble_for_the_frontend(stage, frontend)
    topic = f"arn:aws:sns:us-east-1:123456789012:{MARK}"
    emu = stage.start("emu", "emu", AVIARY_TOPIC_ARN=topic)
    trouble_for_emu(stage, emu)
    emu.stop()
    trouble_for_a_stranger(stage, stage.start("emu-stranger", "emu", PINECONE_API_KEY=f"{MARK}-api-key"))
    for process in stage.processes:
        process.stop()
    found = [
        f"{process.path.name}: {line[:300]}"
        for process in stage.processes
        for line in process.path.read_text().splitlines()
        if MARK.lower() in line.lower()
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "arguments", "variable", "value"),
    [
        ("frontend", [], "AVIARY_POSTGRES_DSN", f"postgresql//user:{MARK}@host/db"),
        ("frontend", [], "AVIARY_EXAMPLES", f'["{MARK}'),
        ("pelican", [], "AVIARY_POSTGRES_DSN", f"user={MARK} {MARK}"),
        ("pelican", ["migrate"], "AVIARY_POSTGRES_DSN", f"postgresql//user:{MARK}@host/db"),
        ("pelican", ["migrate"], "AVIARY_POSTGRES_DSN", f"postgresql://user:{MARK}@127.0.0.1:1/db"),
        ("emu", [], "AVIARY_LOG_LEVEL", MARK),
        ("emu", [], "AVIARY_VISIBILITY_SECONDS", MARK),
    ],
)
def test_a_setting_that_is_wrong_is_named_and_not_shown(
    module: str, arguments: list[str], variable: str, value: str
) -> None:
    given = {
        "AVIARY_POSTGRES_DSN": "postgresql://127.0.0.1:1/db",
        "AVIARY_QUEUE_URL": "http://127.0.0.1:1/q",
        "AVIARY_INDEX_HOST": "http://127.0.0.1:1",
        "PINECONE_API_KEY": f"{MARK}-key",
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **given, variable: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert MARK.lower() not in (done.stdout + done.stderr).lower()
