"""Texts into rows, rows into batches: nothing lost, nothing too big, little padding, few shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.embedder_graph import TEXTS_PER_ROW
from aviary.embedder_packing import BATCH_TOKENS, SHARED_WIDTH, WIDTH_STEP, Batch, batches, inputs, pack

LENGTHS = st.lists(st.integers(2, 256), max_size=300)


def lengths_like(mean: float, spread: float, count: int = 100) -> list[int]:
    drawn = np.random.default_rng(3).normal(mean, spread, count)
    return [int(length) for length in np.clip(drawn, 3, 256)]


@given(LENGTHS, st.sampled_from([256, 512, 2048]))
def test_every_text_is_in_one_row_of_one_batch(lengths: list[int], limit: int) -> None:
    planned = batches(lengths, limit)
    assert sorted(text for batch in planned for row in batch.rows for text in row) == list(range(len(lengths)))


@given(LENGTHS, st.sampled_from([256, 512, 2048]))
def test_no_row_or_batch_is_too_big_and_no_shape_unusual(lengths: list[int], limit: int) -> None:
    for batch in batches(lengths, limit):
        assert len(batch.rows) * batch.width <= limit
        assert batch.width % WIDTH_STEP == 0
        assert len(batch.rows) & (len(batch.rows) - 1) == 0, "a power of two"
        for row in batch.rows:
            assert 1 <= len(row) <= TEXTS_PER_ROW
            assert sum(lengths[text] for text in row) <= batch.width


def test_a_text_longer_than_the_limit_has_a_batch_of_its_own() -> None:
    assert batches([300, 300], limit=256) == [Batch([[1]], 304), Batch([[0]], 304)]


def test_texts_longer_than_the_shared_width_share_a_row_only_in_its_padding() -> None:
    assert pack([SHARED_WIDTH + 2, 40, 14, 20]) == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("mean", "spread", "at_most"), [(21, 5, 0.06), (80, 20, 0.12), (200, 40, 0.08), (100, 80, 0.08)]
)
def test_little_of_what_is_computed_is_padding(mean: float, spread: float, at_most: float) -> None:
    lengths = lengths_like(mean, spread)
    computed = sum(len(batch.rows) * batch.width for batch in batches(lengths, BATCH_TOKENS))
    assert 1 - sum(lengths) / computed <= at_most


def test_whatever_comes_the_shapes_are_few() -> None:
    shapes = set()
    random = np.random.default_rng(5)
    for _ in range(300):
        lengths = [int(length) for length in random.integers(2, 257, random.integers(1, 200))]
        shapes |= {(len(batch.rows), batch.width) for batch in batches(lengths)}
    assert len(shapes) <= 45


@given(st.lists(st.lists(st.integers(1, 30_000), min_size=2, max_size=256), min_size=1, max_size=40))
def test_the_inputs_hold_each_text_whole_and_apart(tokens: list[list[int]]) -> None:
    for batch in batches([len(ids) for ids in tokens]):
        ids, texts, positions = inputs(batch, tokens)
        assert ids.shape == texts.shape == positions.shape == (len(batch.rows), batch.width)
        for number, row in enumerate(batch.rows):
            for place, text in enumerate(row, 1):
                mine = texts[number] == place
                assert ids[number][mine].tolist() == tokens[text]
                assert positions[number][mine].tolist() == list(range(len(tokens[text])))
            assert int((texts[number] > 0).sum()) == sum(len(tokens[text]) for text in row)
