"""Hold checkov's findings against .checkov-exceptions.yaml.

    python .ci/checkov_gate.py STACK FOLDER [--checkov PATH]

FOLDER holds the stack as Terraform JSON (rehearse.py --out). Exit status: 0 what is found is what is listed, 1 not so.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

EXCEPTIONS = Path(__file__).resolve().parents[1] / ".checkov-exceptions.yaml"


class Finding(NamedTuple):
    """One failed check of one resource, by the name that Pulumi knows it by."""

    check: str
    resource: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkov", default="checkov", help="the program, where it is not on PATH")
    options = parser.parse_args()
    found, passed = scan(options.checkov, options.folder)
    problems = compare(found, exceptions(options.stack))
    print("\n".join(problems) or f"checkov, {options.stack}: {passed} passed, {len(found)} failed, each listed")
    return 1 if problems else 0


def scan(checkov: str, folder: Path) -> tuple[list[Finding], int]:
    """The failed checks, and how many passed. Raises when checkov judged nothing."""
    done = subprocess.run(
        [
            checkov,
            "--directory",
            str(folder),
            "--framework",
            "terraform_json",
            "--output",
            "json",
            "--quiet",
            "--compact",
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "BC_SKIP_MAPPING": "TRUE"},
    )
    report: dict[str, Any] = json.loads(done.stdout)
    passed = int(report.get("summary", report)["passed"])
    if not passed:
        raise SystemExit(f"checkov judged nothing in {folder}: {done.stderr[-500:]}")
    failed = report.get("results", {}).get("failed_checks", [])
    return [Finding(one["check_id"], one["resource"].rpartition(".")[2]) for one in failed], passed


def exceptions(stack: str) -> list[Finding]:
    listed = yaml.safe_load(EXCEPTIONS.read_text("utf-8"))
    return [Finding(one["check"], one["resource"]) for one in listed[stack]]


def compare(found: Sequence[Finding], listed: Sequence[Finding]) -> list[str]:
    """One sentence for each finding that is not listed, and for each line that finds nothing."""
    new = [f"{check} fails for {resource} and is not listed" for check, resource in sorted(set(found) - set(listed))]
    stale = [f"{check} does not fail for {resource}: unlist it" for check, resource in sorted(set(listed) - set(found))]
    return new + stale


if __name__ == "__main__":
    sys.exit(main())
