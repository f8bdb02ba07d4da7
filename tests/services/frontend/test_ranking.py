"""Reciprocal rank fusion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.ranking import rrf

RANKING = st.lists(st.sampled_from("abcdefgh"), max_size=8)


def test_first_in_every_list_scores_one_and_scores_follow_the_formula() -> None:
    fused = rrf([["a", "b", "c"], ["a", "c"]])
    assert [key for key, _ in fused] == ["a", "c", "b"]
    assert dict(fused)["a"] == pytest.approx(1.0)
    assert dict(fused)["c"] == pytest.approx((1 / 63 + 1 / 62) / (2 / 61))
    assert rrf([]) == rrf([[], []]) == []


def test_a_good_rank_in_two_lists_beats_the_first_in_one() -> None:
    assert rrf([["a", "b"], ["c", "b"]])[0][0] == "b"


@given(st.lists(RANKING, max_size=4))
def test_every_key_once_in_falling_order_between_zero_and_one(rankings: list[list[str]]) -> None:
    fused = rrf(rankings)
    assert sorted(key for key, _ in fused) == sorted({key for ranking in rankings for key in ranking})
    scores = [score for _, score in fused]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 + 1e-9 for score in scores)
    assert rrf(rankings) == fused


@given(st.lists(RANKING, max_size=4))
def test_a_key_that_stands_twice_in_a_list_counts_at_its_better_rank(rankings: list[list[str]]) -> None:
    # Filled up with keys of their own, so that the ranks of the others stay.
    alone = [[key if key not in ranking[:rank] else f"{at}-{rank}" for rank, key in enumerate(ranking)] for at, ranking in enumerate(rankings)]  # fmt: skip
    expected = {key: score for key, score in rrf(alone) if len(key) == 1}
    assert dict(rrf(rankings)) == pytest.approx(expected)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=8, unique=True))
def test_one_list_keeps_its_order(ranking: list[str]) -> None:
    assert [key for key, _ in rrf([ranking])] == ranking
