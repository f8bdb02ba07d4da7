"""Change capture alone: see benchmarks.capture."""

from collections.abc import Iterator
from typing import Any

from benchmarks import capture
from benchmarks.sections import ROUNDS, Row, Section

QUEUE_BAR, WHOLE_BAR = 15_000, 8_000


def measure(quick: bool) -> Iterator[Section]:
    """Into the queue with two Pelicans; end to end with one and an Emu that looks vectors up."""
    rows, rounds = (2_000, 2) if quick else (20_000, ROUNDS)
    data: dict[str, Any] = {"rows": rows, "into_queue": capture.into_queue(rows, rounds)}
    yield Section(
        [Row("change capture into the queue", data["into_queue"]["rates"], "rows/s", QUEUE_BAR)],
        data,
    )
    data["end_to_end"] = capture.end_to_end(rows, rounds)
    yield Section(
        [Row("change capture end to end, recorded vectors", data["end_to_end"]["rates"], "rows/s", WHOLE_BAR)],
        data,
    )
