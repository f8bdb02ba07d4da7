"""Whether all that was sent to a source's other place has arrived there.

Messages of a shard are worked on in order. So a marker goes the way of every change, last in each shard: a vector that
is not of any row is put into the place, and its key into the outbox, where no row stands for it. What Pelican sends is
its delete; when it is gone, everything before it has been written. Nothing that comes after a marker's delete can bring
it back, however often a message is delivered.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psycopg

from aviary.index import Record, VectorIndex
from aviary.source import Source, key_text, vector_id
from pelican.outbox import FILL, SHARD_BITS

SHARDS = 1 << SHARD_BITS
LOOK_SECONDS = 0.2
_KEEP = "UPDATE sync.reindex SET marker = %s WHERE source_id = %s"
_KEPT = "SELECT marker FROM sync.reindex WHERE source_id = %s"
_ENQUEUE = "INSERT INTO sync.outbox (source_id, shard, lane, keys, key_count) VALUES (%s, %s, %s, %s, 1)"


def wait_until_arrived(
    connection: psycopg.Connection[Any],
    index: VectorIndex,
    place: Source,
    *,
    dimension: int,
    seconds: float,
    report: Callable[[int], None],
    pause: Callable[[float], object] = time.sleep,
) -> int:
    """Wait until all that was enqueued for `place` before this call is in `index`, or for `seconds`. Returns how many of
    the 16 shards are not through; `report` is told after each look. Raises psycopg.Error and the SDK's errors."""
    deadline = time.monotonic() + seconds
    clean_up(connection, index, place)
    name = uuid.uuid4().hex
    connection.execute(_KEEP, (name, place.id))
    keys = _keys(place, name)
    values = np.zeros(dimension, np.float32)
    values[0] = 1.0
    # Version 0: every change is newer.
    records = [Record(vector_id(key), values, {"_key": key, "_version": 0, "_text_hash": ""}) for key in keys]
    index.upsert(place.namespace, records)
    # An index shows a write some time after it took it; until then, absence says nothing.
    while (shown := len(_there(index, place, keys))) < SHARDS:
        if time.monotonic() > deadline:
            return SHARDS
        report(SHARDS - shown)
        pause(LOOK_SECONDS)
    with connection.transaction():
        for shard, key in enumerate(keys):
            connection.execute(_ENQUEUE, (place.id, shard, FILL, [key]))
        connection.execute("SELECT pg_notify('aviary', '')")
    while left := len(_there(index, place, keys)):
        if time.monotonic() > deadline:
            return left
        report(left)
        pause(LOOK_SECONDS)
    connection.execute(_KEEP, (None, place.id))
    return 0


def clean_up(connection: psycopg.Connection[Any], index: VectorIndex, place: Source) -> None:
    """Delete the markers of a wait that did not come to its end."""
    row = connection.execute(_KEPT, (place.id,)).fetchone()
    if row is not None and row[0] is not None:
        index.delete(place.namespace, [vector_id(key) for key in _keys(place, row[0])])
        connection.execute(_KEEP, (None, place.id))


def _keys(place: Source, name: str) -> list[str]:
    """One for each shard. It need not be of the shard that its hash says, and no row has it."""
    return [key_text([f"aviary-marker-{name}-{shard}"] * len(place.key_columns)) for shard in range(SHARDS)]


def _there(index: VectorIndex, place: Source, keys: Sequence[str]) -> set[str]:
    return set(index.fetch(place.namespace, [vector_id(key) for key in keys]))
