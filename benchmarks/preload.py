"""Tables of any size with their vectors, put there without the pipeline: for measurements of what reads them."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from aviary.source import DIMENSION, Source, index_metadata, render
from benchmarks.recorded import recorded
from benchmarks.rig import Rig
from local.pinecone.log import Log
from local.pinecone.operations import Configuration, Operation, Upsert
from pelican.watch import source_named

BLOCK = 500
RECORDED_ROWS = 4_000
# So far a copy of a recorded vector is moved in each dimension (a unit vector's are about 0.05): near, but no tie.
MOVED = 0.01


def fill(connection: psycopg.Connection[Any], first: int, last: int) -> None:
    """Products with these ids, and nothing of them in the outbox."""
    with connection.transaction():
        connection.execute("ALTER TABLE products DISABLE TRIGGER USER")
        connection.execute(
            "INSERT INTO products (id, sku, name, description, category, price) OVERRIDING SYSTEM VALUE "
            "SELECT i, 'sku-' || i, 'Bottle ' || i, words.some, 'Kitchen', i %% 100 "
            "FROM generate_series(%s::int, %s::int) AS i CROSS JOIN LATERAL ("
            # No two rows may be alike, or a search has to look through all of them.
            " SELECT string_agg(left(md5(i || '/' || n), 8), ' ') AS some FROM generate_series(1, 10) AS n) words",
            (first, last),
        )
        connection.execute("ALTER TABLE products ENABLE TRIGGER USER")
    connection.execute("ANALYZE products")


def vectors(rig: Rig, every: int = 1) -> None:
    """A vector for each row, or for `every` so many, with the metadata that f(row) has, written as the stand-in's own log
    while it is stopped; and no other vector."""
    with np.load(recorded(RECORDED_ROWS)) as file:
        known = file["vectors"]
    path = rig.index_log
    rig.stop("pinecone")
    with rig.connect() as connection, connection.transaction():
        source = source_named(connection, "products")
        Log.write(path, _operations(known, source, _blocks(connection, source, every)), fsync=False).close()
    rig.start("pinecone")


def _blocks(connection: psycopg.Connection[Any], source: Source, every: int) -> Iterator[list[dict[str, Any]]]:
    columns = sql.SQL(", ").join(map(sql.Identifier, dict.fromkeys((*source.text_columns, *source.metadata_columns))))
    with connection.cursor("rows", row_factory=psycopg.rows.dict_row) as cursor:
        cursor.execute(
            sql.SQL("SELECT id::text AS _id, {} FROM products WHERE id %% %s = 0 ORDER BY id").format(columns), (every,)
        )
        while block := cursor.fetchmany(BLOCK):
            yield block


def _operations(known: Any, source: Source, blocks: Iterable[list[dict[str, Any]]]) -> Iterator[Operation]:
    draw = np.random.default_rng(1)
    yield Configuration(
        name="aviary",
        dimension=DIMENSION,
        metric="cosine",
        deployment={"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"},
    )
    start = 0
    for block in blocks:
        places = [(start + offset) % len(known) for offset in range(len(block))]
        values = known[places] + draw.normal(0, MOVED, (len(block), DIMENSION)).astype(np.float32)
        documents = [render(source, row["_id"], row) for row in block]
        metadata = [index_metadata(document, version=1) for document in documents if document is not None]
        ids = [row["_id"] for row in block]
        yield Upsert(namespace="products", ids=ids, metadata=metadata, values=values.astype("<f4").tobytes(), lsn=start)
        start += len(block)
