"""SQS and SNS on the laptop: moto's server as a process of its own, made to keep the promises of a FIFO queue.

    python -m local.sqs --port 9324 --journal .local/queue.sqlite

moto 5.2 by itself falls short in five ways that matter to a pipeline, each mended here (tests/services/local/test_sqs.py):

- its calls are not atomic: a message sent while another is being deleted can vanish;
- a waiting receiver remembers which groups were busy when it began to wait, so it can take a message out of order or
  not see one for 20 seconds;
- a waiting receiver spins on a CPU while the only messages are of busy groups;
- a receiver that was killed while it waited still takes the next message, which then rests until its lease ends;
- everything is lost when the process ends, dead letters included. Here each change is in a journal (SQLite) before
  the answer is sent, leases and receipt handles included, so a killed queue server loses nothing.
"""

import argparse
import select
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import flask
import msgspec
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.utils import unix_time_millis
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.sns.models import sns_backends
from moto.sqs.models import Message, Queue, SQSBackend, sqs_backends
from werkzeug.serving import make_server
from werkzeug.test import Client

REGION = "us-east-1"
QUEUE = "aviary.fifo"
DEAD_LETTER_QUEUE = "aviary-dlq.fifo"
TOPIC = "aviary-alerts"
# Emu sets poison rows aside itself; this is the net under it, for a message that ends the process that reads it.
MAX_RECEIVES = 5
VISIBILITY_TIMEOUT_SECONDS = 60
RETENTION_SECONDS = 14 * 24 * 3600


def queue_url(port: int, name: str) -> str:
    """The address of a queue of this server."""
    return f"http://127.0.0.1:{port}/{DEFAULT_ACCOUNT_ID}/{name}"


def topic_arn() -> str:
    """The SNS topic that operators' notices go to."""
    return f"arn:aws:sns:{REGION}:{DEFAULT_ACCOUNT_ID}:{TOPIC}"


class Journal:
    """The messages of some queues in one SQLite file; after `save`, a killed process or machine keeps them."""

    def __init__(self, path: Path) -> None:
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS message "
            "(position INTEGER PRIMARY KEY, queue TEXT, id TEXT, state BLOB, UNIQUE (queue, id))"
        )
        self._written: dict[tuple[str, str], tuple[object, ...]] = {}

    def load(self, queue: Queue) -> None:
        """Put back what the queue held. Leases still run, and their holders can still acknowledge."""
        for (state,) in self._file.execute("SELECT state FROM message WHERE queue = ? ORDER BY position", [queue.name]):
            message = cast("Message", Message.__new__(Message))
            message.__dict__.update(msgspec.msgpack.decode(state))
            queue._messages.append(message)  # noqa: SLF001 - moto has no way to put a message back as it was
            if message.approximate_receive_count and not message.visible:
                queue.pending_messages.add(message)
            self._written[queue.name, message.id] = _mutable(message)

    def save(self, queues: Iterable[Queue]) -> None:
        """Write what changed in `queues` since the last call, in one transaction."""
        queues = list(queues)
        now = {(queue.name, message.id): message for queue in queues for message in queue._messages}  # noqa: SLF001
        names = {queue.name for queue in queues}
        gone = [key for key in self._written if key[0] in names and key not in now]
        changed = {key: message for key, message in now.items() if self._written.get(key) != _mutable(message)}
        if not gone and not changed:
            return
        self._file.execute("BEGIN")
        self._file.executemany("DELETE FROM message WHERE queue = ? AND id = ?", gone)
        self._file.executemany(
            "INSERT INTO message (queue, id, state) VALUES (?, ?, ?) "
            "ON CONFLICT (queue, id) DO UPDATE SET state = excluded.state",
            [(*key, msgspec.msgpack.encode(message.__dict__)) for key, message in changed.items()],
        )
        self._file.execute("COMMIT")
        for key in gone:
            del self._written[key]
        self._written.update({key: _mutable(message) for key, message in changed.items()})


def _mutable(message: Message) -> tuple[object, ...]:
    return (message.receipt_handle, message.visible_at, message.approximate_receive_count)


class FifoBackend(SQSBackend):
    """moto's SQS with one lock around every call, and a long poll that looks again when something changed."""

    __module__ = SQSBackend.__module__  # where moto looks for the routes of a backend
    journal: Journal | None = None

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self._changed = threading.Condition(threading.RLock())

    def _atomically(self, queue_name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._changed:
            result = call(queue_name, *args, **kwargs)
            self._save(queue_name)
            self._changed.notify_all()
        return result

    def _save(self, queue_name: str) -> None:
        queue = self.queues.get(queue_name)
        if self.journal is not None and queue is not None:
            self.journal.save([queue, queue.dead_letter_queue] if queue.dead_letter_queue else [queue])

    def send_message(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, super().send_message, *args, **kwargs)

    def send_message_batch(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, super().send_message_batch, *args, **kwargs)

    def delete_message(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, super().delete_message, *args, **kwargs)

    def delete_message_batch(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, super().delete_message_batch, *args, **kwargs)

    def change_message_visibility(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, super().change_message_visibility, *args, **kwargs)

    def change_message_visibility_batch(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, super().change_message_visibility_batch, *args, **kwargs)

    def purge_queue(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, super().purge_queue, *args, **kwargs)

    def receive_message(
        self,
        queue_name: str,
        count: int,
        wait_seconds_timeout: int,
        visibility_timeout: int,
        message_attribute_names: list[str] | None = None,
    ) -> list[Message]:
        """At most `count` messages, none of them of a group that someone else holds."""
        deadline = time.monotonic() + wait_seconds_timeout
        gone = _client_gone()
        with self._changed:
            while not gone():
                # Before moto looks at one message after the other: it would skip a group's first message for the sake
                # of a later one whose lease has ended too, and then hand out the later one.
                pending = self.get_queue(queue_name).pending_messages
                pending.difference_update([message for message in pending if message.visible])
                received = super().receive_message(queue_name, count, 0, visibility_timeout, message_attribute_names)
                self._save(queue_name)
                left = deadline - time.monotonic()
                if received or left <= 0:
                    return received
                leases = (message.visible_at for message in self.get_queue(queue_name).pending_messages)
                next_lease_end = (min(leases, default=float("inf")) - unix_time_millis()) / 1000
                self._changed.wait(min(left, max(next_lease_end, 0.001)))
        return []


def _client_gone() -> Callable[[], bool]:
    """Whether the caller of this HTTP request has hung up; never, outside a request."""
    connection: socket.socket | None = None
    if flask.has_request_context():
        connection = flask.request.environ.get("werkzeug.socket")
    if connection is None:
        return lambda: False

    def gone() -> bool:
        # A peer that waits for its answer sends nothing, so readable means closed.
        return bool(select.select([connection], [], [], 0)[0]) and not connection.recv(1, socket.MSG_PEEK)

    return gone


def install(journal: Journal | None = None) -> None:
    """Make moto use `FifoBackend` in this process. Call it before moto's first SQS request."""
    FifoBackend.journal = journal
    sqs_backends.backend = FifoBackend


def create_queues(journal: Journal | None) -> None:
    """The queue, its dead letter queue and the topic, with the messages that the journal holds."""
    backend = sqs_backends[DEFAULT_ACCOUNT_ID][REGION]
    common: dict[str, Any] = {"FifoQueue": "true", "MessageRetentionPeriod": str(RETENTION_SECONDS)}
    dead_letters = backend.create_queue(DEAD_LETTER_QUEUE, **common)
    redrive = {"deadLetterTargetArn": dead_letters.queue_arn, "maxReceiveCount": MAX_RECEIVES}
    queue = backend.create_queue(
        QUEUE, **common, VisibilityTimeout=str(VISIBILITY_TIMEOUT_SECONDS), RedrivePolicy=redrive
    )
    sns_backends[DEFAULT_ACCOUNT_ID][REGION].create_topic(TOPIC)
    if journal is not None:
        journal.load(dead_letters)
        journal.load(queue)


class _QuietHandler(MotoRequestHandler):
    # Headers and body are two writes; without this the second one waits for the peer's delayed acknowledgement.
    disable_nagle_algorithm = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Long polls would fill the log."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local.sqs", description="SQS and SNS for the laptop stack (moto)")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True, help="SQLite file that keeps the messages")
    options = parser.parse_args()
    journal = Journal(options.journal)
    install(journal)
    create_queues(journal)
    application = DomainDispatcherApplication(create_backend_app)
    # moto builds each service's routes at its first request, half a second that no client should wait for.
    for service in ("sqs", "sns"):
        scope = f"AWS4-HMAC-SHA256 Credential=local/20260101/{REGION}/{service}/aws4_request"
        Client(application).post("/", headers={"Authorization": scope})
    server = make_server("127.0.0.1", options.port, application, threaded=True, request_handler=_QuietHandler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()


if __name__ == "__main__":
    main()
