"""Metadata filters: from Pinecone's JSON language to a predicate over a record's metadata.

Types never mix: `true` is not 1 and "1" is not 1. A list of strings equals a value when it contains it. A record
without the field matches `$ne`, `$nin` and `{"$exists": false}` only, as in MongoDB, which the language is based on.
https://docs.pinecone.io/guides/search/filter-by-metadata
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from local.pinecone.errors import ApiProblem

Predicate = Callable[[Mapping[str, Any]], bool]

MAX_LIST_VALUES = 10_000
MAX_DEPTH = 32
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_MISSING = object()


def compile_filter(expression: Mapping[str, Any] | None, depth: int = 0) -> Predicate | None:
    """The predicate for `expression`, or None when it is empty and so matches everything; ApiProblem 400 if illegal."""
    if not expression:
        return None
    if depth > MAX_DEPTH:
        raise ApiProblem(400, f"filter is nested deeper than {MAX_DEPTH} levels")
    parts = [_clause(key, condition, depth) for key, condition in expression.items()]
    return parts[0] if len(parts) == 1 else lambda metadata: all(part(metadata) for part in parts)


def _clause(key: str, condition: Any, depth: int) -> Predicate:
    if key in {"$and", "$or"}:
        if not isinstance(condition, list) or not condition or not all(isinstance(c, dict) and c for c in condition):
            raise ApiProblem(
                400, f"the {key} operator must be followed by a list of filter objects, got {_shown(condition)} instead"
            )
        parts = [part for each in condition if (part := compile_filter(each, depth + 1))]
        combine = all if key == "$and" else any
        return lambda metadata: combine(part(metadata) for part in parts)
    if key.startswith("$"):
        raise ApiProblem(400, f"{key} is not a valid operator")
    if not isinstance(condition, dict):
        return _comparison(key, "$eq", condition)
    if not condition:
        raise ApiProblem(400, f"the condition on field {key} is empty; write a value or an operator such as $eq")
    tests = [_comparison(key, name, operand) for name, operand in condition.items()]
    return tests[0] if len(tests) == 1 else lambda metadata: all(test(metadata) for test in tests)


def _comparison(field: str, name: str, operand: Any) -> Predicate:
    """One operator on one field."""
    match name:
        case "$eq" | "$ne":
            if not isinstance(operand, str | bool | int | float):
                raise ApiProblem(
                    400,
                    f"the {name} operator must be followed by a string, boolean or a number, got {_shown(operand)} instead",
                )
            return _membership(field, [operand], negate=name == "$ne")
        case "$in" | "$nin":
            if not isinstance(operand, list) or not all(
                isinstance(value, str | bool | int | float) for value in operand
            ):
                raise ApiProblem(
                    400,
                    f"the {name} operator must be followed by a list of strings, booleans or numbers, got {_shown(operand)} instead",
                )
            if len(operand) > MAX_LIST_VALUES:
                raise ApiProblem(400, f"the {name} operator takes at most {MAX_LIST_VALUES} values, got {len(operand)}")
            return _membership(field, operand, negate=name == "$nin")
        case "$exists":
            if not isinstance(operand, bool):
                raise ApiProblem(
                    400, f"the $exists operator must be followed by a boolean, got {_shown(operand)} instead"
                )
            return lambda metadata: (field in metadata) is operand
        case "$gt" | "$gte" | "$lt" | "$lte":
            if isinstance(operand, bool) or not isinstance(operand, int | float):
                raise ApiProblem(
                    400, f"the {name} operator must be followed by a number, got {_shown(operand)} instead"
                )
            compare, bound = _COMPARISONS[name], _number(operand)
            return lambda metadata: type(value := metadata.get(field)) is float and compare(value, bound)
        case _:
            raise ApiProblem(400, f"{name} is not a valid operator")


def _membership(field: str, wanted: list[Any], *, negate: bool) -> Predicate:
    # Python has True == 1.0, so the type is part of what is compared. Stored numbers are floats, always.
    values = {(type(v), v) if isinstance(v, str | bool) else (float, _number(v)) for v in wanted}

    def matches(metadata: Mapping[str, Any]) -> bool:
        value = metadata.get(field, _MISSING)
        if value is _MISSING:
            return negate
        found = any((str, item) in values for item in value) if type(value) is list else (type(value), value) in values
        return found is not negate

    return matches


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ApiProblem(400, "a number in the filter does not fit 64 bits") from None


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:60] + "..."
