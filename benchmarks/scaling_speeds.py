"""How many rows a second one vCPU of an Emu and of a Pelican does in the simulations: as measured on this machine, where
`make bench` has been, or as documented."""

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import BUILD

# Cautious, and nobody's measurement: Fargate's CPU is not known (docs/capacity.md), and both do more on the machines where
# `make bench` has been run. docs/performance.md has the simulation's numbers for these.
ROWS_PER_VCPU, PELICAN_ROWS_PER_VCPU = 150.0, 5000.0
# What is left of the embedder's rate end to end, where only the embedder was measured: the bar of the section `backfill`.
SHARE_OF_BARE = 0.85


class Speed(NamedTuple):
    """Rows a second of one vCPU, and where the number is from."""

    rows_per_second: float
    origin: str


class Speeds(NamedTuple):
    """Of both services."""

    emu: Speed
    pelican: Speed

    def but(self, emu: float | None, pelican: float | None) -> "Speeds":
        """These, with what a person gave instead."""
        return Speeds(
            *(
                known if given is None else Speed(given, "given")
                for known, given in zip(self, (emu, pelican), strict=True)
            )
        )

    def __str__(self) -> str:
        return "\n".join(
            f"one vCPU of {name}: {speed.rows_per_second:,.0f} rows/s ({speed.origin})"
            for name, speed in (("an Emu", self.emu), ("a Pelican", self.pelican))
        )


DOCUMENTED = Speeds(Speed(ROWS_PER_VCPU, "documented"), Speed(PELICAN_ROWS_PER_VCPU, "documented"))


def speeds(folder: Path = BUILD / "sections") -> Speeds:
    """Measured where `folder` has the sections in full size, else documented."""
    capacity, backfill = _section(folder, "capacity"), _section(folder, "backfill")
    emu, pelican = DOCUMENTED
    micros = backfill["data"]["cpu_us_a_row"] if backfill else {}
    if micros:
        emu = Speed(1e6 / micros["emu-1"], "measured: CPU a row in the section backfill")
        pelican = Speed(1e6 / micros["pelican-1"], "measured: CPU a row in the section backfill")
    bare = capacity["data"]["rows_per_second"].get("1.0") if capacity else None
    if bare:
        share = share_of_bare(backfill) if backfill else None
        emu = Speed(
            bare * (share or SHARE_OF_BARE),
            f"measured: {bare:,.0f} of the embedder in the section capacity, times {share or SHARE_OF_BARE:.2f} "
            f"({'section backfill' if share else 'the bar of the section backfill'})",
        )
    return Speeds(emu, pelican)


def _section(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"failed": "not measured"}
    # Small sizes show that a section works, not how fast anything is.
    return None if "failed" in found or found["quick"] else found


def share_of_bare(backfill: dict[str, Any]) -> float | None:
    """What is left of the embedder's rate end to end, by the kept section `backfill`."""
    values: list[float] = next((row["values"] for row in backfill["rows"] if row["what"] == "backfill / bare rate"), [])
    return statistics.median(values) if values else None
