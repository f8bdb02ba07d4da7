"""The rules in the shape that Pulumi's policy SDK takes."""

from pulumi_policy import (
    EnforcementLevel,
    Policy,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)

from policies.rule import Resource, Rule, StackRule
from policies.rules import RULES
from policies.stack_rules import STACK_RULES


def policies() -> list[Policy]:
    """Every rule as a policy; an advisory rule warns, the others stop the update."""
    return [*map(resource_policy, RULES), *map(stack_policy, STACK_RULES)]


def resource_policy(rule: Rule) -> ResourceValidationPolicy:
    """A policy that reports each finding of the rule."""

    def validate(args: ResourceValidationArgs, report_violation: ReportViolation) -> None:
        for message in rule.findings(args.resource_type, args.props):
            report_violation(message, None)

    return ResourceValidationPolicy(
        name=rule.name,
        description=f"{rule.reason} {rule.fix}",
        validate=validate,
        enforcement_level=EnforcementLevel.ADVISORY if rule.advisory else EnforcementLevel.MANDATORY,
    )


def stack_policy(rule: StackRule) -> StackValidationPolicy:
    """A policy that reports each finding of the rule about the whole stack."""

    def validate(args: StackValidationArgs, report_violation: ReportViolation) -> None:
        resources = [Resource(type=r.resource_type, name=r.name, properties=r.props) for r in args.resources]
        for message in rule.findings(resources):
            report_violation(message, None)

    return StackValidationPolicy(
        name=rule.name,
        description=f"{rule.reason} {rule.fix}",
        validate=validate,
        enforcement_level=EnforcementLevel.MANDATORY,
    )
