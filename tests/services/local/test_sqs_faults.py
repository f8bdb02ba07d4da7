"""The queue server's faults do what the chaos suite relies on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError

from tests.services.local.test_sqs import Server, bodies


class FaultyServer(Server):
    options = ("--allow-faults",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.client.close()
        # Each request is to be seen as it went, not as a retry went.
        once = Config(retries={"total_max_attempts": 1})
        self.client = boto3.client(
            "sqs", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1", config=once
        )

    def ask(self, method: str, path: str, **body: object) -> Any:
        answer = httpx.request(method, f"http://127.0.0.1:{self.port}{path}", json=body, timeout=10, trust_env=False)
        return answer.raise_for_status().json()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyServer]:
    server = FaultyServer(tmp_path_factory.mktemp("sqs"))
    yield server
    server.client.close()
    server.kill()


@pytest.fixture
def server(shared: FaultyServer) -> Iterator[FaultyServer]:
    yield shared
    shared.ask("DELETE", "/_faults")
    shared.ask("POST", "/_leases/end")
    for message in shared.receive(MaxNumberOfMessages=10):
        shared.delete(message)


def test_a_refused_request_is_not_applied(server: FaultyServer) -> None:
    server.ask("POST", "/_faults", outcome="refuse", actions=["SendMessage"], seconds=60)
    with pytest.raises(ClientError, match="ServiceUnavailable"):
        server.send("refused")
    assert server.receive() == []
    server.ask("DELETE", "/_faults")
    server.send("taken")
    assert bodies(server.receive()) == ["taken"]


def test_an_answer_that_is_lost_is_of_a_request_that_was_applied(server: FaultyServer) -> None:
    server.ask("POST", "/_faults", outcome="cut", actions=["SendMessage"], seconds=60)
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        server.send("applied")
    assert bodies(server.receive()) == ["applied"]


def test_leases_that_are_ended_free_the_message_and_make_the_receipt_worthless(server: FaultyServer) -> None:
    server.send("again")
    (first,) = server.receive()
    assert server.receive() == []
    assert server.ask("POST", "/_leases/end") == {"ended": 1}
    (second,) = server.receive()
    assert second["Body"] == "again"
    with pytest.raises(ClientError, match="ReceiptHandleIsInvalid"):
        server.delete(first)
    server.delete(second)


def test_a_server_that_was_not_asked_for_faults_has_none(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        answer = httpx.post(f"http://127.0.0.1:{server.port}/_leases/end", timeout=10, trust_env=False)
        assert answer.is_error
    finally:
        server.client.close()
        server.kill()
