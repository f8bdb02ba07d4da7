"""The scaling rules that the Pulumi program declares, and what AWS does with them.

A target is tracked by one alarm that rises after 3 minutes above it and one that falls after 15 minutes below nine tenths of
it; a rise brings ceil(tasks * metric / target), the most that any rule asks for wins, and fewer tasks need every rule's
consent. https://docs.aws.amazon.com/autoscaling/application/userguide/target-tracking-scaling-policy-overview.html
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from blueprint import prices
from blueprint.graph import Graph

PERIOD_SECONDS = 60
# How AWS's own alarms of a target look at it.
RISE_PERIODS, FALL_PERIODS, FALL_SHARE = 3, 15, 0.9
HOUR = 3600


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
