"""The chaos suite's own eyes: a checker that sees nothing would make every run a success."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest

from aviary.embedder import Embedder
from aviary.index import PineconeIndex, Record
from aviary.source import DIMENSION, Document, MetadataValue, chunk_id, index_metadata, render
from chaos.checker import Checker, Drift, Place, Wanted, compare
from pelican.migrate import migrate
from pelican.watch import sources
from tests.conftest import Database
from tests.services.pinecone.process import PineconeTestIndex

DOCUMENT = Document(key="1", text="a kettle", text_hash="k1", metadata={"price": 3.5})
KETTLE = Wanted(DOCUMENT, 0, 1, "a kettle")
PLACE = ("products", "1")
Checked = tuple[Checker, psycopg.Connection[Any], PineconeIndex]


def stored(wanted: Wanted, version: int = 7) -> dict[str, MetadataValue]:
    return index_metadata(wanted.document, version, wanted.chunk, wanted.chunks)


def test_an_index_that_is_f_of_the_table_has_no_drift() -> None:
    assert compare({PLACE: KETTLE}, {PLACE: stored(KETTLE)}, {PLACE: 7}).total == 0


def test_a_row_without_its_vector_is_lost() -> None:
    assert compare({PLACE: KETTLE}, {}, {}) == Drift(lost=(PLACE,))


@pytest.mark.parametrize(
    "wrong",
    [
        {"_text_hash": "k0"},
        {"price": 4.0},
        {"_key": "2"},
        {"_version": 6},
        {"colour": "red"},
    ],
    ids=str,
)
def test_a_vector_that_is_not_what_its_row_is_now_is_stale(wrong: dict[str, MetadataValue]) -> None:
    assert compare({PLACE: KETTLE}, {PLACE: {**stored(KETTLE), **wrong}}, {PLACE: 7}) == Drift(stale=(PLACE,))


def test_a_vector_without_a_row_is_orphaned() -> None:
    other: Place = ("stock", "1")
    found = {PLACE: stored(KETTLE), other: stored(KETTLE)}
    assert compare({PLACE: KETTLE}, found, {}) == Drift(orphaned=(other,))


def test_each_vector_of_a_long_text_is_looked_at() -> None:
    texts = ["first", "second", "third"]
    expected = {("products", chunk_id("1", n)): Wanted(DOCUMENT, n, 3, text) for n, text in enumerate(texts)}
    found = {place: stored(wanted) for place, wanted in expected.items()}
    assert compare(expected, found, {}).total == 0
    first, second, third = expected
    assert compare(expected, {first: found[first], second: found[second]}, {}) == Drift(lost=(third,))
    assert compare(expected, found | {second: found[third]}, {}) == Drift(stale=(second,))
    surplus = ("products", chunk_id("1", 3))
    assert compare(expected, found | {surplus: found[third]}, {}) == Drift(orphaned=(surplus,))


@pytest.fixture
def checked(database: Database, pinecone_index: PineconeTestIndex) -> Iterator[Checked]:
    """A checker, its table with three rows, and its index with their vectors."""
    place = pinecone_index.api_key, pinecone_index.host
    with psycopg.connect(database.dsn(), autocommit=True) as connection, PineconeIndex(*place) as index:
        migrate(connection)
        connection.execute(
            "INSERT INTO products (id, sku, name) SELECT i, 's' || i, 'Jug ' || i FROM generate_series(1, 3) i"
        )
        (source,) = sources(connection)
        rows = (
            connection.cursor(row_factory=psycopg.rows.dict_row)
            .execute("SELECT * FROM products ORDER BY id")
            .fetchall()
        )
        documents = [render(source, str(row["id"]), row) for row in rows]
        vectors = Embedder().embed([document.text for document in documents if document])
        index.upsert(
            "products",
            [Record(d.key, vector, index_metadata(d, 5)) for d, vector in zip(documents, vectors, strict=True) if d],
        )
        checker = Checker(database.dsn(), *place)
        yield checker, connection, index
        checker.close()


def test_the_checker_sees_each_kind_of_drift_in_a_real_table_and_index(checked: Checked) -> None:
    checker, connection, index = checked
    assert checker.drift().total == 0
    index.delete("products", ["1"])
    connection.execute("UPDATE products SET name = 'Mug' WHERE id = 2")
    connection.execute("DELETE FROM products WHERE id = 3")
    assert checker.drift() == Drift((("products", "1"),), (("products", "2"),), (("products", "3"),))


def test_the_checker_sees_a_vector_of_another_text(checked: Checked) -> None:
    checker, _, index = checked
    assert checker.wrong_vectors() == []
    (record,) = index.fetch("products", ["2"]).values()
    index.upsert("products", [record._replace(values=np.full(DIMENSION, DIMENSION**-0.5, np.float32))])
    assert checker.drift().total == 0
    assert checker.wrong_vectors() == [("products", "2")]


def test_a_version_that_goes_back_is_seen_though_the_old_state_is_right_again(checked: Checked) -> None:
    checker, _, index = checked
    checker.look()
    (record,) = index.fetch("products", ["2"]).values()
    index.upsert("products", [record._replace(metadata={**record.metadata, "_version": 4})])
    checker.look()
    assert checker.went_back == {("products", "2")}
    assert checker.drift() == Drift(stale=(("products", "2"),))
