"""From the commit of one row until a query of the index shows it: on an idle system, at half of the greatest rate of small
statements and of one large statement, and while a backfill embeds every row anew."""

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
# Of each state in each round, unless they take longer.
UPDATES, STATE_SECONDS = 100, 20.0
# For so long the greatest rate is looked for, with so many rows under way.
GREATEST_SECONDS, UNDER_WAY_ROWS = 15.0, 400
POLL_SECONDS = 0.05
# What it is called in the table, and at most how many milliseconds by share.
STATES: dict[str, tuple[str, dict[float, float | None]]] = {
    "idle": ("idle", {0.5: 40.0, 0.99: 150.0}),
    "loaded": ("at half of the greatest rate", {0.5: None, 0.99: 1000.0}),
    "bulk": ("at half of a large statement's rate", {0.5: None, 0.99: 1000.0}),
    "filling": ("during a backfill", {0.5: None, 0.99: 1000.0}),
}
# A statement of the load changes so many rows; as many statements a second as the rate asks for.
ROWS_A_STATEMENT = 20


class Load:
    """Changes the texts of rows at a steady rate, on a thread, until the block ends. It leaves the probed rows alone."""

    def __init__(self, rig: Rig, rows_a_second: float, statements: "Statements") -> None:
        self._rig = rig
        self._pause = ROWS_A_STATEMENT / rows_a_second
        self._statements = statements
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
            due = time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                self.changed += self._statements.run(connection)
                due += self._pause


class Statements:
    """Each gives the next ROWS_A_STATEMENT of some rows a text that none has had."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._at, self._number = first, 0

    def run(self, connection: psycopg.Connection[Any]) -> int:
        """How many rows it changed."""
        if self._at + ROWS_A_STATEMENT > self._last:
            self._at = self._first
        connection.execute(
            "UPDATE products SET description = regexp_replace(description, ' Load: .*', '') || ' Load: ' || %s "
            "WHERE id >= %s AND id < %s",
            (self._number, self._at, self._at + ROWS_A_STATEMENT),
        )
        self._at, self._number = self._at + ROWS_A_STATEMENT, self._number + 1
        return ROWS_A_STATEMENT


def greatest(rig: Rig, statements: Statements, seconds: float) -> float:
    """Rows a second that come through of such statements, when so many are made that some are always under way."""
    with rig.connect() as connection:
        before, changed, began = capture.written(rig), 0, time.monotonic()
        while (spent := time.monotonic() - began) < seconds:
            if changed - (capture.written(rig) - before) < UNDER_WAY_ROWS:
                changed += statements.run(connection)
            else:
                time.sleep(POLL_SECONDS)
        return (capture.written(rig) - before) / spent


def measure(quick: bool) -> Iterator[Section]:
    """Single-row updates, one after another, with the real model; the states in turns."""
    rows, rounds, updates = (QUICK_ROWS, 2, 10) if quick else (ROWS, ROUNDS, UPDATES)
    waits: dict[str, list[list[float]]] = {state: [] for state in STATES}
    data: dict[str, Any] = {"load_rates": {"loaded": [], "bulk": []}}
    with Rig() as rig, Gauges(rig.state) as gauges, rig.index() as index:
        capture.fill(rig, rows)
        rig.start("pelican-1", "emu-1")
        # The first time everything is cold.
        capture.change_all(rig, 0)
        capture.until_settled(gauges)
        with rig.connect() as connection:
            found = connection.execute("SELECT min(id) + %s, max(id) FROM products", (updates,)).fetchone()
        statements = Statements(*(found or (0, 0)))
        most = data["greatest_rate"] = greatest(rig, statements, GREATEST_SECONDS / (5 if quick else 1))
        capture.until_settled(gauges)
        before = capture.written(rig)
        began = capture.change_all(rig, 1)
        data["bulk_rate"] = rows / (capture.until_written(rig, before + rows) - began)
        capture.until_settled(gauges)
        ask = partial(commit_to_searchable, rig.state["postgres_dsn"], index, updates)
        for number in range(rounds):
            waits["idle"].append(ask(mark=f", idle, {number}"))
            for state, rate in (("loaded", most), ("bulk", data["bulk_rate"])):
                with Load(rig, rate / 2, statements) as load:
                    started = time.monotonic()
                    waits[state].append(ask(mark=f", {state}, {number}", seconds=STATE_SECONDS))
                    data["load_rates"][state].append(load.changed / (time.monotonic() - started))
                capture.until_settled(gauges)
            waits["filling"].append(ask(mark=f", filling, {number}", filling=True, seconds=STATE_SECONDS))
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
    for state, of in (("loaded", "greatest_rate"), ("bulk", "bulk_rate")):
        greatest_rate = f"in statements of {ROWS_A_STATEMENT} rows; the whole was {data[of]:,.0f}"
        yield Row(f"rows/s beside it {STATES[state][0]}", list(data["load_rates"][state]), "rows/s", note=greatest_rate)
