"""AWS WAF before the load balancer: known attacks and addresses that ask too often are turned away."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi
import pulumi_aws as aws

if TYPE_CHECKING:
    from pulumi_aws.wafv2 import (
        WebAclRuleArgsDict,
        WebAclRuleStatementManagedRuleGroupStatementRuleActionOverrideArgsDict,
        WebAclRuleVisibilityConfigArgsDict,
    )

REQUESTS_IN_FIVE_MINUTES = 2_000
# AWS's rule of this name turns away bodies over 8 KB, and a product's description may be longer.
LONG_BODIES = "SizeRestrictions_BODY"


@dataclass(frozen=True, kw_only=True)
class FirewallArgs:
    load_balancer_arn: pulumi.Input[str]
    key_arn: pulumi.Input[str]
    log_retention_days: int


class Firewall(pulumi.ComponentResource):
    """Managed rules and a limit by address. What was turned away is logged, without cookies and credentials."""

    def __init__(self, name: str, args: FirewallArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:web:Firewall", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        acl = aws.wafv2.WebAcl(
            name,
            scope="REGIONAL",
            default_action={"allow": {}},
            rules=[
                _limit(1),
                _managed(2, "AWSManagedRulesAmazonIpReputationList"),
                _managed(3, "AWSManagedRulesKnownBadInputsRuleSet"),
                _managed(4, "AWSManagedRulesCommonRuleSet", only_count=LONG_BODIES),
                # Counted, not turned away: people search from behind a VPN too.
                _managed(5, "AWSManagedRulesAnonymousIpList", block=False),
            ],
            visibility_config={
                "cloudwatch_metrics_enabled": True,
                "metric_name": name,
                "sampled_requests_enabled": False,
            },
            opts=child,
        )
        aws.wafv2.WebAclAssociation(name, resource_arn=args.load_balancer_arn, web_acl_arn=acl.arn, opts=child)
        log_group = aws.cloudwatch.LogGroup(
            name,
            name=f"aws-waf-logs-{name}",  # WAF takes no other beginning
            retention_in_days=args.log_retention_days,
            kms_key_id=args.key_arn,
            opts=child,
        )
        aws.wafv2.WebAclLoggingConfiguration(
            name,
            resource_arn=acl.arn,
            log_destination_configs=[log_group.arn],
            redacted_fields=[{"single_header": {"name": header}} for header in ("authorization", "cookie")],
            logging_filter={
                "default_behavior": "DROP",
                "filters": [
                    {
                        "behavior": "KEEP",
                        "requirement": "MEETS_ANY",
                        "conditions": [
                            {"action_condition": {"action": "BLOCK"}},
                            {"action_condition": {"action": "COUNT"}},
                        ],
                    }
                ],
            },
            opts=child,
        )
        self.register_outputs({})


def _limit(priority: int) -> "WebAclRuleArgsDict":
    return {
        "name": "RateLimit",
        "priority": priority,
        "action": {"block": {}},
        "statement": {
            "rate_based_statement": {"limit": REQUESTS_IN_FIVE_MINUTES, "aggregate_key_type": "IP"},
        },
        "visibility_config": _visibility("RateLimit"),
    }


def _managed(priority: int, group: str, *, block: bool = True, only_count: str | None = None) -> "WebAclRuleArgsDict":
    """One of AWS's rule groups. `only_count` names a rule of it that turns nobody away; `block` off does so for all."""
    overrides: list[WebAclRuleStatementManagedRuleGroupStatementRuleActionOverrideArgsDict] = []
    if only_count:
        overrides.append({"name": only_count, "action_to_use": {"count": {}}})
    return {
        "name": group,
        "priority": priority,
        "override_action": {"none": {}} if block else {"count": {}},
        "statement": {
            "managed_rule_group_statement": {
                "name": group,
                "vendor_name": "AWS",
                "rule_action_overrides": overrides,
            }
        },
        "visibility_config": _visibility(group),
    }


def _visibility(metric: str) -> "WebAclRuleVisibilityConfigArgsDict":
    return {"cloudwatch_metrics_enabled": True, "metric_name": metric, "sampled_requests_enabled": False}
