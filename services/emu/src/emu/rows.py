"""The vectors of a row: which a text becomes, which are there already, which must go.

A row has one vector, its main one, or several when its text is long (see `aviary.chunking`). The others are written
before the main one and deleted before it, so a main vector of some version says that all of the row is of that version.

Surplus is never looked for by reading, because the index may be behind its own writes: where any row of the source was
ever long, a live change of text deletes every id that its row could have had. A backfill brings no new state, or a live
change follows it, and so need only do what the stored record says.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from aviary.chunking import Tokens, split
from aviary.index import Record
from aviary.messages import Change
from aviary.source import Document, chunk_id, index_metadata
from emu.planning import Task, chunks

Vectors = NDArray[np.float32]

# Texts whose tokens are in memory at once: of 20,000 characters each has thousands.
TOKENIZED_TEXTS = 32
# Vectors made and written at once: bounds memory, and how long a unit is busy without a sign of life.
PORTION_VECTORS = 1_000


class Tokenizer(Protocol):
    """What is needed of `aviary.embedder.Embedder`."""

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each whole text."""


class Row(NamedTuple):
    """An upsert. `passages`: the texts of its vectors, the main one's first. `cut`: its text went on after the last.

    Where the stored record has the right text hash, `passages` is empty and `vectors` is what is stored.
    """

    task: Task
    passages: tuple[str, ...]
    vectors: int
    cut: bool = False


def rows_of(tasks: Iterable[Task], stored: Mapping[str, Record], tokenizer: Tokenizer) -> list[Row]:
    """The rows of the upserts among `tasks`, in order."""
    found: list[Row] = []
    for task in tasks:
        if task.change.op == "upsert":
            record = stored.get(task.id)
            is_right = record is not None and has_hash(record, task.change)
            found.append(Row(task, () if is_right else (task.change.text,), chunk_count(record) if is_right else 1))
    cut_long(found, tokenizer)
    return found


def cut_long(rows: list[Row], tokenizer: Tokenizer) -> None:
    """Replace in `rows` those whose text needs more than one vector and is not cut yet."""
    long = [number for number, row in enumerate(rows) if len(row.passages) == 1 and _may_be_long(row.task)]
    for some in chunks(long, TOKENIZED_TEXTS):
        texts = [rows[number].task.change.text for number in some]
        for number, text, tokens in zip(some, texts, tokenizer.tokens(texts), strict=True):
            task = rows[number].task
            rule = msgspec.structs.replace(task.chunking, most=min(task.chunking.most, task.most_chunks))
            spans = split(text, tokens, rule)
            passages = tuple(text[start:end] for start, end in spans)
            rows[number] = Row(task, passages, len(passages), cut=spans[-1][1] < len(text))


def surplus(task: Task, count: int, record: Record | None) -> list[str]:
    """The ids of vectors beyond `count` that the row may have in the index. `record`: its main vector as read, if it was."""
    most = chunk_count(record)
    is_new_text = record is None or not has_hash(record, task.change)
    if task.repeated or (task.live and is_new_text):
        most = max(most, task.most_chunks)
    return [chunk_id(task.id, number) for number in range(count, most)]


def records_of(row: Row, vectors: Sequence[Vectors]) -> list[Record]:
    """What to write for the row, in the order in which to write it: the main vector last."""
    change = row.task.change
    document = Document(key=change.key, text=change.text, text_hash=change.text_hash, metadata=change.metadata)
    records = [
        Record(chunk_id(row.task.id, n), values, index_metadata(document, change.version, n, len(vectors)))
        for n, values in enumerate(vectors)
    ]
    return [*records[1:], records[0]]


def portions(rows: Sequence[Row], most: int = PORTION_VECTORS) -> Iterator[Sequence[Row]]:
    """Runs of rows with at most `most` vectors, or of one row."""
    start = size = 0
    for number, row in enumerate(rows):
        if number > start and size + row.vectors > most:
            yield rows[start:number]
            start, size = number, 0
        size += row.vectors
    if rows:
        yield rows[start:]


def has_hash(record: Record, change: Change) -> bool:
    """Whether the stored vector was made of the change's text."""
    return record.metadata.get("_text_hash") == change.text_hash


def chunk_count(record: Record | None) -> int:
    """How many vectors the row of this main vector has; 1 for none."""
    found = record.metadata.get("_chunks", 1) if record is not None else 1
    return int(found) if isinstance(found, int | float) else 1


def _may_be_long(task: Task) -> bool:
    return task.most_chunks > 1 and task.chunking.most_of(task.change.text) > 1
