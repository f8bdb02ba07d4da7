"""What `make bench` says about its measurements: bars, failures, and going on after an interruption."""

import json
import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import run
from benchmarks.sections import Row, Section


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's results are kept; nothing is drawn."""
    monkeypatch.setattr(run, "KEPT", tmp_path / "sections")
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(run, "REPOSITORY", tmp_path)
    monkeypatch.setattr(run, "LOOK_SECONDS", 0.01)
    return tmp_path


class Sections:
    """Two sections in place of the real ones; counts how often each was measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.measured: list[str] = []
        self.broken: set[str] = set()
        monkeypatch.setattr(run, "SECTIONS", ("one", "two"))
        for name in run.SECTIONS:
            module = types.ModuleType(name)
            vars(module)["measure"] = partial(self._measure, name)
            monkeypatch.setitem(sys.modules, f"benchmarks.sections.{name}", module)

    def _measure(self, name: str, _quick: bool) -> Iterator[Section]:
        self.measured.append(name)
        yield Section([Row(f"rate of {name}", [3.0], "rows/s", 1.5)], {"name": name})
        if name in self.broken:
            raise RuntimeError("no such luck")
        yield Section([Row(f"rate of {name}", [3.0, 1.0, 2.0], "rows/s", 1.5)], {})


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> Sections:
    return Sections(monkeypatch)


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["run", "--no-plots", *arguments])
    return run.main()


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("a", [1, 5, 2], "s", at_most=2), True),
        (Row("a", [1, 5, 3], "s", at_most=2), False),
        (Row("a", [4.0], "times", 4), True),
        (Row("a", [3.9], "times", 4), False),
        (Row("a", [1.0], "s"), None),
        (Row("a", [], "times", 4, note="not installed"), False),
    ],
)
def test_a_bar_is_met_by_the_median_and_never_by_what_was_not_measured(row: Row, met: bool | None) -> None:
    assert row.met is met


def test_a_section_that_fails_says_so_in_the_table_beside_what_it_has_and_the_others_are_measured(
    folder: Path, sections: Sections, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sections.broken = {"one"}
    assert start(monkeypatch) == 1
    printed = capsys.readouterr().out
    assert "| one: failed: RuntimeError: no such luck | - |" in printed
    assert "| rate of one | 3 rows/s |  | ≥ 1.5 | yes |" in printed
    assert "| rate of two | 2 rows/s | 1 … 3 | ≥ 1.5 | yes |" in printed
    assert printed.count("rate of two") == 1
    assert set(json.loads((folder / "results.json").read_text())) == {"one", "two"}


def test_resuming_measures_only_what_is_missing_failed_or_of_another_size(
    folder: Path, sections: Sections, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections.broken = {"two"}
    start(monkeypatch)
    sections.broken = set()
    assert start(monkeypatch, "--resume") == 0
    assert sections.measured == ["one", "two", "two"]
    start(monkeypatch, "--resume", "--quick")
    assert sections.measured[3:] == ["one", "two"]


def test_publishing_replaces_what_stands_between_the_marks_and_nothing_else(
    folder: Path, sections: Sections, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, capacity = folder / "page.md", folder / "capacity.md"
    for each in (page, capacity):
        each.write_text(f"before\n{run.FROM_HERE}\nold\n{run.TO_HERE}\nafter\n")
    monkeypatch.setattr(run, "PAGE", page)
    monkeypatch.setattr(run, "CAPACITY_PAGE", capacity)
    start(monkeypatch, "--publish")
    text = page.read_text()
    assert "old" not in text
    assert "| rate of one | 2 rows/s |" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    # Nothing was measured that would belong there.
    assert "\nold\n" in capacity.read_text()


def test_the_page_of_capacities_says_what_an_emu_of_each_size_does_and_costs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "CAPACITY_PAGE", folder / "capacity.md")
    monkeypatch.setattr(run, "PAGE", folder / "page.md")
    for page in (run.PAGE, run.CAPACITY_PAGE):
        page.write_text(f"{run.FROM_HERE}{run.TO_HERE}\n")
    machine = {"cores": 2, "cpu": "x", "bf16": True, "python": "3.11", "busy_percent": 1.0}
    kept = {"quick": False, "commit": "abc", "seconds": 60.0, "machine": machine}
    data = {
        "rows_per_second": {"1.0": 100.0, "4.0": 400.0},
        "measured": {"1.0": [90.0, 100.0, 110.0]},
        "dollars_per_million": {"1.0": 0.1, "4.0": 0.2},
        "pinecone_rows_per_second": 10_000,
    }
    share = {"what": "backfill / bare rate", "values": [0.4, 0.5, 0.6]}
    rest: dict[str, Any] = {"unit": "times", "at_least": None, "at_most": None, "note": ""}
    run.publish(
        [
            {**kept, "section": "backfill", "rows": [share | rest], "data": {}},
            {**kept, "section": "capacity", "rows": [], "data": data},
        ]
    )
    text = run.CAPACITY_PAGE.read_text()
    assert "| 1 | 100 | 90 … 110 | 50 | 0.20 | 200 |" in text
    assert "| 4 | 400 | by the model below | 200 | 0.40 | 50 |" in text
    assert "sizes: full; commit abc; 2 minutes" in text


def test_an_unknown_section_is_named_with_those_that_there_are(
    folder: Path, sections: Sections, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        start(monkeypatch, "--only", "three")
    assert "no section three; there are one, two" in capsys.readouterr().err
