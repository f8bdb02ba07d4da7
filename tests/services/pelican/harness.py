"""What the tests of Pelican share: a database with our schema, an honest consumer of the queue, processes."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest
from pydantic import SecretStr

from aviary.depth import Depth
from aviary.messages import Batch, Change, decode_batch
from aviary.source import key_text, render
from local.postgres import PostgresServer
from pelican.cli import main
from pelican.packing import Message
from pelican.settings import PelicanSettings
from pelican.sqs import QueueError
from pelican.watch import sources

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

REPOSITORY = Path(__file__).resolve().parents[3]
DEADLINE_SECONDS = 30.0


def wait_until(condition: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Poll until `condition` holds; an AssertionError that says `what` never came about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not: {what}"
        time.sleep(0.01)


class Store(NamedTuple):
    """A database with our schema and an empty, watched products table."""

    server: PostgresServer
    name: str

    def dsn(self, user: str = "postgres") -> str:
        return self.server.dsn(user=user, database=self.name)

    def connect(self, user: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(user), autocommit=True)

    def execute(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """One statement on a connection of its own, as the owner."""
        with self.connect() as connection:
            cursor = connection.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str, parameters: Sequence[Any] = ()) -> Any:
        return self.execute(query, parameters)[0][0]

    def captured(self) -> list[tuple[str, bool]]:
        """Key and text_unchanged of all that waits, sorted; and forget it."""
        with self.connect() as connection, connection.transaction():
            found = connection.execute("SELECT unnest(keys), text_unchanged FROM sync.outbox").fetchall()
            connection.execute("DELETE FROM sync.outbox")
        return sorted(found)

    def add_products(self, count: int, first: int = 1) -> None:
        """One statement; ids `first` and up."""
        self.execute(
            "INSERT INTO products (id, sku, name, description, category, price) "
            "SELECT i, 'sku-' || i, 'Bottle ' || i, 'Keeps tea hot, number ' || i, 'Kitchen', i "
            "FROM generate_series(%s::int, %s::int) AS i",
            (first, first + count - 1),
        )

    def expected(self) -> dict[str, dict[str, Any]]:
        """f(table) of every source: source name and key → text, hash and metadata."""
        result = {}
        with self.connect() as connection:
            connection.execute("SET timezone = 'UTC'")
            for source in sources(connection):
                query = psycopg.sql.SQL("SELECT * FROM {}").format(psycopg.sql.Identifier(source.schema, source.table))
                cursor = connection.execute(query)
                names = [column.name for column in cursor.description or ()]
                for values in cursor:
                    row = dict(zip(names, values, strict=True))
                    key = key_text([row[column] for column in source.key_columns])
                    if document := render(source, key, row):
                        state = {"text_hash": document.text_hash, "text": document.text, **document.metadata}
                        result[f"{source.name}/{key}"] = state
        return result


class Consumer:
    """What Emu is to Pelican, without an index: applies messages in the order of the queue, group by group.

    `state` is the index; a version that goes down for a key is noted in `backwards`.
    """

    def __init__(self, client: "SQSClient", queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url
        self.state: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, int] = {}
        self.backwards: list[str] = []
        self.batches: list[Batch] = []
        self.changes: list[Change] = []
        self.void = 0

    def drain(self) -> list[Change]:
        """Receive and apply all that is there now; the changes of this call."""
        before = len(self.changes)
        while True:
            answer = self._client.receive_message(
                QueueUrl=self._queue_url, MaxNumberOfMessages=10, AttributeNames=["SentTimestamp"]
            )
            if not answer.get("Messages"):
                return self.changes[before:]
            for message in answer["Messages"]:
                self._apply(decode_batch(message["Body"]), int(message["Attributes"]["SentTimestamp"]))
                self._client.delete_message(QueueUrl=self._queue_url, ReceiptHandle=message["ReceiptHandle"])

    def _apply(self, batch: Batch, sent_at_ms: int) -> None:
        if sent_at_ms > batch.expires_at_ms:
            self.void += 1
            return
        self.batches.append(batch)
        for change in batch.changes:
            self.changes.append(change)
            name = f"{batch.source}/{change.key}"
            if change.version < self.versions.get(name, 0):
                self.backwards.append(name)
            self.versions[name] = change.version
            if change.op == "delete":
                self.state.pop(name, None)
            else:
                self.state[name] = {"text_hash": change.text_hash, "text": change.text, **change.metadata}


class MemoryQueue:
    """A queue whose failures a test chooses: `on_send` is called before each message is taken, and may raise."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.calls = 0
        self.aside: list[tuple[str, Message]] = []
        self.on_send: Callable[[Message], None] = lambda _: None
        self.waiting = self.held = 0
        self.asked = 0
        self._ids: set[str] = set()
        self._lock = threading.Lock()

    def send(self, messages: Sequence[Message]) -> None:
        self.calls += 1
        for message in messages:
            self.on_send(message)
            with self._lock:
                if message.deduplication_id not in self._ids:
                    self._ids.add(message.deduplication_id)
                    self.sent.append((message.group, message))

    def set_aside(self, messages: Sequence[Message]) -> None:
        self.aside.extend((message.group, message) for message in messages)

    def depth(self) -> Depth:
        self.asked += 1
        return Depth(self.waiting, self.held)

    def batches(self) -> list[Batch]:
        return [decode_batch(message.body) for _, message in self.sent]

    def changes(self) -> list[Change]:
        return [change for batch in self.batches() for change in batch.changes]


def refuse(_: Message) -> None:
    """An `on_send`: the queue does not answer."""
    raise QueueError("the queue is away")


class Process:
    """`python -m pelican` as an operating system process, with its log in a file."""

    def __init__(self, store: Store, queue_url: str, endpoint: str, log_path: Path, **settings: str) -> None:
        self.log_path = log_path
        self._environment = {
            **os.environ,
            "AVIARY_POSTGRES_DSN": store.dsn("aviary_pelican"),
            "AVIARY_QUEUE_URL": queue_url,
            "AWS_ENDPOINT_URL_SQS": endpoint,
            "AVIARY_HEALTH_HOST": "127.0.0.1",
            "AVIARY_HEALTH_PORT": "0",
            "AVIARY_LIVE_MERGE_LIMIT": "1000",  # nobody empties the queue
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self) -> "Process":
        offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pelican"], env=self._environment, cwd=REPOSITORY, stdout=log, stderr=log
            )
        wait_until(lambda: self.events("started", offset), f"pelican started: {self.log_path.read_text()[-2000:]}")
        self.port = self.events("started", offset)[-1]["health_port"]
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def events(self, name: str, offset: int = 0) -> list[dict[str, Any]]:
        """Log lines with that event."""
        lines = self.log_path.read_bytes()[offset:].splitlines()
        found = [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]
        return [line for line in found if line["event"] == name]

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(20)


class Factory(NamedTuple):
    """Makes processes against one store and queue; all are ended with the test."""

    store: Store
    queue_url: str
    endpoint: str
    folder: Path
    made: list[Process]

    def __call__(self, *, endpoint: str = "", **settings: str) -> Process:
        log_path = self.folder / f"pelican-{len(self.made)}.log"
        process = Process(self.store, self.queue_url, endpoint or self.endpoint, log_path, **settings)
        self.made.append(process)
        return process

    def end(self) -> None:
        for process in self.made:
            if process.process is not None and process.process.poll() is None:
                process.signal(signal.SIGCONT)
                process.kill()


def settings_for(store: Store, queue_url: str = "memory", **given: Any) -> PelicanSettings:
    """Settings of a Pelican inside the test's own process. Nobody empties most tests' queues, so that a backfill and small
    changes may fill them."""
    settings: dict[str, Any] = {"health_port": 0, "backfill_queue_limit": 50, "live_merge_limit": 1_000} | given
    return PelicanSettings(postgres_dsn=SecretStr(store.dsn("aviary_pelican")), queue_url=queue_url, **settings)


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def command(store: Store, *arguments: str, user: str = "postgres") -> Done:
    """`python -m pelican …`, in this process: a new one takes longer to import than most commands to run."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVIARY_POSTGRES_DSN", store.dsn(user))
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())
