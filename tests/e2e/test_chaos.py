"""The chaos suite itself, short: `make chaos` is the long way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FAULTS = ("emu killed", "clock step", "queue lost")


@pytest.mark.timeout(300)
def test_a_short_run_breaks_the_real_stack_and_reports_that_all_promises_held(tmp_path: Path) -> None:
    only = [word for name in FAULTS for word in ("--only", name)]
    size = ["--seed", "4", "--minutes", "0.6", "--operations", "250", "--faults", str(len(FAULTS))]
    done = subprocess.run(
        [sys.executable, "-m", "chaos", *size, *only, "--report", str(tmp_path / "report")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["failures"] == []
    assert report["operations"] == 250
    assert report["faults_by_kind"] == dict.fromkeys(sorted(FAULTS), 1)
    assert {"next_change", "every_shard"} == set(report["recovery"]["emu killed"])
    (repaired,) = report["repaired_by_reconcile"]
    assert repaired["faults"] == ["queue lost"]
    assert sum(repaired["before"].values()) > 0, "with Emu held still, something was in the queue"
    assert sum(repaired["after"].values()) == 0


def test_a_wrong_option_is_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--only", "earthquake"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no fault 'earthquake'; there are: pelican killed" in done.stderr
