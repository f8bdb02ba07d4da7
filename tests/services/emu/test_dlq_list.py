"""`python -m emu dlq list` and `show`: dead letters are seen whole, chosen by what they are, and void or not."""

from typing import Any

import msgspec
import pytest

from aviary.messages import DeadLetter, encode
from tests.services.emu.helpers import batch, upsert
from tests.services.emu.office import HOUR_MS, Office, now_ms, row


def test_a_letter_of_every_kind_is_listed_with_reason_source_key_version_and_age(office: Office) -> None:
    old = now_ms() - 3 * HOUR_MS
    other_model = encode(batch(upsert("8", 3), upsert("9", 3), model="another"))
    (of_row, without_fields, of_pelican, old_pelican, unreadable, whole, raw) = office.put(
        row("1", 11, failed_at_ms=old),
        msgspec.structs.replace(row("2", 12), key="", version=0),
        DeadLetter(reason="row '3' does not fit", source="products", key="3", version=13, failed_at_ms=old),
        DeadLetter(reason='row "it\'s" has no valid change: ValueError', source="products", failed_at_ms=old),
        DeadLetter(reason="not a message of ours", failed_at_ms=old, body="{ not json"),
        DeadLetter(reason="text was prepared for model 'another'", failed_at_ms=old, body=other_model),
        "{ neither",
    )
    office.bench.send(batch(upsert("20", 5)))
    queues = office.bench.queues
    for _ in range(11):  # what Emus that are killed again and again do
        queues.client.receive_message(QueueUrl=queues.queue_url, VisibilityTimeout=0)
    ran = office.dlq("list", "--json")
    assert ran.code == 0
    letters = {letter["id"]: letter for letter in ran.json["letters"]}
    assert len(letters) == 8
    moved = next(
        letter for letter in letters.values() if letter["id"] not in (of_row, raw) and letter["kind"] == "moved"
    )
    told = {
        name: (letter["kind"], letter["source"], [(key["key"], key["version"]) for key in letter["keys"]])
        for name, letter in letters.items()
    }
    assert told == {
        of_row: ("row", "products", [("1", 11)]),
        without_fields: ("row", "products", [("2", 12)]),
        of_pelican: ("unsent", "products", [("3", 13)]),
        old_pelican: ("unsent", "products", [("it's", None)]),
        unreadable: ("message", "", []),
        whole: ("message", "products", [("8", 3), ("9", 3)]),
        raw: ("message", "", []),
        moved["id"]: ("moved", "products", [("20", 5)]),
    }
    assert letters[of_row]["reason"] == "Pinecone refuses it"
    assert letters[of_row]["age_seconds"] in range(10_800, 10_860)
    assert "not a message of ours" in letters[raw]["reason"]
    assert office.left() == 8, "everything is given back"
    table = office.dlq("list").out.splitlines()
    assert table[0].split() == ["ID", "KIND", "AGE", "VOID", "SOURCE", "KEY", "VERSION", "REASON"]
    assert len(table) == 9
    assert [of_row[:8], "row", "3", "h", "yes", "products", "1", "11", "Pinecone", "refuses", "it"] in [
        line.split() for line in table
    ]


def test_a_list_without_letters_says_so(office: Office) -> None:
    ran = office.dlq("list")
    assert (ran.code, ran.out, ran.err) == (0, "", "no letter can be seen\n")
    office.put(row("1"))
    ran = office.dlq("list", "--source", "another")
    assert (ran.code, ran.out, ran.err) == (0, "", "no letter is meant\n")


def test_letters_of_emu_and_pelican_carry_key_and_version_as_fields(office: Office) -> None:
    office.bench.send(batch(upsert("big", 7, metadata={"a": "x" * 41_000})))
    office.bench.work()
    (letter,) = office.bench.dead_letters()
    assert (letter.key, letter.version) == ("big", 7)


def test_a_look_raises_receive_counts_by_one_and_hides_nothing_afterwards(office: Office) -> None:
    office.put(*(row(str(n)) for n in range(25)))
    assert len(office.dlq("list", "--json").json["letters"]) == 25
    received: list[Any] = []
    queues = office.bench.queues
    while some := queues.client.receive_message(
        QueueUrl=queues.dlq_url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["ApproximateReceiveCount"]
    ).get("Messages"):
        received += some
    assert [message["Attributes"]["ApproximateReceiveCount"] for message in received] == ["2"] * 25


def test_letters_that_somebody_else_holds_or_that_stand_behind_others_are_told_of(office: Office) -> None:
    office.put(*(encode(batch(upsert(str(n), 1))) for n in range(13)), group="1-3")
    office.put(row("held"))
    ran = office.dlq("list", "--json")
    assert len(ran.json["letters"]) == 11
    assert (ran.json["held_by_others"], ran.json["out_of_reach"]) == (0, 3)
    assert "3 letters stand behind ten others" in ran.err
    office.bench.queues.client.receive_message(QueueUrl=office.bench.queues.dlq_url, MaxNumberOfMessages=10)
    ran = office.dlq("list", "--json")
    assert ran.json["held_by_others"] == 10
    assert "10 letters are being looked at by somebody else" in ran.err


def test_what_a_later_state_has_overtaken_is_void_and_only_that_is_dropped_by_void(office: Office) -> None:
    for number in (1, 2, 3):
        office.insert(number)
    office.settle()
    office.execute("DELETE FROM products WHERE id = 2")
    office.execute("UPDATE products SET name = '', description = ' ' WHERE id = 3")
    office.settle()
    ahead = now_ms() * 2
    overtaken, deleted, blank, ahead_of_index, missing, unreadable = office.put(
        row("1"), row("2"), row("3"), row("1", ahead), row("4"), DeadLetter(reason="r", failed_at_ms=1, body="{")
    )
    office.insert(4)
    voids = {letter["id"]: letter["void"] for letter in office.dlq("list", "--json").json["letters"]}
    assert voids == {
        overtaken: True,
        deleted: True,
        blank: True,
        ahead_of_index: False,
        missing: False,
        unreadable: False,
    }
    without = office.dlq("list", "--json", AVIARY_POSTGRES_DSN="").json["letters"]
    assert {letter["id"]: letter["void"] for letter in without} == voids | {deleted: None, blank: None, missing: None}
    ran = office.dlq("drop", "--void")
    assert (ran.code, office.left()) == (0, 3)
    assert {letter["id"] for letter in office.dlq("list", "--json").json["letters"]} == {
        ahead_of_index,
        missing,
        unreadable,
    }


def test_a_letter_for_another_index_is_never_void_and_that_index_is_not_asked(office: Office) -> None:
    office.insert(1)
    office.settle()
    office.put(row("1", index_host="http://127.0.0.1:9"), row("1", index_host=office.bench.pinecone.host))
    voids = {letter["void"] for letter in office.dlq("list", "--json").json["letters"]}
    assert voids == {None, True}


def test_an_index_that_does_not_answer_makes_nothing_void(office: Office) -> None:
    office.insert(1)
    office.settle()
    office.put(row("1"))
    office.bench.pinecone.faults(operation="fetch", status=401)
    assert office.dlq("list", "--json").json["letters"][0]["void"] is None
    ran = office.dlq("drop", "--void")
    assert (ran.code, office.left()) == (1, 1)
    assert "the index does not answer (401)" in ran.err
    ran = office.dlq("drop", "--void", AVIARY_INDEX_HOST="")
    assert ran.code == 2
    assert "set PINECONE_API_KEY and AVIARY_INDEX_HOST" in ran.err


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--source", "other"], {"b"}),
        (["--key", "17"], {"a"}),
        (["--reason", "TOO LONG"], {"c"}),
        (["--kind", "unsent"], {"c"}),
        (["--older-than", "2h"], {"b"}),
        (["--newer-than", "90m"], {"a", "c"}),
        (["--source", "products", "--kind", "row"], {"a"}),
        (["--not-void"], {"a", "b", "c"}),
        (["--void"], set()),
    ],
)
def test_letters_are_chosen_by_all_of_the_filters_given(office: Office, filters: list[str], expected: set[str]) -> None:
    office.insert(17)
    a, b, c = office.put(
        row("17"),
        row("x", source="other", failed_at_ms=now_ms() - 3 * HOUR_MS),
        DeadLetter(reason="it is too long", source="products", key="18", failed_at_ms=now_ms()),
    )
    office.insert(18)
    found = {letter["id"] for letter in office.dlq("list", "--json", *filters).json["letters"]}
    assert found == {{"a": a, "b": b, "c": c}[name] for name in expected}


def test_one_letter_is_shown_whole_and_its_contents_only_when_asked_for(office: Office) -> None:
    (name,) = office.put(row("1", 5, reason="it \x1b[31m hurts"))
    ran = office.dlq("show", name[:8])
    assert ran.code == 0
    for words in (
        name,
        "products",
        "key        1, version 5",
        "it \\x1b[31m hurts",
        "a row that Emu could not process",
    ):
        assert words in ran.out
    assert "text of 1" not in ran.out
    assert '"text": "text of 1"' in office.dlq("show", name, "--contents").out
    assert office.dlq("show", name, "--json").json["keys"] == [{"key": "1", "version": 5}]
    assert office.dlq("show", "00000000").code == 1
    assert office.left() == 1


def test_without_a_queue_to_look_at_one_sentence_says_so(office: Office) -> None:
    ran = office.dlq("list", AVIARY_DLQ_URL=office.bench.queues.dlq_url + "-not")
    assert ran.code == 2
    assert "the dead letter queue refuses: " in ran.err
    ran = office.dlq("list", AVIARY_DLQ_URL="")
    assert "AVIARY_DLQ_URL" in ran.err
