"""From changes to messages, and from messages to calls: pure arithmetic over SQS's limits."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from aviary.messages import MAX_CHANGES, MAX_MESSAGE_BYTES, Batch, Change, encode, encoded_size

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
MAX_CALL_MESSAGES = 10
# All messages of a call together may have as much as one message.
MAX_CALL_BYTES = MAX_MESSAGE_BYTES


class Captured(NamedTuple):
    """A change and when it was captured (Unix milliseconds)."""

    change: Change
    at_ms: int


class Message(NamedTuple):
    """A body for SQS, its group there, and the id by which SQS takes it only once within five minutes."""

    body: str
    group: str
    deduplication_id: str
    size: int


class Packed(NamedTuple):
    """`batches` in the order of the changes; `too_big`: changes that do not fit a message even alone; `size`: bytes
    of all changes as encoded."""

    batches: list[Batch]
    too_big: list[Change]
    size: int


def pack(captured: Iterable[Captured], template: Batch, max_bytes: int = MAX_MESSAGE_BYTES) -> Packed:
    """Fill batches like `template` (its changes and captured_at_ms are replaced) in order, each with at most
    MAX_CHANGES changes and `max_bytes` bytes."""
    # The largest number of milliseconds until the year 2286 has 13 digits, as has that of now.
    empty = len(encode(msgspec.structs.replace(template, changes=(), captured_at_ms=10**13 - 1)).encode())
    batches: list[Batch] = []
    too_big: list[Change] = []
    changes: list[Change] = []
    oldest = 0
    size = empty
    total = 0

    def close() -> None:
        if changes:
            batches.append(msgspec.structs.replace(template, changes=tuple(changes), captured_at_ms=oldest))
            changes.clear()

    for change, at_ms in captured:
        added = encoded_size(change)
        total += added
        if empty + added > max_bytes:
            too_big.append(change)
            continue
        if len(changes) == MAX_CHANGES or size + added > max_bytes:
            close()
        if not changes:
            size, oldest = empty, at_ms
        changes.append(change)
        size += added
        oldest = min(oldest, at_ms)
    close()
    return Packed(batches, too_big, total)


def to_messages(batches: Sequence[Batch], group: str, version: int) -> list[Message]:
    """Encode batches of one claim. A version belongs to one claim only, so it names the content."""
    bodies = [encode(batch) for batch in batches]
    return [
        Message(body, group, deduplication_id(group, version, n), len(body.encode())) for n, body in enumerate(bodies)
    ]


def deduplication_id(group: str, version: int, number: int) -> str:
    """Of message `number` of the claim `version` of `group`."""
    return f"{group}-{version}-{number}"


def calls(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Split into SendMessageBatch calls, in order."""
    call: list[Message] = []
    size = 0
    for message in messages:
        if call and (len(call) == MAX_CALL_MESSAGES or size + message.size > MAX_CALL_BYTES):
            yield call
            call, size = [], 0
        call.append(message)
        size += message.size
    if call:
        yield call
