"""The stack's own scaling rules under three loads: see benchmarks.scaling."""

from argparse import Namespace
from typing import Any

from benchmarks import scaling
from benchmarks.sections import Row, Section
from blueprint import prices
from blueprint.record import record


def measure(quick: bool) -> Section:
    """prod as declared, minute by minute, and with other numbers in the rules. A simulation: the machine's load changes
    nothing about it."""
    options = Namespace(rows_per_vcpu=150.0, pelican_rows_per_vcpu=5000.0, queue_limit=1000, start_seconds=60.0)
    graph, table = record("prod"), prices.load()
    pelican, emu = (scaling.rules_of(graph, service, table) for service in ("pelican", "emu"))
    top = emu.most * emu.vcpu * options.rows_per_vcpu
    variants = scaling.variants(emu) if not quick else {"as declared": emu}
    rows: list[Row] = []
    data: dict[str, Any] = {"top_rows_per_second": top, "runs": []}
    for load in scaling.loads(top):
        hours = load.seconds / scaling.HOUR
        idle = hours * (pelican.least * pelican.dollars_an_hour + emu.least * emu.dollars_an_hour)
        for name, rules in variants.items():
            samples = scaling.simulate(load, pelican, rules, options)
            found = scaling.summary(samples, idle)
            declared = name == "as declared"
            minutes = [sample._asdict() for sample in samples] if declared else []
            data["runs"].append({"load": load.name, "rules": name, **found, "minutes": minutes})
            if declared:
                rows.append(Row(f"simulated {load.name}: oldest change", [found["oldest_change_seconds"] / 60], "min"))
                rows.append(Row(f"simulated {load.name}: dollars above idle", [found["dollars_above_idle"]], "$"))
    return Section(rows, data)
