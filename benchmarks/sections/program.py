"""How long the Pulumi program takes to evaluate under mocks, and how much of it is imports."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.machine import REPOSITORY
from benchmarks.sections import ROUNDS, Row, Section
from blueprint.record import record

IMPORTS = "import pulumi, pulumi_aws, pulumi_awsx, pulumi_docker, pinecone, components.network, components.workloads"


def measure(quick: bool) -> Iterator[Section]:
    """prod, in a process of its own each time, with what Python compiled the time before."""
    rounds = 2 if quick else ROUNDS
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(REPOSITORY / ".local" / "pycache")
    whole, imports = [], []
    for number in range(rounds + 1):
        began = time.perf_counter()
        record("prod")
        between = time.perf_counter()
        subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORTS], check=True, cwd=REPOSITORY, env=environment)
        # The first round compiles.
        if number:
            whole.append(between - began)
            imports.append(time.perf_counter() - between)
        print(f"program, round {number} of {rounds}", file=sys.stderr)
    yield Section(
        [
            Row("Pulumi program under mocks, prod", whole, "s", at_most=4),
            Row("… of which the SDKs' imports", imports, "s"),
        ],
        {"seconds": whole, "import_seconds": imports},
    )
