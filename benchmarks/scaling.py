"""How many Emus and Pelicans run under a load, how old changes get, and what it costs: a simulation of the stack's own
scaling rules.

    .venv/bin/python -m benchmarks.scaling                                # prod, all loads
    .venv/bin/python -m benchmarks.scaling --stack dev --trace burst
    .venv/bin/python -m benchmarks.scaling --sweep                        # other numbers in the rules, side by side
    .venv/bin/python -m benchmarks.scaling --json build/scaling.json      # every minute, for benchmarks/plots.py

The rules (targets, cool-downs, bounds, steps, sizes of tasks) are read from a recording of the Pulumi program, so the
simulation cannot differ from what is deployed. What AWS does with them is modelled as its documentation has it: a target
is tracked by one alarm that rises after 3 minutes above it and one that falls after 15 minutes below nine tenths of it;
a rise brings ceil(tasks * metric / target), the most that any rule asks for wins, and fewer tasks need every rule's
consent. https://docs.aws.amazon.com/autoscaling/application/userguide/target-tracking-scaling-policy-overview.html

The loads are live changes. Of a backfill hardly anything waits in the queue (docs/decisions/0093), so CPU alone brings Emus to it.

Left out: Spot interruptions, Pinecone's quotas (docs/capacity.md says when they bind), placement delays beyond
`--start-seconds`, and the sixteen message groups of a source, which keep more than sixteen Emus from working on one table.
"""

import argparse
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blueprint import prices
from blueprint.graph import Graph
from blueprint.record import record

STEP_SECONDS = 5
PERIOD_SECONDS = 60
# How AWS's own alarms of a target look at it.
RISE_PERIODS, FALL_PERIODS, FALL_SHARE = 3, 15, 0.9
ROWS_PER_MESSAGE = 100
HOUR = 3600

Trace = Callable[[float], float]


class Rules(NamedTuple):
    """One service's scaling, as declared. `targets`: metric → target; `age_seconds`: what brings one task more."""

    name: str
    least: int
    most: int
    targets: Mapping[str, float]
    age_seconds: float
    out_seconds: float
    in_seconds: float
    vcpu: float
    dollars_an_hour: float


class Load(NamedTuple):
    """Rows a second that arrive, by second, and for how long to look."""

    name: str
    rows_per_second: Trace
    seconds: int


class Sample(NamedTuple):
    """One minute. Rows in outbox and queue; seconds since the oldest of them was committed; tasks; dollars so far."""

    minute: int
    outbox: float
    queue: float
    age_seconds: float
    pelicans: int
    emus: int
    dollars: float


def rules_of(graph: Graph, service: str, table: prices.Prices) -> Rules:
    """The rules that the program declares for `service`."""
    targets: dict[str, float] = {}
    cooldowns = {"scaleOutCooldown": 60.0, "scaleInCooldown": 300.0}
    for policy in graph.of("aws:appautoscaling:Policy"):
        tracked = policy.inputs.get("targetTrackingScalingPolicyConfiguration")
        if tracked and f"-{service}-" in policy.name:
            targets[policy.name.rsplit("-", 1)[1]] = float(tracked["targetValue"])
            cooldowns = {name: float(tracked[name]) for name in cooldowns}
    bounds = next(t for t in graph.of("aws:appautoscaling:Target") if t.name.endswith(f"-{service}")).inputs
    alarm = next(a for a in graph.of("aws:cloudwatch:MetricAlarm") if a.name.endswith(f"-{service}-age")).inputs
    task = next(t for t in graph.of("aws:ecs:TaskDefinition") if t.name.endswith(f"-{service}")).inputs
    spot = any(
        strategy["capacityProvider"] == "FARGATE_SPOT"
        for s in graph.of("aws:ecs:Service")
        if s.name.endswith(f"-{service}")
        for strategy in s.inputs.get("capacityProviderStrategies") or []
    )
    vcpu, memory_gb = int(task["cpu"]) / 1024, int(task["memory"]) / 1024
    hour = vcpu * table["fargate_vcpu_hour"] + memory_gb * table["fargate_gb_hour"]
    return Rules(
        service, int(bounds["minCapacity"]), int(bounds["maxCapacity"]), targets, float(alarm["threshold"]),
        cooldowns["scaleOutCooldown"], cooldowns["scaleInCooldown"], vcpu,
        hour * (table["fargate_spot_share"] if spot else 1),
    )  # fmt: skip


class Service:
    """The tasks of one service, and what its alarms remember."""

    def __init__(self, rules: Rules, start_seconds: float) -> None:
        self.rules = rules
        self.running = self.desired = rules.least
        self._start_seconds = start_seconds
        self._coming: deque[tuple[float, int]] = deque()
        self._past: deque[dict[str, float]] = deque(maxlen=FALL_PERIODS)
        self._ages: deque[float] = deque(maxlen=2)
        self._out_at = self._in_at = -math.inf

    def arrive(self, now: float) -> None:
        """Tasks that have started by now."""
        while self._coming and self._coming[0][0] <= now:
            self.running = min(self.desired, self.running + self._coming.popleft()[1])

    def period(self, now: float, values: Mapping[str, float], age: float) -> None:
        """One minute's metrics: scale by them."""
        self._past.append(dict(values))
        self._ages.append(age)
        self._set(now, max(self._wanted_by_targets(now), self._wanted_by_age()))

    def _wanted_by_targets(self, now: float) -> int:
        wanted = []
        for name, target in self.rules.targets.items():
            seen = [values[name] for values in self._past]
            if len(seen) >= RISE_PERIODS and min(seen[-RISE_PERIODS:]) > target:
                wanted.append(max(self.desired, math.ceil(self.running * seen[-1] / target)))
            elif len(seen) == FALL_PERIODS and max(seen) < FALL_SHARE * target:
                wanted.append(min(self.desired, max(1, math.ceil(self.running * max(seen) / target))))
            else:
                wanted.append(self.desired)
        most = max(wanted, default=self.desired)
        if most < self.desired and now - max(self._in_at, self._out_at) < self.rules.in_seconds:
            return self.desired
        return most

    def _wanted_by_age(self) -> int:
        if len(self._ages) < 2 or min(self._ages) <= self.rules.age_seconds:
            return 0
        return self.desired + (2 if self._ages[-1] > 5 * self.rules.age_seconds else 1)

    def _set(self, now: float, wanted: int) -> None:
        wanted = min(self.rules.most, max(self.rules.least, wanted))
        if wanted > self.desired and now - self._out_at >= self.rules.out_seconds:
            self._coming.append((now + self._start_seconds, wanted - self.desired))
            self.desired, self._out_at = wanted, now
        elif wanted < self.desired:
            self.desired = self.running = wanted
            self._coming.clear()
            self._in_at = now


def simulate(load: Load, pelican: Rules, emu: Rules, options: argparse.Namespace) -> list[Sample]:
    """Minute by minute. Rows are served in the order in which they came."""
    pelicans, emus = Service(pelican, options.start_seconds), Service(emu, options.start_seconds)
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
        room = max(0.0, options.queue_limit * ROWS_PER_MESSAGE - queue)
        could = pelicans.running * pelican.vcpu * options.pelican_rows_per_vcpu * STEP_SECONDS
        shipped = min(outbox, could, room)
        outbox, queue = outbox - shipped, queue + shipped
        can = emus.running * emu.vcpu * options.rows_per_vcpu * STEP_SECONDS
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


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stack", default="prod", help="dev or prod (prod)")
    parser.add_argument("--trace", choices=["burst", "daily wave", "step"], help="only this load")
    parser.add_argument("--rows-per-vcpu", type=float, default=150, help="rows a second that one vCPU embeds (150)")
    parser.add_argument("--pelican-rows-per-vcpu", type=float, default=5000, help="rows a second it ships (5000)")
    parser.add_argument("--queue-limit", type=int, default=1000, help="messages at which Pelican waits (1000)")
    parser.add_argument("--start-seconds", type=float, default=60, help="until a new task works (60)")
    parser.add_argument("--sweep", action="store_true", help="other numbers in the rules, side by side")
    parser.add_argument("--json", type=Path, help="write every minute there")
    options = parser.parse_args()
    graph, table = record(options.stack), prices.load()
    pelican, emu = (rules_of(graph, service, table) for service in ("pelican", "emu"))
    top = emu.most * emu.vcpu * options.rows_per_vcpu
    chosen = [load for load in loads(top) if options.trace in (None, load.name)]
    chosen_rules = variants(emu) if options.sweep else {"as declared": emu}
    report: dict[str, Any] = {"stack": options.stack, "rules": {"pelican": pelican._asdict(), "emu": emu._asdict()}}
    for load in chosen:
        hours = load.seconds / HOUR
        idle = hours * (pelican.least * pelican.dollars_an_hour + emu.least * emu.dollars_an_hour)
        print(f"\n{options.stack}, {load.name} ({hours:.0f} h)")
        print(
            f"{'rules':14}{'oldest s':>10}{'median s':>10}{'min behind':>12}{'most Emus':>11}{'$':>9}{'$ above idle':>14}"
        )
        for name, rules in chosen_rules.items():
            samples = simulate(load, pelican, rules, options)
            found = summary(samples, idle)
            report.setdefault("runs", []).append(
                {"load": load.name, "rules": name, **found, "minutes": [s._asdict() for s in samples]}
            )
            print(
                f"{name:14}{found['oldest_change_seconds']:10.0f}{found['median_age_seconds']:10.0f}"
                f"{found['minutes_behind']:12}{found['most_emus']:11}{found['dollars']:9.2f}{found['dollars_above_idle']:14.2f}"
            )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
