"""From the commit of one row until a query of the index shows it: on an idle system, at half of the greatest rate, and while
a backfill embeds every row anew."""

import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Self

import psycopg

from benchmarks import capture
from benchmarks.laptop import commit_to_searchable
from benchmarks.machine import percentile, summary
from benchmarks.rig import Rig
from benchmarks.sections import ROUNDS, Row, Section
from local.gauges import Gauges

ROWS, QUICK_ROWS = 5_000, 500
# Of each state in each round.
UPDATES = 100
# What it is called in the table, and at most how many milliseconds by share.
STATES: dict[str, tuple[str, dict[float, float | None]]] = {
    "idle": ("idle", {0.5: 40.0, 0.99: 150.0}),
    "loaded": ("at half of the greatest rate", {0.5: None, 0.99: 1000.0}),
    "filling": ("during a backfill", {0.5: None, 0.99: 1000.0}),
}
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


def measure(quick: bool) -> Iterator[Section]:
    """Single-row updates, one after another, with the real model; the three states in turns."""
    rows, rounds, updates = (QUICK_ROWS, 2, 10) if quick else (ROWS, ROUNDS, UPDATES)
    waits: dict[str, list[list[float]]] = {state: [] for state in STATES}
    data: dict[str, Any] = {"load_rates": []}
    with Rig() as rig, Gauges(rig.state) as gauges, rig.index() as index:
        capture.fill(rig, rows)
        rig.start("pelican-1", "emu-1")
        # Twice: the first time everything is cold.
        for number in (0, 1):
            before = capture.written(rig)
            began = capture.change_all(rig, number)
            data["greatest_rate"] = most = rows / (capture.until_written(rig, before + rows) - began)
            capture.until_settled(gauges)
        with rig.connect() as connection:
            found = connection.execute("SELECT min(id) + %s, max(id) FROM products", (updates,)).fetchone()
        first, last = found or (0, 0)
        ask = partial(commit_to_searchable, rig.state["postgres_dsn"], index, updates)
        for number in range(rounds):
            waits["idle"].append(ask(mark=f", idle, {number}"))
            with Load(rig, most / 2, first, last) as load:
                started = time.monotonic()
                waits["loaded"].append(ask(mark=f", loaded, {number}"))
                data["load_rates"].append(load.changed / (time.monotonic() - started))
            capture.until_settled(gauges)
            waits["filling"].append(ask(mark=f", filling, {number}", filling=True))
            capture.until_settled(gauges)
            data |= {state: [each for one in waits[state] for each in one] for state in STATES}
            data |= {f"{state}_ms": summary(data[state]) for state in STATES}
            print(
                f"freshness, round {number + 1} of {rounds}: "
                + ", ".join(f"{state} p50 {percentile(waits[state][-1], 0.5):.0f} ms" for state in STATES),
                file=sys.stderr,
            )
            yield Section([*_rows(waits, data)], data)


def _rows(waits: dict[str, list[list[float]]], data: dict[str, Any]) -> Iterator[Row]:
    """The percentiles of each round, and beside a p99 that of all rounds together."""
    for state, (what, bars) in STATES.items():
        for share, bar in bars.items():
            name = f"commit → searchable, {what}, p{100 * share:.0f}"
            together = f"of all {len(data[state]):,} together {percentile(data[state], share):,.0f} ms"
            yield Row(name, [percentile(one, share) for one in waits[state]], "ms", None, bar, together)
    yield Row("rows/s beside it at half of the greatest rate", list(data["load_rates"]), "rows/s")
