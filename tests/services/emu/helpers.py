"""What Emu's tests share: messages, an embedder without meaning, Emus on a test's own queue and index."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from aviary.depth import queue_depth
from aviary.index import PineconeIndex, Vector
from aviary.messages import Batch, Change, DeadLetter, decode_dead_letter, encode
from aviary.source import MODEL, Source, render, text_hash, vector_id
from emu.processor import TextEmbedder
from emu.queue import SqsQueue
from emu.settings import EmuSettings
from emu.worker import Emu
from tests.conftest import Queues
from tests.services.emu.embedders import HashEmbedder
from tests.services.pinecone.process import PineconeTestIndex

REPOSITORY = Path(__file__).resolve().parents[3]
NAMESPACE = "products"
SOURCE = Source(
    id=1,
    name="products",
    schema="public",
    table="products",
    key_columns=("id",),
    text_template="{name}. {description}",
    metadata_columns=("name", "price"),
    namespace=NAMESPACE,
)

# `python -m emu` without the second that loading OpenVINO and the model takes.
WITH_TEST_EMBEDDER = """
import sys, tests.services.emu.embedders as embedders
embedders.Embedder = getattr(embedders, sys.argv.pop())
sys.modules["aviary.embedder"] = embedders
import emu.__main__
emu.__main__.main()
"""


def upsert(key: str, version: int, text: str = "", **fields: Any) -> Change:
    """An upsert of `key`; `text` is "text of <key>" unless given."""
    text = text or f"text of {key}"
    defaults: dict[str, Any] = {"text_hash": text_hash(text), "metadata": {"name": key[:50], "price": 9.5}}
    return Change(key=key, version=version, op="upsert", text=text, **(defaults | fields))


def upsert_of_row(key: str, version: int, name: str, description: str | None) -> Change:
    """The upsert that Pelican makes of a product's row."""
    document = render(SOURCE, key, {"name": name, "description": description, "price": 1.5})
    assert document is not None
    return Change(
        key=key,
        version=version,
        op="upsert",
        text=document.text,
        text_hash=document.text_hash,
        metadata=document.metadata,
    )


def delete(key: str, version: int, reason: Any = "gone") -> Change:
    return Change(key=key, version=version, op="delete", reason=reason)


def batch(*changes: Change, **fields: Any) -> Batch:
    """A live message of the source `products`, captured now and not expired."""
    now_ms = time.time_ns() // 1_000_000
    defaults: dict[str, Any] = {
        "source": "products",
        "namespace": NAMESPACE,
        "model": MODEL,
        "shard": 3,
        "captured_at_ms": now_ms,
        "expires_at_ms": now_ms + 25_000,
    }
    return Batch(changes=changes, **(defaults | fields))


def wait_until(condition: Callable[[], object], what: str, seconds: float = 45) -> None:
    """Poll until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


@dataclass(frozen=True)
class Bench:
    """A queue, its dead letter queue and an index of one test, and Emus to work between them."""

    queues: Queues
    pinecone: PineconeTestIndex
    index: PineconeIndex

    def send(self, *messages: Batch | str, group: str = "1-3") -> None:
        """Put messages into the queue, in order."""
        for message in messages:
            self.queues.client.send_message(
                QueueUrl=self.queues.queue_url,
                MessageBody=message if isinstance(message, str) else encode(message),
                MessageGroupId=group,
                MessageDeduplicationId=uuid.uuid4().hex,
            )

    def settings(self, **fields: Any) -> EmuSettings:
        defaults: dict[str, Any] = {
            "queue_url": self.queues.queue_url,
            "dlq_url": self.queues.dlq_url,
            "pinecone_api_key": self.pinecone.api_key,
            "index_host": self.pinecone.host,
            "receive_wait_seconds": 1,
        }
        return EmuSettings(**(defaults | fields))

    def emu(self, embedder: TextEmbedder | None = None, **fields: Any) -> Emu:
        """An Emu of this process; keyword arguments are settings."""
        settings = self.settings(**fields)
        queue = SqsQueue(self.queues.client, settings.queue_url, settings.dlq_url)
        return Emu(settings, queue=queue, index=self.index, embedder=embedder or HashEmbedder())

    def work(self, embedder: TextEmbedder | None = None, **fields: Any) -> dict[str, Any]:
        """Let a new Emu work until the queue is empty; its counters."""
        emu = self.emu(embedder, **fields)
        emu.run_until_idle()
        return dict(emu.snapshot())

    def stored(self, *keys: str, namespace: str = NAMESPACE) -> dict[str, int]:
        """The versions in the index, by key; of all keys unless some are given."""
        ids = [vector_id(key) for key in keys] or list(self.index.ids(namespace))
        records = self.index.fetch(namespace, ids).values()
        return {str(record.metadata["_key"]): int(record.metadata["_version"]) for record in records}  # type: ignore[arg-type] # a number

    def vector(self, key: str) -> Vector:
        return self.index.fetch(NAMESPACE, [vector_id(key)])[vector_id(key)].values

    def left(self) -> int:
        """Messages in the queue, in work or not."""
        return sum(queue_depth(self.queues.client, self.queues.queue_url))

    def dead_bodies(self) -> list[str]:
        """Bodies in the dead letter queue; they stay there, hidden from the next look."""
        bodies: list[str] = []
        while messages := self.queues.client.receive_message(
            QueueUrl=self.queues.dlq_url, MaxNumberOfMessages=10, WaitTimeSeconds=0
        ).get("Messages"):
            bodies += [message["Body"] for message in messages]
        return bodies

    def dead_letters(self) -> list[DeadLetter]:
        return [decode_dead_letter(body) for body in self.dead_bodies()]


class EmuProcess:
    """`python -m emu` as a real process, with one of the embedders of tests, or "real"; keyword arguments are settings."""

    def __init__(self, bench: Bench, folder: Path, *, embedder: str = "HashEmbedder", **fields: Any) -> None:
        self.log_path = folder / f"emu-{uuid.uuid4().hex[:6]}.log"
        settings = {"receive_wait_seconds": 1, "health_port": 0, "health_host": "127.0.0.1"} | fields
        environment = {
            **os.environ,
            "AVIARY_QUEUE_URL": bench.queues.queue_url,
            "AVIARY_DLQ_URL": bench.queues.dlq_url,
            "AVIARY_INDEX_HOST": bench.pinecone.host,
            "PINECONE_API_KEY": bench.pinecone.api_key,
            "AWS_ENDPOINT_URL_SQS": bench.queues.endpoint,
            "AWS_ENDPOINT_URL_SNS": bench.queues.endpoint,
        }
        environment |= {f"AVIARY_{name.upper()}": str(value) for name, value in settings.items()}
        arguments = ["-m", "emu"] if embedder == "real" else ["-c", WITH_TEST_EMBEDDER, embedder]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], cwd=REPOSITORY, env=environment, stdout=log, stderr=log
            )
        wait_until(lambda: self.events("started") or self.process.poll() is not None, "Emu starts", 60)
        assert self.process.poll() is None, self.log_path.read_text()
        self.health = f"http://127.0.0.1:{self.events('started')[0]['health_port']}"

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Its log so far; only the events of that name if given."""
        lines = [
            orjson.loads(line) for line in self.log_path.read_bytes().splitlines(keepends=True) if line.endswith(b"}\n")
        ]
        return [line for line in lines if name in ("", line["event"])]

    def stats(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.health}/stats", timeout=5).json()
        return answer

    def wait_for(self, **counters: int) -> None:
        """Until each counter has at least that value."""
        wait_until(
            lambda: all((stats := self.stats())[name] >= value for name, value in counters.items()) and stats,
            f"{counters}",
        )

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@contextmanager
def bench(queues: Queues, pinecone: PineconeTestIndex) -> Iterator[Bench]:
    with PineconeIndex(pinecone.api_key, pinecone.host, sdk_retries=False) as index:
        yield Bench(queues, pinecone, index)


def counters(stats: Mapping[str, object], *names: str) -> dict[str, object]:
    """Some of the counters."""
    return {name: stats[name] for name in names}
