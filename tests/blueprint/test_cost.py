"""The estimate: every resource counted or named as not counted, with prices that say where they come from."""

from collections.abc import Callable
from typing import Any

import pytest

from blueprint import prices
from blueprint.advice import advice
from blueprint.cost import BY_USE, FREE, PRICED, Estimate, estimate
from blueprint.graph import Graph, Resource
from tests.infra.engine import changed

Declare = Callable[..., Resource]
GraphOf = Callable[..., Graph]
TABLE = prices.load()
DEV_IDLE_DOLLARS = 110


def lines(found: Estimate) -> dict[str, float]:
    return {line.what: round(line.monthly, 2) for line in found.idle}


def database(declare: Declare, **more: Any) -> Resource:
    given = {"instanceClass": "db.t4g.micro", "allocatedStorage": 20} | more
    return declare("aws:rds/instance:Instance", "aviary-dev", **given)


def test_dev_idles_for_little(dev: Graph) -> None:
    assert 60 < estimate(dev).monthly <= DEV_IDLE_DOLLARS


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_nothing_of_the_stacks_is_left_out(graphs: dict[str, Graph], stack: str) -> None:
    assert estimate(graphs[stack]).unpriced == ()


def test_a_type_that_nobody_priced_is_named(declare: Declare, graph_of: GraphOf) -> None:
    found = estimate(graph_of(declare("aws:redshift/cluster:Cluster", "aviary-dev-big")))
    assert found.unpriced == ("big: aws:redshift:Cluster is not in the estimate",)


def test_an_instance_that_the_table_lacks_is_named(declare: Declare, graph_of: GraphOf) -> None:
    found = estimate(graph_of(database(declare, instanceClass="db.x9.huge")))
    assert found.unpriced == ("aviary-dev: prices.toml has no db.x9.huge",)
    assert found.monthly == 0


def test_no_type_is_both_priced_and_free() -> None:
    assert not PRICED.keys() & FREE
    assert not (PRICED.keys() | FREE) & BY_USE


def test_a_standby_doubles_the_database_and_its_disk(declare: Declare, graph_of: GraphOf) -> None:
    one = lines(estimate(graph_of(database(declare))))
    two = lines(estimate(graph_of(database(declare, multiAz=True))))
    assert one == {"database db.t4g.micro": 11.68, "its disk, 20 GB": 2.3}
    assert two == {what: 2 * monthly for what, monthly in one.items()}


@pytest.mark.parametrize(("strategy", "dollars"), [("None", 0), ("Single", 36.5), ("OnePerAz", 109.5)])
def test_nat_gateways_are_counted_with_their_addresses(
    declare: Declare, graph_of: GraphOf, strategy: str, dollars: float
) -> None:
    vpc = declare("awsx:ec2:Vpc", "aviary-dev", numberOfAvailabilityZones=3, natGateways={"strategy": strategy})
    assert estimate(graph_of(vpc)).monthly == pytest.approx(dollars)


def test_tasks_cost_by_size_number_and_spot(declare: Declare, graph_of: GraphOf) -> None:
    def monthly(provider: str, fewest: int) -> float:
        task = declare(
            "aws:ecs/taskDefinition:TaskDefinition", "aviary-dev-emu", outputs={"arn": "task"}, cpu="512", memory="1024"
        )
        service = declare(
            "aws:ecs/service:Service",
            "aviary-dev-emu",
            taskDefinition="task",
            desiredCount=9,
            capacityProviderStrategies=[{"capacityProvider": provider}],
        )
        target = declare(
            "aws:appautoscaling/target:Target", "t", resourceId="service/c/aviary-dev-emu", minCapacity=fewest
        )
        return estimate(graph_of(task, service, target)).monthly

    one = (0.5 * 0.03238 + 0.00356) * 730
    assert monthly("FARGATE", 1) == pytest.approx(one)
    assert monthly("FARGATE", 3) == pytest.approx(3 * one)
    assert monthly("FARGATE_SPOT", 1) == pytest.approx(0.3 * one)


def test_target_tracking_pays_for_the_alarms_that_aws_makes(declare: Declare, graph_of: GraphOf) -> None:
    metrics = [{"id": "a", "metricStat": {}}, {"id": "b", "metricStat": {}}, {"id": "c", "expression": "a/b"}]
    policy = declare(
        "aws:appautoscaling/policy:Policy",
        "aviary-dev-emu-backlog",
        targetTrackingScalingPolicyConfiguration={"customizedMetricSpecification": {"metrics": metrics}},
    )
    assert estimate(graph_of(policy)).monthly == pytest.approx(0.4)


def test_every_price_says_where_it_comes_from() -> None:
    assert all(price.price > 0 and "https://" in price.source for price in TABLE.table.values())


def test_every_price_is_used_or_is_an_instance() -> None:
    sources = "".join(path.read_text() for path in prices.TABLE.parent.glob("*.py"))
    assert [key for key in TABLE.table if not key.startswith("db.") and f'"{key}"' not in sources] == []


def test_what_the_advice_promises_is_what_the_setting_saves(dev: Graph) -> None:
    before = estimate(dev)
    hint = next(hint for hint in advice(dev, before, TABLE) if hint.sentence.startswith("frontendSpot: true"))
    after = estimate(changed("dev", frontendSpot="true"))
    assert before.monthly - after.monthly == pytest.approx(hint.saving)


def test_the_advice_for_prod_names_what_makes_it_dear(prod: Graph) -> None:
    hints = " ".join(hint.sentence for hint in advice(prod, estimate(prod), TABLE))
    for setting in (
        "databaseMultiAz",
        "networkNatGateways",
        "databaseInstanceClass",
        "containerInsights",
        "webFirewall",
    ):
        assert setting in hints
    assert "pulumi destroy" not in hints


def test_use_is_cheaper_on_spot(dev: Graph, prod: Graph) -> None:
    unit = "million rows indexed: tasks"
    spot, on_demand = ({r.unit: r.price for r in estimate(graph).rates}[unit] for graph in (dev, prod))
    assert spot == pytest.approx(0.3 * on_demand)
