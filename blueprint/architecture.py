"""The parts of the architecture and the arrows between them, read off the recorded graph.

A part's place is where its subnets are, an arrow is a pair of security-group rules, an IAM statement, an environment
value or a property that names another resource. What has no arrow is told in words.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from blueprint.cost import fewest_tasks
from blueprint.graph import Graph, Resource
from blueprint.permissions import Permission, permissions
from blueprint.rates import on_spot
from blueprint.reach import INTERNET, reach

TIERS = ("public", "private", "isolated")
NAT, INDEX, REGISTRY, SECRETS, WATCH, ENDPOINTS = "nat", "index", "registry", "secrets", "watch", "endpoints"
# Arrows of IAM: the action that makes one, its label, and whether it points at the task.
ARROWS = {
    "sqs:SendMessage": ("send", False),
    "sqs:ReceiveMessage": ("receive", True),
    "sns:Publish": ("publish", False),
}
# What starting a task needs: the part, the services of the actions, what the arrow says, and whether it points there.
STARTS = (
    (REGISTRY, {"ecr"}, "images", False),
    (SECRETS, {"secretsmanager", "ssm"}, "secrets", False),
    (WATCH, {"logs"}, "logs", True),
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """`place` is a tier, `outside`, `region` (beside the VPC, in the way of a change), `account` or `vendor`."""

    key: str
    title: str
    lines: tuple[str, ...]
    place: str
    colour: str


class Arrow(NamedTuple):
    """Keys of parts, or `tier:<name>` for all that stands there."""

    source: str
    target: str
    label: str
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Architecture:
    parts: tuple[Part, ...]
    arrows: tuple[Arrow, ...]
    words: tuple[str, ...]


def architecture(graph: Graph) -> Architecture:
    """Everything that the diagram shows, in a fixed order."""
    parts = tuple(_Parts(graph).all())
    known = {part.key for part in parts}
    arrows = [arrow for arrow in _arrows(graph, parts) if {arrow.source, arrow.target} - known <= _tiers()]
    tasks: dict[str, list[str]] = {}
    for p in _untold(graph):
        tasks.setdefault(f"{', '.join(p.actions)} on {', '.join(p.shown)}", []).append(p.task)
    words = [f"{', '.join(who)}: {what}" for what, who in tasks.items()]
    return Architecture(parts=parts, arrows=tuple(dict.fromkeys(arrows)), words=tuple(words))


def _tiers() -> set[str]:
    return {f"tier:{tier}" for tier in TIERS}


class _Parts:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._vpc = next(graph.of("awsx:ec2:Vpc"))
        self._tier = {subnet: tier for tier in TIERS for subnet in self._vpc.outputs.get(f"{tier}SubnetIds") or []}

    def all(self) -> Iterator[Part]:
        graph = self._graph
        if any(INTERNET in link or "/" in link.source for link in reach(graph).links):
            sources = {link.source for link in reach(graph).links if link.source == INTERNET or "/" in link.source}
            yield _part(
                INTERNET, "Browsers", ["from anywhere" if INTERNET in sources else "allowed addresses"], "outside"
            )
        for balancer in graph.of("aws:lb:LoadBalancer"):
            yield self._balancer(balancer)
        yield from self._nat()
        for service in sorted(graph.of("aws:ecs:Service"), key=lambda s: _order(graph, s)):
            yield self._service(service)
        endpoints = [e for e in graph.of("aws:ec2:VpcEndpoint") if e.inputs.get("vpcEndpointType") == "Interface"]
        if endpoints:
            yield _part(ENDPOINTS, "Private endpoints", [f"{len(endpoints)} AWS services"], "private", "account")
        for database in graph.of("aws:rds:Instance"):
            yield self._database(database)
        for queue in sorted(graph.of("aws:sqs:Queue"), key=lambda q: (not q.inputs.get("redrivePolicy"), q.name)):
            kind = "dead letters" if not queue.inputs.get("redrivePolicy") else "changes"
            lines = [f"SQS {'FIFO' if queue.inputs.get('fifoQueue') else 'standard'}, {kind}"]
            yield _part(queue.arn, f"Queue {graph.short_name(queue.name)}", lines, "region", "message")
        for topic in graph.of("aws:sns:Topic"):
            to = [s for s in graph.of("aws:sns:TopicSubscription") if s.inputs["topic"] == topic.arn]
            lines = [f"SNS, {len(to) or 'no'} subscriptions"]
            yield _part(topic.arn, f"Topic {graph.short_name(topic.name)}", lines, "region", "message")
        yield from self._account()
        for index in graph.of("pulumi-python:dynamic:VectorIndex"):
            given = index.inputs
            lines = [
                f"index {given['name']}",
                f"{given['dimension']} numbers, {given['metric']}",
                f"{given['cloud']} {given['region']}",
            ]
            yield _part(INDEX, "Pinecone", lines, "vendor", "data")

    def _balancer(self, balancer: Resource) -> Part:
        listeners = [r for r in self._graph.of("aws:lb:Listener") if r.inputs["loadBalancerArn"] == balancer.arn]
        does = sorted(
            (-int(r.inputs["port"]), r.inputs["protocol"], r.inputs["defaultActions"][0]["type"]) for r in listeners
        )
        lines = [f"{protocol} {-port}{' redirects' * (kind == 'redirect')}" for port, protocol, kind in does]
        lines += [f"firewall, {len(acl.inputs['rules'])} rules" for acl in self._graph.of("aws:wafv2:WebAcl")]
        return _part(balancer.name, "Load balancer", lines, self._tier[balancer.inputs["subnets"][0]], "edge")

    def _nat(self) -> Iterator[Part]:
        strategy = (self._vpc.inputs.get("natGateways") or {}).get("strategy", "OnePerAz")
        lines = {"Single": "one for all zones", "OnePerAz": "one in each zone"}
        if strategy in lines:
            yield _part(NAT, "NAT gateway", [lines[strategy]], "public", "edge")

    def _service(self, service: Resource) -> Part:
        task = next(r for r in self._graph.of("aws:ecs:TaskDefinition") if r.arn == service.inputs["taskDefinition"])
        fewest, most = fewest_tasks(self._graph, service), _most_tasks(self._graph, service)
        many = f"{fewest} to {most} tasks" if most > fewest else f"{fewest} tasks"
        size = f"{int(task.inputs['cpu']) / 1024:g} vCPU, {int(task.inputs['memory']) / 1024:g} GB"
        lines = [many + (", Spot" if on_spot(service) else ""), size]
        lines += [f"first: {c['name']}" for c in containers(task) if not c.get("essential", True)]
        tier = self._tier[service.inputs["networkConfiguration"]["subnets"][0]]
        return _part(
            self._graph.short_name(service.name), self._graph.short_name(service.name).capitalize(), lines, tier, "task"
        )

    def _database(self, database: Resource) -> Part:
        given = database.inputs
        subnets = next(
            s.inputs["subnetIds"]
            for s in self._graph.of("aws:rds:SubnetGroup")
            if s.outputs["name"] == given["dbSubnetGroupName"]
        )
        zones = "standby in another zone" if given.get("multiAz") else "one zone"
        lines = [f"{given['instanceClass']}, {given['allocatedStorage']} GB", zones]
        return _part(database.name, f"RDS {str(given['engine']).capitalize()}", lines, self._tier[subnets[0]], "data")

    def _account(self) -> Iterator[Part]:
        graph = self._graph
        repositories = list(graph.of("aws:ecr:Repository"))
        yield _part(REGISTRY, "ECR", [f"{len(repositories)} repositories"], "account", "account")
        made_by_rds = sum(bool(d.inputs.get("manageMasterUserPassword")) for d in graph.of("aws:rds:Instance"))
        parameters = len(list(graph.of("aws:ssm:Parameter")))
        lines = [f"{parameters} in Parameter Store", f"{made_by_rds} in Secrets Manager"]
        yield _part(SECRETS, "Secrets", lines, "account", "account")
        alarms, groups = (
            len(list(graph.of("aws:cloudwatch:MetricAlarm"))),
            len(list(graph.of("aws:cloudwatch:LogGroup"))),
        )
        yield _part(WATCH, "CloudWatch", [f"{groups} log groups, {alarms} alarms"], "account", "account")


def _part(key: str, title: str, lines: list[str], place: str, colour: str = "outside") -> Part:
    return Part(key=key, title=title, lines=tuple(lines), place=place, colour=colour)


def _order(graph: Graph, service: Resource) -> tuple[bool, bool, str]:
    """In the way of a change: what people reach, what sends, what receives."""
    name = graph.short_name(service.name)
    # Who looks into a queue without deleting from it does not take its messages.
    takes = any(p.task == name and "sqs:DeleteMessage" in p.actions for p in permissions(graph))
    return not service.inputs.get("loadBalancers"), takes, name


def _most_tasks(graph: Graph, service: Resource) -> int:
    name = f"/{service.outputs.get('name', service.name)}"
    targets = [t for t in graph.of("aws:appautoscaling:Target") if str(t.inputs["resourceId"]).endswith(name)]
    return int(targets[0].inputs["maxCapacity"]) if targets else int(service.inputs["desiredCount"])


def containers(task: Resource) -> list[dict[str, Any]]:
    """The container definitions of a task."""
    found: list[dict[str, Any]] = json.loads(task.inputs["containerDefinitions"])
    return found


def _arrows(graph: Graph, parts: tuple[Part, ...]) -> Iterator[Arrow]:
    yield from _connections(graph, parts)
    yield from _work(graph)
    tasks = {p.task for p in permissions(graph)}
    for part, services, label, there in STARTS:
        starting = {
            p.task for p in permissions(graph) if p.use == "start" and p.actions[0].partition(":")[0] in services
        }
        for who in _together(starting, tasks):
            yield Arrow(who, part, label, dashed=True) if there else Arrow(part, who, label, dashed=True)
    for queue in graph.of("aws:sqs:Queue"):
        if queue.inputs.get("redrivePolicy"):
            redrive = json.loads(queue.inputs["redrivePolicy"])
            label = f"after {redrive['maxReceiveCount']} receives"
            yield Arrow(queue.arn, redrive["deadLetterTargetArn"], label, dashed=True)
    for topic in graph.of("aws:sns:Topic"):
        telling = [
            a for a in graph.of("aws:cloudwatch:MetricAlarm") if topic.arn in (a.inputs.get("alarmActions") or [])
        ]
        if telling:
            yield Arrow(WATCH, topic.arn, f"{len(telling)} alarms", dashed=True)


def _together(some: set[str], everybody: set[str]) -> list[str]:
    return ["tier:private"] if some == everybody else sorted(some)


def _connections(graph: Graph, parts: tuple[Part, ...]) -> Iterator[Arrow]:
    members = _members(graph)
    ports: dict[tuple[str, str], list[str]] = {}
    leaving: set[str] = set()
    for link in reach(graph).links:
        for source in members.get(link.source, [INTERNET]):
            for target in members.get(link.target, []):
                ports.setdefault((source, target), []).append(str(link.port))
            if link.target == INTERNET:
                leaving.add(source)
    by_token = {(p.task, t.name) for p in permissions(graph) if "rds-db:connect" in p.actions for t in p.targets}
    for (source, target), numbers in ports.items():
        listed = ", ".join(sorted(numbers, key=lambda text: (len(text), text)))
        yield Arrow(source, target, f"{listed}, IAM" if (source, target) in by_token else listed)
    tasks = {part.key for part in parts if part.place == "private" and part.colour == "task"}
    yield from (Arrow(source, NAT, "443") for source in _together(leaving, tasks))
    hosts = {str(index.outputs.get("host")) for index in graph.of("pulumi-python:dynamic:VectorIndex")}
    using = sorted(
        graph.short_name(task.name)
        for task in graph.of("aws:ecs:TaskDefinition")
        if hosts & {e["value"] for c in containers(task) for e in c.get("environment", [])}
    )
    if reaching := [name for name in using if name in leaving]:
        yield Arrow(NAT, INDEX, f"443: {', '.join(reaching)}")


def _members(graph: Graph) -> Mapping[str, list[str]]:
    """Keys of the parts in each security group, by the group's short name."""
    found: dict[str, list[str]] = {}
    for group in graph.of("aws:ec2:SecurityGroup"):
        keys = [b.name for b in graph.of("aws:lb:LoadBalancer") if group.id in b.inputs["securityGroups"]]
        keys += [
            graph.short_name(service.name)
            for service in graph.of("aws:ecs:Service")
            if group.id in service.inputs["networkConfiguration"]["securityGroups"]
        ]
        keys += [d.name for d in graph.of("aws:rds:Instance") if group.id in d.inputs["vpcSecurityGroupIds"]]
        if any(group.id in (e.inputs.get("securityGroupIds") or []) for e in graph.of("aws:ec2:VpcEndpoint")):
            keys.append(ENDPOINTS)
        found[graph.short_name(group.name)] = keys
    return found


def _work(graph: Graph) -> Iterator[Arrow]:
    for permission in permissions(graph):
        for action in permission.actions if permission.use == "work" else ():
            if action in ARROWS:
                label, inward = ARROWS[action]
                for target in permission.targets:
                    ends = (target.arn, permission.task) if inward else (permission.task, target.arn)
                    yield Arrow(*ends, label)


def _untold(graph: Graph) -> list[Permission]:
    """What tasks may do that no arrow tells: not those that the arrow of a connection implies."""
    implied = {"rds-db:connect"}
    return [p for p in permissions(graph) if p.use == "work" and not set(p.actions) & (ARROWS.keys() | implied)]
