"""What a seed means, and what a report says of it."""

import re
import shlex

import pytest

from chaos.cli import EXAMPLES, main
from chaos.faults import KINDS
from chaos.plan import OUTAGE_SECONDS, WRITERS, Episode, PlanError, make_operations, plan


def full(seed: int) -> list[Episode]:
    return plan(KINDS, seed=seed, seconds=600, operations=10_000, faults=66)


def test_the_same_seed_makes_the_same_faults_and_the_same_operations() -> None:
    assert full(1) == full(1)
    assert full(1) != full(2)


@pytest.mark.parametrize("seed", range(5))
def test_a_full_run_has_every_operation_every_fault_every_kind_and_one_real_outage(seed: int) -> None:
    episodes = full(seed)
    assert [o.number for episode in episodes for o in episode.operations] == list(range(10_000))
    injections = [injection for episode in episodes for injection in episode.injections]
    assert len(injections) == 66
    assert {injection.kind.name for injection in injections} == {kind.name for kind in KINDS}
    assert len(KINDS) >= 12
    (outage,) = [injection for injection in injections if injection.seconds == OUTAGE_SECONDS]
    assert outage.kind.name == "pinecone outage"


@pytest.mark.parametrize("seed", range(5))
def test_faults_that_overlap_are_of_different_parts_and_none_of_them_needs_a_repair(seed: int) -> None:
    storms = [episode for episode in full(seed) if len(episode.injections) > 1]
    assert len(storms) >= 5
    for storm in storms:
        scopes = [injection.kind.scope for injection in storm.injections]
        assert len(set(scopes)) == len(scopes)
        assert "queue lost" not in {injection.kind.name for injection in storm.injections}


def test_no_two_writers_share_a_key_but_the_hot_ones() -> None:
    operations = make_operations(3, 3_000)
    assert {operation.writer for operation in operations} == set(range(WRITERS))
    own = [operation for operation in operations if not operation.kind.startswith("hot")]
    assert all(operation.key % WRITERS == operation.writer for operation in own)


def test_more_faults_than_time_allows_are_refused_with_a_way_out() -> None:
    with pytest.raises(PlanError, match=r"ask for --minutes \d+\.\d or for fewer faults"):
        plan(KINDS, seed=1, seconds=60, operations=100, faults=66)


@pytest.mark.parametrize("example", re.findall(r"python -m chaos( .*?)(?:  .*)?$", EXAMPLES, re.MULTILINE))
def test_what_the_help_gives_for_an_example_can_be_asked(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*shlex.split(example), "--list"]) == 0
    assert capsys.readouterr().out.splitlines()
