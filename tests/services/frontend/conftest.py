"""One frontend for all tests of this folder, emptied for each."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from pinecone import Pinecone
from psycopg import sql
from pydantic import SecretStr

from aviary.index import PineconeIndex
from frontend.settings import FrontendSettings
from local.postgres import PostgresServer
from pelican.migrate import migrate
from tests.services.frontend.site import Server, Site, WordEmbedder
from tests.services.pinecone.process import PineconeProcess, reset_sdk_budgets


def settings(dsn: str, index_host: str, **given: object) -> FrontendSettings:
    """As on a laptop, at a free port, without limits for the one client that the tests are."""
    ours = {
        "postgres_dsn": SecretStr(dsn),
        "pinecone_api_key": SecretStr("test-key"),
        "index_host": index_host,
        "http_host": "127.0.0.1",
        "http_port": 0,
        "client_reads_per_second": 0,
        "client_writes_per_second": 0,
    }
    return FrontendSettings.model_validate(ours | given)


@pytest.fixture(scope="session")
def whole_site(postgres_server: PostgresServer, pinecone: PineconeProcess) -> Iterator[Site]:
    name = f"frontend_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with psycopg.connect(postgres_server.dsn(database=name), autocommit=True) as connection:
        migrate(connection)
    with Pinecone(api_key=pinecone.api_key, host=pinecone.control_host) as client:
        client.create_index(
            name="frontend",
            dimension=384,
            metric="cosine",
            spec={"serverless": {"cloud": "aws", "region": "us-east-1"}},
        )
    host = pinecone.index_host("frontend")
    embedder = WordEmbedder()
    # As in production, the service logs in as its own role.
    given = settings(postgres_server.dsn(user="aviary_frontend", database=name), host)
    server = Server(given, PineconeIndex(pinecone.api_key, host), lambda: embedder)
    with PineconeIndex(pinecone.api_key, host) as index:
        site = Site(server, index, embedder, postgres_server.dsn(database=name))
        yield site
        server.stop()
        site.close()


@pytest.fixture
def site(whole_site: Site) -> Site:
    reset_sdk_budgets()
    whole_site.empty()
    return whole_site
