"""Throws requests at the JSON API that its own OpenAPI document allows, and many that it does not: `python -m benchmarks.fuzz`.

It starts the laptop stack (the real frontend over a real Postgres and the Pinecone stand-in) in a folder of its own and
lets schemathesis ask for as long as `--seconds` says. It fails when an answer is a 5xx, breaks its own schema or has a
status that is not documented, when the log holds an error that nobody foresaw, or when the frontend had to start anew.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from local.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 600
ROWS = 500
# Left out are rules that are not ours: that whatever fits the schema is accepted (a sku of blanks is not), that a row
# which was deleted is unknown everywhere (whether it has left the index is a question we answer), what OPTIONS allows.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
)
UNFORESEEN = ("request_failed", "database_error", "uncaught", "Task exception was never retrieved")


def command(url: str, *options: str) -> list[str]:
    """schemathesis against the server at `url`, every finding told and none shrunk."""
    return [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json"),
        *("--checks", ",".join(CHECKS), "--continue-on-failure", "--no-shrink", "--no-color"),
        *("--suppress-health-check", "all", *options),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "SCHEMATHESIS_HOOKS": "benchmarks.fuzz_hooks"}


def troubles(log: Path) -> tuple[Counter[int], list[str]]:
    """Requests by status, and the lines of the frontend's log that should not be there."""
    statuses: Counter[int] = Counter()
    found: list[str] = []
    starts = 0
    for text in log.read_text().splitlines():
        line: dict[str, Any] = json.loads(text) if text.startswith("{") else {"event": "no JSON", "text": text}
        starts += line["event"] == "listening"
        if line["event"] == "request" and line["route"] != "/readyz":
            statuses[line["status"]] += 1
        if line["event"] in (*UNFORESEEN, "no JSON") or (line["event"] == "request" and line["status"] == 500):
            found.append(text)
    return statuses, found + [f"the frontend started {starts} times"] * (starts != 1)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz",
        description=__doc__.splitlines()[0],
        epilog="example: python -m benchmarks.fuzz --seconds 60 --seed 4711",
    )
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"how long (default {SECONDS})")
    parser.add_argument(
        "--seed", type=int, default=1, help="the same seed asks the same, as far as answers are the same"
    )
    parser.add_argument("--processes", type=int, default=2, help="asking at once, each with its own seed (default 2)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aviary-fuzz-") as folder:
        local = [sys.executable, "-m", "local"]
        where = ["--data-dir", folder]
        up = [*local, "up", "--detach", *where, "--rows", str(ROWS), "--port", str(free_port())]
        subprocess.run(up, cwd=REPOSITORY, check=True)
        try:
            state = json.loads((Path(folder) / "state.json").read_text())
            options = ("--generation-database", "none", "--max-time", str(given.seconds))
            # Processes, not schemathesis's own threads: two of those now and then break Python 3.11's parser.
            reports = [Path(folder) / f"asked-{number}.txt" for number in range(given.processes)]
            asking = []
            for number, report in enumerate(reports):
                with report.open("wb") as output:
                    asked = command(state["frontend_url"], *options, "--seed", str(given.seed + number))
                    asking.append(subprocess.Popen(asked, cwd=folder, env=environment(), stdout=output))
            failed = [report for one, report in zip(asking, reports, strict=True) if one.wait()]
            for report in failed or reports[:1]:
                print(report.read_text())
            statuses, found = troubles(Path(folder) / "logs" / "frontend.log")
        finally:
            subprocess.run([*local, "down", *where], cwd=REPOSITORY, check=False)
    print(f"\n{describe()}; load {os.getloadavg()[0]:.1f}")
    print(
        f"{statuses.total():,} requests in {given.seconds} s: "
        + ", ".join(f"{s}: {n:,}" for s, n in sorted(statuses.items()))
    )
    print("\n".join(found) or "no error that nobody foresaw")
    return int(bool(failed or found))


if __name__ == "__main__":
    sys.exit(main())
