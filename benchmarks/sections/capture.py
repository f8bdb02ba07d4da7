"""Change capture alone: see benchmarks.capture."""

from benchmarks import capture
from benchmarks.sections import Row, Section

QUEUE_BAR, WHOLE_BAR = 15_000, 8_000


def measure(quick: bool) -> Section:
    """Into the queue with two Pelicans; end to end with one and an Emu that looks vectors up."""
    rows, rounds = (2_000, 2) if quick else (20_000, 5)
    queue = capture.into_queue(rows, rounds)
    whole = capture.end_to_end(rows, rounds)
    return Section(
        [
            Row("change capture into the queue", queue["rates"], "rows/s", QUEUE_BAR),
            Row("change capture end to end, recorded vectors", whole["rates"], "rows/s", WHOLE_BAR),
        ],
        {"rows": rows, "into_queue": queue, "end_to_end": whole},
    )
