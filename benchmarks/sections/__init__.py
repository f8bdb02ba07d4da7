"""What `make bench` measures, a module each: `measure(quick)` yields a `Section` whenever it knows more, so that little is
lost when it fails half-way. A row takes the place of an earlier one of the same name, and an entry of `data` likewise."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

# What has a bar is measured so often, in turns with what it is compared with.
ROUNDS = 5


class Row(NamedTuple):
    """One line of the table. `values`: a number a round, of which the median is compared with the bar; empty when it
    could not be measured, and `note` says why."""

    what: str
    values: Sequence[float]
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def met(self) -> bool | None:
        """None when there is no bar."""
        if self.at_least is None and self.at_most is None:
            return None
        found = self.median
        if found is None:
            return False
        return (self.at_least is None or found >= self.at_least) and (self.at_most is None or found <= self.at_most)


class Section(NamedTuple):
    """Rows for the table, and everything else that was measured, for the plots and for people."""

    rows: list[Row]
    data: dict[str, Any]


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Round by round, so that what slowed both does not count."""
    return [a / b for a, b in zip(one, other, strict=True)]
