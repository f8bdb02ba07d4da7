"""SQS and SNS on the laptop: moto's server as a process of its own, made to keep the promises of a FIFO queue.

    python -m local.sqs --port 9324 --journal .local/queue.sqlite --run 1

moto 5.2 by itself falls short in nine ways that matter to a pipeline, each mended here (tests/services/local/test_sqs.py):

- its calls are not atomic: a message sent while another is being deleted can vanish;
- it forgets a deduplication id with its message, not after five minutes;
- a waiting receiver remembers which groups were busy when it began to wait, so it can take a message out of order or
  not see one for 20 seconds;
- a waiting receiver spins on a CPU while the only messages are of busy groups;
- a receiver that was killed while it waited, or before it read the answer, still takes messages, which then rest until
  their lease ends;
- it takes a receipt handle for as long as the message is there: who lost a lease could still acknowledge, and so free
  the group while its new holder is at work. A FIFO queue refuses a handle whose lease has ended;
- it counts what waits and what is held one after the other, so a message whose lease ends in between is in neither;
- it looks at the clock anew for each message, so where the leases of a group end while it looks, it can skip the first
  message as one of a busy group and hand out the second;
- everything is lost when the process ends, dead letters included. Here each change is in a journal (SQLite) before
  the answer is sent, leases and receipt handles included, so a killed queue server loses nothing.
"""

import argparse
import contextlib
import datetime
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flask
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.utils import unix_time_millis
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.sns.models import sns_backends
from moto.sqs import models
from moto.sqs.exceptions import ReceiptHandleIsInvalid, SQSException
from moto.sqs.models import DEDUPLICATION_TIME_IN_SECONDS, Message, SQSBackend, sqs_backends
from werkzeug.serving import make_server
from werkzeug.test import Client

from local.journal import Journal, Taken, messages_of
from local.sqs_faults import Faults

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

REGION = "us-east-1"
QUEUE = "aviary.fifo"
DEAD_LETTER_QUEUE = "aviary-dlq.fifo"
TOPIC = "aviary-alerts"
# Emu sets poison rows aside itself; this is the net under it, for a message that ends the process that reads it.
MAX_RECEIVES = 10
VISIBILITY_TIMEOUT_SECONDS = 60
DEDUPLICATION_MILLISECONDS = DEDUPLICATION_TIME_IN_SECONDS * 1000
# How long to wait for a sign that an answer was read. A client that reads it closes its connection.
READ_SECONDS = 5.0
HANDED_OUT = "local.sqs.handed_out"
RETENTION_SECONDS = 14 * 24 * 3600


def queue_url(port: int, name: str) -> str:
    """The address of a queue of this server."""
    return f"http://127.0.0.1:{port}/{DEFAULT_ACCOUNT_ID}/{name}"


def topic_arn() -> str:
    """The SNS topic that operators' notices go to."""
    return f"arn:aws:sns:{REGION}:{DEFAULT_ACCOUNT_ID}:{TOPIC}"


class Clock(threading.local):
    """Unix milliseconds, which may stand still for a thread: then all that it does happens at one moment."""

    _stopped_at: float | None = None

    def __call__(self, at: datetime.datetime | None = None) -> float:
        """As moto's function of that use."""
        if at is not None:
            return unix_time_millis(at)
        return self.now() if self._stopped_at is None else self._stopped_at

    def now(self) -> float:
        """What the clock shows while it goes."""
        return time.time() * 1000

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stand still, unless it does so already."""
        before, self._stopped_at = self._stopped_at, self()
        try:
            yield
        finally:
            self._stopped_at = before


clock = Clock()


class FifoBackend(SQSBackend):
    """moto's SQS with one lock around every call, at one moment each, and a long poll that looks again when something
    changed."""

    __module__ = SQSBackend.__module__  # where moto looks for the routes of a backend
    journal: Journal | None = None

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self._changed = threading.Condition(threading.RLock())
        self._depth = 0
        self._new: list[Taken] = []
        self._taken = (
            {(taken.queue, taken.deduplication_id): taken for taken in self.journal.taken()} if self.journal else {}
        )

    def _atomically(self, queue_name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call under the lock, and save what it changed; calls within it are part of it."""
        with self._changed, clock.stopped():
            self._depth += 1
            try:
                return call(queue_name, *args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self._save(queue_name)
                    self._changed.notify_all()

    def _save(self, queue_name: str) -> None:
        queue = self.queues.get(queue_name)
        if self.journal is not None and queue is not None:
            queues = [queue, queue.dead_letter_queue] if queue.dead_letter_queue else [queue]
            self.journal.save(queues, self._new, clock() - DEDUPLICATION_MILLISECONDS)
        self._new = []

    def _send_once(self, queue_name: str, body: str, *args: Any, **kwargs: Any) -> Message:
        """Send, unless a message of this deduplication id was accepted in the last five minutes: then the sender is
        told that one's id, whatever became of it since."""
        now = clock()
        while self._taken and (oldest := next(iter(self._taken.values()))).sent_ms < now - DEDUPLICATION_MILLISECONDS:
            del self._taken[oldest.queue, oldest.deduplication_id]
        deduplication_id = kwargs.get("deduplication_id")
        known = self._taken.get((queue_name, deduplication_id or ""))
        if known is not None:
            again = Message(known.message_id, body)
            again.sequence_number = known.sequence_number
            again.message_attributes = kwargs.get("message_attributes") or {}
            return again
        message = super().send_message(queue_name, body, *args, **kwargs)
        if deduplication_id:
            taken = Taken(queue_name, deduplication_id, message.id, message.sequence_number or "", now)
            self._taken[queue_name, deduplication_id] = taken
            self._new.append(taken)
        return message

    def send_message(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, self._send_once, *args, **kwargs)

    def send_message_batch(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, super().send_message_batch, *args, **kwargs)

    def delete_message(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, self._held(super().delete_message), *args, **kwargs)

    def delete_message_batch(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, super().delete_message_batch, *args, **kwargs)

    def change_message_visibility(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, self._held(super().change_message_visibility), *args, **kwargs)

    def change_message_visibility_batch(self, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        return self._atomically(queue_name, super().change_message_visibility_batch, *args, **kwargs)

    def _held(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, refused where its receipt handle is one of a lease that has ended."""

        def checked(queue_name: str, receipt_handle: str, *args: Any, **kwargs: Any) -> Any:
            queue = self.get_queue(queue_name)
            for message in messages_of(queue) if queue.fifo_queue else ():
                ended = message.receipt_handle != receipt_handle or message.visible
                if ended and message.had_receipt_handle(receipt_handle):
                    raise ReceiptHandleIsInvalid
            return call(queue_name, receipt_handle, *args, **kwargs)

        return checked

    def get_queue_attributes(self, queue_name: str, attribute_names: list[str]) -> dict[str, Any]:
        with self._changed, clock.stopped():
            return super().get_queue_attributes(queue_name, attribute_names)

    def end_leases(self) -> int:
        """End every lease now; how many there were."""
        ended = 0
        with self._changed:
            for queue in self.queues.values():
                for message in list(queue.pending_messages):
                    message.visible_at = 0.0
                    ended += 1
                self._save(queue.name)
            self._changed.notify_all()
        return ended

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
                with clock.stopped():
                    # Before moto looks at one message after the other: it would skip a group's first message for the
                    # sake of a later one whose lease has ended too, and then hand out the later one.
                    pending = self.get_queue(queue_name).pending_messages
                    pending.difference_update([message for message in pending if message.visible])
                    received = super().receive_message(
                        queue_name, count, 0, visibility_timeout, message_attribute_names
                    )
                self._save(queue_name)
                left = deadline - time.monotonic()
                if received or left <= 0:
                    if flask.has_request_context():
                        handles = [message.receipt_handle for message in received]
                        flask.request.environ[HANDED_OUT] = (self, queue_name, handles)
                    return received
                leases = (message.visible_at for message in self.get_queue(queue_name).pending_messages)
                next_lease_end = (min(leases, default=float("inf")) - clock()) / 1000
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
    # moto asks the clock for each message that it holds at every message that comes, through four layers of datetime:
    # nine tenths of what a message cost at a depth of 400.
    vars(models)["unix_time_millis"] = clock
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


class Handler(MotoRequestHandler):
    # Headers and body are two writes; without this the second one waits for the peer's delayed acknowledgement.
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        """Answer. Messages in an answer that nobody read are free again at once, not when their lease ends."""
        super().run_wsgi()
        backend, queue_name, handles = self.environ.get(HANDED_OUT, (None, "", []))
        if handles and not _was_read(self.connection):
            for handle in handles:
                with contextlib.suppress(SQSException):
                    backend.change_message_visibility(queue_name, handle, 0)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Long polls would fill the log."""


def _was_read(connection: socket.socket) -> bool:
    """Whether the peer read our last answer: one that ends with unread bytes resets its connection, and a process that
    is killed ends its connections last."""
    try:
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(READ_SECONDS)
        while connection.recv(4096):
            pass
    except TimeoutError:
        return True
    except OSError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m local.sqs",
        description="SQS and SNS for the laptop stack (moto), until SIGTERM.",
        epilog="example: python -m local.sqs --port 9324 --journal .local/queue.sqlite --run 1",
    )
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument("--journal", type=Path, required=True, help="SQLite file that keeps the messages")
    parser.add_argument("--run", required=True, help="leases outlive a restart of the server with the same value")
    parser.add_argument("--allow-faults", action="store_true", help="serve /_faults, for tests")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    journal = Journal(options.journal, options.run)
    install(journal)
    create_queues(journal)
    application: WSGIApplication = DomainDispatcherApplication(create_backend_app)
    # moto builds each service's routes at its first request, half a second that no client should wait for.
    for service in ("sqs", "sns"):
        scope = f"AWS4-HMAC-SHA256 Credential=local/20260101/{REGION}/{service}/aws4_request"
        Client(application).post("/", headers={"Authorization": scope})
    if options.allow_faults:
        backend: Any = sqs_backends[DEFAULT_ACCOUNT_ID][REGION]
        application = Faults(application, backend.end_leases)
    server = make_server("127.0.0.1", options.port, application, threaded=True, request_handler=Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()


if __name__ == "__main__":
    main()
