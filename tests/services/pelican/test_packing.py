"""Packing is arithmetic: nothing is lost, nothing is above SQS's limits, order is kept."""

from hypothesis import given, settings
from hypothesis import strategies as st

from aviary.messages import MAX_CHANGES, MAX_MESSAGE_BYTES, Batch, Change, decode_batch, encode
from pelican.packing import MAX_CALL_BYTES, MAX_CALL_MESSAGES, Captured, Message, calls, pack, to_messages

TEMPLATE = Batch(
    source="products",
    namespace="products",
    model="m",
    shard=3,
    captured_at_ms=1_700_000_000_000,
    expires_at_ms=1_700_000_025_000,
    changes=(),
)


def upsert(key: str, text: str = "t") -> Change:
    return Change(key=key, version=7, op="upsert", text=text, text_hash="h")


changes = st.builds(
    Captured,
    st.builds(
        upsert,
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
        st.text("aé\uffff\x01", min_size=1).map("t".__add__),
    ),
    st.integers(0, 10**12),
)


@given(st.lists(changes, max_size=250), st.integers(400, 2_000))
@settings(max_examples=60, deadline=None)
def test_every_change_is_in_one_message_in_order_and_below_the_limits(captured: list[Captured], limit: int) -> None:
    packed = pack(captured, TEMPLATE, max_bytes=limit)
    batches = [decode_batch(encode(batch)) for batch in packed.batches]
    sent = [change for batch in batches for change in batch.changes]
    assert [c for c in (captured_one.change for captured_one in captured) if c not in packed.too_big] == sent
    assert all(0 < len(batch.changes) <= MAX_CHANGES for batch in batches)
    assert all(len(encode(batch).encode()) <= limit for batch in batches)


def test_a_message_says_when_its_oldest_change_was_captured() -> None:
    captured = [Captured(upsert(str(n)), 1_000 - n) for n in range(150)]
    packed = pack(captured, TEMPLATE)
    assert [(len(b.changes), b.captured_at_ms) for b in packed.batches] == [(100, 901), (50, 851)]


def test_messages_are_filled_to_the_last_byte() -> None:
    empty = len(encode(TEMPLATE).encode())
    size = len(encode(pack([Captured(upsert("1"), 0)], TEMPLATE).batches[0])) - len(encode(TEMPLATE)) + 13 - 1
    packed = pack([Captured(upsert("1"), 10**12) for _ in range(10)], TEMPLATE, max_bytes=empty + 5 * (size + 1))
    assert [len(batch.changes) for batch in packed.batches] == [5, 5]


def test_a_change_that_fits_no_message_is_told_apart() -> None:
    fine, huge = upsert("fine"), upsert("huge", "x" * MAX_MESSAGE_BYTES)
    packed = pack([Captured(huge, 0), Captured(fine, 0)], TEMPLATE)
    assert ([batch.changes for batch in packed.batches], packed.too_big) == ([(fine,)], [huge])


def test_calls_hold_at_most_ten_messages_and_a_quarter_of_a_megabyte() -> None:
    messages = [
        Message("", "", str(n), size) for n, size in enumerate([10] * 25 + [MAX_CALL_BYTES] * 2 + [1, 125_000, 125_000])
    ]
    split = list(calls(messages))
    assert [message for call in split for message in call] == messages
    assert [len(call) for call in split] == [10, 10, 5, 1, 1, 2, 1]
    assert all(len(call) <= MAX_CALL_MESSAGES and sum(m.size for m in call) <= MAX_CALL_BYTES for call in split)


def test_deduplication_ids_name_the_claim_and_the_place_in_it() -> None:
    packed = pack([Captured(upsert(str(n)), 0) for n in range(150)], TEMPLATE)
    messages = to_messages(packed.batches, "1-3", 99)
    assert [message.deduplication_id for message in messages] == ["1-3-99-0", "1-3-99-1"]
    assert [message.size for message in messages] == [len(message.body.encode()) for message in messages]
