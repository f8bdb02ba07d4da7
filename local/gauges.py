"""How many rows, vectors and unfinished changes there are: for the progress bar, for `status`, for `load`."""

from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import boto3
import psycopg
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pinecone.errors import PineconeError
from psycopg import sql

from aviary.depth import queue_depth
from aviary.index import PineconeIndex

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

PINECONE_SECONDS = 5.0
_OTHER = """
SELECT state, namespace, model, index_host, enqueued, total, waiting_keys FROM sync.reindex_status WHERE name = %s"""
# The queue server takes any credentials, but the SDK sends nothing without some.
ANY_CREDENTIAL = "local"
# What a process that is just starting again makes of a question.
PASSING = (psycopg.Error, BotoCoreError, ClientError, PineconeError, OSError)


def queue_client(endpoint: str) -> "SQSClient":
    """A client of the laptop's queue server; it tries once."""
    return boto3.client(
        "sqs",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ANY_CREDENTIAL,
        aws_secret_access_key=ANY_CREDENTIAL,
        config=Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1}),
    )


class SourceReading(NamedTuple):
    """One watched table. `outbox`: changes captured and not yet sent; `backfilling`: more of them will come, all of them
    sent in about `backfill_seconds_left` (None: nobody can tell)."""

    name: str
    table: str
    rows: int
    vectors: int
    outbox: int
    backfilling: bool
    backfill_seconds_left: float | None = None
    other: "OtherPlace | None" = None


class OtherPlace(NamedTuple):
    """A source's second place in the index (see pelican.reindex): `enqueued` of about `total` keys were read to fill it,
    `waiting` of them are not sent yet."""

    state: str
    namespace: str
    model: str
    vectors: int
    enqueued: int
    total: int
    waiting: int


class Reading(NamedTuple):
    """Everything at one moment. `queued` and `in_flight` count messages, of up to 100 changes each."""

    sources: list[SourceReading]
    queued: int
    in_flight: int
    dead_letters: int

    @property
    def settled(self) -> bool:
        """Whether every captured change has been processed."""
        return not (
            self.queued or self.in_flight or any(source.outbox or source.backfilling for source in self.sources)
        )

    @property
    def rows(self) -> int:
        return sum(source.rows for source in self.sources)

    @property
    def vectors(self) -> int:
        return sum(source.vectors for source in self.sources)

    @property
    def searchable(self) -> int:
        """Rows that are searchable, as far as counting tells: a row has one vector, or several when its text is long."""
        return sum(min(source.vectors, source.rows) for source in self.sources)

    def of(self, names: set[str]) -> "Reading":
        """The same with these sources only."""
        return self._replace(sources=[source for source in self.sources if source.name in names])


class Gauges:
    """Reads the numbers of a running stack, described by its state.json. Not for use by several threads."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._queue_url: str = state["queue_url"]
        self._dlq_url: str = state["dlq_url"]
        self._dsn: str = state["postgres_dsn"]
        self._database: psycopg.Connection[Any] | None = None
        self._api_key: str = state["pinecone_api_key"]
        self._index_host: str = state["index_host"]
        self._indexes: dict[str, PineconeIndex] = {}
        self._sqs: SQSClient = queue_client(state["sqs_endpoint"])

    def read(self) -> Reading:
        """The numbers now. The way of a change is read from its beginning to its end, so none is missed in between."""
        waiting = self._sources()
        queued, in_flight = queue_depth(self._sqs, self._queue_url)
        dead_letters = sum(queue_depth(self._sqs, self._dlq_url))
        sources = [
            source._replace(vectors=self._vectors(*place), other=self._other(source.name)) for source, place in waiting
        ]
        return Reading(sources, queued, in_flight, dead_letters)

    def try_read(self) -> Reading | None:
        """The same, or None while something is just starting again."""
        try:
            return self.read()
        except PASSING:
            return None

    def close(self) -> None:
        for index in self._indexes.values():
            index.close()
        self._sqs.close()
        if self._database is not None:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connection(self) -> psycopg.Connection[Any]:
        if self._database is None or self._database.closed:
            self._database = psycopg.connect(self._dsn, autocommit=True, connect_timeout=5)
        return self._database

    def _vectors(self, host: str, namespace: str) -> int:
        host = host or self._index_host
        if host not in self._indexes:
            self._indexes[host] = PineconeIndex(self._api_key, host, PINECONE_SECONDS)
        return self._indexes[host].count(namespace)

    def _other(self, name: str) -> OtherPlace | None:
        row = self._connection().execute(_OTHER, (name,)).fetchone()
        if row is None:
            return None
        state, namespace, model, host, *filled = row
        return OtherPlace(state, namespace, model, self._vectors(host, namespace), *filled)

    def _sources(self) -> list[tuple[SourceReading, tuple[str, str]]]:
        """Each without its vectors, and with the host and namespace that they are in."""
        database = self._connection()
        sources = database.execute(
            "SELECT s.name, s.schema_name, s.table_name, s.index_host, s.namespace,"
            " (SELECT coalesce(sum(cardinality(o.keys)), 0) FROM sync.outbox o WHERE o.source_id = s.id),"
            " EXISTS (SELECT FROM sync.backfill b WHERE b.source_id = s.id AND b.finished_at IS NULL)"
            " OR EXISTS (SELECT FROM sync.reindex r WHERE r.source_id = s.id AND r.finished_at IS NULL),"
            " t.backfill_seconds_left"
            " FROM sync.source s JOIN sync.status t ON t.source_id = s.id ORDER BY s.id"
        ).fetchall()
        readings = []
        for name, schema, table, host, namespace, outbox, backfilling, left in sources:
            row = database.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))).fetchone()
            reading = SourceReading(name, f"{schema}.{table}", row[0] if row else 0, 0, int(outbox), backfilling, left)
            readings.append((reading, (host, namespace)))
        return readings
