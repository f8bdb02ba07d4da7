"""Is the index f(table)? Reads both in the quiet and names every difference; and watches versions all the while."""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import psycopg
from pinecone.errors import PineconeError
from psycopg import sql

from aviary.chunking import Chunking, split
from aviary.embedder import Embedder
from aviary.index import PineconeIndex, Record
from aviary.source import Document, MetadataValue, Source, chunk_id, index_metadata, key_text, render, vector_id
from pelican.watch import sources

# Precision bf16, in batches of other neighbours than Emu's: equal texts differ by less than 0.001.
SAME_COSINE = 0.995
WATCH_SECONDS = 3.0

Place = tuple[str, str]
"""A namespace and a vector id in it."""


class Wanted(NamedTuple):
    """A vector that must be there: which of a row's vectors it is (0: the main one), of how many, and its text."""

    document: Document
    chunk: int
    chunks: int
    text: str


class Drift(NamedTuple):
    """What is wrong with an index, by place."""

    lost: tuple[Place, ...] = ()
    stale: tuple[Place, ...] = ()
    orphaned: tuple[Place, ...] = ()

    @property
    def total(self) -> int:
        return sum(map(len, self))

    def __str__(self) -> str:
        return f"{len(self.lost)} lost, {len(self.stale)} stale, {len(self.orphaned)} orphaned"


def compare(
    expected: Mapping[Place, Wanted],
    found: Mapping[Place, Mapping[str, MetadataValue]],
    newest: Mapping[Place, float],
) -> Drift:
    """Lost: a row without one of its vectors. Stale: a vector that is not what its row is now, or of a version below
    the `newest` that was ever seen there. Orphaned: a vector without a row, or one more than its row's text has."""
    lost, stale = [], []
    for place, wanted in expected.items():
        metadata = found.get(place)
        if metadata is None:
            lost.append(place)
            continue
        right = index_metadata(wanted.document, 0, wanted.chunk, wanted.chunks)
        right |= {"_version": metadata.get("_version", 0)}
        if metadata != right or version_of(metadata) < newest.get(place, 0.0):
            stale.append(place)
    return Drift(tuple(lost), tuple(stale), tuple(sorted(found.keys() - expected.keys())))


def version_of(metadata: Mapping[str, MetadataValue]) -> float:
    """The version of a vector; 0 for one that says none."""
    version = metadata.get("_version", 0.0)
    return version if isinstance(version, int | float) else 0.0


class Checker:
    """Compares the tables at `dsn` with an index. `newest` and `went_back` are fed by `look`."""

    def __init__(self, dsn: str, api_key: str, index_host: str) -> None:
        self._dsn = dsn
        self._index = PineconeIndex(api_key, index_host, sdk_retries=False)
        self._watching = PineconeIndex(api_key, index_host, timeout_seconds=2.0, sdk_retries=False)
        self._embedder = Embedder()
        self.newest: dict[Place, float] = {}
        self.went_back: set[Place] = set()

    def close(self) -> None:
        self._index.close()
        self._watching.close()

    def watch(self, ending: threading.Event) -> None:
        """Look every three seconds until `ending`; whatever is broken at the moment is looked at the next time."""
        while not ending.wait(WATCH_SECONDS):
            with contextlib.suppress(psycopg.Error, PineconeError):
                self.look()

    def look(self) -> None:
        """Remember the highest version seen of each vector, and which one fell below it."""
        for source in self._sources():
            for place, record in _records(self._watching, source.namespace):
                version = version_of(record.metadata)
                if version < self.newest.get(place, 0.0):
                    self.went_back.add(place)
                self.newest[place] = max(version, self.newest.get(place, 0.0))

    def drift(self) -> Drift:
        """What is wrong now. Meant for the quiet: a row that is on its way counts as wrong."""
        expected = self.expected()
        found: dict[Place, dict[str, MetadataValue]] = {}
        for source in self._sources():
            found.update({place: record.metadata for place, record in _records(self._index, source.namespace)})
        return compare(expected, found, self.newest)

    def expected(self) -> dict[Place, Wanted]:
        """f(table) of every watched table."""
        wanted: dict[Place, Wanted] = {}
        with psycopg.connect(self._dsn, row_factory=psycopg.rows.dict_row) as connection:
            for source in self._sources():
                rows = connection.execute(
                    sql.SQL("SELECT {} AS key_values, r.* FROM {} r").format(
                        sql.SQL("ARRAY[{}]").format(
                            sql.SQL(", ").join(
                                sql.SQL("r.{}::text").format(sql.Identifier(c)) for c in source.key_columns
                            )
                        ),
                        sql.Identifier(source.schema, source.table),
                    )
                )
                for row in rows:
                    document = render(source, key_text(row["key_values"]), row)
                    if document is not None:
                        for each in self._vectors_of(document):
                            wanted[source.namespace, chunk_id(vector_id(document.key), each.chunk)] = each
        return wanted

    def wrong_vectors(self) -> list[Place]:
        """Vectors whose numbers are not those of their row's text: every text is embedded again."""
        expected = self.expected()
        stored: dict[Place, Record] = {}
        for source in self._sources():
            stored.update(_records(self._index, source.namespace))
        places = [place for place in expected if place in stored]
        vectors = self._embedder.embed([expected[place].text for place in places])
        cosines = [float(np.dot(vectors[n], stored[place].values)) for n, place in enumerate(places)]
        return [place for place, cosine in zip(places, cosines, strict=True) if cosine < SAME_COSINE]

    def _vectors_of(self, document: Document) -> Iterator[Wanted]:
        text, rule = document.text, Chunking()
        if rule.most_of(text) == 1:
            yield Wanted(document, 0, 1, text)
            return
        passages = split(text, self._embedder.tokens([text])[0], rule)
        for number, (start, end) in enumerate(passages):
            yield Wanted(document, number, len(passages), text[start:end])

    def _sources(self) -> list[Source]:
        with psycopg.connect(self._dsn, connect_timeout=2) as connection:
            return sources(connection)


def _records(index: PineconeIndex, namespace: str) -> Iterator[tuple[Place, Record]]:
    ids: Iterable[str] = index.ids(namespace)
    for found, record in index.fetch(namespace, list(ids)).items():
        yield (namespace, found), record
