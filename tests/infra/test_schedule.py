"""The task that a clock starts: what it runs with, where, and when."""

import re
from typing import Any

import pytest

from aviary.settings import read
from pelican.settings import ReconcileSettings
from tests.infra.engine import API_KEY, Graph, changed, whole

RULE = "aws:cloudwatch/eventRule:EventRule"
TARGET = "aws:cloudwatch/eventTarget:EventTarget"


def container(graph: Graph) -> dict[str, Any]:
    """The only one of the task."""
    (task,) = [r for r in graph.all("aws:ecs/taskDefinition:TaskDefinition") if r.name.endswith("-reconcile")]
    (found,) = task.json("containerDefinitions")
    assert isinstance(found, dict)
    return found


def environment(graph: Graph) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(graph)["environment"]}


def test_it_starts_every_day_in_private_subnets_behind_its_own_group(graph: Graph, stack: str) -> None:
    (schedule,) = graph.all(RULE)
    assert schedule.inputs["scheduleExpression"] == "rate(24 hours)"
    (target,) = (one.inputs for one in graph.all(TARGET))
    assert target["rule"] == f"aviary-{stack}-reconcile-1a2b3c4"
    assert target["arn"] == f"arn:aws:ecs:us-east-1:123456789012:cluster/aviary-{stack}-pelican-1a2b3c4"
    assert target["retryPolicy"]["maximumRetryAttempts"] == 5
    given = target["ecsTarget"]
    network = given["networkConfiguration"]
    assert network["assignPublicIp"] is False
    assert all("-private-" in subnet for subnet in network["subnets"])
    assert network["securityGroups"] == [f"sg-aviary-{stack}-reconcile"]
    provider = "FARGATE_SPOT" if stack == "dev" else "FARGATE"
    assert given["capacityProviderStrategies"] == [{"capacityProvider": provider, "weight": 1}]


def test_it_tells_in_logs_and_metrics_and_repairs_as_the_stack_says(graph: Graph) -> None:
    assert container(graph)["command"] == ["reconcile", "--log", "--repair"]
    assert container(changed("dev", reconcileRepair="false"))["command"] == ["reconcile", "--log"]


def test_it_has_all_that_the_command_needs_and_nothing_that_it_does_not_read(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(graph).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PINECONE_API_KEY", "from a secret")
    read(ReconcileSettings)
    fields = {f"AVIARY_{name.upper()}" for name in ReconcileSettings.model_fields}
    assert {name for name in environment(graph) if name.startswith("AVIARY_")} <= fields


def test_the_key_of_pinecone_comes_from_a_secret_and_nothing_else_does(graph: Graph) -> None:
    (secret,) = container(graph)["secrets"]
    assert secret["name"] == "PINECONE_API_KEY"
    assert ":parameter/aviary-" in secret["valueFrom"]
    assert API_KEY not in str(environment(graph))


def test_its_container_can_change_and_gain_nothing_and_ends_by_itself(graph: Graph) -> None:
    one = container(graph)
    assert (one["readonlyRootFilesystem"], one["user"], one["privileged"]) == (True, "10001:10001", False)
    assert one["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
    assert "portMappings" not in one
    assert "healthCheck" not in one
    assert one["stopTimeout"] <= 120


def test_it_runs_pelicans_image_and_logs_to_a_group_that_ends(graph: Graph, stack: str) -> None:
    assert re.search(rf"/aviary-{stack}-pelican@sha256:", container(graph)["image"])
    options = container(graph)["logConfiguration"]["options"]
    group = graph.one("aws:cloudwatch/logGroup:LogGroup", f"aviary-{stack}-reconcile")
    assert options["awslogs-group"] == group.name
    assert group.inputs["retentionInDays"] == (7 if stack == "dev" else 400)


def test_it_comes_after_the_migrations_the_ways_out_and_its_permissions(graph: Graph) -> None:
    (target,) = graph.all(TARGET)
    before = graph.before(target)
    (pelican,) = [r for r in graph.all("aws:ecs/service:Service") if r.name.endswith("-pelican")]
    assert pelican.urn in before
    assert {r.urn for r in graph.all("aws:iam/rolePolicy:RolePolicy") if "-reconcile" in r.name} <= before
    assert {r.urn for r in graph.all("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule")} <= before
    assert {r.urn for r in graph.all("aws:ssm/parameter:Parameter")} <= before


def test_a_stack_may_compare_more_often_or_never() -> None:
    (schedule,) = changed("dev", reconcileHours="1").all(RULE)
    assert schedule.inputs["scheduleExpression"] == "rate(1 hour)"
    never = changed("dev", reconcileHours="0")
    assert not never.all(RULE)
    assert not [r.name for r in never.all("aws:ecs/taskDefinition:TaskDefinition") if "reconcile" in r.name]
    assert whole("dev").all(RULE)
