"""The triggers that `python -m benchmarks.trigger_parts` compares ours with do the work that their titles say."""

import psycopg
import pytest

from benchmarks import trigger_parts, triggers
from benchmarks.trigger_parts import PARTS, Part
from pelican.migrate import migrate
from tests.conftest import Database

ROWS: list[tuple[object, ...]] = [("a", "Jug", "Holds water", "Kitchen", 1), ("b", "Mug", "Holds tea", "Kitchen", 2)]
CAPTURED = "SELECT keys, text_unchanged FROM sync.outbox"


@pytest.fixture
def connection(database: Database) -> psycopg.Connection[tuple[object, ...]]:
    connection = psycopg.connect(database.dsn(), autocommit=True)
    migrate(connection)
    connection.execute("CREATE TABLE bare (number bigint)")
    return connection


def test_those_that_record_a_key_write_what_ours_writes(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    recording = [part for part in PARTS if part.watched or "sync.outbox" in (part.body or "")]
    assert len(recording) == 4
    with connection:
        for number, part in enumerate(recording):
            table = f"part_{number}"
            trigger_parts.prepare(connection, part, table, ROWS)
            connection.execute("TRUNCATE sync.outbox")
            for change in ("updated_at = now()", "description = 'Holds milk'", "price = 9", "name = name"):
                connection.execute(f"UPDATE {table} SET {change} WHERE id = 2".encode())
            assert connection.execute(CAPTURED).fetchall() == [(["2"], False), (["2"], True)], part.title


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.title)
def test_each_lets_an_update_of_one_row_pass(part: Part, connection: psycopg.Connection[tuple[object, ...]]) -> None:
    with connection:
        trigger_parts.prepare(connection, part, "twin", ROWS)
        triggers.update(connection, "twin", [1, 2], 7)
        found = connection.execute("SELECT count(*) FROM twin WHERE description LIKE 'Boils 7 %'").fetchone()
    assert found == (2,)
