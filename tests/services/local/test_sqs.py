"""The queue server keeps the promises of SQS FIFO that moto alone does not (see local/sqs.py)."""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.sqs import models

from local import sqs
from local.ports import free_port, is_open
from tests.services.local.helpers import wait_until

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import MessageTypeDef

ROOT = Path(__file__).parents[3]
WAITING: Final = "ApproximateNumberOfMessages"
HELD: Final = "ApproximateNumberOfMessagesNotVisible"


class Server:
    """`python -m local.sqs`, and a client of it."""

    options: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.journal = folder / "queue.sqlite"
        self.log = folder / "sqs.log"
        self.url = sqs.queue_url(self.port, sqs.QUEUE)
        self.dlq_url = sqs.queue_url(self.port, sqs.DEAD_LETTER_QUEUE)
        self.start()
        self.client: SQSClient = boto3.client(
            "sqs", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1"
        )

    def start(self, run: str = "1") -> None:
        command = [sys.executable, "-m", "local.sqs", "--port", str(self.port), "--journal", str(self.journal)]
        command += self.options
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, "--run", run], cwd=ROOT, stderr=log)
        wait_until(lambda: is_open(self.port) or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        wait_until(lambda: self.threads() == 1)

    def threads(self) -> int:
        """One, and one for each request that is being answered."""
        return psutil.Process(self.process.pid).num_threads()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def send(self, body: str, group: str = "g", url: str = "") -> str:
        return self.client.send_message(
            QueueUrl=url or self.url, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=body
        )["MessageId"]

    def receive(self, wait_seconds: int = 0, url: str = "", **options: Any) -> "list[MessageTypeDef]":
        answer = self.client.receive_message(
            QueueUrl=url or self.url,
            WaitTimeSeconds=wait_seconds,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
            **options,
        )
        return answer.get("Messages", [])

    def in_flight(self) -> int:
        return int(self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=[HELD])["Attributes"][HELD])

    def delete(self, message: "MessageTypeDef") -> None:
        self.client.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("sqs"))
    yield server
    server.client.close()
    server.process.terminate()
    assert server.process.wait(10) == 0


@pytest.fixture
def server(shared: Server) -> Server:
    """The shared server with a queue and a dead letter queue of this test."""
    name = uuid.uuid4().hex[:12]
    shared.dlq_url = shared.client.create_queue(QueueName=f"{name}-dlq.fifo", Attributes={"FifoQueue": "true"})[
        "QueueUrl"
    ]
    redrive = {
        "deadLetterTargetArn": f"arn:aws:sqs:us-east-1:{DEFAULT_ACCOUNT_ID}:{name}-dlq.fifo",
        "maxReceiveCount": sqs.MAX_RECEIVES,
    }
    shared.url = shared.client.create_queue(
        QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true", "RedrivePolicy": json.dumps(redrive)}
    )["QueueUrl"]
    return shared


def bodies(messages: "list[MessageTypeDef]") -> list[str]:
    return [message["Body"] for message in messages]


def test_a_group_is_held_back_while_one_of_its_messages_is_out(server: Server) -> None:
    server.send("1", "a")
    server.send("2", "a")
    server.send("3", "b")
    first = server.receive(MaxNumberOfMessages=1)
    assert bodies(first) == ["1"]
    assert bodies(server.receive(MaxNumberOfMessages=10)) == ["3"]
    server.delete(first[0])
    assert bodies(server.receive(MaxNumberOfMessages=10)) == ["2"]


def test_a_deduplication_id_is_taken_once_even_after_its_message_is_gone(server: Server) -> None:
    first = server.send("1")
    server.delete(server.receive()[0])
    assert server.send("1") == first
    assert server.receive() == []
    assert server.send("2") != first


def test_receivers_that_wait_get_a_group_in_order_and_as_soon_as_it_is_free(server: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(server.receive, 20, MaxNumberOfMessages=1) for _ in range(2)]
        server.send("1")
        wait_until(lambda: any(future.done() for future in waiting))
        server.send("2")
        (first,) = [future for future in waiting if future.done()]
        (second,) = [future for future in waiting if not future.done()]
        assert bodies(first.result()) == ["1"]
        with pytest.raises(TimeoutError):
            second.result(0.5)
        server.delete(first.result()[0])
        assert bodies(second.result(1)) == ["2"]


@pytest.mark.parametrize("given_away", [False, True], ids=["nobody has it yet", "another has it"])
def test_who_lost_a_lease_can_neither_acknowledge_nor_extend(server: Server, given_away: bool) -> None:
    server.send("1")
    server.send("2")
    (first,) = server.receive(MaxNumberOfMessages=1, VisibilityTimeout=1)
    late = {"QueueUrl": server.url, "ReceiptHandle": first["ReceiptHandle"]}
    if given_away:
        (again,) = server.receive(20, MaxNumberOfMessages=1)
        assert again["Body"] == "1"
    else:
        wait_until(lambda: not server.in_flight())
    with pytest.raises(ClientError, match="ReceiptHandleIsInvalid"):
        server.client.delete_message(**late)
    with pytest.raises(ClientError, match="ReceiptHandleIsInvalid"):
        server.client.change_message_visibility(**late, VisibilityTimeout=60)
    refused = server.client.delete_message_batch(
        QueueUrl=server.url, Entries=[{"Id": "0", "ReceiptHandle": first["ReceiptHandle"]}]
    )["Failed"]
    assert [failure["Code"] for failure in refused] == ["ReceiptHandleIsInvalid"]
    if given_away:
        assert server.receive() == [], "the group is still with the one who has the lease"


def test_a_receiver_that_waits_for_a_busy_group_burns_no_cpu(server: Server) -> None:
    server.send("1")
    server.send("2")
    server.receive(MaxNumberOfMessages=1)
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    assert server.receive(1) == []
    used = process.cpu_times()
    assert used.user + used.system - before.user - before.system < 0.3


def test_a_lease_that_ends_wakes_the_receiver_that_waits(server: Server) -> None:
    server.send("1")
    server.receive(VisibilityTimeout=1)
    began = time.monotonic()
    (again,) = server.receive(20)
    assert time.monotonic() - began < 15, "not the whole poll"
    assert again["Attributes"]["ApproximateReceiveCount"] == "2"


@contextlib.contextmanager
def raw_receiver(server: Server, wait_seconds: int) -> Iterator[None]:
    """A client that asks for messages and is gone before it reads the answer."""
    body = json.dumps({"QueueUrl": server.url, "WaitTimeSeconds": wait_seconds})
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            f"POST / HTTP/1.1\r\nHost: sqs\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\n"
            f"Content-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}\r\n"
            f"Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/sqs/aws4_request\r\n\r\n{body}".encode()
        )
        yield


def test_a_receiver_that_was_killed_while_it_waited_takes_nothing(server: Server) -> None:
    wait_until(lambda: server.threads() == 1, 30)
    with raw_receiver(server, 20):
        wait_until(lambda: server.threads() == 2)
    server.send("1")
    (message,) = server.receive(5)
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


def test_a_receiver_that_was_killed_before_it_read_the_answer_keeps_nothing(server: Server) -> None:
    server.send("1")
    with raw_receiver(server, 0):
        wait_until(server.in_flight)
    (message,) = server.receive(5)
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"


def test_a_message_that_is_received_too_often_becomes_a_dead_letter(server: Server) -> None:
    server.send("poison")
    for _ in range(sqs.MAX_RECEIVES):
        (message,) = server.receive()
        server.client.change_message_visibility(
            QueueUrl=server.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )
        time.sleep(0.002)  # the queue's clock has milliseconds, and a lease ends after its last one
    assert server.receive() == []
    assert bodies(server.receive(url=server.dlq_url)) == ["poison"]


def test_a_killed_server_loses_no_message_no_order_no_lease_and_no_dead_letter(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        server.send("dead", url=server.dlq_url)
        for body in ("1", "2", "3", "4"):
            server.send(body)
        first, second = server.receive(MaxNumberOfMessages=2)
        server.delete(first)
        sent = second["Attributes"]["SentTimestamp"]

        server.kill()
        server.start()

        assert server.send("1")  # as when the sender did not hear the answer
        assert server.receive(MaxNumberOfMessages=10) == []  # the lease on the second still runs
        server.delete(second)  # and its holder can still acknowledge
        rest = server.receive(MaxNumberOfMessages=10)
        assert bodies(rest) == ["3", "4"]
        assert rest[0]["Attributes"]["SentTimestamp"] >= sent
        assert bodies(server.receive(url=server.dlq_url)) == ["dead"]
    finally:
        server.client.close()
        server.kill()


def test_in_a_new_run_of_the_stack_nobody_holds_a_lease(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        server.send("1")
        server.receive()
        server.kill()
        server.start(run="2")
        (again,) = server.receive()
        assert again["Attributes"]["ApproximateReceiveCount"] == "2"
    finally:
        server.client.close()
        server.kill()


def test_no_message_is_lost_between_threads_that_send_and_threads_that_delete() -> None:
    backend = sqs.FifoBackend("us-east-1", DEFAULT_ACCOUNT_ID)
    backend.create_queue("q.fifo", None, FifoQueue="true")
    threads, each = 4, 80
    received: list[str] = []

    def send(thread: int) -> None:
        for n in range(each):
            backend.send_message("q.fifo", f"{thread}-{n}", group_id=f"{thread}", deduplication_id=f"{thread}-{n}")

    def take() -> None:
        while len(received) < threads * each and time.monotonic() < deadline:
            for message in backend.receive_message("q.fifo", 10, 0, 30):
                received.append(message.body)
                backend.delete_message("q.fifo", str(message.receipt_handle))

    deadline = time.monotonic() + 20
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=send, args=(n,)) for n in range(threads)]
        workers += [threading.Thread(target=take) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(old)
    for thread in range(threads):
        mine = [body for body in received if body.startswith(f"{thread}-")]
        assert sorted(mine) == sorted(f"{thread}-{n}" for n in range(each)), "every message arrives, and once"


@pytest.fixture
def two_held(monkeypatch: pytest.MonkeyPatch) -> tuple[sqs.FifoBackend, Callable[[int], None]]:
    """A queue "q.fifo" whose messages "1" and "2", of one group, are held, the second for a millisecond longer; and what
    lets the first lease end after so many looks at the clock. Each look comes a millisecond after the one before."""
    clock = itertools.count(int(time.time() * 1000))
    monkeypatch.setattr(sqs.Clock, "now", lambda _: next(clock))
    monkeypatch.setattr(models, "unix_time_millis", sqs.clock)
    backend = sqs.FifoBackend("us-east-1", DEFAULT_ACCOUNT_ID)
    backend.create_queue("q.fifo", None, FifoQueue="true")
    for body in ("1", "2"):
        backend.send_message("q.fifo", body, group_id="g", deduplication_id=body)
    backend.receive_message("q.fifo", 10, 0, 30)
    end = int(min(message.visible_at for message in backend.queues["q.fifo"].pending_messages))
    for message in backend.queues["q.fifo"].pending_messages:
        message.visible_at = end + (message.body == "2")

    def let_end(looks: int) -> None:
        nonlocal clock
        clock = itertools.count(end - looks)

    return backend, let_end


def test_a_message_whose_lease_ends_while_it_is_counted_is_counted(
    two_held: tuple[sqs.FifoBackend, Callable[[int], None]],
) -> None:
    backend, let_end = two_held
    counts = set()
    for looks in range(-3, 100):
        let_end(looks)
        depths = backend.get_queue_attributes("q.fifo", [WAITING, HELD])
        counts.add((depths[WAITING], depths[HELD]))
    assert counts == {(0, 2), (1, 1), (2, 0)}


@pytest.mark.parametrize("looks", range(8))
def test_a_group_whose_leases_end_while_somebody_receives_is_given_out_in_order(
    two_held: tuple[sqs.FifoBackend, Callable[[int], None]], looks: int
) -> None:
    backend, let_end = two_held
    let_end(looks)
    received = [message.body for _ in range(20) for message in backend.receive_message("q.fifo", 10, 0, 30)]
    assert received == ["1", "2"]


def test_the_server_ends_at_sigterm_and_needs_no_credentials(tmp_path: Path) -> None:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "local.sqs", "--port", str(port), "--journal", str(tmp_path / "q"), "--run", "1"],
        cwd=ROOT,
        env=environment,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        wait_until(lambda: is_open(port))
        process.terminate()
        assert process.wait(10) == 0
