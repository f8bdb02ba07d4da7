"""How many Emus and Pelicans run under a load, how old changes get, and what it costs: a simulation of the stack's own
scaling rules.

    .venv/bin/python -m benchmarks.scaling                                # prod, all loads
    .venv/bin/python -m benchmarks.scaling --stack dev --trace backfill
    .venv/bin/python -m benchmarks.scaling --sweep                        # other numbers in the rules, side by side
    .venv/bin/python -m benchmarks.scaling --speeds documented --sweep    # the numbers of docs/performance.md
    .venv/bin/python -m benchmarks.scaling --json build/scaling.json      # every minute, for benchmarks/plots.py

The rules (targets, cool-downs, bounds, steps, sizes of tasks) are read from a recording of the Pulumi program, so the
simulation cannot differ from what is deployed. What AWS does with them is modelled as its documentation has it
(benchmarks/scaling_rules.py). How fast a vCPU is comes from `make bench` where it has been run, or is what the documents say;
the output tells which.

Burst, daily wave and step are live changes, and flow. A backfill is let into the queue by Pelican's own gate, message by
message, beside a small steady load of live changes (benchmarks/scaling_backfill.py).

Left out: Spot interruptions, Pinecone's quotas (docs/capacity.md says when they bind), placement delays beyond
`--start-seconds`, and, but for the backfill, the sixteen message groups of a source, which keep more than sixteen Emus from
working on one table.
"""

import argparse
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.scaling_backfill import Backfill, Run
from benchmarks.scaling_backfill import summary as backfill_summary
from benchmarks.scaling_rules import HOUR, PERIOD_SECONDS, Rules, Sample, Service, rules_of
from benchmarks.scaling_speeds import DOCUMENTED, Speeds, speeds
from blueprint import prices
from blueprint.record import record

STEP_SECONDS = 5
ROWS_PER_MESSAGE = 100
START_SECONDS = 60.0
TRACES = ("burst", "daily wave", "step", "backfill")

Trace = Callable[[float], float]


class Load(NamedTuple):
    """Rows a second that arrive, by second, and for how long to look."""

    name: str
    rows_per_second: Trace
    seconds: int


class Assumed(NamedTuple):
    """What the rules do not say: how fast a vCPU is, messages at which Pelican waits, seconds until a new task works."""

    speeds: Speeds
    queue_limit: int = 1000
    start_seconds: float = START_SECONDS


class Stack(NamedTuple):
    """The declared rules of both services."""

    pelican: Rules
    emu: Rules

    @property
    def least_dollars_an_hour(self) -> float:
        return sum(rules.least * rules.dollars_an_hour for rules in self)


def stack(name: str) -> Stack:
    """As the program declares it."""
    graph, table = record(name), prices.load()
    return Stack(*(rules_of(graph, service, table) for service in ("pelican", "emu")))


def simulate(load: Load, pelican: Rules, emu: Rules, assumed: Assumed) -> list[Sample]:
    """Minute by minute. Rows are served in the order in which they came."""
    pelicans, emus = Service(pelican, assumed.start_seconds), Service(emu, assumed.start_seconds)
    arrived: deque[list[float]] = deque()  # [when, rows not embedded yet]
    outbox = queue = dollars = 0.0
    busy_pelican = busy_emu = 0.0
    samples = []
    for step in range(1, load.seconds // STEP_SECONDS + 1):
        now = float(step * STEP_SECONDS)
        pelicans.arrive(now)
        emus.arrive(now)
        rows = sum(load.rows_per_second(now - second) for second in range(STEP_SECONDS))
        if rows:
            arrived.append([now, rows])
        outbox += rows
        room = max(0.0, assumed.queue_limit * ROWS_PER_MESSAGE - queue)
        could = pelicans.running * pelican.vcpu * assumed.speeds.pelican.rows_per_second * STEP_SECONDS
        shipped = min(outbox, could, room)
        outbox, queue = outbox - shipped, queue + shipped
        can = emus.running * emu.vcpu * assumed.speeds.emu.rows_per_second * STEP_SECONDS
        done = min(queue, can)
        queue -= done
        busy_pelican += shipped / could / (PERIOD_SECONDS / STEP_SECONDS)
        busy_emu += done / can / (PERIOD_SECONDS / STEP_SECONDS)
        left = done
        while arrived and left > 1e-9:
            taken = min(left, arrived[0][1])
            arrived[0][1] -= taken
            left -= taken
            if arrived[0][1] <= 1e-9:
                arrived.popleft()
        hours = STEP_SECONDS / HOUR
        dollars += hours * (pelicans.running * pelican.dollars_an_hour + emus.running * emu.dollars_an_hour)
        if now % PERIOD_SECONDS:
            continue
        age = now - arrived[0][0] if arrived else 0.0
        waits = {"outbox": outbox, "queue": queue}
        samples.append(Sample(int(now // 60), outbox, queue, age, pelicans.running, emus.running, dollars))
        per_pelican = waits["outbox"] / pelicans.running
        per_emu = waits["queue"] / ROWS_PER_MESSAGE / emus.running
        pelicans.period(now, {"cpu": 100 * busy_pelican, "backlog": per_pelican}, age if outbox else 0.0)
        emus.period(now, {"cpu": 100 * busy_emu, "backlog": per_emu}, age if queue else 0.0)
        busy_pelican = busy_emu = 0.0
    return samples


def loads(top: float) -> list[Load]:
    """What arrives. `top`: rows a second that the stack can embed with all its Emus."""
    day = 24 * HOUR
    return [
        Load("burst", lambda at: 1_000_000.0 if 60 <= at < 61 else 0.0, 4 * HOUR),
        Load("daily wave", lambda at: top * 0.35 * (1 - math.cos(2 * math.pi * at / day)), 2 * day),
        Load("step", lambda at: top * 0.5 if at >= 30 * 60 else top * 0.02, 3 * HOUR),
    ]


def summary(samples: list[Sample], least_dollars: float) -> dict[str, float]:
    """What a person asks of a run."""
    waiting = [s.minute for s in samples if s.outbox + s.queue > 1]
    return {
        "oldest_change_seconds": max(s.age_seconds for s in samples),
        "median_age_seconds": sorted(s.age_seconds for s in samples)[len(samples) // 2],
        "minutes_behind": len(waiting),
        "most_rows_waiting": round(max(s.outbox + s.queue for s in samples)),
        "most_emus": max(s.emus for s in samples),
        "most_pelicans": max(s.pelicans for s in samples),
        "dollars": round(samples[-1].dollars, 3),
        "dollars_above_idle": round(samples[-1].dollars - least_dollars, 3),
    }


def variants(emu: Rules) -> dict[str, Rules]:
    """The declared rules, and others with one number changed."""
    found = {"as declared": emu}
    for per_task in (5, 10, 50, 100):
        found[f"backlog {per_task}"] = emu._replace(targets={**emu.targets, "backlog": per_task})
    for percent in (40, 75):
        found[f"cpu {percent}"] = emu._replace(targets={**emu.targets, "cpu": percent})
    for seconds in (30, 120, 300):
        found[f"age {seconds}"] = emu._replace(age_seconds=seconds)
    found["no age rule"] = emu._replace(age_seconds=math.inf)
    found["cpu only"] = emu._replace(targets={"cpu": emu.targets["cpu"]}, age_seconds=math.inf)
    return found


class Result(NamedTuple):
    """One load under one set of rules. `minutes` are its samples."""

    load: str
    rules: str
    found: dict[str, float]
    minutes: list[Sample]


def flows(declared: Stack, assumed: Assumed, chosen: Mapping[str, Rules], only: str | None = None) -> Iterable[Result]:
    """The loads of live changes, each under each of the rules of Emu."""
    top = declared.emu.most * declared.emu.vcpu * assumed.speeds.emu.rows_per_second
    for load in loads(top):
        if only in (None, load.name):
            for name, rules in chosen.items():
                samples = simulate(load, declared.pelican, rules, assumed)
                idle = load.seconds / HOUR * declared.least_dollars_an_hour
                yield Result(load.name, name, summary(samples, idle), samples)


def backfills(
    declared: Stack, assumed: Assumed, chosen: Mapping[str, Rules], load: Backfill | None = None
) -> Iterable[Result]:
    """A backfill under each of the rules of Emu; among several, also with a rule of Pelican's that counts it."""
    cases = [(name, rules, False) for name, rules in chosen.items()]
    if len(cases) > 1:
        cases.append(("all keys count", declared.emu, True))
    for name, rules, counts_all in cases:
        outcome = Run(
            load or Backfill(), declared.pelican, rules, rows_per_vcpu=assumed.speeds.emu.rows_per_second,
            pelican_rows_per_vcpu=assumed.speeds.pelican.rows_per_second, start_seconds=assumed.start_seconds,
            counts_all=counts_all,
        )()  # fmt: skip
        found = backfill_summary(outcome, declared.least_dollars_an_hour)
        yield Result("backfill", name, found, outcome.samples)


FLOW_COLUMNS = {
    "oldest_change_seconds": "oldest s", "median_age_seconds": "median s", "minutes_behind": "min behind",
    "most_emus": "most Emus", "dollars": "$", "dollars_above_idle": "$ above idle",
}  # fmt: skip
BACKFILL_COLUMNS = {
    "minutes_to_the_end": "min to end", "live_p50_seconds": "live p50 s", "live_p99_seconds": "live p99 s",
    "live_max_seconds": "live max s", "most_messages": "most messages", "most_emus": "most Emus",
    "most_pelicans": "most Pelicans", "dollars_above_idle": "$ above idle",
}  # fmt: skip


def show(results: Iterable[Result]) -> Iterable[Result]:
    """Print each as it comes, and pass it on."""
    load = None
    for result in results:
        columns = BACKFILL_COLUMNS if result.load == "backfill" else FLOW_COLUMNS
        if result.load != load:
            load = result.load
            print(f"\n{load} ({len(result.minutes) * PERIOD_SECONDS / HOUR:.1f} h)")
            print(f"{'rules':15}" + "".join(f"{title:>14}" for title in columns.values()))
        print(f"{result.rules:15}" + "".join(f"{result.found[name]:>14,.6g}" for name in columns), flush=True)
        yield result


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stack", default="prod", help="dev or prod (prod)")
    parser.add_argument("--trace", choices=TRACES, help="only this load")
    parser.add_argument(
        "--speeds", choices=["measured", "documented"], default="measured",
        help="rows a second of a vCPU: as `make bench` found where it has been run, or as documented (measured)",
    )  # fmt: skip
    parser.add_argument("--rows-per-vcpu", type=float, help="rows a second that one vCPU of an Emu embeds, instead")
    parser.add_argument(
        "--pelican-rows-per-vcpu", type=float, help="rows a second that one of a Pelican ships, instead"
    )
    parser.add_argument("--queue-limit", type=int, default=1000, help="messages at which Pelican waits (1000)")
    parser.add_argument("--start-seconds", type=float, default=START_SECONDS, help="until a new task works (60)")
    parser.add_argument("--backfill-rows", type=int, default=Backfill().rows, help="of the backfill (1000000)")
    parser.add_argument(
        "--live-rows", type=float, default=Backfill().live_rows_per_second, help="a second beside it (5)"
    )
    parser.add_argument("--sweep", action="store_true", help="other numbers in the rules, side by side")
    parser.add_argument("--json", type=Path, help="write every minute there")
    options = parser.parse_args()
    found = (speeds() if options.speeds == "measured" else DOCUMENTED).but(
        options.rows_per_vcpu, options.pelican_rows_per_vcpu
    )
    assumed = Assumed(found, options.queue_limit, options.start_seconds)
    declared = stack(options.stack)
    chosen = variants(declared.emu) if options.sweep else {"as declared": declared.emu}
    print(f"{options.stack}\n{found}")
    results: list[Result] = []
    if options.trace != "backfill":
        results += show(flows(declared, assumed, chosen, options.trace))
    if options.trace in (None, "backfill"):
        results += show(backfills(declared, assumed, chosen, Backfill(options.backfill_rows, options.live_rows)))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report(options.stack, declared, found, results), indent=1))


def report(name: str, declared: Stack, found: Speeds, results: Iterable[Result]) -> dict[str, Any]:
    """All of it."""
    return {
        "stack": name,
        "speeds": {service: speed._asdict() for service, speed in found._asdict().items()},
        "rules": {service: rules._asdict() for service, rules in declared._asdict().items()},
        "runs": [
            {"load": one.load, "rules": one.rules, **one.found, "minutes": [sample._asdict() for sample in one.minutes]}
            for one in results
        ],
    }


if __name__ == "__main__":
    main()
