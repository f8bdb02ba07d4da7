"""Search over HTTP: one frontend process, the catalogue's own queries, at 50 a second and as many as it can."""

import json
from collections.abc import Sequence

from benchmarks import capture
from benchmarks.asking import Asked, closed_loop, open_loop
from benchmarks.machine import percentile, summary
from benchmarks.recorded import recorded
from benchmarks.rig import Rig
from benchmarks.sections import Row, Section
from local import catalogue

PER_SECOND = 50
ASKERS = 8


def server_ms(rig: Rig) -> dict[str, float]:
    """By request id, the whole time in the frontend, from its own log: with reading, checking and writing JSON."""
    lines = (json.loads(line) for line in rig.log("frontend").read_text().splitlines() if line.startswith("{"))
    return {line["request_id"]: line["ms"] for line in lines if line.get("event") == "request"}


def own_share(asked: Sequence[Asked], whole: dict[str, float]) -> list[float]:
    """Milliseconds of each request without the model and the index."""
    return [whole[each.request_id] - each.embed_ms - each.index_ms for each in asked]


def measure(quick: bool) -> Section:
    """5,000 products. First every query new, then the same again, whose vectors are kept."""
    rows, count = (500, 100) if quick else (5_000, 700)
    queries = [query.text for query in catalogue.queries()][:count]
    with Rig(vectors=recorded(rows)) as rig:
        capture.fill(rig, rows)
        rig.start("pelican-1", "emu-1")
        capture.change_all(rig, 0)
        capture.until_written(rig, rows)
        rig.stop("pelican-1", "emu-1")
        rig.start("frontend")
        port = rig.stack.plan.port
        # Connections, plans, kernels; of words that no query has.
        open_loop(port, [f"warming up {number}" for number in range(20)], PER_SECOND)
        new = open_loop(port, queries, PER_SECOND)
        kept = open_loop(port, queries, PER_SECOND)
        most_kept = closed_loop(port, queries, ASKERS)
        most_new = closed_loop(port, [f"{query} please" for query in queries], ASKERS)
        whole = server_ms(rig)
        memory = rig.resident_mib("frontend")
    own = own_share(new, whole)
    new_ms, kept_ms = [each.waited_ms for each in new], [each.waited_ms for each in kept]
    return Section(
        [
            Row(f"search at {PER_SECOND}/s, new queries, p50", [percentile(new_ms, 0.5)], "ms", at_most=8),
            Row(f"search at {PER_SECOND}/s, new queries, p99", [percentile(new_ms, 0.99)], "ms", at_most=25),
            Row(f"search at {PER_SECOND}/s, known queries, p50", [percentile(kept_ms, 0.5)], "ms"),
            Row(f"search at {PER_SECOND}/s, known queries, p99", [percentile(kept_ms, 0.99)], "ms"),
            Row("search, our own share (no model, no index), p50", [percentile(own, 0.5)], "ms", at_most=3),
            Row("search, most a second, new queries", [most_new], "queries/s"),
            Row("search, most a second, known queries", [most_kept], "queries/s"),
        ],
        {
            "rows": rows,
            "new_ms": summary(new_ms),
            "kept_ms": summary(kept_ms),
            "own_ms": summary(own),
            "embed_ms": summary([each.embed_ms for each in new]),
            "index_ms": summary([each.index_ms for each in new]),
            "rows_ms": summary([each.rows_ms for each in new]),
            "resident_mib": round(memory),
            "new": new_ms,
            "kept": kept_ms,
        },
    )
