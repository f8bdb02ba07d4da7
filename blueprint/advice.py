"""How a stack would cost less: settings that would change the estimate, and by how much."""

from collections.abc import Iterator
from typing import NamedTuple

from blueprint.cost import Estimate, fewest_tasks
from blueprint.graph import Graph
from blueprint.prices import Prices
from blueprint.rates import on_spot

# A stack that is made in the morning and destroyed in the evening of each working day.
WORKING_HOURS_PER_MONTH = 9 * 21
SMALLEST_DATABASE = "db.t4g.micro"


class Advice(NamedTuple):
    """`saving`: dollars a month."""

    saving: float
    sentence: str


def advice(graph: Graph, estimate: Estimate, table: Prices) -> list[Advice]:
    """The greatest saving first. The first line of most stacks is to not let them idle."""
    return sorted(_advice(graph, estimate, table), key=lambda one: -one.saving)


def _advice(graph: Graph, estimate: Estimate, table: Prices) -> Iterator[Advice]:
    monthly = {line.what: line.monthly for line in estimate.idle}
    if not any(database.inputs.get("deletionProtection") for database in graph.of("aws:rds:Instance")):
        share = 1 - WORKING_HOURS_PER_MONTH / table.hours_per_month
        yield Advice(
            estimate.monthly * share,
            f"`pulumi destroy` in the evening, `pulumi up` in the morning ({WORKING_HOURS_PER_MONTH} hours a month)",
        )
    for service in graph.of("aws:ecs:Service"):
        name = graph.short_name(service.name)
        if not on_spot(service):
            cost = monthly[f"{name} x {fewest_tasks(graph, service)}"]
            yield Advice(cost * (1 - table["fargate_spot_share"]), f"{name}Spot: true, where a stop may be noticed")
    for vpc in graph.of("awsx:ec2:Vpc"):
        zones = int(vpc.inputs.get("numberOfAvailabilityZones") or 1)
        if (nat := monthly.get(f"NAT gateways x {zones}")) and zones > 1:
            yield Advice(nat * (zones - 1) / zones, "networkNatGateways: single; a zone that fails takes all with it")
    for database in graph.of("aws:rds:Instance"):
        size = str(database.inputs["instanceClass"])
        factor = table["rds_multi_az_factor"] if database.inputs.get("multiAz") else 1
        if database.inputs.get("multiAz"):
            yield Advice(
                estimate.groups()["database"] / 2, "databaseMultiAz: false; minutes to hours without, not seconds"
            )
        if size != SMALLEST_DATABASE and size in table:
            saving = factor * (table.monthly(size) - table.monthly(SMALLEST_DATABASE))
            yield Advice(saving, f"databaseInstanceClass: {SMALLEST_DATABASE}, which bursts and has 1 GB of memory")
    if insights := sum(cost for what, cost in monthly.items() if what.startswith("Container Insights")):
        yield Advice(insights, "containerInsights: disabled; scaling and alarms do not need it")
    if firewall := monthly.get("firewall"):
        yield Advice(firewall, "webFirewall: false; then webAllowedCidrs should name who may come")
