"""From the commit of one row until a query of the index shows it: on an idle system, at half of the greatest rate, and while
a backfill embeds every row anew."""

import threading
import time
from typing import Any, Self

import psycopg

from benchmarks import capture
from benchmarks.laptop import commit_to_searchable
from benchmarks.machine import percentile, summary
from benchmarks.rig import Rig
from benchmarks.sections import Row, Section
from local.gauges import Gauges

ROWS, QUICK_ROWS = 5_000, 500
# A statement of the load changes so many rows; as many statements a second as the rate asks for.
ROWS_A_STATEMENT = 20


class Load:
    """Changes the texts of rows at a steady rate, on a thread, until the block ends. It leaves the probed rows alone."""

    def __init__(self, rig: Rig, rows_a_second: float, first: int, last: int) -> None:
        self._rig = rig
        self._pause = ROWS_A_STATEMENT / rows_a_second
        self._first, self._last = first, last
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.changed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._rig.connect() as connection:
            at, due = self._first, time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                self._statement(connection, at)
                self.changed += ROWS_A_STATEMENT
                at = at + ROWS_A_STATEMENT if at + 2 * ROWS_A_STATEMENT <= self._last else self._first
                due += self._pause

    def _statement(self, connection: psycopg.Connection[Any], at: int) -> None:
        connection.execute(
            "UPDATE products SET description = regexp_replace(description, ' Load: .*', '') || ' Load: ' || %s "
            "WHERE id >= %s AND id < %s",
            (self.changed, at, at + ROWS_A_STATEMENT),
        )


def measure(quick: bool) -> Section:
    """Single-row updates, one after another, with the real model."""
    rows, idle, loaded = (QUICK_ROWS, 30, 20) if quick else (ROWS, 300, 200)
    with Rig() as rig, Gauges(rig.state) as gauges, rig.index() as index:
        capture.fill(rig, rows)
        rig.start("pelican-1", "emu-1")
        # Twice: the first time everything is cold.
        for number in (0, 1):
            before = capture.written(rig)
            began = capture.change_all(rig, number)
            most = rows / (capture.until_written(rig, before + rows) - began)
            capture.until_settled(gauges)
        alone = commit_to_searchable(rig.state["postgres_dsn"], index, idle)
        with rig.connect() as connection:
            first, last = connection.execute("SELECT min(id) + %s, max(id) FROM products", (loaded,)).fetchone() or (
                0,
                0,
            )
        with Load(rig, most / 2, first, last) as load:
            started = time.monotonic()
            busy = commit_to_searchable(rig.state["postgres_dsn"], index, loaded)
            rate = load.changed / (time.monotonic() - started)
        capture.until_settled(gauges)
        behind = commit_to_searchable(rig.state["postgres_dsn"], index, loaded, filling=True)
    return Section(
        [
            Row("commit → searchable, idle, p50", [percentile(alone, 0.5)], "ms", at_most=40),
            Row("commit → searchable, idle, p99", [percentile(alone, 0.99)], "ms", at_most=150),
            Row(
                "commit → searchable at half of the greatest rate, p99",
                [percentile(busy, 0.99)],
                "ms",
                at_most=1000,
                note=f"{rate:,.0f} rows/s beside it; the greatest was {most:,.0f}",
            ),
            Row("commit → searchable during a backfill, p50", [percentile(behind, 0.5)], "ms"),
            Row("commit → searchable during a backfill, p99", [percentile(behind, 0.99)], "ms", at_most=1000),
        ],
        {"idle_ms": summary(alone), "loaded_ms": summary(busy), "greatest_rate": most, "load_rate": rate, "idle": alone,
         "loaded": busy, "during_backfill_ms": summary(behind)},
    )  # fmt: skip
