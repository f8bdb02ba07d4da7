"""The simulation of the scaling rules: what it is told, and what it may not get wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling
from benchmarks.scaling_backfill import Backfill, Emu, Message, Outcome, Queue, Run, summary
from benchmarks.scaling_rules import Rules
from benchmarks.scaling_speeds import DOCUMENTED, speeds

PELICAN = Rules("pelican", 2, 4, {"cpu": 60.0, "backlog": 5000.0}, 60.0, 60.0, 300.0, 0.5, 0.02)
EMU = Rules("emu", 2, 12, {"cpu": 60.0, "backlog": 20.0}, 60.0, 60.0, 300.0, 1.0, 0.04)


def put(folder: Path, name: str, *, quick: bool = False, **found: Any) -> None:
    section = {"quick": quick, "rows": [], "data": {}, **found}
    (folder / f"{name}.json").write_text(json.dumps(section))


CPU = {"cpu_us_a_row": {"emu-1": 4000, "pelican-1": 50}}
RATIO = [{"what": "backfill / bare rate", "values": [0.5, 0.9, 0.8]}]


def test_without_measurements_the_speeds_are_the_documented_ones(tmp_path: Path) -> None:
    assert speeds(tmp_path) == DOCUMENTED
    assert "one vCPU of an Emu: 150 rows/s (documented)" in str(DOCUMENTED)


def test_a_measured_speed_is_used_and_named_as_such(tmp_path: Path) -> None:
    put(tmp_path, "backfill", data=CPU, rows=RATIO)
    assert [round(speed.rows_per_second) for speed in speeds(tmp_path)] == [250, 20_000]
    assert "CPU a row in the section backfill" in speeds(tmp_path).emu.origin
    put(tmp_path, "capacity", data={"rows_per_second": {"0.5": 170, "1.0": 300}})
    assert speeds(tmp_path).emu.rows_per_second == pytest.approx(300 * 0.8)
    assert "capacity" in speeds(tmp_path).emu.origin
    (tmp_path / "backfill.json").unlink()
    assert speeds(tmp_path).emu.rows_per_second == pytest.approx(300 * 0.85)
    assert speeds(tmp_path).pelican == DOCUMENTED.pelican


def test_small_sizes_and_failures_are_no_measurement(tmp_path: Path) -> None:
    put(tmp_path, "backfill", quick=True, data=CPU, rows=RATIO)
    put(tmp_path, "capacity", failed="RuntimeError: no such luck")
    assert speeds(tmp_path) == DOCUMENTED


def test_what_a_person_gives_wins() -> None:
    found = DOCUMENTED.but(400.0, None)
    assert found.emu == (400.0, "given")
    assert found.pelican == DOCUMENTED.pelican


def test_of_a_group_that_is_in_hand_nothing_is_given() -> None:
    queue = Queue()
    for at in range(3):
        queue.put(5, Message(100, live=False, at=at))
    queue.put(5, Message(1, live=True, at=3))
    unit = queue.take()
    assert unit is not None
    assert [message.at for message in unit.messages] == [0, 1, 2, 3]
    queue.put(5, Message(1, live=True, at=4))
    assert queue.take() is None
    assert tuple(queue.depth()) == (1, 4)
    queue.done(unit)
    assert queue.take() is not None


def test_an_emu_with_enough_of_a_backfill_takes_nothing_and_does_live_changes_first() -> None:
    queue = Queue()
    queue.put(0, Message(240, live=False, at=0.0))
    emu = Emu(queue, rows_a_step=100.0)
    emu.receive()
    queue.put(9, Message(1, live=True, at=1.0))
    emu.receive()
    assert [unit.live for unit in emu.units] == [False, True]
    emu.step(1.0)
    assert [unit.rows_left for unit in emu.units] == [240 - 99, 0]
    emu.units.pop()
    for group in range(1, 4):
        queue.put(group, Message(240, live=False, at=2.0))
    emu.receive()
    queue.put(8, Message(1, live=True, at=3.0))
    emu.receive()
    assert ([unit.live for unit in emu.units], queue.waiting) == ([False, False], 3)


def run(rows: int = 60_000, *, live: float = 5.0, counts_all: bool = False, emu: Rules = EMU) -> Outcome:
    """Slow enough that the CPU rule sees it."""
    return Run(
        Backfill(rows, live, most_seconds=7200), PELICAN, emu, rows_per_vcpu=60, pelican_rows_per_vcpu=5000, start_seconds=60,
        counts_all=counts_all,
    )()  # fmt: skip


def test_a_backfill_comes_to_its_end_beside_live_changes_and_every_run_says_the_same() -> None:
    first, second = run(), run()
    assert first == second
    assert first.seconds > 60_000 / (12 * 60), "faster than all Emus can"
    assert len(first.ages) == pytest.approx(5 * 60 * len(first.samples), rel=0.01), "a live change is missing"
    assert min(first.ages) > 0
    assert first.samples[-1].outbox == 0
    assert first.samples[-1].emus == EMU.least


def test_cpu_alone_brings_emus_to_a_backfill_and_they_make_it_faster_where_no_live_change_waits() -> None:
    alone = EMU._replace(targets={"cpu": 60.0}, age_seconds=float("inf"))
    fixed = EMU._replace(most=EMU.least)
    scaled, still = run(200_000, live=0.0, emu=alone), run(200_000, live=0.0, emu=fixed)
    assert max(sample.emus for sample in scaled.samples) > EMU.least
    assert scaled.seconds < 0.7 * still.seconds


def test_keys_of_a_backfill_start_pelicans_only_where_the_rule_counts_them() -> None:
    assert summary(run(150_000), 0.0)["most_pelicans"] == PELICAN.least
    assert summary(run(150_000, counts_all=True), 0.0)["most_pelicans"] > PELICAN.least


def test_a_backfill_that_is_not_through_in_time_says_so() -> None:
    slow = Run(
        Backfill(1_000_000, most_seconds=120), PELICAN, EMU, rows_per_vcpu=60, pelican_rows_per_vcpu=5000, start_seconds=60
    )  # fmt: skip
    with pytest.raises(SystemExit, match=r"not through after 0 h.*--backfill-rows"):
        slow()


def test_every_load_is_told_with_the_rules_it_ran_under(capsys: pytest.CaptureFixture[str]) -> None:
    declared, assumed = scaling.Stack(PELICAN, EMU), scaling.Assumed(DOCUMENTED)
    chosen = {"as declared": EMU, "cpu 75": EMU._replace(targets={"cpu": 75.0, "backlog": 20.0})}
    results = [*scaling.show(scaling.flows(declared, assumed, chosen, "step"))]
    results += scaling.show(scaling.backfills(declared, assumed, chosen, Backfill(30_000)))
    assert [(one.load, one.rules) for one in results] == [
        ("step", "as declared"),
        ("step", "cpu 75"),
        ("backfill", "as declared"),
        ("backfill", "cpu 75"),
        ("backfill", "all keys count"),
    ]
    printed = capsys.readouterr().out
    assert "step (3.0 h)" in printed
    assert "min to end" in printed
    told = scaling.report("prod", declared, DOCUMENTED, results)
    assert told["speeds"]["emu"] == {"rows_per_second": 150.0, "origin": "documented"}
    assert [len(one["minutes"]) for one in told["runs"]] == [len(one.minutes) for one in results]
