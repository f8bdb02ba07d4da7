"""What it means that a row and its vectors are not in step. Pure: no database, no network."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from aviary.source import RESERVED_METADATA, Document, MetadataValue, Source, vector_id

Metadata = Mapping[str, MetadataValue]
Kind = Literal["missing", "stale", "orphaned"]
KINDS: tuple[Kind, ...] = ("missing", "stale", "orphaned")


class Drift(NamedTuple):
    """A difference as it was seen once. `seen` is a digest of the row and its vectors: while it stays the same, nothing
    happened to either. `direct`: only deleting the vector itself mends it, because no key stands for it."""

    id: str
    key: str | None
    kind: Kind
    seen: str
    version: float
    direct: bool = False


def difference(key: str, document: Document | None, vectors: Sequence[Metadata | None]) -> Drift | None:
    """What is wrong with the vectors of a key, or None. `document` is f(row), None without a row or with a blank text.
    `vectors` holds the metadata of the main vector and of as many further ones as it says there are, None for each that
    is not there."""
    main = vectors[0]
    if document is None:
        kind: Kind | None = "orphaned" if main is not None else None
    elif main is None:
        kind = "missing"
    else:
        kind = None if all(_is_current(document, each) for each in vectors) else "stale"
    if kind is None:
        return None
    return Drift(vector_id(key), key, kind, digest(document, vectors), version(main))


def stray(id: str, key: str | None, metadata: Metadata) -> Drift:
    """A vector that no row's main vector accounts for."""
    return Drift(id, key, "orphaned", digest(None, [metadata]), version(metadata), direct=True)


def count(main: Metadata | None) -> int:
    """How many vectors the main one says its row has."""
    found = main.get("_chunks") if main is not None else None
    return max(1, int(found)) if isinstance(found, int | float) else 1


def version(main: Metadata | None) -> float:
    """The stored version, 0 where there is none."""
    found = main.get("_version") if main is not None else None
    return float(found) if isinstance(found, int | float) else 0.0


def key_of(source: Source, id: str, metadata: Metadata | None) -> str | None:
    """The key that a main vector's id stands for, None where nobody can tell: no row of ours made such a vector."""
    key = id if vector_id(id) == id else (metadata or {}).get("_key")
    return key if isinstance(key, str) and vector_id(key) == id and is_key(source, key) else None


def is_key(source: Source, key: str) -> bool:
    """Whether a row's key could read like this. Postgres refuses to look up anything else."""
    if not key or not _is_postgres_text(key):
        return False
    if len(source.key_columns) == 1:
        return True
    try:
        texts = json.loads(key)
    except ValueError:
        return False
    return (
        isinstance(texts, list)
        and len(texts) == len(source.key_columns)
        and all(isinstance(text, str) and _is_postgres_text(text) for text in texts)
    )


def digest(document: Document | None, vectors: Sequence[Metadata | None]) -> str:
    """Of all that a verdict rests on."""
    row: Any = None if document is None else [document.text_hash, document.metadata]
    text = json.dumps([row, [None if each is None else dict(each) for each in vectors]], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _is_current(document: Document, vector: Metadata | None) -> bool:
    if vector is None:
        return False
    ours = {"_key": document.key, "_text_hash": document.text_hash}
    if any(vector.get(name) != value for name, value in ours.items()):
        return False
    mapped = {name: value for name, value in vector.items() if name not in RESERVED_METADATA}
    return mapped.keys() == document.metadata.keys() and all(
        _same(value, mapped[name]) for name, value in document.metadata.items()
    )


def _same(one: MetadataValue, other: MetadataValue) -> bool:
    # 1 and 1.0 are one number to Pinecone; true and 1 are two values.
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _is_postgres_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
