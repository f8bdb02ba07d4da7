"""What a month of a stack costs: pure functions from the recorded graph and the table of prices.

Here is what is paid while nothing happens; blueprint/rates.py has what is paid for use. Nothing is left out in silence: a
resource whose type is neither priced here nor known to be free is listed as unpriced.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from blueprint import permissions, prices
from blueprint.graph import Graph, Resource, short_type
from blueprint.prices import Prices
from blueprint.rates import Rate, on_spot, rates
from blueprint.reach import service_name
from components.metrics import OWN_NAMESPACE

# What Emu and Pelican do while nothing happens (their settings' defaults).
RECEIVE_WAIT_SECONDS = 20
LOOK_SECONDS = 15
SECONDS_PER_HOUR = 3600
# A scheduled comparison of some hundred thousand rows.
RUN_MINUTES = 10

# Types that cost nothing by themselves.
FREE = {
    "aws:acm:Certificate",
    "aws:acm:CertificateValidation",
    "aws:appautoscaling:Target",
    "aws:cloudwatch:EventRule",
    "aws:cloudwatch:QueryDefinition",
    "aws:ec2:DefaultSecurityGroup",
    "aws:ec2:SecurityGroup",
    "aws:ecr:LifecyclePolicy",
    "aws:ecs:ClusterCapacityProviders",
    "aws:ecs:TaskDefinition",
    "aws:iam:Role",
    "aws:iam:RolePolicy",
    "aws:iam:RolePolicyAttachment",
    "aws:kms:Alias",
    "aws:lb:Listener",
    "aws:lb:TargetGroup",
    "aws:rds:ParameterGroup",
    "aws:rds:SubnetGroup",
    "aws:s3:BucketLifecycleConfiguration",
    "aws:s3:BucketOwnershipControls",
    "aws:s3:BucketPolicy",
    "aws:s3:BucketPublicAccessBlock",
    "aws:s3:BucketServerSideEncryptionConfiguration",
    "aws:s3:BucketVersioning",
    "aws:sns:TopicPolicy",
    "aws:sqs:QueuePolicy",
    "aws:ssm:Parameter",  # of the standard tier
    "aws:vpc:SecurityGroupEgressRule",
    "aws:vpc:SecurityGroupIngressRule",
    "aws:wafv2:WebAclAssociation",
    "docker:index:Image",
}
# Types that cost by use alone: blueprint/rates.py.
BY_USE = {
    "aws:cloudwatch:LogGroup",
    "aws:ec2:FlowLog",
    "aws:ecr:Repository",
    "aws:s3:Bucket",
    "aws:sns:Topic",
    "aws:sns:TopicSubscription",
    "aws:route53:Record",
    "aws:wafv2:WebAclLoggingConfiguration",
    "pulumi-python:dynamic:VectorIndex",
}


class Line(NamedTuple):
    """`monthly` dollars of `what`, explained in a sentence."""

    group: str
    what: str
    monthly: float
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """`idle`: lines in falling order. `unpriced`: what the estimate does not know."""

    stack: str
    idle: tuple[Line, ...]
    rates: tuple[Rate, ...]
    unpriced: tuple[str, ...]

    @property
    def monthly(self) -> float:
        """Dollars a month while nothing happens."""
        return sum(line.monthly for line in self.idle)

    def groups(self) -> dict[str, float]:
        """Dollars by group, in falling order."""
        totals: dict[str, float] = {}
        for line in self.idle:
            totals[line.group] = totals.get(line.group, 0.0) + line.monthly
        return dict(sorted(totals.items(), key=lambda item: -item[1]))


class _UnpricedError(LookupError):
    """The table has no price for this; the message says what."""


def estimate(graph: Graph, table: Prices | None = None) -> Estimate:
    """The whole estimate of one stack."""
    table = table or prices.load()
    lines: list[Line] = []
    unpriced: list[str] = []
    for resource in graph.resources:
        if not resource.custom and resource.type != "awsx:ec2:Vpc":
            continue
        kind = short_type(resource.type)
        if kind in PRICED:
            try:
                lines += PRICED[kind](graph, resource, table)
            except _UnpricedError as error:
                unpriced.append(f"{graph.short_name(resource.name)}: {error}")
        elif kind not in FREE | BY_USE:
            unpriced.append(f"{graph.short_name(resource.name)}: {kind} is not in the estimate")
    lines += _own_metrics(graph, table)
    lines += _polling(graph, table)
    return Estimate(
        stack=graph.stack,
        idle=tuple(sorted(lines, key=lambda line: (-line.monthly, line.what))),
        rates=tuple(rates(graph, table)),
        unpriced=tuple(sorted(unpriced)),
    )


def _vpc(_: Graph, vpc: Resource, table: Prices) -> Iterator[Line]:
    zones = int(vpc.inputs.get("numberOfAvailabilityZones") or 3)
    strategy = (vpc.inputs.get("natGateways") or {}).get("strategy", "OnePerAz")
    count = {"Single": 1, "OnePerAz": zones, "None": 0}[strategy]
    if count:
        each = table.monthly("nat_hour") + table.monthly("public_ipv4_hour")
        yield Line("network", f"NAT gateways x {count}", count * each, "by the hour, each with a public address")


def _balancer(_: Graph, balancer: Resource, table: Prices) -> Iterator[Line]:
    yield Line("load balancer", "load balancer", table.monthly("alb_hour"), "by the hour, without load")
    if not balancer.inputs.get("internal"):
        addresses = len(balancer.inputs["subnets"])
        monthly = addresses * table.monthly("public_ipv4_hour")
        yield Line("load balancer", f"its public addresses x {addresses}", monthly, "one in each zone")


def _endpoint(_: Graph, endpoint: Resource, table: Prices) -> Iterator[Line]:
    if endpoint.inputs.get("vpcEndpointType") == "Interface":
        zones = len(endpoint.inputs["subnetIds"])
        monthly = zones * table.monthly("endpoint_hour")
        yield Line("network", f"endpoint {service_name(endpoint)}", monthly, f"by the hour, in {zones} zones")


def _database(_: Graph, database: Resource, table: Prices) -> Iterator[Line]:
    given = database.inputs
    size, factor = str(given["instanceClass"]), table["rds_multi_az_factor"] if given.get("multiAz") else 1
    if size not in table:
        raise _UnpricedError(f"prices.toml has no {size}")
    where = "with a standby in another zone" if given.get("multiAz") else "in one zone"
    yield Line("database", f"database {size}", factor * table.monthly(size), where)
    disk = int(given["allocatedStorage"])
    yield Line("database", f"its disk, {disk} GB", factor * disk * table["rds_gp3_gb_month"], f"gp3, {where}")
    if given.get("manageMasterUserPassword"):
        yield Line("secrets and keys", "secret of the database's owner", table["secret_month"], "made by RDS")


def _service(graph: Graph, service: Resource, table: Prices) -> Iterator[Line]:
    task = next(r for r in graph.of("aws:ecs:TaskDefinition") if r.arn == service.inputs["taskDefinition"])
    tasks, spot = fewest_tasks(graph, service), on_spot(service)
    vcpu, gb = int(task.inputs["cpu"]) / 1024, int(task.inputs["memory"]) / 1024
    each = vcpu * table.monthly("fargate_vcpu_hour") + gb * table.monthly("fargate_gb_hour")
    monthly = tasks * each * (table["fargate_spot_share"] if spot else 1)
    how = "on Spot" if spot else "on demand"
    what = f"{graph.short_name(service.name)} x {tasks}"
    yield Line("tasks", what, monthly, f"Fargate, {vcpu:g} vCPU and {gb:g} GB, {how}")


def _schedule(graph: Graph, target: Resource, table: Prices) -> Iterator[Line]:
    given = target.inputs["ecsTarget"]
    rule = next(r for r in graph.of("aws:cloudwatch:EventRule") if r.outputs["name"] == target.inputs["rule"])
    task = next(r for r in graph.of("aws:ecs:TaskDefinition") if r.arn == given["taskDefinitionArn"])
    spot = any(each["capacityProvider"] == "FARGATE_SPOT" for each in given["capacityProviderStrategies"])
    every = int(rule.inputs["scheduleExpression"].partition("(")[2].split()[0])
    hours = table.hours_per_month / every * RUN_MINUTES / 60
    vcpu, gb = int(task.inputs["cpu"]) / 1024, int(task.inputs["memory"]) / 1024
    monthly = hours * (vcpu * table["fargate_vcpu_hour"] + gb * table["fargate_gb_hour"])
    monthly *= table["fargate_spot_share"] if spot else 1
    sentence = f"every {every} h, {RUN_MINUTES} minutes each"
    yield Line("tasks", graph.short_name(target.name), monthly, sentence)


def _cluster(graph: Graph, cluster: Resource, table: Prices) -> Iterator[Line]:
    settings = {s["name"]: s["value"] for s in cluster.inputs.get("settings") or []}
    insights = settings.get("containerInsights", "disabled")
    if insights == "enhanced":
        raise _UnpricedError("Container Insights with enhanced observability is paid by use and not estimated")
    if insights == "enabled":
        monthly = table["insights_metrics_per_service"] * table["metric_month"]
        yield Line("observability", f"Container Insights of {graph.short_name(cluster.name)}", monthly, "its metrics")


def _scaling_alarms(graph: Graph, policy: Resource, table: Prices) -> Iterator[Line]:
    """Target tracking makes two alarms of its own, each over all metrics of its specification."""
    tracking = policy.inputs.get("targetTrackingScalingPolicyConfiguration")
    if tracking:
        custom = (tracking.get("customizedMetricSpecification") or {}).get("metrics") or []
        measured = sum("metricStat" in metric for metric in custom) or 1
        monthly = 2 * measured * table["alarm_metric_month"]
        yield Line("observability", f"alarms of scaling {graph.short_name(policy.name)}", monthly, "made by AWS")


def _alarm(graph: Graph, alarm: Resource, table: Prices) -> Iterator[Line]:
    measured = sum("metric" in query for query in alarm.inputs.get("metricQueries") or []) or 1
    monthly = measured * table["alarm_metric_month"]
    yield Line("observability", f"alarm {graph.short_name(alarm.name)}", monthly, f"over {measured} metric(s)")


def _web_acl(_: Graph, acl: Resource, table: Prices) -> Iterator[Line]:
    rules = len(acl.inputs.get("rules") or [])
    monthly = table["waf_acl_month"] + rules * table["waf_rule_month"]
    yield Line("load balancer", "firewall", monthly, f"AWS WAF with {rules} rules")


def _flat(group: str, what: str, key: str) -> Callable[[Graph, Resource, Prices], Iterator[Line]]:
    def line(graph: Graph, resource: Resource, table: Prices) -> Iterator[Line]:
        yield Line(group, what.format(graph.short_name(resource.name)), table[key], "by the month")

    return line


PRICED: dict[str, Callable[[Graph, Resource, Prices], Iterator[Line]]] = {
    "awsx:ec2:Vpc": _vpc,
    "aws:lb:LoadBalancer": _balancer,
    "aws:ec2:VpcEndpoint": _endpoint,
    "aws:rds:Instance": _database,
    "aws:ecs:Service": _service,
    "aws:ecs:Cluster": _cluster,
    "aws:cloudwatch:EventTarget": _schedule,
    "aws:appautoscaling:Policy": _scaling_alarms,
    "aws:cloudwatch:MetricAlarm": _alarm,
    "aws:wafv2:WebAcl": _web_acl,
    "aws:cloudwatch:Dashboard": _flat("observability", "dashboard", "dashboard_month"),
    "aws:kms:Key": _flat("secrets and keys", "key", "kms_key_month"),
    "aws:sqs:Queue": lambda *_: iter(()),  # its requests are in _polling() and rates()
}


def fewest_tasks(graph: Graph, service: Resource) -> int:
    """What scaling goes down to, or the service's own number where nothing scales it."""
    name = f"/{service.outputs.get('name', service.name)}"
    targets = [t for t in graph.of("aws:appautoscaling:Target") if str(t.inputs["resourceId"]).endswith(name)]
    return int(targets[0].inputs["minCapacity"] if targets else service.inputs["desiredCount"])


def _own_metrics(graph: Graph, table: Prices) -> Iterator[Line]:
    """The services' own metrics that something of the stack reads."""
    read: set[str] = set()
    for dashboard in graph.of("aws:cloudwatch:Dashboard"):
        for widget in json.loads(dashboard.inputs["dashboardBody"])["widgets"]:
            listed = widget["properties"].get("metrics") or []
            read |= {_key(metric[1], metric[2:-1]) for metric in listed if metric[0] == OWN_NAMESPACE}
    for alarm in graph.of("aws:cloudwatch:MetricAlarm"):
        if alarm.inputs.get("namespace") == OWN_NAMESPACE:
            flat = [part for pair in (alarm.inputs.get("dimensions") or {}).items() for part in pair]
            read.add(_key(alarm.inputs["metricName"], flat))
    if read:
        monthly = len(read) * table["metric_month"]
        sentence = "those that the dashboard and alarms read; the services write a few more"
        yield Line("observability", f"metrics of our own x {len(read)}", monthly, sentence)


def _key(name: str, dimensions: list[Any]) -> str:
    return "/".join([name, *map(str, dimensions)])


def _polling(graph: Graph, table: Prices) -> Iterator[Line]:
    """Requests to SQS while there is no message."""
    seconds = table.hours_per_month * SECONDS_PER_HOUR
    may = {(p.task, action) for p in permissions.permissions(graph) for action in p.actions if p.use == "work"}
    requests = 0.0
    for service in graph.of("aws:ecs:Service"):
        task, tasks = graph.short_name(service.name), fewest_tasks(graph, service)
        if (task, "sqs:DeleteMessage") in may:
            requests += tasks * seconds / RECEIVE_WAIT_SECONDS
        elif (task, "sqs:SendMessage") in may and (task, "sqs:GetQueueAttributes") in may:
            requests += tasks * seconds / LOOK_SECONDS
    if requests:
        monthly = requests / 1e6 * table["sqs_fifo_million"]
        yield Line("messaging", "polling of the queue", monthly, f"{requests / 1e6:.2f} million requests")
