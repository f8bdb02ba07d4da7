"""A watched table, and what one of its rows becomes in the index.

This module is the `f` of the promise *index = f(table)*: Pelican uses it to build messages, the frontend to see
whether a row has arrived, reconcile to compare. It is pure: no database, no network.

A row's key is one string everywhere outside Postgres: the column's text for a single key column, a JSON array
of the columns' texts for a composite key (`key_expression` is the same rule in SQL).
"""

import datetime
import decimal
import functools
import hashlib
import json
import math
import re
import string
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from aviary.chunking import Chunking

MODEL = "all-MiniLM-L6-v2"
DIMENSION = 384

# The template's text is cut here, so that a row of any size fits a message (256 KiB) and a reader's memory. The
# model itself reads 256 tokens at once, some 1,200 characters of English: see aviary.chunking.
TEXT_LIMIT_CHARS = 20_000
# Pinecone takes 40,960 bytes of metadata a record; one long column must not use it all up.
METADATA_STRING_LIMIT_CHARS = 2_000
# Beyond 2**53 a JSON number is no longer exact in Pinecone, which keeps numbers as 64-bit floats.
EXACT_INTEGER_LIMIT = 2**53
# Pinecone: ids are 1 to 512 ASCII characters.
PLAIN_ID_LIMIT_CHARS = 400
PLAIN_ID = re.compile(r"[ -\"$-}]+")  # printable ASCII without "#" (kept for chunks) and "~" (marks a hash)
RESERVED_METADATA = ("_key", "_version", "_text_hash", "_chunks", "_chunk")
CHUNK_MARK = "#"
DEFAULT_CHUNKING = Chunking()

MetadataValue = str | float | bool | list[str]


class InvalidSourceError(ValueError):
    """A watch definition breaks a rule; the message names the value, the rule and the way out."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One watched table, and its place in the index: the Pinecone namespace that mirrors it, in the index at
    `index_host` ("" for the configured one), with vectors that `model` makes."""

    id: int
    name: str
    schema: str
    table: str
    key_columns: tuple[str, ...]
    text_template: str
    metadata_columns: tuple[str, ...] = ()
    namespace: str
    index_host: str = ""
    model: str = MODEL

    @property
    def text_columns(self) -> tuple[str, ...]:
        return template_columns(self.text_template)


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What a row becomes in the index: f(row). `text_hash` also covers the model and how long texts are cut, so a new
    model makes it new."""

    key: str
    text: str
    text_hash: str
    metadata: dict[str, MetadataValue]


@functools.lru_cache(maxsize=1024)
def template_columns(template: str) -> tuple[str, ...]:
    """The columns a template names, in order, each once. Only plain `{column}` fields are allowed."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InvalidSourceError(
            f"text template {template!r} does not parse ({error}); write columns as {{name}} and a literal brace twice"
        ) from None
    columns: dict[str, None] = {}
    for _, field, spec, conversion in parts:
        if field is None:
            continue
        if not field or spec or conversion or not re.fullmatch(r"\w+", field):
            raise InvalidSourceError(
                f"text template field {{{field}}} is not a plain column name; write {{column}} without index, format or conversion"
            )
        columns[field] = None
    if not columns:
        raise InvalidSourceError(f"text template {template!r} names no column; write at least one, such as {{name}}")
    return tuple(columns)


def text_hash(text: str, model: str = MODEL, chunking: Chunking = DEFAULT_CHUNKING) -> str:
    """24 hex digits over text, model and, where it may matter to this text, chunking: equal means that the stored
    vectors are still right."""
    rule = f"\0{chunking.tokens}/{chunking.overlap}/{chunking.most}" if chunking.most_of(text) > 1 else ""
    return hashlib.blake2b(f"{model}{rule}\0{text}".encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def vector_id(key: str) -> str:
    """The Pinecone id of a key's main vector: the key itself where Pinecone allows it, else `~` and its SHA-256."""
    if len(key) <= PLAIN_ID_LIMIT_CHARS and PLAIN_ID.fullmatch(key):
        return key
    return "~" + hashlib.sha256(key.encode()).hexdigest()


def chunk_id(main_id: str, number: int) -> str:
    """The id of vector `number` of a row; 0 is the main one, which every row has."""
    return f"{main_id}{CHUNK_MARK}{number}" if number else main_id


def split_chunk_id(id: str) -> tuple[str, int]:
    """What `chunk_id` was made of. An id that it cannot have made is taken for a main one."""
    main, mark, number = id.rpartition(CHUNK_MARK)
    is_ours = mark and main and number.isdecimal() and number.isascii() and not number.startswith("0")
    return (main, int(number)) if is_ours else (id, 0)


def key_of(id: str) -> str | None:
    """The key of the row that a vector belongs to; None for a hash, beside which only the metadata tells it."""
    main, _ = split_chunk_id(id)
    return None if main.startswith("~") else main


def key_text(values: Sequence[object]) -> str:
    """The key string of key column values that are already text (see the module's first lines)."""
    texts = [str(value) for value in values]
    return texts[0] if len(texts) == 1 else json.dumps(texts, ensure_ascii=False)


def render(source: Source, key: str, row: Mapping[str, Any], chunking: Chunking = DEFAULT_CHUNKING) -> Document | None:
    """What `row` becomes in the index, or None when its text is blank (such a row is not indexed).

    `row` maps at least the source's text and metadata columns to Python values as psycopg returns them.
    """
    texts = {column: as_text(row[column]) for column in source.text_columns}
    if not any(value.strip() for value in texts.values()):
        return None
    text = source.text_template.format(**texts).strip()[:TEXT_LIMIT_CHARS]
    metadata = {c: value for c in source.metadata_columns if (value := as_metadata(row[c])) is not None}
    return Document(key=key, text=text, text_hash=text_hash(text, source.model, chunking), metadata=metadata)


def as_text(value: object) -> str:
    """A column's value as the template sees it: NULL is empty, and no value is longer than the whole text may be."""
    return "" if value is None else str(value)[:TEXT_LIMIT_CHARS]


def as_metadata(value: object) -> MetadataValue | None:  # noqa: PLR0911 - one line a type reads best
    """A column's value as Pinecone can hold it; None (left out) for NULL, NaN and the infinities."""
    match value:
        case None:
            return None
        case bool():
            return value
        case int():
            return value if abs(value) <= EXACT_INTEGER_LIMIT else str(value)
        case float() | decimal.Decimal():
            number = float(value)
            return number if math.isfinite(number) else None
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case str() | uuid.UUID():
            return str(value)[:METADATA_STRING_LIMIT_CHARS]
        case list() | tuple() if all(isinstance(item, str) for item in value):
            return [item[:METADATA_STRING_LIMIT_CHARS] for item in value]
        case _:
            return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)[:METADATA_STRING_LIMIT_CHARS]


def index_metadata(document: Document, version: int, chunk: int = 0, chunks: int = 1) -> dict[str, MetadataValue]:
    """The metadata record stored with vector number `chunk` of the row's `chunks`: the mapped columns and our reserved
    fields. `_chunks` has the main vector alone, `_chunk` every other, and a row of one vector neither."""
    place: dict[str, MetadataValue] = {"_chunk": chunk} if chunk else {"_chunks": chunks} if chunks > 1 else {}
    return {**document.metadata, "_key": document.key, "_version": version, "_text_hash": document.text_hash, **place}


def check_metadata_columns(columns: Iterable[str]) -> None:
    """Refuse columns whose names Pinecone or we have taken."""
    for column in columns:
        if column in RESERVED_METADATA or column.startswith("$"):
            raise InvalidSourceError(
                f"metadata column {column!r} has a reserved name; leave it out or rename the column"
            )
