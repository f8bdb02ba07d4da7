"""f(row): what a row becomes in the index."""

import datetime
import decimal
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.source import (
    METADATA_STRING_LIMIT_CHARS,
    RESERVED_METADATA,
    TEXT_LIMIT_CHARS,
    InvalidSourceError,
    Source,
    as_metadata,
    check_metadata_columns,
    index_metadata,
    key_text,
    render,
    template_columns,
    text_hash,
    vector_id,
)

PRODUCTS = Source(
    id=1,
    name="products",
    schema="public",
    table="products",
    key_columns=("id",),
    text_template="{name}. {description}",
    metadata_columns=("category", "price"),
    namespace="products",
)


def row(**values: object) -> dict[str, object]:
    return {"name": "Kettle", "description": "Boils water", "category": "Kitchen", "price": None} | values


def test_a_row_becomes_its_text_hash_and_metadata() -> None:
    document = render(PRODUCTS, "7", row(price=decimal.Decimal("19.90")))
    assert document is not None
    assert document.text == "Kettle. Boils water"
    assert document.text_hash == text_hash("Kettle. Boils water")
    assert index_metadata(document, 12) == {
        "category": "Kitchen",
        "price": 19.9,
        "_key": "7",
        "_version": 12,
        "_text_hash": document.text_hash,
    }
    every = index_metadata(document, 12, 0, 3) | index_metadata(document, 12, 2, 3)
    assert set(RESERVED_METADATA) == set(every) - {"category", "price"}


@pytest.mark.parametrize("blank", [None, "", "   ", "\n\t"])
def test_a_row_whose_text_columns_are_all_blank_is_not_indexed(blank: str | None) -> None:
    assert render(PRODUCTS, "7", row(name=blank, description=blank)) is None


def test_one_text_column_is_enough() -> None:
    document = render(PRODUCTS, "7", row(description=None))
    assert document is not None
    assert document.text == "Kettle."


def test_a_megabyte_of_text_is_cut_and_stays_the_same_row_after_row() -> None:
    long = render(PRODUCTS, "7", row(description="word " * 200_000))
    cut_in_sql = render(PRODUCTS, "7", row(description=("word " * 200_000)[:TEXT_LIMIT_CHARS]))
    assert long is not None
    assert long == cut_in_sql
    assert len(long.text) <= TEXT_LIMIT_CHARS


def test_another_model_makes_the_hash_new() -> None:
    assert text_hash("a", "one") != text_hash("a", "two")


def test_numbers_that_json_cannot_hold_are_left_out() -> None:
    for value in (decimal.Decimal("NaN"), decimal.Decimal("Infinity"), float("nan"), float("-inf"), None):
        assert as_metadata(value) is None


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (True, True),
        (3, 3),
        (2**60, str(2**60)),
        (1.5, 1.5),
        ("x" * 9000, "x" * METADATA_STRING_LIMIT_CHARS),
        (["a", "b"], ["a", "b"]),
        ([1, 2], "[1, 2]"),
        ({"b": 1, "a": "ä"}, '{"a": "ä", "b": 1}'),
        (datetime.date(2026, 2, 3), "2026-02-03"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_each_column_type_has_one_form_that_pinecone_takes(value: object, stored: object) -> None:
    assert as_metadata(value) == stored


@given(st.text(min_size=1))
def test_every_key_has_an_id_that_pinecone_takes(key: str) -> None:
    key = key.encode("utf-8", "replace").decode()
    identifier = vector_id(key)
    assert 1 <= len(identifier) <= 512
    assert identifier.isascii()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=40, unique=True))
def test_two_keys_never_share_an_id(keys: list[str]) -> None:
    assert len({vector_id(key) for key in keys}) == len(keys)


def test_a_plain_key_is_its_own_id_and_any_other_is_hashed() -> None:
    assert vector_id("42") == "42"
    assert vector_id('["eu", "42"]') == '["eu", "42"]'
    for hashed in ("k" * 600, "größe", "a#1", "~x", "a\nb"):
        assert vector_id(hashed).startswith("~")


@given(st.lists(st.text(), min_size=2, max_size=4))
def test_a_composite_key_can_be_taken_apart_again(values: list[str]) -> None:
    assert json.loads(key_text(values)) == values


def test_a_single_key_is_its_text() -> None:
    assert key_text([42]) == "42"


@pytest.mark.parametrize("template", ["", "no column", "{}", "{0.x}", "{a!r}", "{a:>10}", "{a", "{a.b}"])
def test_a_template_that_is_not_plain_columns_is_refused_with_the_way_out(template: str) -> None:
    with pytest.raises(InvalidSourceError, match=r"write|column"):
        template_columns(template)


def test_a_template_names_its_columns_once_and_may_hold_braces() -> None:
    assert template_columns("{{{a}}} {b} {a}") == ("a", "b")


@pytest.mark.parametrize("column", ["_key", "_version", "_text_hash", "$price"])
def test_reserved_metadata_names_are_refused(column: str) -> None:
    with pytest.raises(InvalidSourceError, match="reserved"):
        check_metadata_columns(["fine", column])
