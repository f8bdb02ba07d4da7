"""Tables of any size with their vectors, put there without the pipeline: for measurements of what reads them."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg

from aviary.source import DIMENSION, text_hash
from benchmarks.recorded import recorded
from benchmarks.rig import Rig
from local.pinecone.log import Log
from local.pinecone.operations import Configuration, Operation, Upsert

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


def vectors(rig: Rig, rows: int) -> float:
    """Vectors for the ids 1 to `rows`, written as the stand-in's own log while it is stopped; seconds until it answers."""
    with np.load(recorded(RECORDED_ROWS)) as file:
        known = file["vectors"]
    path = rig.index_log
    rig.stop("pinecone")
    Log.write(path, _operations(known, rows), fsync=False).close()
    began = time.monotonic()
    rig.start("pinecone")
    return time.monotonic() - began


def _operations(known: Any, rows: int) -> Iterator[Operation]:
    draw = np.random.default_rng(1)
    yield Configuration(
        name="aviary",
        dimension=DIMENSION,
        metric="cosine",
        deployment={"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"},
    )
    for start in range(0, rows, BLOCK):
        ids = [str(number) for number in range(start + 1, min(rows, start + BLOCK) + 1)]
        places = [(start + offset) % len(known) for offset in range(len(ids))]
        values = known[places] + draw.normal(0, MOVED, (len(ids), DIMENSION)).astype(np.float32)
        metadata = [
            {"_key": each, "_version": 1.0, "_text_hash": text_hash(each), "category": "Kitchen"} for each in ids
        ]
        yield Upsert(namespace="products", ids=ids, metadata=metadata, values=values.astype("<f4").tobytes(), lsn=start)
