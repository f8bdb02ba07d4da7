"""The stack's own scaling rules under four loads: see benchmarks.scaling."""

from collections.abc import Iterator
from typing import Any

from benchmarks import scaling
from benchmarks.scaling_speeds import speeds
from benchmarks.sections import Row, Section


def measure(quick: bool) -> Iterator[Section]:
    """prod as declared, minute by minute, and with other numbers in the rules. A simulation: of the machine it takes only
    how fast a vCPU is, where the sections before have measured that."""
    declared, found = scaling.stack("prod"), speeds()
    assumed = scaling.Assumed(found)
    chosen = scaling.variants(declared.emu) if not quick else {"as declared": declared.emu}
    results = [*scaling.flows(declared, assumed, chosen), *scaling.backfills(declared, assumed, chosen)]
    rows: list[Row] = []
    for result in results:
        if result.rules != "as declared":
            continue
        what = f"simulated {result.load}"
        if result.load == "backfill":
            rows.append(Row(f"{what} of a million rows: until its end", [result.found["minutes_to_the_end"]], "min"))
            rows.append(Row(f"{what}: live changes beside it, p99", [result.found["live_p99_seconds"]], "s"))
        else:
            rows.append(Row(f"{what}: oldest change", [result.found["oldest_change_seconds"] / 60], "min"))
        rows.append(Row(f"{what}: dollars above idle", [result.found["dollars_above_idle"]], "$"))
    # Every minute of the other rules would be most of the file, and nobody draws them.
    kept = [one if one.rules == "as declared" else one._replace(minutes=[]) for one in results]
    data: dict[str, Any] = scaling.report("prod", declared, found, kept)
    yield Section(rows, data)
