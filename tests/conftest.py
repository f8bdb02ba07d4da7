"""Fixtures that every kind of test may use: a real Postgres, a moto server, an environment without credentials."""

import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import boto3
import psycopg
import pytest
from moto.server import ThreadedMotoServer
from psycopg import sql

from local import sqs
from local.postgres import PostgresServer, temporary_server

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

# No test may use a person's own account: the SDKs see these, whatever the shell has.
os.environ.update(
    AWS_ACCESS_KEY_ID="testing",
    AWS_SECRET_ACCESS_KEY="testing",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_REGION="us-east-1",
    AWS_EC2_METADATA_DISABLED="true",
    AWS_CONFIG_FILE=os.devnull,
    AWS_SHARED_CREDENTIALS_FILE=os.devnull,
)


class Database(NamedTuple):
    """A fresh, empty database of one test."""

    server: PostgresServer
    name: str

    def dsn(self, user: str = "postgres") -> str:
        return self.server.dsn(user=user, database=self.name)


class Queues(NamedTuple):
    """A FIFO queue with its FIFO dead letter queue (redrive after 10 receives), of one test."""

    client: "SQSClient"
    endpoint: str
    queue_url: str
    dlq_url: str


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    # Not below pytest's own folder: each session that starts takes other users' rights on it away, and as root
    # Postgres runs as another user.
    with temporary_server() as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield Database(postgres_server, name)
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    sqs.install()  # moto's queues, made to keep the promises of SQS FIFO
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def queues(moto_endpoint: str) -> Iterator[Queues]:
    client = boto3.client("sqs", endpoint_url=moto_endpoint, region_name="us-east-1")
    name = uuid.uuid4().hex[:12]
    dlq_url = client.create_queue(QueueName=f"{name}-dlq.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dlq_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    queue_url = client.create_queue(
        QueueName=f"{name}.fifo",
        Attributes={
            "FifoQueue": "true",
            "VisibilityTimeout": "60",
            "RedrivePolicy": f'{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"10"}}',
        },
    )["QueueUrl"]
    yield Queues(client, moto_endpoint, queue_url, dlq_url)
    client.delete_queue(QueueUrl=queue_url)
    client.delete_queue(QueueUrl=dlq_url)
    client.close()
