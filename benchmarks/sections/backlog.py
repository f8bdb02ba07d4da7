"""A million changes that wait: do they drain at one rate, in memory that does not grow; and what more Emus bring."""

import itertools
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import capture, preload
from benchmarks.recorded import recorded
from benchmarks.rig import Rig
from benchmarks.sections import ROUNDS, Row, Section
from local.gauges import Gauges

BACKLOG, QUICK_BACKLOG = 1_000_000, 10_000
PARTS, QUARTER = 20, 5
ROWS, QUICK_ROWS = 20_000, 2_000
EMUS = (1, 2, 3, 4)
NAMES = ("pelican-1", "emu-1")


def measure(quick: bool) -> Iterator[Section]:
    """Each on a stack of its own, with vectors that were computed before."""
    data: dict[str, Any] = {}
    yield from _drained(*((QUICK_BACKLOG, 2) if quick else (BACKLOG, ROUNDS)), data)
    yield from _emus(*((QUICK_ROWS, 2) if quick else (ROWS, ROUNDS)), data)


class Drained(NamedTuple):
    """One backlog: rows a second of each part, and resident memory after it, by process."""

    rates: list[float]
    resident_mib: dict[str, list[float]]


def _drained(rows: int, rounds: int, data: dict[str, Any]) -> Iterator[Section]:
    """By one Pelican and one Emu, each time on a stack that has just begun."""
    found: list[Drained] = []
    for number in range(rounds):
        found.append(_drain(rows, f"backlog of {rows:,}, round {number + 1} of {rounds}"))
        data["backlog"] = {"rows": rows, "rounds": [one._asdict() for one in found]}
        yield Section(
            [
                Row(f"backlog of {rows:,}, recorded vectors", [_rate(one.rates) for one in found], "rows/s"),
                Row(
                    f"backlog of {rows:,}: rate of its last quarter / first",
                    [_rate(one.rates[-QUARTER:]) / _rate(one.rates[:QUARTER]) for one in found],
                    "times",
                    0.83,
                ),
                *(
                    Row(
                        f"{name}, memory in the backlog's last quarter / first",
                        [_last_to_first(one.resident_mib[name]) for one in found],
                        "times",
                        at_most=1.2,
                    )
                    for name in NAMES
                ),
            ],
            data,
        )


def _rate(parts: Sequence[float]) -> float:
    """Of parts that are equally long."""
    return statistics.harmonic_mean(parts)


def _last_to_first(held: Sequence[float]) -> float:
    return statistics.median(held[-QUARTER:]) / statistics.median(held[:QUARTER])


def _drain(rows: int, title: str) -> Drained:
    with Rig(vectors=recorded(preload.RECORDED_ROWS)) as rig:
        with rig.connect() as connection:
            preload.fill(connection, 1, rows)
            connection.execute("UPDATE products SET description = description || '.'")
        rig.start(*NAMES)
        # What comes first is written while they are still starting.
        times = [capture.until_written(rig, rows // (PARTS + 1))]
        memory: dict[str, list[float]] = {name: [] for name in NAMES}
        for part in range(1, PARTS + 1):
            times.append(capture.until_written(rig, rows * (part + 1) // (PARTS + 1)))
            for name in NAMES:
                memory[name].append(rig.resident_mib(name))
            print(f"{title}: part {part} of {PARTS}", file=sys.stderr)
    return Drained([rows / (PARTS + 1) / (after - before) for before, after in itertools.pairwise(times)], memory)


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
