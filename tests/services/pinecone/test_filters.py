"""Metadata filters against a naive reading of their rules, and refusals of what is no filter."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.pinecone.errors import ApiProblem
from local.pinecone.filters import compile_filter

FIELDS = ["a", "b", "c"]
SCALARS = st.one_of(
    st.booleans(), st.sampled_from(["", "x", "y", "1", "true"]), st.sampled_from([0.0, 1.0, -1.0, 2.5, 1e300])
)
VALUES = st.one_of(SCALARS, st.lists(st.sampled_from(["", "x", "y", "1"]), max_size=3))
METADATA = st.dictionaries(st.sampled_from(FIELDS), VALUES)
NUMBERS = st.one_of(st.integers(-2, 3), st.sampled_from([0.5, 2.5, 1e300]))
OPERANDS = st.one_of(SCALARS, st.integers(-2, 3))
CONDITIONS = st.one_of(
    OPERANDS,
    st.dictionaries(st.sampled_from(["$eq", "$ne"]), OPERANDS, min_size=1),
    st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), NUMBERS, min_size=1),
    st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(OPERANDS, max_size=4), min_size=1),
    st.fixed_dictionaries({"$exists": st.booleans()}),
)
CLAUSES = st.dictionaries(st.sampled_from(FIELDS), CONDITIONS, min_size=1)
FILTERS = st.recursive(
    CLAUSES,
    lambda inner: st.dictionaries(
        st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=2
    ),
    max_leaves=6,
)


def same(stored: Any, wanted: Any) -> bool:
    """Equal, and of one kind: text, truth or number."""
    kinds = {str: "text", bool: "truth", float: "number", int: "number"}
    if isinstance(stored, list):
        return any(same(item, wanted) for item in stored)
    return kinds[type(stored)] == kinds[type(wanted)] and bool(stored == wanted)


def holds(metadata: dict[str, Any], field: str, name: str, operand: Any) -> bool:
    """One operator, spelt out."""
    if name == "$exists":
        return operand is (field in metadata)
    if name == "$ne":
        return not holds(metadata, field, "$eq", operand)
    if name == "$nin":
        return not holds(metadata, field, "$in", operand)
    if field not in metadata:
        return False
    value = metadata[field]
    if name == "$eq":
        return same(value, operand)
    if name == "$in":
        return any(same(value, each) for each in operand)
    if isinstance(value, bool) or not isinstance(value, float):
        return False
    return bool(
        {"$gt": value > operand, "$gte": value >= operand, "$lt": value < operand, "$lte": value <= operand}[name]
    )


def naive(metadata: dict[str, Any], expression: dict[str, Any]) -> bool:
    """Every clause, spelt out."""
    for key, condition in expression.items():
        if key == "$and":
            passed = all(naive(metadata, each) for each in condition)
        elif key == "$or":
            passed = any(naive(metadata, each) for each in condition)
        elif isinstance(condition, dict):
            passed = all(holds(metadata, key, name, operand) for name, operand in condition.items())
        else:
            passed = holds(metadata, key, "$eq", condition)
        if not passed:
            return False
    return True


@given(st.lists(METADATA, min_size=1, max_size=12), FILTERS)
@settings(max_examples=150, deadline=None)
def test_a_filter_means_what_its_rules_say(stored: list[dict[str, Any]], expression: dict[str, Any]) -> None:
    predicate = compile_filter(expression)
    assert predicate is not None
    assert [predicate(metadata) for metadata in stored] == [naive(metadata, expression) for metadata in stored]


@pytest.mark.parametrize(
    ("metadata", "expression", "expected"),
    [
        ({"genre": ["comedy", "drama"]}, {"genre": "drama"}, True),
        ({"genre": ["comedy", "drama"]}, {"genre": {"$ne": "drama"}}, False),
        ({"genre": ["comedy", "drama"]}, {"genre": {"$in": ["action", "drama"]}}, True),
        ({"genre": ["comedy", "drama"]}, {"$and": [{"genre": "comedy"}, {"genre": "drama"}]}, True),
        ({"n": 1.0}, {"n": 1}, True),
        ({"n": 1.0}, {"n": True}, False),
        ({"n": True}, {"n": 1}, False),
        ({"n": "1"}, {"n": 1}, False),
        ({"n": 2020.0}, {"n": {"$gte": 2020, "$lt": 2021}}, True),
        ({"n": True}, {"n": {"$gt": 0}}, False),
        ({}, {"n": {"$ne": 1}}, True),
        ({}, {"n": {"$nin": [1]}}, True),
        ({}, {"n": {"$exists": False}}, True),
        ({}, {"n": {"$lt": 1}}, False),
        ({"": "x"}, {"": "x"}, True),
    ],
)
def test_rules_that_are_easy_to_get_wrong(metadata: dict[str, Any], expression: dict[str, Any], expected: bool) -> None:
    predicate = compile_filter(expression)
    assert predicate is not None
    assert predicate(metadata) is expected


@pytest.mark.parametrize("expression", [None, {}])
def test_an_empty_filter_matches_everything(expression: dict[str, Any] | None) -> None:
    assert compile_filter(expression) is None


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ({"a": {"$foo": 1}}, "$foo is not a valid operator"),
        ({"$not": [{"a": 1}]}, "$not is not a valid operator"),
        ({"a": {"b": 1}}, "b is not a valid operator"),
        ({"a": {}}, "empty"),
        ({"a": None}, "$eq operator"),
        ({"a": {"$eq": [1]}}, "$eq operator"),
        ({"a": ["x"]}, "$eq operator"),
        ({"a": {"$gt": "1"}}, 'followed by a number, got "1" instead'),
        ({"a": {"$lt": True}}, "followed by a number"),
        ({"a": {"$in": "x"}}, "$in operator"),
        ({"a": {"$in": [None]}}, "$in operator"),
        ({"a": {"$nin": [["x"]]}}, "$nin operator"),
        ({"a": {"$exists": 1}}, "followed by a boolean"),
        ({"$and": {"a": 1}}, "$and operator"),
        ({"$or": []}, "$or operator"),
        ({"$or": [{}]}, "$or operator"),
        ({"a": {"$in": ["x"] * 10_001}}, "at most 10000 values"),
    ],
)
def test_what_is_no_filter_is_refused_with_a_sentence(expression: dict[str, Any], says: str) -> None:
    with pytest.raises(ApiProblem) as raised:
        compile_filter(expression)
    assert raised.value.status == 400
    assert says in raised.value.message


def test_deep_nesting_is_refused_before_it_exhausts_the_stack() -> None:
    expression: dict[str, Any] = {"a": 1}
    for _ in range(40):
        expression = {"$and": [expression]}
    with pytest.raises(ApiProblem, match="nested"):
        compile_filter(expression)
