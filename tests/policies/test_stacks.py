"""Both stacks, as the program declares them, keep every mandatory rule; what the advisory ones say of dev is listed."""

import functools

import pytest

from policies.rule import Resource
from policies.rules import RULES
from policies.stack_rules import STACK_RULES
from tests.infra.engine import with_own_access_logs

# Advisory findings that we know of: without a domain there is no certificate, and so dev serves plain HTTP.
KNOWN = {"dev": {"listener-speaks-modern-tls"}, "prod": set()}


@functools.cache
def resources(stack: str) -> list[Resource]:
    return [
        Resource(type=r.type, name=r.name, properties={**r.outputs, **r.inputs, "id": r.id})
        for r in with_own_access_logs(stack).resources
    ]


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_every_mandatory_rule_holds(stack: str) -> None:
    for rule in RULES:
        if not rule.advisory:
            found = [f"{r.name}: {m}" for r in resources(stack) for m in rule.findings(r.type, r.properties)]
            assert found == []
    for stack_rule in STACK_RULES:
        assert list(stack_rule.findings(resources(stack))) == []


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_advisory_findings_are_the_known_ones(stack: str) -> None:
    found = {
        rule.name
        for rule in RULES
        for r in resources(stack)
        if rule.advisory and list(rule.findings(r.type, r.properties))
    }
    assert found == KNOWN[stack]


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_no_rule_looks_for_a_type_that_the_program_never_uses(stack: str) -> None:
    used = {r.type for r in resources(stack)}
    # What the rule is there to hold wherever it is used next; the program uses other resources.
    elsewhere = {
        "aws:ec2/securityGroupRule:SecurityGroupRule",
        "aws:iam/policy:Policy",
        "aws:secretsmanager/secret:Secret",
    }
    for rule in RULES:
        assert set(rule.types) & used, rule.name
        assert set(rule.types) - used <= elsewhere, rule.name
