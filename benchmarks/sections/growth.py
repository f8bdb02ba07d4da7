"""What grows with the table and the backlog, and what must not: a claim, a search, reconcile, memory; more Emus."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from benchmarks import capture, preload
from benchmarks.asking import open_loop
from benchmarks.machine import REPOSITORY, percentile
from benchmarks.recorded import recorded
from benchmarks.rig import Rig
from benchmarks.sections import Row, Section
from benchmarks.sections.search import own_share, server_ms
from local import catalogue
from pelican.outbox import LIVE, PostgresOutbox, Work

CLAIMS, CLAIM_KEYS = 60, 500
SEARCHES, SEARCHES_A_SECOND = 150, 25
# Reconcile and the stand-in's file take a minute for the largest of these.
SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (10_000, 30_000)
RECONCILE_SIZES, QUICK_RECONCILE_SIZES = (10_000, 100_000), (1_000, 3_000)
BACKLOG, QUICK_BACKLOG = 200_000, 4_000
EMUS = (1, 2, 3, 4)


def measure(quick: bool) -> Section:
    """Each part on a stack of its own."""
    sizes = QUICK_SIZES if quick else SIZES
    data: dict[str, Any] = {"sizes": list(sizes)}
    data["claim_ms"], data["own_search_ms"], data["index_ms"] = claims_and_searches(sizes)
    data["backlog"] = backlog(QUICK_BACKLOG if quick else BACKLOG)
    data["emus"] = emus(2_000 if quick else 20_000, 2 if quick else 3)
    data["reconcile"] = reconcile(QUICK_RECONCILE_SIZES if quick else RECONCILE_SIZES)
    return Section([*_rows_of_sizes(sizes, data), *_rows_of_flow(data)], data)


def _rows_of_sizes(sizes: Sequence[int], data: dict[str, Any]) -> list[Row]:
    small, large = str(sizes[0]), str(sizes[-1])
    rows = [
        Row(f"claim of {CLAIM_KEYS} keys, table and backlog of {size:,}, p50", [data["claim_ms"][str(size)]], "ms")
        for size in sizes
    ]
    grown = [data["claim_ms"][large] / data["claim_ms"][small]]
    searched = [data["own_search_ms"][large] / data["own_search_ms"][small]]
    ends = f"{sizes[-1]:,} / {sizes[0]:,} rows"
    return [
        *rows,
        Row(f"claim time, {ends}", grown, "times", at_most=1.2),
        Row(f"our own share of a search, {ends}", searched, "times", at_most=1.2),
    ]


def _rows_of_flow(data: dict[str, Any]) -> list[Row]:
    drained, compared = data["backlog"], data["reconcile"]
    least, most = min(compared, key=int), max(compared, key=int)
    per_row = (compared[most]["seconds"] / int(most)) / (compared[least]["seconds"] / int(least))
    one = data["emus"]["1"]
    return [
        Row(
            f"backlog of {drained['rows']:,}: rate of its last quarter / first",
            [drained["last_quarter"] / drained["first_quarter"]],
            "times",
            0.83,
        ),
        *(
            Row(f"{name}, memory after the backlog / after its first quarter", [after / before], "times", at_most=1.2)
            for name, (before, after) in drained["resident_mib"].items()
        ),
        Row(f"reconcile, time a row, {int(most):,} / {int(least):,} rows", [per_row], "times", at_most=1.2),
        *(
            Row(f"{count} Emus, recorded vectors", rates, "rows/s")
            for count, rates in data["emus"].items()
            if count != "1"
        ),
        Row("1 Emu, recorded vectors", one, "rows/s"),
    ]


def claims_and_searches(sizes: Sequence[int]) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """By size, median milliseconds of a claim (read and given up), of a search's own share and of the index's."""
    claim: dict[str, float] = {}
    own: dict[str, float] = {}
    index: dict[str, float] = {}
    queries = [query.text for query in catalogue.queries()][:SEARCHES]
    with Rig(settings={"AVIARY_PINECONE_TIMEOUT_SECONDS": "10"}) as rig:
        done = 0
        for size in sizes:
            print(f"growth: {size:,} rows", file=sys.stderr)
            with rig.connect() as connection:
                preload.fill(connection, done + 1, size)
                done = size
                _backlog_of_all(connection)
                claim[str(size)] = _claim_ms(rig)
                connection.execute("TRUNCATE sync.outbox")
            preload.vectors(rig, size)
            rig.start("frontend")
            port = rig.stack.plan.port
            open_loop(port, [f"warming up {number}" for number in range(20)], SEARCHES_A_SECOND)
            asked = open_loop(port, queries, SEARCHES_A_SECOND)
            own[str(size)] = round(statistics.median(own_share(asked, server_ms(rig))), 3)
            index[str(size)] = round(percentile([each.index_ms for each in asked], 0.5), 3)
            rig.stop("frontend")
    return claim, own, index


def _backlog_of_all(connection: psycopg.Connection[Any]) -> None:
    """Every row in the outbox, as one UPDATE of the whole table leaves it."""
    connection.execute("UPDATE products SET description = description || '.'")
    connection.execute("ANALYZE sync.outbox")


def _claim_ms(rig: Rig) -> float:
    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect(rig.server.dsn(user="aviary_pelican"), autocommit=True)

    outbox = PostgresOutbox(connect)
    taken = []
    try:
        source = next(iter(outbox.find())).source_id
        for number in range(CLAIMS):
            work = Work(LIVE, source, number % 16)
            began = time.perf_counter()
            claim = outbox.claim(work, CLAIM_KEYS)
            milliseconds = (time.perf_counter() - began) * 1000
            if claim is None:
                raise SystemExit(f"shard {number % 16} had nothing to claim")
            # An outbox row is taken whole, and of a small table has fewer keys.
            taken.append(milliseconds * CLAIM_KEYS / len(claim.rows))
            outbox.release(claim)
    finally:
        outbox.drop()
    # The first of each session plan and read the table's description.
    return round(statistics.median(taken[16:]), 3)


def backlog(rows: int) -> dict[str, Any]:
    """All of it drained by one Pelican and one Emu with recorded vectors: rates of the quarters, memory."""
    names = ("pelican-1", "emu-1")
    with Rig(vectors=recorded(preload.RECORDED_ROWS)) as rig:
        with rig.connect() as connection:
            preload.fill(connection, 1, rows)
            _backlog_of_all(connection)
        rig.start(*names)
        times, memory = [], []
        for quarter in (1, 2, 3, 4):
            times.append(capture.until_written(rig, rows * quarter // 4))
            memory.append({name: round(rig.resident_mib(name), 1) for name in names})
            print(f"growth: backlog of {rows:,}, quarter {quarter} of 4", file=sys.stderr)
    # The first quarter began while they were starting, so the second is the first that counts.
    return {
        "rows": rows,
        "first_quarter": round(rows / 4 / (times[1] - times[0]), 1),
        "last_quarter": round(rows / 4 / (times[3] - times[2]), 1),
        "resident_mib": {name: (memory[0][name], memory[3][name]) for name in names},
    }


def emus(rows: int, rounds: int) -> dict[str, list[float]]:
    """End to end with more and more Emus, on the same two cores."""
    return {str(count): capture.end_to_end(rows, rounds, count)["rates"] for count in EMUS}


def reconcile(sizes: Sequence[int]) -> dict[str, Any]:
    """Of benchmarks.reconcile: seconds and peak memory of a report over tables of these sizes."""
    found: dict[str, Any] = {}
    for size in sizes:
        print(f"growth: reconcile of {size:,} rows", file=sys.stderr)
        with _report() as path:
            command = [sys.executable, "-m", "benchmarks.reconcile", "--rows", str(size), "--each", str(size // 100)]
            done = subprocess.run(
                [*command, "--json", str(path)], cwd=REPOSITORY, capture_output=True, text=True, check=False
            )
            # 1 is also said when one of its own bars was missed.
            if not path.exists():
                raise SystemExit(f"benchmarks.reconcile failed: {done.stderr.strip().splitlines()[-1:]}")
            found[str(size)] = json.loads(path.read_text())["report"]
    return found


@contextmanager
def _report() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder) / "report.json"
