"""What is to be done for the messages of one unit: pure functions, no clock, no network.

A *unit* is what is worked on together: the messages of one receive (of several, for a backfill). A *task* is one
vector of it: the newest of the unit's changes of one key. SQS gives no message of a FIFO group to anybody while
another of that group is being worked on, so the order of changes holds as long as a unit keeps the newest.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from aviary.chunking import Chunking
from aviary.messages import Batch, Change, InvalidMessageError, UnknownFormatError, decode_batch
from aviary.source import vector_id
from emu.queue import Received

T = TypeVar("T")


class Task(NamedTuple):
    """The newest change of one key in a unit. `waiting`: indexes of the messages that are done only once it is.

    `compare`: look at the stored record first, because it may be newer than the change (the message was received
    before) or may hold the right vector already (only metadata changed, or a backfill passes over it again).

    `repeated`: one of the messages was received before, so any part of its work may have been done. `most_chunks`: see
    `Batch`, of all the messages.
    """

    id: str
    index_host: str
    namespace: str
    model: str
    source: str
    group: str
    change: Change
    live: bool
    compare: bool
    repeated: bool
    chunking: Chunking
    most_chunks: int
    captured_at_ms: int
    waiting: tuple[int, ...]


class Refused(NamedTuple):
    """A message that is set aside whole. `kind` is a word for counters and notices, `reason` a sentence."""

    message: int
    kind: str
    reason: str


class Plan(NamedTuple):
    """What a unit comes to. `void`: indexes of messages whose claim had expired, to be acknowledged and no more."""

    tasks: tuple[Task, ...]
    refused: tuple[Refused, ...]
    void: tuple[int, ...]


def plan(messages: Sequence[Received], refusal: Callable[[Batch], tuple[str, str] | None]) -> Plan:
    """Read the messages, oldest first, and keep the newest change per place and key. `refusal`: kind and reason why a
    batch cannot be worked on here, or None."""
    refused: list[Refused] = []
    void: list[int] = []
    newest: dict[tuple[str, str, str], Task] = {}
    for number, message in enumerate(messages):
        try:
            batch = decode_batch(message.body)
        except UnknownFormatError as error:
            refused.append(Refused(number, "unknown_format", str(error)))
            continue
        except InvalidMessageError as error:
            refused.append(Refused(number, "unreadable", str(error)))
            continue
        if message.sent_at_ms > batch.expires_at_ms:
            void.append(number)
            continue
        if (why := refusal(batch)) is not None:
            refused.append(Refused(number, *why))
            continue
        for change in batch.changes:
            place = (batch.index_host, batch.namespace, change.key)
            before = newest.get(place)
            waiting = (*before.waiting, number) if before else (number,)
            repeated = message.times > 1 or (before is not None and before.repeated)
            most_chunks = max(batch.most_chunks, before.most_chunks if before else 1)
            if before and before.change.version > change.version:
                newest[place] = before._replace(waiting=waiting, repeated=repeated, most_chunks=most_chunks)
                continue
            newest[place] = Task(
                id=vector_id(change.key),
                index_host=batch.index_host,
                namespace=batch.namespace,
                model=batch.model,
                source=batch.source,
                group=message.group,
                change=change,
                live=batch.lane == "live",
                compare=message.times > 1 or change.text_unchanged or batch.lane == "backfill",
                repeated=repeated,
                chunking=batch.chunking,
                most_chunks=most_chunks,
                captured_at_ms=batch.captured_at_ms,
                waiting=waiting,
            )
    return Plan(tuple(newest.values()), tuple(refused), tuple(void))


def finished(count: int, tasks: Iterable[Task], settled: Collection[str], blocked: Collection[int]) -> list[int]:
    """Which of `count` messages may be acknowledged: those that no unsettled task waits for, nor are `blocked`.

    `settled` holds `place(task)` of each task that needs nothing more.
    """
    unfinished = set(blocked)
    for task in tasks:
        if place(task) not in settled:
            unfinished.update(task.waiting)
    return [number for number in range(count) if number not in unfinished]


def place(task: Task) -> str:
    """One string for the vector's place in the index."""
    return f"{task.index_host}\0{task.namespace}\0{task.id}"


def backfill_rows(messages: Iterable[Received]) -> int | None:
    """Rows in the messages when every one is of the backfill lane, else None. Unreadable ones count as live, so that
    nothing ever waits for them."""
    rows = [_backfill_rows(message) for message in messages]
    return None if None in rows else sum(filter(None, rows))


def apart(messages: Sequence[Received]) -> dict[bool, list[Received]]:
    """Under True the messages of groups that hold a live change, under False the others, each in order: those of a group
    must be worked on together, those of a backfill need not hold up the others."""
    live = {message.group for message in messages if _backfill_rows(message) is None}
    return {is_live: [m for m in messages if (m.group in live) is is_live] for is_live in (True, False)}


def by_index_and_model(tasks: Iterable[Task]) -> dict[tuple[str, str], list[Task]]:
    """Tasks in order, for each (index_host, model)."""
    groups: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        groups.setdefault((task.index_host, task.model), []).append(task)
    return groups


def by_namespace(tasks: Iterable[Task]) -> dict[str, list[Task]]:
    """Tasks in order, for each namespace."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.namespace, []).append(task)
    return groups


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Runs of at most `size` items, in order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _backfill_rows(message: Received) -> int | None:
    try:
        head = _head.decode(message.body)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    return len(head.changes) if head.lane == "backfill" else None


class _Head(msgspec.Struct):
    changes: tuple[msgspec.Raw, ...]
    lane: str = "live"


_head = msgspec.json.Decoder(_Head)
