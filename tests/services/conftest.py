"""Fixtures for the services' tests: the Pinecone stand-in as a real process, and an index of one test on it."""

import uuid
from collections.abc import Iterator

import pytest
from pinecone import Pinecone

from tests.services.pinecone.process import PineconeProcess, PineconeTestIndex, reset_sdk_budgets


@pytest.fixture(scope="session")
def pinecone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PineconeProcess]:
    server = PineconeProcess(tmp_path_factory.mktemp("pinecone"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pinecone_client(pinecone: PineconeProcess) -> Iterator[Pinecone]:
    """The SDK on the stand-in's control plane. Not reading the certificate authorities spares seconds over a run."""
    with Pinecone(api_key=pinecone.api_key, host=pinecone.control_host, ssl_verify=False) as client:
        yield client


@pytest.fixture
def pinecone_index(pinecone: PineconeProcess, pinecone_client: Pinecone) -> Iterator[PineconeTestIndex]:
    """Its own index, no faults left behind, and an SDK that remembers nothing."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    serverless = {"serverless": {"cloud": "aws", "region": "us-east-1"}}
    pinecone_client.create_index(name=name, dimension=384, metric="cosine", spec=serverless)
    reset_sdk_budgets()
    yield PineconeTestIndex(pinecone, name)
    pinecone.clear_faults()
    pinecone_client.delete_index(name)
