"""One unit's work: compare with what is stored, embed what is new, write, and keep account of what is settled."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from pinecone.errors import PineconeError

from aviary.chunking import Tokens
from aviary.index import (
    MAX_DELETE_IDS,
    Record,
    VectorIndex,
    fetch_requests,
    is_missing_namespace,
    request_bytes,
    upsert_requests,
)
from aviary.limits import Work
from aviary.source import chunk_id
from emu.lease import Lease, LeaseKeeper, LeaseLostError
from emu.planning import Plan, Task, by_namespace, chunks, finished, place
from emu.queue import Received
from emu.retrying import Caller
from emu.rows import Row, Vectors, cut_long, has_hash, portions, records_of, rows_of, surplus
from emu.setaside import SetAside
from emu.stats import Stats
from emu.validation import fault

LOGGER = logging.getLogger(__name__)
# Embedding it tells a text that cannot be embedded from an embedder that cannot embed.
KNOWN_GOOD_TEXT = "a bird"


class TextEmbedder(Protocol):
    """What Emu needs of `aviary.embedder.Embedder`. Thread-safe."""

    model: str
    dimension: int

    def embed(self, texts: Sequence[str], *, urgent: bool = True) -> Vectors:
        """Shape (len(texts), dimension), float32, L2-normalised, in the order of `texts`. What is not `urgent` lets all
        that is go first."""

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each whole text, for `aviary.chunking.split`."""


class Unit:
    """Messages worked on together, their lease, and which of their tasks need nothing more."""

    def __init__(self, messages: Sequence[Received], lease: Lease, plan: Plan) -> None:
        self.messages = tuple(messages)
        self.lease = lease
        self.plan = plan
        self.is_live = any(task.live for task in plan.tasks)
        self._settled: set[str] = set()
        self._blocked = {refused.message for refused in plan.refused}

    def settle(self, task: Task) -> None:
        """Pinecone took it, or it is set aside, or a newer state is stored."""
        self._settled.add(place(task))

    def is_settled(self, task: Task) -> bool:
        """Whether it is one of those."""
        return place(task) in self._settled

    def settle_message(self, number: int) -> None:
        """A refused message is in the dead letter queue."""
        self._blocked.discard(number)

    def finished(self) -> list[Received]:
        """The messages that may be acknowledged."""
        numbers = finished(len(self.messages), self.plan.tasks, self._settled, self._blocked)
        return [self.messages[number] for number in numbers]


class Upsert(NamedTuple):
    """A record to write for a task. `is_last`: with it the task is done."""

    task: Task
    record: Record
    is_last: bool


class Removal(NamedTuple):
    """A vector to delete for a task. `is_last`: with it the task is done."""

    task: Task
    id: str
    is_last: bool


Item = TypeVar("Item", Upsert, Removal)


class Processor:
    """Works on the tasks of one index and one model. Thread-safe; units in work at the same time have no key in common
    (see planning)."""

    def __init__(
        self,
        *,
        index: VectorIndex,
        embedder: TextEmbedder,
        caller: Caller,
        keeper: LeaseKeeper,
        aside: SetAside,
        stats: Stats,
    ) -> None:
        self._index = index
        self._embedder = embedder
        self._call = caller
        self._keeper = keeper
        self._aside = aside
        self._stats = stats

    def process(self, unit: Unit, tasks_here: Sequence[Task]) -> None:
        """Do these tasks of a unit; upserts before deletes of rows. Raises LeaseLostError, StoppingError, or AwsError when
        stopping."""
        for namespace, tasks in by_namespace(tasks_here).items():
            stored = self._fetch(unit, namespace, [task.id for task in tasks if task.compare])
            current = self._newer(unit, tasks, stored)
            rows = rows_of(current, stored, self._embedder)
            # Before the main vectors are written: one of the right version must mean that nothing is left to do.
            self._remove(unit, namespace, [
                Removal(row.task, each, is_last=False)
                for row in rows
                for each in surplus(row.task, row.vectors, stored.get(row.task.id))
            ])  # fmt: skip
            for portion in portions(rows):
                self._upsert(unit, namespace, self._prepare(unit, namespace, portion, stored))
            self._remove(unit, namespace, [
                Removal(task, each, is_last=each == task.id)
                for task in current if task.change.op == "delete"
                for each in (*surplus(task, 1, stored.get(task.id)), task.id)
            ])  # fmt: skip

    def _fetch(self, unit: Unit, namespace: str, ids: Sequence[str]) -> dict[str, Record]:
        """The records that exist, by id."""
        if not ids:
            return {}
        work = Work("fetch", namespace, len(list(fetch_requests(ids))))
        try:
            return self._call(
                work,
                lambda: self._index.fetch(namespace, ids),
                lambda: self._keeper.read(unit.lease),
                live=unit.is_live,
            )
        except PineconeError as error:
            if not is_missing_namespace(error):
                raise
            return {}

    def _newer(self, unit: Unit, tasks: Sequence[Task], stored: Mapping[str, Record]) -> list[Task]:
        """The tasks that are newer than what is stored; the others need nothing more."""
        current: list[Task] = []
        for task in tasks:
            record = stored.get(task.id)
            if record is not None and _version(record) >= task.change.version:
                self._stats.count("fenced")
                unit.settle(task)
                continue
            current.append(task)
        return current

    def _prepare(self, unit: Unit, namespace: str, rows: Sequence[Row], stored: Mapping[str, Record]) -> list[Upsert]:
        """Records for the rows; one without records that Pinecone can hold is set aside."""
        kept = self._kept(unit, namespace, [row for row in rows if not row.passages], stored)
        # A row that has lost a vector, or has one of another state, is embedded after all.
        found = [
            row if row.passages or row.task.id in kept else row._replace(passages=(row.task.change.text,))
            for row in rows
        ]
        cut_long(found, self._embedder)
        embedded = self._embed(
            list(dict.fromkeys(passage for row in found for passage in row.passages)), live=unit.is_live
        )
        upserts: list[Upsert] = []
        for row in found:
            task = row.task
            vectors = kept[task.id] if not row.passages else [embedded[p] for p in row.passages if p in embedded]
            if len(vectors) < len(row.passages):
                self._poison(unit, task, "not_embeddable", "the embedding model fails on this text")
                continue
            records = records_of(row, vectors)
            wrong = next(filter(None, (fault(record, self._embedder.dimension) for record in records)), None)
            if wrong is not None:
                self._poison(unit, task, "invalid_record", wrong)
                continue
            upserts += [Upsert(task, record, is_last=record.id == task.id) for record in records]
            self._stats.count("embedded" if row.passages else "reused")
            self._stats.count("chunks", len(records) - 1)
            self._stats.count("cut", row.cut)
        return upserts

    def _kept(
        self, unit: Unit, namespace: str, rows: Sequence[Row], stored: Mapping[str, Record]
    ) -> dict[str, list[Vectors]]:
        """By main id, all vectors of the rows that are stored whole, of the right text."""
        further = {row.task.id: [chunk_id(row.task.id, number) for number in range(1, row.vectors)] for row in rows}
        records = {**stored, **self._fetch(unit, namespace, [each for ids in further.values() for each in ids])}
        kept: dict[str, list[Vectors]] = {}
        for row in rows:
            found = [records[each] for each in (row.task.id, *further[row.task.id]) if each in records]
            if len(found) == row.vectors and all(has_hash(record, row.task.change) for record in found):
                kept[row.task.id] = [record.values for record in found]
        return kept

    def _embed(self, texts: Sequence[str], *, live: bool) -> dict[str, Vectors]:
        """Vectors by text, without the texts that the model fails on even alone."""
        if not texts:
            return {}
        try:
            return dict(zip(texts, self._embedder.embed(texts, urgent=live), strict=True))
        except Exception:
            LOGGER.exception("embedding_failed")
            self._embedder.embed([KNOWN_GOOD_TEXT])  # raises when it is not a text's fault
        vectors: dict[str, Vectors] = {}
        for text in texts:
            try:
                vectors[text] = self._embedder.embed([text], urgent=live)[0]
            except Exception:
                LOGGER.exception("embedding_failed")
        return vectors

    def _upsert(self, unit: Unit, namespace: str, upserts: Sequence[Upsert]) -> None:
        for some in _requests(upserts):
            self._write(
                unit,
                some,
                lambda some: Work("upsert", namespace, 1, sum(request_bytes(upsert.record) for upsert in some)),
                lambda some: self._index.upsert(namespace, [upsert.record for upsert in some]),
            )

    def _remove(self, unit: Unit, namespace: str, removals: Sequence[Removal]) -> None:
        for some in chunks(removals, MAX_DELETE_IDS):
            self._write(
                unit,
                some,
                lambda some: Work("delete", namespace, 1, len(some)),
                lambda some: self._index.delete(namespace, [removal.id for removal in some]),
            )

    def _write(
        self,
        unit: Unit,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Work],
        request: Callable[[Sequence[Item]], None],
    ) -> None:
        """Make one write request, which costs `work`, and settle the tasks of which it holds the last item. What Pinecone refuses is tried by
        halves, until all that is refused is of one task, which is set aside."""
        # Nothing more is written of a task that is set aside.
        items = [item for item in items if not unit.is_settled(item.task)]
        if not items:
            return
        try:
            self._call(work(items), lambda: request(items), lambda: self._keeper.write(unit.lease), live=unit.is_live)
        except PineconeError as error:
            if all(item.task is items[0].task for item in items):
                self._poison(unit, items[0].task, "refused_by_index", f"Pinecone refuses it: {error}")
                return
            middle = len(items) // 2
            self._write(unit, items[:middle], work, request)
            self._write(unit, items[middle:], work, request)
            return
        done = [item.task for item in items if item.is_last]
        for task in done:
            unit.settle(task)
            self._stats.count("upserted" if task.change.op == "upsert" else "deleted")
        for captured_at_ms in {task.captured_at_ms for task in done if task.live}:
            self._stats.fresh(captured_at_ms)

    def _poison(self, unit: Unit, task: Task, kind: str, reason: str) -> None:
        # Without the lease another Emu has the row by now, and decides on it.
        if unit.lease.remaining() <= 0:
            raise LeaseLostError
        self._aside.row(task, kind, reason)
        unit.settle(task)


def _requests(upserts: Sequence[Upsert]) -> Iterator[list[Upsert]]:
    """The upserts in runs that the index sends as one request each, so that the lease is looked at before each."""
    rest = iter(upserts)
    for request in upsert_requests(upsert.record for upsert in upserts):
        yield [next(rest)._replace(record=record) for record in request]


def _version(record: Record) -> float:
    version = record.metadata.get("_version")
    return version if isinstance(version, int | float) else -1
