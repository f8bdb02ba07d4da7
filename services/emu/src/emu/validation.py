"""What can be known to be refused before it is sent: one such record would refuse its neighbours with it."""

import math

import numpy as np
import orjson

from aviary.index import Record

# https://docs.pinecone.io/reference/api/database-limits
METADATA_LIMIT_BYTES = 40_960
ID_LIMIT_CHARS = 512


def fault(record: Record, dimension: int) -> str | None:  # noqa: PLR0911 - one line a rule reads best
    """One sentence that says why Pinecone cannot hold the record, or None."""
    if record.values.shape != (dimension,):
        return f"vector has shape {record.values.shape}, and the index holds vectors of {dimension} numbers"
    if not np.isfinite(record.values).all():
        return "vector has numbers that are not finite"
    if not record.values.any():
        return "vector is zero, and has no direction to compare"
    if not (1 <= len(record.id) <= ID_LIMIT_CHARS and record.id.isascii()):
        return f"id has {len(record.id)} characters; ids are 1 to {ID_LIMIT_CHARS} ASCII characters"
    for name, value in record.metadata.items():
        if name.startswith("$"):
            return f"metadata field {name!r} starts with $, which only operators may"
        if isinstance(value, float) and not math.isfinite(value):
            return f"metadata field {name!r} is not a finite number"
    size = len(orjson.dumps(record.metadata))
    if size > METADATA_LIMIT_BYTES:
        return f"metadata has {size} bytes, more than the {METADATA_LIMIT_BYTES} that Pinecone keeps with a vector"
    return None
