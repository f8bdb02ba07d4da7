"""What deploys, and what shows what would be deployed, keeps our rules."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.engine import ROOT

WORKFLOWS = ROOT / ".github" / "workflows"
PACK = ROOT / "policies"


def jobs(workflow: str) -> dict[str, list[dict[str, Any]]]:
    """The steps of each job of a workflow in which Pulumi runs."""
    parsed = yaml.safe_load((WORKFLOWS / workflow).read_text())["jobs"]
    return {name: job["steps"] for name, job in parsed.items() if any(map(command, job["steps"]))}


def command(step: dict[str, Any]) -> str:
    """What Pulumi is told to do; without one the step only installs its CLI."""
    is_pulumi = step.get("uses", "").startswith("pulumi/actions@")
    return str(step.get("with", {}).get("command", "")) if is_pulumi else ""


@pytest.mark.parametrize(
    ("workflow", "commands"),
    [("preview.yml", {"preview": ["preview"]}), ("deploy.yml", {"dev": ["up"], "prod": ["up"]})],
)
def test_no_stack_is_previewed_or_deployed_without_the_policy_pack(
    workflow: str, commands: dict[str, list[str]]
) -> None:
    found = jobs(workflow)
    assert {name: list(filter(None, map(command, steps))) for name, steps in found.items()} == commands
    for steps in found.values():
        for step in filter(command, steps):
            # The path is seen from the folder of the program, which is the repository's.
            assert (step["with"]["policyPacks"], step["with"].get("work-dir")) == (PACK.name, None)


@pytest.mark.parametrize("workflow", ["preview.yml", "deploy.yml"])
def test_what_the_policy_pack_imports_is_installed_before_pulumi_runs(workflow: str) -> None:
    for steps in jobs(workflow).values():
        runs = [step.get("run") for step in steps]
        assert "make install" in runs[: next(n for n, step in enumerate(steps) if command(step))]


def test_the_policy_pack_runs_in_the_environment_that_make_install_makes() -> None:
    options = yaml.safe_load((PACK / "PulumiPolicy.yaml").read_text())["runtime"]["options"]
    # The engine starts a pack in the pack's own folder.
    made = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("VENV :="))
    assert Path(os.path.normpath(PACK / options["virtualenv"])) == ROOT / made.split()[-1]
    locked = (ROOT / "requirements" / "all.txt").read_text()
    assert "\npulumi-policy==" in locked


def test_the_engine_of_the_pull_request_rehearses_with_the_same_pack() -> None:
    """`make rehearse` passes it: tests/blueprint/test_rehearsal.py."""
    steps = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())["jobs"]["engine"]["steps"]
    assert steps[-1]["run"] == "make rehearse"
