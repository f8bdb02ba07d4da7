"""One unit's work: compare with what is stored, embed what is new, write, and keep account of what is settled."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pinecone.errors import PineconeError

from aviary.index import MAX_DELETE_IDS, Record, VectorIndex, is_missing_namespace, upsert_requests
from aviary.source import Document, index_metadata
from emu.lease import Lease, LeaseKeeper, LeaseLostError
from emu.planning import Plan, Task, by_namespace, chunks, finished, place
from emu.queue import Received
from emu.retrying import Caller
from emu.setaside import SetAside
from emu.stats import Stats
from emu.validation import fault

LOGGER = logging.getLogger(__name__)
Vectors = NDArray[np.float32]
T = TypeVar("T")
# Embedding it tells a text that cannot be embedded from an embedder that cannot embed.
KNOWN_GOOD_TEXT = "a bird"


class TextEmbedder(Protocol):
    """What Emu needs of `aviary.embedder.Embedder`. Thread-safe."""

    model: str
    dimension: int

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (len(texts), dimension), float32, L2-normalised, in the order of `texts`."""


class Unit:
    """Messages worked on together, their lease, and which of their tasks need nothing more."""

    def __init__(self, messages: Sequence[Received], lease: Lease, plan: Plan) -> None:
        self.messages = tuple(messages)
        self.lease = lease
        self.plan = plan
        self._settled: set[str] = set()
        self._blocked = {refused.message for refused in plan.refused}

    def settle(self, task: Task) -> None:
        """Pinecone took it, or it is set aside, or a newer state is stored."""
        self._settled.add(place(task))

    def settle_message(self, number: int) -> None:
        """A refused message is in the dead letter queue."""
        self._blocked.discard(number)

    def finished(self) -> list[Received]:
        """The messages that may be acknowledged."""
        numbers = finished(len(self.messages), self.plan.tasks, self._settled, self._blocked)
        return [self.messages[number] for number in numbers]


class Upsert(NamedTuple):
    """A task with the record to write for it."""

    task: Task
    record: Record


class Processor:
    """Works on the tasks of one index and one model. Thread-safe; units in work at the same time have no key in common
    (see planning). `embedding` is held while the model computes."""

    def __init__(
        self,
        *,
        index: VectorIndex,
        embedder: TextEmbedder,
        caller: Caller,
        keeper: LeaseKeeper,
        aside: SetAside,
        stats: Stats,
        embedding: threading.Lock,
    ) -> None:
        self._index = index
        self._embedder = embedder
        self._call = caller
        self._keeper = keeper
        self._aside = aside
        self._stats = stats
        self._embedding = embedding

    def process(self, unit: Unit, tasks_here: Sequence[Task]) -> None:
        """Do these tasks of a unit; upserts before deletes. Raises LeaseLostError, StoppingError, or AwsError when
        stopping."""
        for namespace, tasks in by_namespace(tasks_here).items():
            current, reusable = self._compare(unit, namespace, tasks)
            upserts = self._prepare(unit, [task for task in current if task.change.op == "upsert"], reusable)
            for some in _requests(upserts):
                self._upsert(unit, namespace, some)
            for deletes in chunks([task for task in current if task.change.op == "delete"], MAX_DELETE_IDS):
                self._delete(unit, namespace, deletes)

    def _compare(self, unit: Unit, namespace: str, tasks: Sequence[Task]) -> tuple[list[Task], dict[str, Vectors]]:
        """The tasks that are newer than what is stored, and by id the stored vectors that are still right."""
        ids = [task.id for task in tasks if task.compare]
        if not ids:
            return list(tasks), {}
        try:
            stored = self._call(
                "read", lambda: self._index.fetch(namespace, ids), lambda: self._keeper.read(unit.lease)
            )
        except PineconeError as error:
            if not is_missing_namespace(error):
                raise
            stored = {}
        current: list[Task] = []
        reusable: dict[str, Vectors] = {}
        for task in tasks:
            record = stored.get(task.id) if task.compare else None
            if record is not None and _version(record) >= task.change.version:
                self._stats.count("fenced")
                unit.settle(task)
                continue
            current.append(task)
            if record is not None and record.metadata.get("_text_hash") == task.change.text_hash:
                reusable[task.id] = record.values
        return current, reusable

    def _prepare(self, unit: Unit, tasks: Sequence[Task], reusable: dict[str, Vectors]) -> list[Upsert]:
        """Records for the tasks; a task without a record that Pinecone can hold is set aside."""
        texts = dict.fromkeys(task.change.text for task in tasks if task.id not in reusable)
        embedded = self._embed(list(texts))
        upserts: list[Upsert] = []
        for task in tasks:
            change = task.change
            values = reusable[task.id] if task.id in reusable else embedded.get(change.text)
            if values is None:
                self._poison(unit, task, "not_embeddable", "the embedding model fails on this text")
                continue
            document = Document(key=change.key, text=change.text, text_hash=change.text_hash, metadata=change.metadata)
            record = Record(task.id, values, index_metadata(document, change.version))
            wrong = fault(record, self._embedder.dimension)
            if wrong is not None:
                self._poison(unit, task, "invalid_record", wrong)
                continue
            upserts.append(Upsert(task, record))
            self._stats.count("reused" if task.id in reusable else "embedded")
        return upserts

    def _embed(self, texts: Sequence[str]) -> dict[str, Vectors]:
        """Vectors by text, without the texts that the model fails on even alone."""
        if not texts:
            return {}
        with self._embedding:
            try:
                return dict(zip(texts, self._embedder.embed(texts), strict=True))
            except Exception:
                LOGGER.exception("embedding_failed")
                self._embedder.embed([KNOWN_GOOD_TEXT])  # raises when it is not a text's fault
            vectors: dict[str, Vectors] = {}
            for text in texts:
                try:
                    vectors[text] = self._embedder.embed([text])[0]
                except Exception:
                    LOGGER.exception("embedding_failed")
            return vectors

    def _upsert(self, unit: Unit, namespace: str, upserts: Sequence[Upsert]) -> None:
        records = [upsert.record for upsert in upserts]
        tasks = [upsert.task for upsert in upserts]
        if self._send(unit, tasks, lambda: self._index.upsert(namespace, records)):
            self._stats.count("upserted", len(tasks))
            return
        for half in _halves(upserts):
            self._upsert(unit, namespace, half)

    def _delete(self, unit: Unit, namespace: str, tasks: Sequence[Task]) -> None:
        ids = [task.id for task in tasks]
        if self._send(unit, tasks, lambda: self._index.delete(namespace, ids)):
            self._stats.count("deleted", len(tasks))
            return
        for half in _halves(tasks):
            self._delete(unit, namespace, half)

    def _send(self, unit: Unit, tasks: Sequence[Task], request: Callable[[], None]) -> bool:
        """Make one write request. False when Pinecone refuses what is in it; a single task is then set aside, and
        several are for the caller to try by halves, until what is refused stands alone."""
        try:
            self._call("write", request, lambda: self._keeper.write(unit.lease))
        except PineconeError as error:
            if len(tasks) == 1:
                self._poison(unit, tasks[0], "refused_by_index", f"Pinecone refuses it: {error}")
            return False
        for task in tasks:
            unit.settle(task)
        for captured_at_ms in {task.captured_at_ms for task in tasks if task.live}:
            self._stats.fresh(captured_at_ms)
        return True

    def _poison(self, unit: Unit, task: Task, kind: str, reason: str) -> None:
        # Without the lease another Emu has the row by now, and decides on it.
        if unit.lease.remaining() <= 0:
            raise LeaseLostError
        self._aside.row(task, kind, reason)
        unit.settle(task)


def _requests(upserts: Sequence[Upsert]) -> Iterator[Sequence[Upsert]]:
    """The upserts in runs that the index sends as one request each, so that the lease is looked at before each."""
    start = 0
    for request in upsert_requests(upsert.record for upsert in upserts):
        yield upserts[start : start + len(request)]
        start += len(request)


def _halves(items: Sequence[T]) -> tuple[Sequence[T], ...]:
    middle = len(items) // 2
    return (items[:middle], items[middle:]) if middle else ()


def _version(record: Record) -> float:
    version = record.metadata.get("_version")
    return version if isinstance(version, int | float) else -1
