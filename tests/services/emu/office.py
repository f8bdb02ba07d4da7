"""What the tests of `python -m emu dlq` share: a whole pipeline, and the command that is tried on it."""

import contextlib
import io
import json
import time
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from aviary.dead_letters import DeadLetterQueue
from aviary.messages import DeadLetter, encode
from emu.dlq import cli
from pelican.service import Pelican
from pelican.settings import PelicanSettings
from pelican.sqs import SqsQueue
from tests.services.emu.helpers import Bench, upsert

HOUR_MS = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Office:
    """The whole pipeline of one test, and the command that is tried on it."""

    bench: Bench
    dsn: str
    pelican_dsn: str
    operator_dsn: str

    def execute(self, query: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def insert(self, id: int, name: str = "Bottle") -> None:
        self.execute("INSERT INTO products (id, sku, name) VALUES (%s, %s, %s)", id, f"sku-{id}", name)

    def waiting(self) -> list[str]:
        """Keys in the outbox."""
        return sorted(key for (key,) in self.execute("SELECT unnest(keys) FROM sync.outbox"))

    def ship(self) -> None:
        """What Pelican does."""
        queues = self.bench.queues
        settings = PelicanSettings(
            postgres_dsn=SecretStr(self.pelican_dsn), queue_url=queues.queue_url, dlq_url=queues.dlq_url
        )
        queue = SqsQueue(queues.client, queues.queue_url, queues.dlq_url)
        Pelican(settings, queue).worker().run_until_idle()

    def settle(self) -> None:
        """What Pelican and Emu do."""
        self.ship()
        self.bench.work()

    def forget(self) -> None:
        """Lose what is on its way."""
        self.execute("DELETE FROM sync.outbox")

    def put(self, *letters: DeadLetter | str, group: str = "") -> list[str]:
        """Letters into the dead letter queue, each in its own group unless one is given; their ids."""
        queues = self.bench.queues
        ids = []
        for letter in letters:
            body = letter if isinstance(letter, str) else encode(letter)
            name = f"{time.monotonic_ns()}"
            answer = queues.client.send_message(
                QueueUrl=queues.dlq_url,
                MessageBody=body,
                MessageGroupId=group or name,
                MessageDeduplicationId=name,
            )
            ids.append(answer["MessageId"])
        return ids

    def left(self) -> int:
        """Letters that anybody can receive now."""
        return DeadLetterQueue(self.bench.queues.client, self.bench.queues.dlq_url).depth().waiting

    def dlq(self, *arguments: str, answer: str | None = None, **environment: str) -> Ran:
        """`python -m emu dlq …` in this process; `answer` is what a person on a terminal types. An environment value
        "" takes the setting away."""
        given = {
            "AVIARY_DLQ_URL": self.bench.queues.dlq_url,
            "AVIARY_QUEUE_URL": self.bench.queues.queue_url,
            "AVIARY_POSTGRES_DSN": self.operator_dsn,
            "AVIARY_INDEX_HOST": self.bench.pinecone.host,
            "PINECONE_API_KEY": self.bench.pinecone.api_key,
            "AWS_ENDPOINT_URL_SQS": self.bench.queues.endpoint,
        } | environment
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, value)
            typed = io.StringIO(f"{answer}\n")
            patch.setattr(typed, "isatty", lambda: answer is not None)
            patch.setattr("sys.stdin", typed)
            try:
                code = cli.main(arguments)
            except SystemExit as end:
                code = int(end.code or 0)
        return Ran(code, out.getvalue(), err.getvalue())


def row(key: str, version: int = 1, **fields: Any) -> DeadLetter:
    """What Emu sets aside for an upsert."""
    given: dict[str, Any] = {
        "reason": "Pinecone refuses it",
        "failed_at_ms": now_ms(),
        "source": "products",
        "namespace": "products",
        "key": key,
        "version": version,
        "change": upsert(key, version),
    }
    return DeadLetter(**given | fields)
