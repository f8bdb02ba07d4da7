"""A million changes that wait: do they drain at one rate, in memory that does not grow; and what more Emus bring."""

import itertools
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import capture, preload
from benchmarks.recorded import recorded
from benchmarks.rig import Rig
from benchmarks.sections import ROUNDS, Row, Section, ratios
from local.gauges import Gauges

BACKLOG, QUICK_BACKLOG = 1_000_000, 10_000
# Five of the first quarter are held against five of the last.
PARTS, QUARTER = 20, 5
ROWS, QUICK_ROWS = 20_000, 2_000
EMUS = (1, 2, 3, 4)


def measure(quick: bool) -> Iterator[Section]:
    """Each on a stack of its own, with vectors that were computed before."""
    data: dict[str, Any] = {}
    yield _drained(QUICK_BACKLOG if quick else BACKLOG, data)
    yield from _emus(*((QUICK_ROWS, 2) if quick else (ROWS, ROUNDS)), data)


def _drained(rows: int, data: dict[str, Any]) -> Section:
    """By one Pelican and one Emu: rates of the backlog's parts, resident memory after each."""
    names = ("pelican-1", "emu-1")
    with Rig(vectors=recorded(preload.RECORDED_ROWS)) as rig:
        with rig.connect() as connection:
            preload.fill(connection, 1, rows)
            connection.execute("UPDATE products SET description = description || '.'")
        rig.start(*names)
        times: list[float] = []
        memory: dict[str, list[float]] = {name: [] for name in names}
        # What comes first is written while they are still starting.
        for part in range(PARTS + 1):
            times.append(capture.until_written(rig, rows * (part + 1) // (PARTS + 1)))
            for name in names:
                memory[name].append(rig.resident_mib(name))
            print(f"backlog of {rows:,}: part {part + 1} of {PARTS + 1}", file=sys.stderr)
    rates = [rows / (PARTS + 1) / (after - before) for before, after in itertools.pairwise(times)]
    data["backlog"] = {"rows": rows, "rates": rates, "resident_mib": memory}
    return Section(
        [
            Row(f"backlog of {rows:,}, recorded vectors", rates, "rows/s"),
            Row(
                f"backlog of {rows:,}: rate of its last quarter / first",
                ratios(rates[-QUARTER:], rates[:QUARTER]),
                "times",
                0.83,
            ),
            *(
                Row(
                    f"{name}, memory in the backlog's last quarter / first",
                    [statistics.median(held[-QUARTER:]) / each for each in held[1 : QUARTER + 1]],
                    "times",
                    at_most=1.2,
                )
                for name, held in memory.items()
            ),
        ],
        data,
    )


def _emus(rows: int, rounds: int, data: dict[str, Any]) -> Iterator[Section]:
    """End to end with one Emu to four on the same cores, in turns."""
    found: dict[str, list[float]] = {str(count): [] for count in EMUS}
    with Rig(emus=max(EMUS), vectors=recorded(rows)) as rig, Gauges(rig.state) as gauges:
        capture.fill(rig, rows)
        rig.start("pelican-1", "emu-1")
        for number in range(rounds + 1):
            for count in EMUS:
                if count > 1:
                    rig.start(f"emu-{count}")
                before = capture.written(rig)
                began = capture.change_all(rig, number * len(EMUS) + count)
                seconds = capture.until_written(rig, before + rows) - began
                capture.until_settled(gauges)
                # In the first round everything is cold.
                if number:
                    found[str(count)].append(rows / seconds)
            rig.stop(*(f"emu-{count}" for count in EMUS[1:]))
            if number:
                print(f"Emus, round {number} of {rounds}: {found}", file=sys.stderr)
                data["emus"] = found
                yield Section(
                    [
                        Row(f"{count} {'Emu' if count == '1' else 'Emus'}, recorded vectors", list(rates), "rows/s")
                        for count, rates in found.items()
                    ],
                    data,
                )
