"""Exact search and the store of vectors, against naive numpy and a plain dictionary."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pinecone import Pinecone

from local.pinecone.filters import compile_filter
from local.pinecone.vectors import Floats, Namespace
from tests.services.pinecone.process import PineconeProcess
from tests.services.pinecone.samples import unit_vectors

METRICS = ["cosine", "dotproduct", "euclidean"]


def naive_scores(metric: str, matrix: Floats, vector: Floats) -> np.ndarray[Any, np.dtype[np.float64]]:
    """In float64, row by row."""
    rows, query = matrix.astype(np.float64), vector.astype(np.float64)
    match metric:
        case "cosine":
            scores = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
        case "dotproduct":
            scores = rows @ query
        case _:
            scores = ((rows - query) ** 2).sum(axis=1)
    return np.asarray(scores, np.float64)


def filled(metric: str, matrix: Floats) -> Namespace:
    namespace = Namespace(matrix.shape[1], metric)
    namespace.upsert(
        [f"k{i}" for i in range(len(matrix))], matrix, [{"even": i % 2 == 0, "n": float(i)} for i in range(len(matrix))]
    )
    return namespace


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("top_k", [1, 10, 499, 500, 10_000])
def test_the_nearest_are_found_in_order_with_their_scores(metric: str, top_k: int) -> None:
    matrix = unit_vectors(500, seed=3) * np.linspace(0.5, 2, 500, dtype=np.float32)[:, None]
    namespace = filled(metric, matrix)
    nearest_is_lowest = metric == "euclidean"
    for vector in unit_vectors(5, seed=4) * np.float32(1.5):
        expected = naive_scores(metric, matrix, vector)
        order = np.argsort(expected if nearest_is_lowest else -expected, kind="stable")[:top_k]
        found = namespace.query(vector, top_k, None)
        assert len(found) == min(top_k, 500)
        assert [each.score for each in found] == pytest.approx(expected[order], abs=2e-5)
        # Rows whose scores are equal to float32 may change places; the others may not.
        assert [expected[each.row] for each in found] == pytest.approx(expected[order], abs=2e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "expression",
    [{"even": True}, {"n": {"$lt": 3}}, {"n": {"$gte": 497}}, {"n": 250}, {"n": -1}, {"even": {"$exists": True}}],
)
def test_a_filtered_search_is_the_search_among_those_that_match(metric: str, expression: dict[str, Any]) -> None:
    matrix = unit_vectors(500, seed=5)
    namespace = filled(metric, matrix)
    predicate = compile_filter(expression)
    assert predicate is not None
    allowed = [row for row in range(500) if predicate(namespace.metadata(row))]
    for vector in unit_vectors(3, seed=6):
        every = namespace.query(vector, 500, None)
        expected = [each for each in every if each.row in set(allowed)][:7]
        assert namespace.query(vector, 7, predicate) == expected


def test_a_cosine_is_never_above_one_and_a_distance_never_below_zero() -> None:
    matrix = unit_vectors(300, seed=8)
    cosine, euclidean = filled("cosine", matrix), filled("euclidean", matrix)
    for row in range(300):
        assert cosine.query(matrix[row], 1, None)[0].score <= 1
        assert euclidean.query(matrix[row], 1, None)[0].score >= 0


def test_a_zero_query_scores_zero_instead_of_failing() -> None:
    found = filled("cosine", unit_vectors(3)).query(np.zeros(384, np.float32), 3, None)
    assert [each.score for each in found] == [0, 0, 0]


def test_a_search_does_not_copy_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = filled("cosine", unit_vectors(1_000))
    seen: list[Floats] = []

    class Watched(np.ndarray[Any, Any]):
        def __matmul__(self, other: Any) -> Any:
            seen.append(self)
            return np.asarray(self) @ other

    owned = namespace._matrix
    monkeypatch.setattr(namespace, "_matrix", owned.view(Watched))
    namespace.query(unit_vectors(1)[0], 10, None)
    assert [np.shares_memory(each, owned) for each in seen] == [True]


def test_emptied_rows_are_given_back() -> None:
    namespace = filled("cosine", unit_vectors(2_000))
    before = namespace._matrix.nbytes
    namespace.delete([f"k{i}" for i in range(5, 2_000)])
    assert namespace._matrix.nbytes < before / 4
    assert namespace.query(unit_vectors(2_000)[3], 1, None)[0].row == namespace.row("k3")


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_served_to_the_sdk_nearest_first(
    pinecone: PineconeProcess, pinecone_client: Pinecone, metric: str
) -> None:
    name = f"metric-{metric}"
    pinecone_client.create_index(
        name=name, dimension=4, metric=metric, spec={"serverless": {"cloud": "aws", "region": "us-east-1"}}
    )
    matrix = np.array([[1, 0, 0, 0], [2, 1, 0, 0], [0, 3, 0, 0]], np.float32)
    with pinecone_client.index(host=pinecone.index_host(name)) as index:
        index.upsert(vectors=[(f"k{row}", matrix[row].tolist()) for row in range(3)])
        matches = index.query(vector=[1.5, 0.5, 0, 0], top_k=3).matches
    pinecone_client.delete_index(name)
    expected = naive_scores(metric, matrix, np.array([1.5, 0.5, 0, 0], np.float32))
    best_first = sorted(range(3), key=lambda row: expected[row], reverse=metric != "euclidean")
    assert [match.id for match in matches] == [f"k{row}" for row in best_first]
    assert [match.score for match in matches] == pytest.approx(expected[best_first], abs=1e-5)


class Records(RuleBasedStateMachine):
    """A namespace beside a dictionary: after any writes they hold the same."""

    ids = st.sampled_from([f"{letter}{i}" for letter in "ab" for i in range(40)])

    def __init__(self) -> None:
        super().__init__()
        self.namespace = Namespace(8, "cosine")
        self.expected: dict[str, tuple[Floats, dict[str, Any]]] = {}
        self.writes = 0

    @initialize(count=st.sampled_from([0, 300, 2_000]))
    def begin(self, count: int) -> None:
        """Enough records at times for the matrix to grow and to shrink."""
        self._write([f"z{i}" for i in range(count)])

    @rule(ids=st.lists(ids, min_size=1, max_size=30))
    def upsert(self, ids: list[str]) -> None:
        self._write(ids)

    @rule(ids=st.lists(ids, max_size=30))
    def delete(self, ids: list[str]) -> None:
        self._delete(ids)

    @rule(share=st.integers(0, 3))
    def delete_a_share(self, share: int) -> None:
        self._delete([f"z{i}" for i in range(2_000) if i % 4 <= share])

    @rule(id_=ids)
    def merge(self, id_: str) -> None:
        row = self.namespace.row(id_)
        if row is not None:
            self.namespace.merge_metadata(row, {"merged": True})
            values, metadata = self.expected[id_]
            self.expected[id_] = (values, {**metadata, "merged": True})

    @invariant()
    def holds_the_same(self) -> None:
        assert len(self.namespace) == len(self.expected)
        for id_, (values, metadata) in self.expected.items():
            row = self.namespace.row(id_)
            assert row is not None
            assert self.namespace.id(row) == id_
            assert self.namespace.metadata(row) == metadata
            assert np.array_equal(self.namespace.values(row), values)

    @invariant()
    def lists_in_byte_order(self) -> None:
        listed: list[str] = []
        more = True
        while more:
            page, more = self.namespace.page("a", listed[-1] if listed else None, 7)
            listed += page
        assert listed == sorted(id_ for id_ in self.expected if id_.startswith("a"))

    @invariant()
    def finds_each_by_its_own_vector(self) -> None:
        for id_, (values, _) in list(self.expected.items())[-3:]:
            nearest = self.namespace.query(values, 1, None)[0]
            assert self.namespace.id(nearest.row) == id_
            assert nearest.score == pytest.approx(1, abs=1e-5)

    def _write(self, ids: list[str]) -> None:
        self.writes += 1
        # Of a different length each, so that a length kept with the wrong row shows.
        lengths = np.arange(1, len(ids) + 1, dtype=np.float32)[:, None]
        values = unit_vectors(len(ids), seed=self.writes, dimension=8) * lengths
        metadata = [{"write": float(self.writes), "place": float(place)} for place in range(len(ids))]
        self.namespace.upsert(ids, values, metadata)
        self.expected |= {id_: (values[place], metadata[place]) for place, id_ in enumerate(ids)}

    def _delete(self, ids: list[str]) -> None:
        self.namespace.delete(ids)
        for id_ in ids:
            self.expected.pop(id_, None)


TestRecords = Records.TestCase
TestRecords.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
