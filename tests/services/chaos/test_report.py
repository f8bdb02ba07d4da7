"""What a run is judged by: a report that forgives is worse than none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from chaos.checker import Drift
from chaos.faults import FAULTS
from chaos.plan import Episode, Injection, Operation
from chaos.probe import Recovery
from chaos.report import Asked, report, write
from chaos.run import Outcome, Seen
from chaos.users import Aborted, Made, Users
from chaos.world import Loss
from pelican.migrate import migrate
from tests.conftest import Database

ASKED = Asked(seed=1, minutes=1, operations=10, faults=1, took_seconds=60.0, load=(0.5, 0.6))
QUICK = Recovery(0.5, 1.0)
LOST = Drift(lost=(("products", "1"),))
NONE = Drift()


def seen(*kinds: str, drift: Drift = NONE, left: Drift = NONE, recovery: Recovery = QUICK) -> Seen:
    injections = tuple(Injection(FAULTS[kind][0], 0.0, 0.0, 0, 0) for kind in kinds)
    return Seen(Episode(injections, ()), recovery, drift, left, repaired=bool(drift.total))


def failures(
    *episodes: Seen, outcome: dict[str, Any] | None = None, made: Made | None = None, lost: Sequence[Loss] = ()
) -> list[str]:
    good = Outcome(list(episodes), NONE, wrong_vectors=0, went_back=0, dead_letters=0, unsettled=0)
    answer = report(ASKED, good._replace(**(outcome or {})), made or Made(), lost)
    found: list[str] = answer["failures"]
    return found


def test_a_run_in_which_all_held_has_no_failures() -> None:
    assert failures(seen("emu killed"), seen("pelican killed", "queue killed")) == []


@pytest.mark.parametrize("kind", ["lost", "stale", "orphaned"])
def test_a_difference_is_a_failure_even_when_reconcile_mended_it(kind: str) -> None:
    drift = Drift(**{kind: (("products", "1"),)})
    assert failures(seen("emu killed", drift=drift)) == [kind]


def test_only_the_loss_of_the_queue_may_need_reconcile_and_nothing_may_be_left_then() -> None:
    assert failures(seen("queue lost", drift=LOST)) == []
    assert failures(seen("queue lost", drift=LOST, left=LOST)) == ["lost"]
    assert failures(seen("queue lost", "emu killed", drift=LOST)) == ["lost"]


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"final": LOST}, "lost"),
        ({"wrong_vectors": 1}, "stale"),
        ({"went_back": 1}, "versions_that_went_back"),
        ({"dead_letters": 1}, "dead_letters"),
        ({"unsettled": 1}, "not_settled"),
    ],
)
def test_each_of_these_is_a_failure(wrong: dict[str, object], name: str) -> None:
    assert failures(seen("emu killed"), outcome=wrong) == [name]


def test_a_transaction_that_we_aborted_is_a_failure() -> None:
    made = Made(interrupted=1, aborted=[Aborted("insert", "RaiseException")])
    assert failures(seen("emu killed"), made=made) == ["aborted"]
    assert failures(seen("emu killed"), made=Made(interrupted=1)) == [], "Postgres was broken on purpose"


def test_a_process_that_ended_by_itself_and_a_search_that_never_came_back_are_failures() -> None:
    assert failures(seen("emu killed"), lost=[Loss("emu-1", "exit status 1")]) == ["processes_that_ended_by_themselves"]
    assert failures(seen("emu killed", recovery=Recovery(None, None))) == ["no recovery after ['emu killed']"]


def test_the_report_names_its_seed_its_recoveries_and_what_needed_reconcile(tmp_path: Path) -> None:
    outcome = Outcome([seen("emu killed"), seen("queue lost", drift=LOST)], NONE, 0, 0, 0, 0)
    text = write(tmp_path / "report", report(ASKED, outcome, Made(), [])).read_text()
    assert "--seed 1 " in text
    assert "| emu killed | SIGKILL | 1 | 0.50 (0.50 to 0.50) | 1.00 (1.00 to 1.00) |" in text
    assert "queue lost: 1 lost, 0 stale, 0 orphaned; after `pelican reconcile --repair`: 0 lost" in text
    assert (tmp_path / "report" / "report.json").exists()


def operations(*kinds: str) -> list[Operation]:
    return [Operation(number, kind, 0, 4, number) for number, kind in enumerate(kinds)]


@pytest.fixture
def shop(database: Database) -> Database:
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        migrate(connection)
    return database


def test_an_error_in_a_users_session_is_an_abortion(shop: Database) -> None:
    with psycopg.connect(shop.dsn(), autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$;"
            "CREATE TRIGGER refuse AFTER UPDATE ON products FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    with Users(shop.dsn(), lambda: True) as users:
        users.begin(operations("insert", "update metadata", "roll back", "delete"), seconds=0.1)
        users.finish()
    assert [aborted.operation for aborted in users.made.aborted] == ["update metadata", "roll back"]
    assert users.made.committed == {"insert": 1, "delete": 1}


def test_a_session_that_postgres_ends_is_excused_only_while_we_broke_postgres(shop: Database) -> None:
    broken = [True]
    with psycopg.connect(shop.dsn(), autocommit=True) as connection:
        # Ends the session of whoever inserts, once.
        connection.execute(
            "CREATE SEQUENCE once; CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
            "IF nextval('once') % 2 = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NULL; END$$;"
            "CREATE TRIGGER cut AFTER INSERT ON products EXECUTE FUNCTION cut()"
        )
    with Users(shop.dsn(), lambda: broken[0]) as users:
        users.begin(operations("insert"), seconds=0.1)
        users.finish()
        assert (users.made.interrupted, users.made.aborted) == (1, [])
        assert users.made.committed == {"insert": 1}
        broken[0] = False
        users.begin(operations("insert"), seconds=0.1)
        users.finish()
    assert len(users.made.aborted) == 1
