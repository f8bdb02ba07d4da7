"""The pure part: what a unit's messages come to, and which of them may be acknowledged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.messages import Batch, Change, encode
from emu.planning import Plan, apart, backfill_rows, by_namespace, chunks, finished, place, plan
from emu.queue import Received
from tests.services.emu.helpers import batch, delete, upsert


def received(message: Batch | str, number: int = 0, *, times: int = 1, sent_at_ms: int = 0) -> Received:
    body = message if isinstance(message, str) else encode(message)
    return Received(f"id{number}", f"receipt{number}", body, "1-3", times, sent_at_ms)


def anything(_: Batch) -> None:
    """No batch is refused."""


def planned(*messages: Batch | str) -> Plan:
    return plan([received(message, number) for number, message in enumerate(messages)], anything)


def test_the_newest_change_of_a_key_wins_and_every_message_that_named_it_waits_for_it() -> None:
    tasks = planned(batch(upsert("a", 1), upsert("b", 1)), batch(upsert("a", 3)), batch(delete("a", 2))).tasks
    assert [(task.change.key, task.change.version, task.waiting) for task in tasks] == [
        ("a", 3, (0, 1, 2)),
        ("b", 1, (0,)),
    ]


def test_the_later_of_two_changes_of_one_version_wins() -> None:
    (task,) = planned(batch(upsert("a", 1, "first")), batch(upsert("a", 1, "second"))).tasks
    assert task.change.text == "second"


def test_one_key_in_two_namespaces_is_two_tasks() -> None:
    tasks = planned(batch(upsert("a", 1)), batch(upsert("a", 2), namespace="other")).tasks
    assert {name: len(group) for name, group in by_namespace(tasks).items()} == {"products": 1, "other": 1}
    assert len({place(task) for task in tasks}) == 2


@pytest.mark.parametrize(
    ("message", "times", "compare"),
    [
        (batch(upsert("a", 1)), 1, False),
        (batch(upsert("a", 1)), 2, True),
        (batch(delete("a", 1)), 1, False),
        (batch(delete("a", 1)), 2, True),
        (batch(upsert("a", 1, text_unchanged=True)), 1, True),
        (batch(upsert("a", 1), lane="backfill"), 1, True),
    ],
)
def test_what_may_be_behind_the_index_or_need_no_embedding_is_compared_first(
    message: Batch, times: int, compare: bool
) -> None:
    (task,) = plan([received(message, times=times)], anything).tasks
    assert task.compare is compare


def test_a_message_taken_by_sqs_after_its_claim_expired_is_void() -> None:
    late = received(batch(upsert("a", 1), expires_at_ms=1_000), sent_at_ms=1_001)
    in_time = received(batch(upsert("b", 1), expires_at_ms=1_000), 1, sent_at_ms=1_000)
    result = plan([late, in_time], anything)
    assert result.void == (0,)
    assert [task.change.key for task in result.tasks] == ["b"]


def test_a_message_is_finished_when_everything_it_names_is_settled() -> None:
    tasks = planned(batch(upsert("a", 1), upsert("b", 1)), batch(upsert("b", 2)), batch(upsert("c", 1)), "junk").tasks
    places = {task.change.key: place(task) for task in tasks}
    assert finished(4, tasks, set(), {3}) == []
    assert finished(4, tasks, {places["c"]}, {3}) == [2]
    assert finished(4, tasks, {places["b"]}, set()) == [1, 3]
    assert finished(4, tasks, {places["a"], places["b"]}, set()) == [0, 1, 3]


def test_only_a_backfill_waits_for_more_messages() -> None:
    backfill = received(batch(upsert("a", 1), upsert("b", 1), lane="backfill"))
    assert backfill_rows([backfill, backfill]) == 4
    assert backfill_rows([backfill, received(batch(upsert("c", 1)))]) is None
    assert backfill_rows([backfill, received("junk")]) is None
    assert backfill_rows([]) == 0


def test_live_changes_are_parted_from_the_backfill_of_other_groups() -> None:
    filling = [
        received(batch(upsert(key, 1), lane="backfill"))._replace(group=group)
        for key, group in zip("abc", "121", strict=True)
    ]
    live = received(batch(upsert("d", 1)))._replace(group="1")
    assert apart([*filling, live]) == {True: [filling[0], filling[2], live], False: [filling[1]]}
    assert apart([]) == {True: [], False: []}


def test_chunks_keep_order_and_lose_nothing() -> None:
    assert [list(chunk) for chunk in chunks(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert list(chunks([], 2)) == []


changes = st.builds(
    lambda key, version, gone: delete(key, version) if gone else upsert(key, version),
    st.sampled_from("abcd"),
    st.integers(1, 9),
    st.booleans(),
)


@given(st.lists(st.lists(changes, max_size=5), max_size=6))
def test_each_key_has_one_task_of_its_highest_version_and_all_settled_means_all_finished(
    messages: list[list[Change]],
) -> None:
    tasks = planned(*(batch(*message) for message in messages)).tasks
    highest: dict[str, int] = {}
    for change in (change for message in messages for change in message):
        highest[change.key] = max(change.version, highest.get(change.key, 0))
    assert {task.change.key: task.change.version for task in tasks} == highest
    assert len(tasks) == len(highest)
    assert finished(len(messages), tasks, {place(task) for task in tasks}, set()) == list(range(len(messages)))
    untouched = [number for number, message in enumerate(messages) if not message]
    assert finished(len(messages), tasks, set(), set()) == untouched
