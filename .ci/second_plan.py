"""Rehearse a stack on moto, and hold what a second plan would change against .rehearsal-differences.yaml.

    python .ci/second_plan.py STACK --rehearse PATH/rehearse.py
    python .ci/second_plan.py STACK --plan FILE                 # a plan made before, as `terraform show -json` prints it

A program is stable when a second `up` has nothing to do. moto forgets or rewrites some of what it is given, and the file
lists each such attribute with what moto answers. Takes some four minutes. Exit status: 0 what would change is what is
listed, 1 not so.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
DIFFERENCES = ROOT / ".rehearsal-differences.yaml"
PLAN = "second-plan.json"
# Stands before the real terraform on PATH: the rehearsal throws its second plan away, this keeps it.
KEEPING = """#!/bin/sh
if [ "$1" = plan ]; then
  "{terraform}" "$@" -out=second.plan; status=$?
  "{terraform}" show -json second.plan > {plan}
  exit $status
fi
exec "{terraform}" "$@"
"""


class Difference(NamedTuple):
    """An attribute that a second plan would change, of a resource by its type and its name without the stack's."""

    type: str
    resource: str
    attribute: str
    answer: str

    def __str__(self) -> str:
        return f"{self.attribute} of {self.type} {self.resource}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--rehearse", type=Path, help="rehearse.py, which plans twice")
    source.add_argument("--plan", type=Path, help="a second plan that was kept")
    options = parser.parse_args()
    plan = json.loads(options.plan.read_text("utf-8") if options.plan else _rehearse(options.rehearse, options.stack))
    found = differences(plan, f"aviary-{options.stack}")
    problems = compare(found, yaml.safe_load(DIFFERENCES.read_text("utf-8")))
    print("\n".join(problems) or f"second plan, {options.stack}: {len(found)} attributes would change, each listed")
    return 1 if problems else 0


def differences(plan: Mapping[str, Any], prefix: str) -> list[Difference]:
    """What the plan would change. What is only known afterwards, such as the id of what is replaced, follows from the
    rest and is left out."""
    found = []
    for resource in plan["resource_changes"]:
        change = resource["change"]
        if change["actions"] in (["no-op"], ["read"]):
            continue
        before, after = change["before"] or {}, change["after"] or {}
        name = resource["name"].removeprefix(prefix).lstrip("-") or "-"
        changed = [key for key in sorted(before.keys() | after.keys()) if _differ(before.get(key), after.get(key))]
        known = [key for key in changed if (change.get("after_unknown") or {}).get(key) is not True]
        found += [Difference(resource["type"], name, key, json.dumps(before.get(key))) for key in known]
        if not known:
            found.append(Difference(resource["type"], name, "/".join(change["actions"]), "null"))
    return found


def compare(found: Sequence[Difference], listed: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """One sentence for each difference that is not listed or answered otherwise, and for each line that is stale."""
    lines = {
        (type_, resource, attribute): re.compile(answer)
        for type_, entries in listed.items()
        for entry in entries
        for resource in entry["resources"]
        for attribute, answer in entry["moto_answers"].items()
    }
    problems = []
    for one in found:
        answer = lines.pop((one.type, one.resource, one.attribute), None)
        if answer is None:
            problems.append(f"{one} would change and is not listed; the answer was {one.answer}")
        elif not answer.fullmatch(one.answer):
            problems.append(f"{one} is answered with {one.answer}, not with {answer.pattern}")
    return problems + [f"{Difference(*line, '')} does not change: unlist it" for line in lines]


def _differ(before: Any, after: Any) -> bool:
    """Nothing and an empty collection are the same to the provider."""
    return before != after and not (before in (None, [], {}) and after in (None, [], {}))


def _rehearse(rehearse: Path, stack: str) -> str:
    """The second plan of a rehearsal, which must have refused nothing."""
    with tempfile.TemporaryDirectory(prefix="aviary-second-plan-") as folder:
        terraform = Path(folder) / "bin" / "terraform"
        terraform.parent.mkdir()
        terraform.write_text(KEEPING.format(terraform=shutil.which("terraform"), plan=PLAN))
        terraform.chmod(0o755)
        path = f"{terraform.parent}{os.pathsep}{os.environ['PATH']}"
        out = Path(folder) / stack
        command = [sys.executable, str(rehearse), str(ROOT), "--stack", stack, "--apply", "--out", str(out)]
        status = subprocess.run(command, check=False, env={**os.environ, "PATH": path}).returncode
        if status:
            raise SystemExit(status)
        return (out / PLAN).read_text("utf-8")


if __name__ == "__main__":
    sys.exit(main())
