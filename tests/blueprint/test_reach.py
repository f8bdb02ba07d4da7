"""Who reaches whom: a link needs a rule on both sides, and what is public is told."""

from collections.abc import Callable

import pytest

from blueprint.graph import Graph, Resource
from blueprint.permissions import permissions
from blueprint.reach import Link, Port, public, reach
from tests.infra.engine import with_own_certificate

Declare = Callable[..., Resource]
GraphOf = Callable[..., Graph]
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
EGRESS = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
WEB = {"ipProtocol": "tcp", "fromPort": 443, "toPort": 443}


def groups(declare: Declare) -> list[Resource]:
    return [
        declare("aws:ec2/securityGroup:SecurityGroup", f"aviary-dev-{name}", id_=f"sg-{name}") for name in ("web", "db")
    ]


def test_a_link_needs_a_rule_on_both_sides(declare: Declare, graph_of: GraphOf) -> None:
    out = declare(EGRESS, "o", securityGroupId="sg-web", referencedSecurityGroupId="sg-db", **WEB)
    into = declare(INGRESS, "i", securityGroupId="sg-db", referencedSecurityGroupId="sg-web", **WEB)
    link = Link("web", "db", Port("tcp", 443, 443))
    assert reach(graph_of(*groups(declare), out, into)).links == (link,)
    half = reach(graph_of(*groups(declare), out))
    assert (half.links, half.half) == ((), (link,))


def test_addresses_are_told_and_the_whole_internet_by_name(declare: Declare, graph_of: GraphOf) -> None:
    rules = [
        declare(INGRESS, "a", securityGroupId="sg-web", cidrIpv4="0.0.0.0/0", **WEB),
        declare(INGRESS, "b", securityGroupId="sg-web", cidrIpv4="10.0.0.0/8", **WEB),
        declare(INGRESS, "c", securityGroupId="sg-web", cidrIpv6="::/0", **WEB),
    ]
    assert {link.source for link in reach(graph_of(*groups(declare), *rules)).links} == {"internet", "10.0.0.0/8"}


def test_rules_written_inside_a_group_count_too(declare: Declare, graph_of: GraphOf) -> None:
    inline = [{"protocol": "-1", "fromPort": 0, "toPort": 0, "cidrBlocks": ["0.0.0.0/0"]}]
    group = declare("aws:ec2/securityGroup:SecurityGroup", "aviary-dev-open", id_="sg-open", ingress=inline)
    assert public(graph_of(group)) == ["security group open: port everything from internet"]


def test_a_kind_of_rule_that_is_not_read_stops_the_preview(declare: Declare, graph_of: GraphOf) -> None:
    with pytest.raises(ValueError, match="not read here"):
        reach(graph_of(declare("aws:ec2/securityGroupRule:SecurityGroupRule", "old")))


def test_all_links_of_dev(dev: Graph) -> None:
    found = reach(dev)
    assert [f"{link.source} {link.port} {link.target}" for link in found.links] == [
        "emu 443 internet",
        "frontend 5432 database",
        "frontend 443 internet",
        "internet 80 load-balancer",
        "load-balancer 8000 frontend",
        "pelican 5432 database",
        "pelican 443 internet",
        "reconcile 5432 database",
        "reconcile 443 internet",
    ]
    assert found.half == ()


def test_only_the_load_balancer_of_prod_is_public(prod: Graph) -> None:
    assert public(prod) == [
        "load balancer alb: HTTPS 443 (forwards)",
        "security group load-balancer: port 443 from internet",
    ]


def test_a_listener_that_redirects_is_told_too() -> None:
    assert public(with_own_certificate())[0] == "load balancer alb: HTTP 80 (redirects), HTTPS 443 (forwards)"


def test_what_would_be_public_is_told(declare: Declare, graph_of: GraphOf) -> None:
    found = public(
        graph_of(
            declare("aws:rds/instance:Instance", "aviary-dev", publiclyAccessible=True),
            declare("aws:ecs/service:Service", "aviary-dev-emu", networkConfiguration={"assignPublicIp": True}),
            declare("aws:s3/bucket:Bucket", "aviary-dev-logs"),
        )
    )
    assert found == [
        "database aviary-dev has a public address",
        "tasks of emu have public addresses",
        "bucket logs may be made public",
    ]


def test_permissions_name_the_resources_of_the_stack(dev: Graph) -> None:
    work = {(p.task, action): p.shown for p in permissions(dev) if p.use == "work" for action in p.actions}
    assert work["emu", "sqs:ReceiveMessage"] == ("queue changes",)
    assert work["frontend", "rds-db:connect"] == ("database",)
    assert ("frontend", "sqs:SendMessage") not in work
    start = {(p.task, action): p.shown for p in permissions(dev) if p.use == "start" for action in p.actions}
    assert start["pelican", "secretsmanager:GetSecretValue"] == ("owner's secret of database",)
    assert start["emu", "ssm:GetParameters"] == ("parameter pinecone",)
    assert start["emu", "logs:PutLogEvents"] == ("log group emu",)
