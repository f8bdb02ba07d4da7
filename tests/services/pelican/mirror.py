"""A source with its vectors in the stand-in, and an Emu in miniature between them: what the tests of reconcile break."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aviary.index import PineconeIndex, Record
from aviary.source import DEFAULT_CHUNKING, Document, MetadataValue, chunk_id, index_metadata, text_hash, vector_id
from pelican.ledger import Ledger
from pelican.looking import Looker
from pelican.outbox import prepare
from pelican.reconcile import Outcome, Reconcile
from pelican.service import Pelican
from pelican.watch import SOURCES, to_source
from tests.services.pelican.harness import MemoryQueue, Store, settings_for, wait_until

DIMENSION = 384


def values(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A vector that stands for a text."""
    seed = int(text_hash(text), 16)
    return np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)


class Mirror:
    """`ship` is Pelican, `deliver` is Emu; between the two, changes are on their way."""

    def __init__(self, store: Store, index: PineconeIndex) -> None:
        self.store = store
        self.index = index
        self.memory = MemoryQueue()
        self._delivered = 0
        self.looked: list[str] = []

    def ship(self) -> None:
        """Everything in the outbox into the queue."""
        Pelican(settings_for(self.store), self.memory).worker().run_until_idle()
        self.memory.waiting = len(self.memory.sent) - self._delivered

    def deliver(self) -> None:
        """Everything in the queue into the index, newer versions only."""
        for batch in self.memory.batches()[self._delivered :]:
            ids = [vector_id(change.key) for change in batch.changes]
            stored = self.index.fetch(batch.namespace, ids) if self.index.count(batch.namespace) else {}
            for change in batch.changes:
                record = stored.get(vector_id(change.key))
                if record is not None and float(str(record.metadata.get("_version", 0))) >= change.version:
                    continue
                if change.op == "delete":
                    self.index.delete(batch.namespace, [vector_id(change.key)])
                    continue
                document = Document(
                    key=change.key, text=change.text, text_hash=change.text_hash, metadata=change.metadata
                )
                self.write(document, change.version, batch.namespace)
        self._delivered = len(self.memory.sent)
        self.memory.waiting = 0

    def work(self) -> None:
        self.ship()
        self.deliver()

    def write(self, document: Document, version: int, namespace: str = "products", chunks: int = 1) -> None:
        """A row's vectors, as many as `chunks`."""
        main = vector_id(document.key)
        numbers = [*range(1, chunks), 0]
        self.index.upsert(
            namespace,
            [
                Record(chunk_id(main, n), values(f"{n}{document.text}"), index_metadata(document, version, n, chunks))
                for n in numbers
            ],
        )

    def put(self, name: str, namespace: str = "products", **metadata: MetadataValue) -> None:
        """A vector that is nobody's."""
        self.index.upsert(namespace, [Record(name, values(name), metadata)])

    def change(self, key: str, namespace: str = "products", **metadata: MetadataValue | None) -> None:
        """Give a vector other metadata, behind everybody's back; None takes a field away."""
        record = self.index.fetch(namespace, [key])[key]
        kept = {name: value for name, value in (record.metadata | metadata).items() if value is not None}
        self.index.upsert(namespace, [record._replace(metadata=kept)])

    def ids(self, namespace: str = "products") -> set[str]:
        return set(self.index.ids(namespace)) if self.index.count(namespace) else set()

    def reconcile(
        self,
        source: str = "products",
        *,
        repair: bool = False,
        settle_seconds: float = 4.0,
        question: str = "",
        pause: Callable[[float], object] | None = None,
        changed_column: str | None = None,
        since: Callable[..., Any] | None = None,
        report: Callable[[Any], None] = lambda _: None,
    ) -> Outcome:
        """One run as aviary_pelican. `pause` is what goes on meanwhile (default: Pelican and Emu work)."""
        clock = FakeClock(pause or (lambda _: self.work()))
        with self.store.connect("aviary_pelican") as connection:
            prepare(connection)
            row = next(row for row in connection.execute(SOURCES) if row[1] == source)
            found = to_source(row)
            ledger = Ledger(connection, found)
            asked = question or f"{repair}{changed_column}"
            # The run before has closed its session, and its server process may not have noticed yet.
            wait_until(lambda: ledger.begin(asked, restart=False), "the source to be free")
            looker = Looker(
                connection,
                self.index,
                found,
                row[9],
                dimension=DIMENSION,
                chunking=DEFAULT_CHUNKING,
                changed_column=changed_column,
            )
            run = Reconcile(
                connection,
                ledger,
                looker,
                self.memory,
                found,
                outbox_limit=20_000,
                settle_seconds=settle_seconds,
                since=since,
                report=report,
                pause=clock.pause,
                clock=clock.now,
            )
            return run.run(repair=repair, examples=10)


class FakeClock:
    """Time passes by pauses only, and something goes on in each."""

    def __init__(self, meanwhile: Callable[[float], object]) -> None:
        self._now = 0.0
        self._meanwhile = meanwhile

    def now(self) -> float:
        return self._now

    def pause(self, seconds: float) -> None:
        self._now += seconds
        self._meanwhile(seconds)


def found(outcome: Outcome) -> dict[str, Sequence[str]]:
    """The examples of each kind that has any; there are never more than ten in these tests, so that is all."""
    assert {kind: len(keys) for kind, keys in outcome.examples.items()} == outcome.found
    return {kind: sorted(keys) for kind, keys in outcome.examples.items() if keys}
