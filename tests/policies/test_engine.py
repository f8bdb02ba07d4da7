"""The pack as Pulumi's engine uses it: a process that it starts, and asks over gRPC."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, struct_pb2
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc

from policies.rules import RULES
from policies.stack_rules import STACK_RULES
from tests.infra.engine import UNKNOWN, whole

PACK = Path(__file__).parents[2] / "policies"
# How the engine writes that a value is a secret.
SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}


@pytest.fixture(scope="module")
def analyzer() -> Iterator[Any]:
    """Started as `pulumi-analyzer-policy-python` of Pulumi's CLI does it: in the pack's folder, of which it says "."."""
    environment = {**os.environ, "PULUMI_DRY_RUN": "true", "PULUMI_PROJECT": "aviary", "PULUMI_STACK": "dev"}
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "pulumi.policy", "127.0.0.1:0", "."],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=PACK,
    )
    assert process.stdout
    port = int(process.stdout.readline())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield analyzer_pb2_grpc.AnalyzerStub(channel)
    process.terminate()
    process.wait(10)
    process.stdout.close()


def analyze(analyzer: Any, type_: str, properties: dict[str, Any]) -> list[Any]:
    fields = struct_pb2.Struct()
    fields.update(properties)
    request = analyzer_pb2.AnalyzeRequest(
        type=type_, properties=fields, urn=f"urn:pulumi:dev::aviary::{type_}::example", name="example"
    )
    return list(analyzer.Analyze(request, timeout=20).diagnostics)


def test_the_engine_is_told_every_policy(analyzer: Any) -> None:
    info = analyzer.GetAnalyzerInfo(empty_pb2.Empty(), timeout=20)
    assert {policy.name for policy in info.policies} == {rule.name for rule in (*RULES, *STACK_RULES)}


def test_the_engine_is_told_what_breaks_a_rule(analyzer: Any) -> None:
    found = analyze(analyzer, "aws:lb/loadBalancer:LoadBalancer", {"accessLogs": {"enabled": True}})
    assert [diagnostic.policyName for diagnostic in found] == ["load-balancer-is-strict"]
    assert "invalid header" in found[0].message
    assert found[0].enforcementLevel == analyzer_pb2.MANDATORY


def test_an_advisory_rule_only_warns(analyzer: Any) -> None:
    found = analyze(analyzer, "aws:lb/listener:Listener", {"protocol": "HTTP", "defaultActions": [{"type": "forward"}]})
    assert [diagnostic.enforcementLevel for diagnostic in found] == [analyzer_pb2.ADVISORY]


def test_a_good_resource_passes_the_engine(analyzer: Any) -> None:
    good = {"dropInvalidHeaderFields": True, "accessLogs": {"enabled": True, "bucket": UNKNOWN}}
    assert analyze(analyzer, "aws:lb/loadBalancer:LoadBalancer", good) == []


def test_a_document_that_is_unknown_in_a_preview_stops_nothing(analyzer: Any) -> None:
    found = analyze(analyzer, "aws:iam/rolePolicy:RolePolicy", {"policy": UNKNOWN})
    assert all(diagnostic.enforcementLevel == analyzer_pb2.ADVISORY for diagnostic in found)


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_a_preview_of_a_stack_that_is_not_there_yet_passes_the_engine(analyzer: Any, stack: str) -> None:
    """Nothing that a provider would make is known, and a rule that stops at it stops the deployment."""
    resources = []
    for recorded in whole(stack, preview=True).resources:
        properties = {
            key: SECRET | {"value": v} if key in recorded.secrets else v for key, v in recorded.inputs.items()
        }
        found = analyze(analyzer, recorded.type, properties)
        assert [d.message for d in found if d.enforcementLevel == analyzer_pb2.MANDATORY] == []
        resource = analyzer_pb2.AnalyzerResource(type=recorded.type, urn=recorded.urn, name=recorded.name)
        resource.properties.update(properties)
        resources.append(resource)
    answer = analyzer.AnalyzeStack(analyzer_pb2.AnalyzeStackRequest(resources=resources), timeout=20)
    assert [d.message for d in answer.diagnostics if d.enforcementLevel == analyzer_pb2.MANDATORY] == []
