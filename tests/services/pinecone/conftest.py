"""What the tests of the stand-in and of the adapter share."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from pinecone import Index, Pinecone
from pinecone._internal import http_client

from aviary.index import PineconeIndex
from tests.services.pinecone.process import PineconeTestIndex

# Request a path below the index's host: (method, path, keyword arguments of httpx).
Send = Callable[..., httpx.Response]


@pytest.fixture
def client(pinecone_client: Pinecone) -> Pinecone:
    """The SDK on the control plane."""
    return pinecone_client


@pytest.fixture
def sdk(pinecone_index: PineconeTestIndex, client: Pinecone) -> Iterator[Index]:
    """The SDK on the data plane of this test's index."""
    with client.index(host=pinecone_index.host) as opened:
        yield opened


@pytest.fixture
def index(pinecone_index: PineconeTestIndex) -> Iterator[PineconeIndex]:
    """The adapter on this test's index."""
    with PineconeIndex(pinecone_index.api_key, pinecone_index.host) as opened:
        yield opened


@pytest.fixture
def send(pinecone_index: PineconeTestIndex) -> Iterator[Send]:
    """Plain HTTP, for what the SDK itself would not send."""
    headers = {"api-key": pinecone_index.api_key}
    with httpx.Client(headers=headers, timeout=10, verify=False) as http:  # noqa: S501 - plain HTTP on loopback

        def request(method: str, path: str, **options: Any) -> httpx.Response:
            return http.request(method, pinecone_index.host + path, **options)

        yield request


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The SDK's waits between its attempts take no time; they are noted in the list instead."""
    waits: list[float] = []
    monkeypatch.setattr(http_client, "_retry_sleep", waits.append)
    return waits
