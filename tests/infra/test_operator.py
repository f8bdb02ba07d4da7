"""The task that a person starts to look after dead letters."""

from typing import Any

import pytest

from aviary.settings import DatabaseSettings, read
from emu.dlq.settings import DlqSettings
from tests.infra.engine import Graph, whole


def container(graph: Graph) -> dict[str, Any]:
    (task,) = [r for r in graph.all("aws:ecs/taskDefinition:TaskDefinition") if r.name.endswith("-operator")]
    (found,) = task.json("containerDefinitions")
    assert isinstance(found, dict)
    return found


def test_it_has_all_that_the_command_needs_and_nothing_that_it_does_not_read(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {one["name"]: one["value"] for one in container(graph)["environment"]}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PINECONE_API_KEY", "from a secret")
    settings = read(DlqSettings)
    assert settings.dlq_url.endswith("-dlq.fifo")
    assert settings.index_host
    database = read(DatabaseSettings)
    assert "aviary_operator@" in database.postgres_dsn.get_secret_value()
    assert database.postgres_auth == "iam"
    names_read = {f"AVIARY_{name.upper()}" for name in (*DlqSettings.model_fields, *DatabaseSettings.model_fields)}
    assert {name for name in given if name.startswith("AVIARY_")} <= names_read
    assert [secret["name"] for secret in container(graph)["secrets"]] == ["PINECONE_API_KEY"]


def test_by_itself_it_changes_nothing_and_tells_no_keys_and_no_service_runs_it(graph: Graph) -> None:
    assert container(graph)["command"] == ["dlq", "redrive", "--all", "--dry-run"]
    assert not [r.name for r in graph.all("aws:ecs/service:Service") if "operator" in r.name]
    assert "portMappings" not in container(graph)


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_the_stack_hands_out_what_run_task_takes(stack: str) -> None:
    given = whole(stack).exports["operator"]
    assert given["taskDefinition"].endswith(f":task-definition/aviary-{stack}-operator:1")
    assert given["launchType"] == "FARGATE"
    network = given["networkConfiguration"]["awsvpcConfiguration"]
    assert network["securityGroups"] == [f"sg-aviary-{stack}-reconcile"]
    assert network["assignPublicIp"] == "DISABLED"
    assert network["subnets"]
    assert all("-private-" in subnet for subnet in network["subnets"])
