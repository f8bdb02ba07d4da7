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

PACK = Path(__file__).parents[2] / "policies"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"  # how the engine writes a string that is not known yet


@pytest.fixture(scope="module")
def analyzer() -> Iterator[Any]:
    environment = {**os.environ, "PULUMI_DRY_RUN": "true"}
    process = subprocess.Popen(
        [sys.executable, str(PACK / "__main__.py"), "127.0.0.1:0", str(PACK)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd="/",
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
