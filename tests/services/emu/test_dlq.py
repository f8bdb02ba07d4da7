"""`python -m emu dlq`: dead letters are seen whole, and sending them again never brings an old state back."""

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg
import pytest
from pydantic import SecretStr

from aviary.dead_letters import DeadLetterQueue
from aviary.messages import DeadLetter, encode
from emu.dlq import cli
from emu.dlq.desk import Action, Desk, Filter
from emu.dlq.rows import Rows
from local.postgres import PostgresServer
from pelican.migrate import migrate
from pelican.service import Pelican
from pelican.settings import PelicanSettings
from pelican.sqs import SqsQueue
from tests.conftest import Database
from tests.services.emu.helpers import REPOSITORY, Bench, batch, delete, upsert

HOUR_MS = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Office:
    """The whole pipeline of one test, and the command that is tried on it."""

    bench: Bench
    dsn: str
    pelican_dsn: str
    operator_dsn: str

    def execute(self, query: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def insert(self, id: int, name: str = "Bottle") -> None:
        self.execute("INSERT INTO products (id, sku, name) VALUES (%s, %s, %s)", id, f"sku-{id}", name)

    def waiting(self) -> list[str]:
        """Keys in the outbox."""
        return sorted(key for (key,) in self.execute("SELECT unnest(keys) FROM sync.outbox"))

    def ship(self) -> None:
        """What Pelican does."""
        queues = self.bench.queues
        settings = PelicanSettings(
            postgres_dsn=SecretStr(self.pelican_dsn), queue_url=queues.queue_url, dlq_url=queues.dlq_url
        )
        queue = SqsQueue(queues.client, queues.queue_url, queues.dlq_url)
        Pelican(settings, queue).worker().run_until_idle()

    def settle(self) -> None:
        """What Pelican and Emu do."""
        self.ship()
        self.bench.work()

    def forget(self) -> None:
        """Lose what is on its way."""
        self.execute("DELETE FROM sync.outbox")

    def put(self, *letters: DeadLetter | str, group: str = "") -> list[str]:
        """Letters into the dead letter queue, each in its own group unless one is given; their ids."""
        queues = self.bench.queues
        ids = []
        for letter in letters:
            body = letter if isinstance(letter, str) else encode(letter)
            name = f"{time.monotonic_ns()}"
            answer = queues.client.send_message(
                QueueUrl=queues.dlq_url,
                MessageBody=body,
                MessageGroupId=group or name,
                MessageDeduplicationId=name,
            )
            ids.append(answer["MessageId"])
        return ids

    def left(self) -> int:
        """Letters that anybody can receive now."""
        return DeadLetterQueue(self.bench.queues.client, self.bench.queues.dlq_url).depth().waiting

    def dlq(self, *arguments: str, answer: str | None = None, **environment: str) -> Ran:
        """`python -m emu dlq …` in this process; `answer` is what a person on a terminal types. An environment value
        "" takes the setting away."""
        given = {
            "AVIARY_DLQ_URL": self.bench.queues.dlq_url,
            "AVIARY_QUEUE_URL": self.bench.queues.queue_url,
            "AVIARY_POSTGRES_DSN": self.operator_dsn,
            "AVIARY_INDEX_HOST": self.bench.pinecone.host,
            "PINECONE_API_KEY": self.bench.pinecone.api_key,
            "AWS_ENDPOINT_URL_SQS": self.bench.queues.endpoint,
        } | environment
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, value)
            typed = io.StringIO(f"{answer}\n")
            typed.isatty = lambda: answer is not None  # type: ignore[method-assign]
            patch.setattr("sys.stdin", typed)
            try:
                code = cli.main(arguments)
            except SystemExit as end:
                code = int(end.code or 0)
        return Ran(code, out.getvalue(), err.getvalue())


def row(key: str, version: int = 1, **fields: Any) -> DeadLetter:
    """What Emu sets aside for an upsert."""
    given: dict[str, Any] = {
        "reason": "Pinecone refuses it",
        "failed_at_ms": now_ms(),
        "source": "products",
        "namespace": "products",
        "key": key,
        "version": version,
        "change": upsert(key, version),
    }
    return DeadLetter(**given | fields)


@pytest.fixture(scope="module")
def migrated(postgres_server: PostgresServer) -> Iterator[Database]:
    """One database for all tests here, emptied by each."""
    database = Database(postgres_server, "dead_letters")
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE dead_letters")
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        migrate(connection)
    yield database
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute("DROP DATABASE dead_letters WITH (FORCE)")


@pytest.fixture
def office(bench: Bench, migrated: Database) -> Office:
    office = Office(bench, migrated.dsn(), migrated.dsn("aviary_pelican"), migrated.dsn("aviary_operator"))
    office.execute("TRUNCATE products")
    office.execute("UPDATE sync.claim SET messages = 0")
    office.forget()
    return office


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
