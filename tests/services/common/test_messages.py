"""The message format: what is written is read, and nothing else is."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.messages import (
    Batch,
    Change,
    DeadLetter,
    InvalidMessageError,
    UnknownFormatError,
    decode_batch,
    decode_dead_letter,
    encode,
    encoded_size,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
METADATA = st.dictionaries(
    TEXT, TEXT | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.lists(TEXT)
)
UPSERTS = st.builds(
    Change,
    key=TEXT.filter(bool),
    version=st.integers(1, 2**62),
    op=st.just("upsert"),
    text=TEXT.filter(lambda text: text.strip()),
    text_hash=TEXT.filter(bool),
    metadata=METADATA,
    text_unchanged=st.booleans(),
)
DELETES = st.builds(
    Change,
    key=TEXT.filter(bool),
    version=st.integers(1, 2**62),
    op=st.just("delete"),
    reason=st.sampled_from(["gone", "blank"]),
)


def batch(*changes: Change) -> Batch:
    return Batch(
        source="products", namespace="products", model="m", shard=3, captured_at_ms=1, expires_at_ms=2, changes=changes
    )


@given(st.lists(UPSERTS | DELETES, max_size=5))
def test_what_is_written_is_read_back(changes: list[Change]) -> None:
    assert decode_batch(encode(batch(*changes))) == batch(*changes)


@given(st.lists(UPSERTS | DELETES, min_size=1, max_size=5))
def test_the_size_of_a_change_bounds_what_it_adds(changes: list[Change]) -> None:
    empty = len(encode(batch()).encode())
    assert len(encode(batch(*changes)).encode()) <= empty + sum(map(encoded_size, changes))


@pytest.mark.parametrize(
    "body", ["", "not json", "[]", "null", "{}", '{"format":"1"}', '{"format":1}', '{"format":1,"extra":2}']
)
def test_anything_else_is_refused(body: str) -> None:
    with pytest.raises(InvalidMessageError):
        decode_batch(body)
    with pytest.raises(InvalidMessageError):
        decode_dead_letter(body)


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(InvalidMessageError):
        decode_batch(b'{"format":1,"source":"\xff"}')


def test_a_format_of_the_future_is_named() -> None:
    with pytest.raises(UnknownFormatError, match="2"):
        decode_batch('{"format":2,"anything":"else"}')


@pytest.mark.parametrize(
    "change",
    [
        '{"key":"","version":1,"op":"delete"}',
        '{"key":"1","version":1,"op":"upsert","text":"  ","text_hash":"x"}',
        '{"key":"1","version":1,"op":"upsert","text":"a"}',
        '{"key":"1","version":1,"op":"other"}',
        '{"key":"1","version":"1","op":"delete"}',
    ],
)
def test_a_change_that_makes_no_sense_is_refused(change: str) -> None:
    body = encode(batch()).replace('"changes":[]', f'"changes":[{change}]')
    with pytest.raises(InvalidMessageError):
        decode_batch(body)


def test_a_dead_letter_keeps_a_body_that_could_not_be_read() -> None:
    letter = DeadLetter(reason="not a batch", failed_at_ms=5, body="{broken")
    assert decode_dead_letter(encode(letter)) == letter


def test_messages_are_immutable() -> None:
    with pytest.raises(AttributeError):
        batch().shard = 4  # type: ignore[misc] # that is the test
    assert msgspec.structs.asdict(batch())["shard"] == 3
