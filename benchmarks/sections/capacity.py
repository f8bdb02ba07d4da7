"""Rows a second by the size of an Emu's task, and what a million rows cost: measured on 0.5, 1 and 2 cores of this
machine, each as a limit on one process, and carried on from there.

The model beyond two cores: the embedder runs one inference a core, up to `MAX_DEFAULT_THREADS`, and the slope between one
and two cores holds. A Fargate vCPU is one hardware thread, of a CPU that AWS does not name: what counts there is the
ratio to this machine's rate, which the section `embedding` measures against the matrix-product peak.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aviary.embedder import Embedder
from aviary.embedder_pool import MAX_DEFAULT_THREADS
from benchmarks.machine import REPOSITORY
from benchmarks.recorded import texts
from benchmarks.scaling_speeds import SHARE_OF_BARE
from benchmarks.sections import ROUNDS, Row, Section
from benchmarks.sections.backfill import rate
from blueprint import prices

BEYOND = (4.0,)
# Fargate's smallest memory for each size: what an Emu takes is less.
GB_BY_VCPU = {0.5: 1.0, 1.0: 2.0, 2.0: 4.0, 4.0: 8.0}
# https://docs.pinecone.io/reference/api/database-limits: a serverless namespace takes this many bytes a second.
PINECONE_UPSERT_BYTES_A_SECOND = 50_000_000
RECORD_BYTES = 4_700
MILLION = 1_000_000


def measure(quick: bool) -> Iterator[Section]:
    """A process for each size, in turns."""
    rows, rounds = (300, 2) if quick else (3_000, ROUNDS)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    sizes = [size for size in (0.5, 1.0, 2.0) if size <= len(cores)]
    found: dict[float, list[float]] = {size: [] for size in sizes}
    for number in range(rounds):
        for size in sizes:
            found[size].append(_limited(size, rows))
        print(f"capacity, round {number + 1} of {rounds}: {found}", file=sys.stderr)
        yield _section(found)


def _section(found: dict[float, list[float]]) -> Section:
    middle = {size: statistics.median(values) for size, values in found.items()}
    largest = max(middle)
    slope = middle[2.0] - middle[1.0] if 2.0 in middle else middle[largest] / largest
    for size in BEYOND:
        middle[size] = middle[largest] + (min(size, MAX_DEFAULT_THREADS) - largest) * slope
    table, dollars = prices.load(), {}
    for size, speed in middle.items():
        hour = size * table["fargate_vcpu_hour"] + GB_BY_VCPU[size] * table["fargate_gb_hour"]
        dollars[size] = hour / 3600 * MILLION / speed
    quota = PINECONE_UPSERT_BYTES_A_SECOND / RECORD_BYTES
    data: dict[str, Any] = {
        "rows_per_second": {str(size): round(value, 1) for size, value in middle.items()},
        "measured": {str(size): list(values) for size, values in found.items()},
        "dollars_per_million": {str(size): round(value, 3) for size, value in dollars.items()},
        "pinecone_rows_per_second": round(quota),
    }
    rows_of = [Row(f"embedding with {size:g} vCPU", list(values), "rows/s") for size, values in found.items()]
    costs = [
        Row(f"Fargate for a million rows, the embedder alone, {size:g} vCPU", [cost], "$")
        for size, cost in dollars.items()
    ]
    return Section([*rows_of, *costs], data)


def page(data: Mapping[str, Any], share: float | None) -> str:
    """The table of docs/capacity.md: by size, what was measured and what follows. `share`: what the section `backfill` found
    to be left end to end of the embedder's rate; None where it has not been measured."""
    left = SHARE_OF_BARE if share is None else share
    lines = [
        ["vCPU", "the embedder, rows/s", "spread", f"{left:.2f} of it: an Emu, rows/s", "$ per million rows", "Emus until Pinecone's quota"],
        ["---"] * 6,
    ]  # fmt: skip
    for size, speed in sorted(data["rows_per_second"].items(), key=lambda item: float(item[0])):
        values = data["measured"].get(size)
        lines.append(
            [
                f"{float(size):g}",
                f"{speed:,.0f}",
                f"{min(values):,.0f} … {max(values):,.0f}" if values else "by the model below",
                f"{speed * left:,.0f}",
                f"{data['dollars_per_million'][size] / left:.2f}",
                f"{data['pinecone_rows_per_second'] / (speed * left):.0f}",
            ]
        )
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _limited(vcpu: float, rows: int) -> float:
    """Rows a second of the embedder in a process that gets so much of this machine."""
    command = [sys.executable, "-m", "benchmarks.sections.capacity", str(rows)]
    with _on_cores(max(1, round(vcpu))):
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if vcpu < 1:
        _share(process, vcpu)
    text, _ = process.communicate()
    return float(json.loads(text)["rows_per_second"])


@contextlib.contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """A process that is started in here gets so many of our cores, where the system has a way to say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(ours)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def _share(process: "subprocess.Popen[str]", share: float, period_seconds: float = 0.1) -> None:
    """Let the process run for `share` of each period, as the kernel does with a CPU quota."""
    while process.poll() is None:
        time.sleep(period_seconds * share)
        process.send_signal(signal.SIGSTOP)
        time.sleep(period_seconds * (1 - share))
        process.send_signal(signal.SIGCONT)


def child(rows: int) -> None:
    """What the limited process does."""
    embedder = Embedder()
    wanted = texts(rows)
    embedder.embed(wanted[:200])
    print(json.dumps({"rows_per_second": rate(embedder, wanted)}))


if __name__ == "__main__":
    assert Path.cwd() == REPOSITORY
    child(int(sys.argv[1]))
