"""Search over HTTP: one frontend process, the catalogue's own queries, at 50 a second and as many as it can."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import capture
from benchmarks.asking import Asked, closed_loop, open_loop
from benchmarks.machine import percentile, summary
from benchmarks.recorded import recorded
from benchmarks.rig import Rig
from benchmarks.sections import ROUNDS, Row, Section
from local import catalogue

PER_SECOND = 50
ASKERS = 8
LOG_SECONDS, POLL_SECONDS = 10.0, 0.05


def server_ms(rig: Rig) -> dict[str, float]:
    """By request id, the whole time in the frontend, from its own log: with reading, checking and writing JSON."""
    lines = (json.loads(line) for line in rig.log("frontend").read_text().splitlines() if line.endswith("}"))
    return {line["request_id"]: line["ms"] for line in lines if line.get("event") == "request"}


def own_share(rig: Rig, asked: Sequence[Asked]) -> list[float]:
    """Milliseconds of each request without the model and the index. The frontend logs a request when it has answered, so the
    last lines are waited for."""
    deadline = time.monotonic() + LOG_SECONDS
    while not (whole := server_ms(rig)).keys() >= {each.request_id for each in asked}:
        if time.monotonic() > deadline:
            raise SystemExit(f"the frontend has not logged every request after {LOG_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    return [whole[each.request_id] - each.embed_ms - each.index_ms for each in asked]


def measure(quick: bool) -> Iterator[Section]:
    """5,000 products. In each round a frontend that has just started, to which every query is new, and then the same again,
    whose vectors it has kept."""
    rows, count, rounds = (500, 100, 2) if quick else (5_000, 700, ROUNDS)
    queries = [query.text for query in catalogue.queries()][:count]
    taken: list[Round] = []
    with Rig(vectors=recorded(rows)) as rig:
        capture.fill(rig, rows)
        rig.start("pelican-1", "emu-1")
        capture.change_all(rig, 0)
        capture.until_written(rig, rows)
        rig.stop("pelican-1", "emu-1")
        for number in range(rounds):
            rig.start("frontend")
            taken.append(_round(rig, queries))
            rig.stop("frontend")
            print(
                f"search, round {number + 1} of {rounds}: p50 {percentile(taken[-1].new_ms, 0.5):.1f} ms, "
                f"p99 {percentile(taken[-1].new_ms, 0.99):.1f} ms",
                file=sys.stderr,
            )
            yield Section([*_rows(taken)], {"rows": rows, **_data(taken)})


class Round(NamedTuple):
    """Milliseconds of each search, and searches a second."""

    new: list[Asked]
    new_ms: list[float]
    kept_ms: list[float]
    own_ms: list[float]
    most_new: float
    most_kept: float
    resident_mib: float


def _round(rig: Rig, queries: Sequence[str]) -> Round:
    port = rig.stack.plan.port
    # Connections, plans, kernels; of words that no query has.
    open_loop(port, [f"warming up {number}" for number in range(20)], PER_SECOND)
    new = open_loop(port, queries, PER_SECOND)
    kept = open_loop(port, queries, PER_SECOND)
    most_kept = closed_loop(port, queries, ASKERS)
    most_new = closed_loop(port, [f"{query} please" for query in queries], ASKERS)
    return Round(
        new,
        [each.waited_ms for each in new],
        [each.waited_ms for each in kept],
        own_share(rig, new),
        most_new,
        most_kept,
        rig.resident_mib("frontend"),
    )


def _rows(taken: Sequence[Round]) -> Iterator[Row]:
    """The percentiles of each round, and beside a p99 that of all rounds together."""
    for what, lists, middle, tail in (
        ("new", [one.new_ms for one in taken], 8.0, 25.0),
        ("known", [one.kept_ms for one in taken], None, None),
    ):
        together = [each for one in lists for each in one]
        for share, bar in ((0.5, middle), (0.99, tail)):
            yield Row(
                f"search at {PER_SECOND}/s, {what} queries, p{100 * share:.0f}",
                [percentile(one, share) for one in lists],
                "ms",
                at_most=bar,
                note=f"of all {len(together):,} together {percentile(together, share):.1f} ms",
            )
    own = [percentile(one.own_ms, 0.5) for one in taken]
    yield Row("search, our own share (no model, no index), p50", own, "ms", at_most=3)
    yield Row("search, most a second, new queries", [one.most_new for one in taken], "queries/s")
    yield Row("search, most a second, known queries", [one.most_kept for one in taken], "queries/s")


def _data(taken: Sequence[Round]) -> dict[str, Any]:
    new = [each for one in taken for each in one.new]
    found: dict[str, Any] = {
        "new": [each for one in taken for each in one.new_ms],
        "kept": [each for one in taken for each in one.kept_ms],
        "resident_mib": [round(one.resident_mib) for one in taken],
    }
    return found | {
        "new_ms": summary(found["new"]),
        "kept_ms": summary(found["kept"]),
        "own_ms": summary([each for one in taken for each in one.own_ms]),
        "embed_ms": summary([each.embed_ms for each in new]),
        "index_ms": summary([each.index_ms for each in new]),
        "rows_ms": summary([each.rows_ms for each in new]),
    }
