"""`python -m emu dlq redrive` and `drop`: sending dead letters again never brings an old state back."""

import json
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from aviary.dead_letters import DeadLetterQueue
from aviary.messages import DeadLetter, encode
from emu.dlq.desk import Action, Desk, Filter
from emu.dlq.rows import Rows
from tests.services.emu.helpers import REPOSITORY, batch, delete, upsert
from tests.services.emu.office import Office, now_ms, row


def test_redrive_sends_what_the_row_is_now_and_then_deletes_the_letter(office: Office) -> None:
    office.insert(1, "Bottle, mended")
    office.forget()
    office.put(row("1", 1), row("1", 2))
    ran = office.dlq("redrive", "--all")
    assert ran.code == 0, ran.err
    assert "2 sent again" in ran.err
    assert office.left() == 0
    office.settle()
    version = office.bench.stored()["1"]
    assert version > 1_000_000
    fetched = office.bench.index.fetch("products", ["1"])["1"]
    assert fetched.metadata["name"] == "Bottle, mended"


@pytest.mark.parametrize("knows_the_index", [True, False])
def test_an_old_upsert_never_brings_a_deleted_row_back(office: Office, knows_the_index: bool) -> None:
    office.insert(1)
    office.forget()
    office.put(
        row("1", 1),
        encode(batch(upsert("1", 1))),
        DeadLetter(reason="r", failed_at_ms=1, body=encode(batch(upsert("1", 1)))),
    )
    office.execute("DELETE FROM products")
    office.settle()
    ran = office.dlq("redrive", "--all", **{} if knows_the_index else {"AVIARY_INDEX_HOST": ""})
    assert ran.code == 0, ran.err
    assert office.waiting() == ([] if knows_the_index else ["1"]), "a void letter is only deleted"
    office.settle()
    assert office.bench.stored() == {}
    assert (office.left(), office.bench.left()) == (0, 0)


def test_a_delete_that_the_index_refused_is_sent_again(office: Office) -> None:
    office.insert(1)
    office.settle()
    office.execute("DELETE FROM products")
    office.forget()
    office.put(
        DeadLetter(
            reason="r", source="products", namespace="products", failed_at_ms=1, change=delete("1", now_ms() * 2)
        )
    )
    assert office.dlq("list", "--json").json["letters"][0]["void"] is False
    assert office.dlq("redrive", "--all").code == 0
    office.settle()
    assert office.bench.stored() == {}


def test_a_letter_stays_when_its_keys_could_not_be_enqueued(office: Office) -> None:
    office.put(row("1"))
    ran = office.dlq("redrive", "--all", AVIARY_POSTGRES_DSN=office.operator_dsn.replace("dead_letters", "nowhere"))
    assert ran.code == 2
    assert "the database does not answer" in ran.err
    assert office.left() == 1
    ran = office.dlq("redrive", "--all", AVIARY_POSTGRES_DSN="")
    assert "needs AVIARY_POSTGRES_DSN" in ran.err
    assert office.left() == 1


def test_a_letter_of_a_table_that_is_not_watched_any_more_is_kept_and_its_neighbours_are_not(office: Office) -> None:
    office.insert(1)
    office.put(row("1"), row("1", source="gone", namespace="gone"))
    ran = office.dlq("redrive", "--all")
    assert ran.code == 1
    assert "gone kept: its source is not watched any more" in ran.out
    assert office.left() == 1


@pytest.mark.parametrize("command", ["redrive", "drop"])
def test_one_is_chosen_by_its_id_and_a_dry_run_changes_nothing(office: Office, command: str) -> None:
    office.insert(1)
    office.forget()
    first, second = office.put(row("1"), row("2"))
    for arguments in (["--all"], [first[:8]]):
        ran = office.dlq(command, *arguments, "--dry-run")
        assert ran.code == 0
        assert "would be: " in ran.err
        assert (office.left(), office.waiting()) == (2, [])
    ran = office.dlq(command, first[:8], "--json")
    assert [letter["id"] for letter in ran.json["letters"]] == [first]
    assert office.waiting() == (["1"] if command == "redrive" else [])
    assert [letter["id"] for letter in office.dlq("list", "--json").json["letters"]] == [second]
    ran = office.dlq(command, first)
    assert ran.code == 1
    assert f"no letter {first} can be seen" in ran.err


def test_everything_is_dropped_only_after_a_yes(office: Office) -> None:
    office.put(row("1"), row("2"))
    ran = office.dlq("drop", "--all")
    assert ran.code == 2
    assert "give --yes" in ran.err
    ran = office.dlq("drop", "--all", answer="n")
    assert ran.code == 2
    assert "Drop all 2 letters?" in ran.out
    assert office.left() == 2
    assert office.dlq("drop", "--all", answer="y").code == 0
    assert office.left() == 0
    office.put(row("1"))
    assert office.dlq("drop", "--all", "--yes").code == 0
    assert office.left() == 0


@pytest.mark.parametrize("arguments", [["redrive"], ["drop"], ["drop", "--all", "--source", "x"], ["drop", "3fa8"]])
def test_what_is_meant_must_be_said(office: Office, arguments: list[str]) -> None:
    office.put(row("1"))
    assert office.dlq(*arguments).code == 2
    assert office.left() == 1


def test_a_message_whose_rows_cannot_be_known_is_kept_with_the_way_out_or_resent_as_it_came(office: Office) -> None:
    future = json.dumps({"format": 2, "source": "products", "changes": [{"key": "1", "vector": []}]})
    office.insert(1)
    office.forget()
    office.put(*(DeadLetter(reason="r", failed_at_ms=1, body=body) for body in ("{ not json", future)))
    ran = office.dlq("redrive", "--all")
    assert ran.code == 1
    assert "pelican reconcile --repair" in ran.out
    assert office.waiting() == ["1"], "of a newer format the keys can be known"
    assert office.left() == 1
    ran = office.dlq("redrive", "--all", "--resend")
    assert ran.code == 0
    assert "resent as it came" in ran.out
    assert (office.left(), office.bench.left()) == (0, 1)
    office.bench.work()
    assert [letter.body for letter in office.bench.dead_letters()] == ["{ not json"], "unmended, it comes back"


def test_a_letter_that_another_reader_has_by_now_is_kept_and_said(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SQS answers when our hold has run out and somebody else has received the letter; moto deletes it."""
    office.insert(1)
    office.forget()
    first, second = office.put(row("1"), row("1", 2))
    client: Any = office.bench.queues.client

    def refuse(**request: Any) -> dict[str, Any]:
        failure = {"Id": "0", "SenderFault": True, "Code": "InvalidParameterValue", "Message": "has expired"}
        return {"Failed": [failure], "Successful": [{"Id": entry["Id"]} for entry in request["Entries"][1:]]}

    with (
        psycopg.connect(office.operator_dsn, autocommit=True) as connection,
        DeadLetterQueue(client, office.bench.queues.dlq_url).look() as look,
    ):
        monkeypatch.setattr(client, "delete_message_batch", refuse)
        done = list(Desk(look, rows=Rows(connection)).redrive(Filter(), dry_run=False))
    assert [(one.letter.id, one.action, one.why) for one in done] == [
        (first, Action.KEEP, "another reader holds the letter; run this again later"),
        (second, Action.ENQUEUE, ""),
    ]
    assert office.waiting() == ["1"]


def test_the_operators_role_may_have_rows_sent_again_and_nothing_else(office: Office) -> None:
    with psycopg.connect(office.operator_dsn, autocommit=True) as connection:
        for statement in (
            "SELECT * FROM products",
            "UPDATE products SET name = ''",
            "SELECT * FROM sync.source",
            "SELECT * FROM sync.outbox",
            "DELETE FROM sync.outbox",
            "INSERT INTO sync.outbox (source_id, shard, keys, key_count) VALUES (1, 0, '{1}', 1)",
            "SELECT nextval('sync.version')",
            "SELECT sync.request_backfill(1::smallint)",
            "SELECT * FROM sync.dead_letter",
            "CREATE TABLE mine (x int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
        connection.execute("SELECT sync.enqueue('products', '{7}')")
    assert office.waiting() == ["7"]


def test_the_command_is_a_part_of_emu_and_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "emu", "dlq", "redrive", "--help"],
        capture_output=True, text=True, cwd=REPOSITORY, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "examples:\n  python -m emu dlq redrive" in done.stdout
