"""What a user's own writes pay: see benchmarks.triggers."""

from collections.abc import Iterator

from benchmarks import triggers
from benchmarks.sections import ROUNDS, Row, Section


def measure(quick: bool) -> Iterator[Section]:
    """COPY and single-row updates on a watched table and its twin."""
    rows, updates, rounds = (5_000, 500, 3) if quick else (100_000, 10_000, ROUNDS)
    found = triggers.measure(rows, updates, rounds)
    copied, updated = found["copy"], found["update"]
    yield Section(
        [
            Row(f"COPY of {rows:,} rows / without triggers", copied["ratios"], "times", at_most=1.5),
            Row(f"COPY of {rows:,} rows, by CPU of the server", copied["cpu_ratios"], "times"),
            Row(f"{updates:,} single-row updates / without triggers", updated["ratios"], "times", at_most=1.15),
            Row(f"{updates:,} single-row updates, by CPU of the server", updated["cpu_ratios"], "times"),
        ],
        found,
    )
