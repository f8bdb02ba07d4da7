"""Who may reach whom: the whole security-group graph, and what of the stack the internet can see."""

from typing import NamedTuple

import pytest

from tests.infra.engine import Graph, Recorded, changed, whole, with_own_access_logs, with_own_certificate

INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
EGRESS = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
GROUP = "aws:ec2/securityGroup:SecurityGroup"
ENDPOINTS = '["sqs","ecr.api","ecr.dkr","logs","secretsmanager"]'


class Edge(NamedTuple):
    """One direction of traffic, as one side's rule allows it."""

    source: str
    target: str
    port: int


def edges(graph: Graph, stack: str) -> tuple[set[Edge], set[Edge]]:
    """What the receiving sides allow, and what the sending sides allow."""
    names = {group.id: group.name.removeprefix(f"aviary-{stack}-") for group in graph.all(GROUP)}

    def other(rule: Recorded) -> str:
        ends = [rule.inputs.get(key) for key in ("cidrIpv4", "cidrIpv6", "prefixListId")]
        return next((end for end in ends if end), None) or names[rule.inputs["referencedSecurityGroupId"]]

    def port(rule: Recorded) -> int:
        assert rule.inputs["ipProtocol"] == "tcp", rule.name
        assert rule.inputs["fromPort"] == rule.inputs["toPort"], rule.name
        return int(rule.inputs["fromPort"])

    def own(rule: Recorded) -> str:
        return names[rule.inputs["securityGroupId"]]

    incoming = {Edge(other(rule), own(rule), port(rule)) for rule in graph.all(INGRESS)}
    outgoing = {Edge(own(rule), other(rule), port(rule)) for rule in graph.all(EGRESS)}
    return incoming, outgoing


TASKS = ("frontend", "pelican", "emu", "reconcile")
LINKS = {
    Edge("load-balancer", "frontend", 8000),
    *(Edge(part, "database", 5432) for part in ("frontend", "pelican", "reconcile")),
}
WAY_OUT = {Edge(part, "0.0.0.0/0", 443) for part in TASKS}


def test_dev_has_exactly_these_ways_in_and_out() -> None:
    incoming, outgoing = edges(whole("dev"), "dev")
    assert incoming == LINKS | {Edge("0.0.0.0/0", "load-balancer", 80)}
    assert outgoing == LINKS | WAY_OUT


def test_prod_has_exactly_these_ways_in_and_out() -> None:
    incoming, outgoing = edges(whole("prod"), "prod")
    assert incoming == LINKS | {Edge("0.0.0.0/0", "load-balancer", 443)}
    assert outgoing == LINKS | WAY_OUT


def test_port_80_is_open_where_it_redirects() -> None:
    incoming, _ = edges(with_own_certificate(), "prod")
    assert incoming == LINKS | {Edge("0.0.0.0/0", "load-balancer", port) for port in (80, 443)}


def test_only_allowed_addresses_reach_the_load_balancer() -> None:
    graph = changed("dev", webAllowedCidrs='["203.0.113.0/24","198.51.100.7/32"]')
    incoming, _ = edges(graph, "dev")
    assert {edge.source for edge in incoming if edge.target == "load-balancer"} == {"203.0.113.0/24", "198.51.100.7/32"}


def test_with_private_endpoints_pelican_has_no_way_to_the_internet() -> None:
    graph = changed("dev", networkInterfaceEndpoints=ENDPOINTS)
    incoming, outgoing = edges(graph, "dev")
    to_endpoints = {Edge(part, "endpoints", 443) for part in TASKS}
    assert incoming == LINKS | to_endpoints | {Edge("0.0.0.0/0", "load-balancer", 80)}
    assert {edge for edge in outgoing if edge.source == "pelican"} == {
        Edge("pelican", "database", 5432),
        Edge("pelican", "endpoints", 443),
        Edge("pelican", "pl-aviary-dev-s3", 443),
    }


def test_with_some_private_endpoints_pelican_still_reaches_the_rest() -> None:
    graph = changed("dev", networkInterfaceEndpoints='["sqs"]')
    _, outgoing = edges(graph, "dev")
    assert Edge("pelican", "0.0.0.0/0", 443) in outgoing


def test_private_endpoints_stand_in_private_subnets_under_their_own_names() -> None:
    graph = changed("dev", networkInterfaceEndpoints=ENDPOINTS)
    found = [e for e in graph.all("aws:ec2/vpcEndpoint:VpcEndpoint") if e.inputs["vpcEndpointType"] == "Interface"]
    assert {endpoint.inputs["serviceName"].removeprefix("com.amazonaws.us-east-1.") for endpoint in found} == {
        "sqs",
        "ecr.api",
        "ecr.dkr",
        "logs",
        "secretsmanager",
    }
    for endpoint in found:
        assert endpoint.inputs["subnetIds"] == ["subnet-aviary-dev-private-1", "subnet-aviary-dev-private-2"]
        assert endpoint.inputs["securityGroupIds"] == ["sg-aviary-dev-endpoints"]
        assert endpoint.inputs["privateDnsEnabled"] is True


def test_no_rule_hides_inside_a_security_group(graph: Graph) -> None:
    for group in graph.all(GROUP, "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"):
        assert not group.inputs.get("ingress"), group.name
        assert not group.inputs.get("egress"), group.name


def test_the_default_security_group_is_closed(graph: Graph, stack: str) -> None:
    closed = graph.one("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", f"aviary-{stack}")
    assert closed.inputs == {"vpcId": f"vpc-aviary-{stack}"}


def test_nothing_but_the_load_balancer_is_public(graph: Graph, stack: str) -> None:
    (balancer,) = graph.all("aws:lb/loadBalancer:LoadBalancer")
    assert balancer.inputs["internal"] is False
    assert all(subnet.startswith(f"subnet-aviary-{stack}-public-") for subnet in balancer.inputs["subnets"])
    in_public_subnets = [r.name for r in graph.resources if "-public-1" in str(r.inputs)]
    assert in_public_subnets == [balancer.name]
    for service in graph.all("aws:ecs/service:Service"):
        network = service.inputs["networkConfiguration"]
        assert network["assignPublicIp"] is False
        assert all(subnet.startswith(f"subnet-aviary-{stack}-private-") for subnet in network["subnets"]), service.name
    (database,) = graph.all("aws:rds/instance:Instance")
    assert database.inputs["publiclyAccessible"] is False
    (subnets,) = graph.all("aws:rds/subnetGroup:SubnetGroup")
    assert all(subnet.startswith(f"subnet-aviary-{stack}-isolated-") for subnet in subnets.inputs["subnetIds"])


def test_each_part_stands_behind_its_own_group(graph: Graph, stack: str) -> None:
    for service in ("pelican", "emu", "frontend"):
        found = graph.one("aws:ecs/service:Service", f"aviary-{stack}-{service}")
        assert found.inputs["networkConfiguration"]["securityGroups"] == [f"sg-aviary-{stack}-{service}"]
    (database,) = graph.all("aws:rds/instance:Instance")
    assert database.inputs["vpcSecurityGroupIds"] == [f"sg-aviary-{stack}-database"]


def test_every_bucket_is_closed_to_the_public(stack: str) -> None:
    graph = with_own_access_logs(stack)
    closed = {
        block.inputs["bucket"]: block for block in graph.all("aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock")
    }
    buckets = graph.all("aws:s3/bucket:Bucket")
    assert buckets
    for bucket in buckets:
        block = closed[bucket.id].inputs
        keys = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
        assert all(block[key] is True for key in keys), bucket.name


@pytest.mark.parametrize(("stack", "strategy", "zones"), [("dev", "Single", 2), ("prod", "OnePerAz", 3)])
def test_dev_shares_one_nat_and_prod_has_one_in_each_zone(stack: str, strategy: str, zones: int) -> None:
    vpc = whole(stack).one("awsx:ec2:Vpc", f"aviary-{stack}").inputs
    assert vpc["natGateways"] == {"strategy": strategy}
    assert vpc["numberOfAvailabilityZones"] == zones
    assert [spec["type"] for spec in vpc["subnetSpecs"]] == ["Public", "Private", "Isolated"]


def test_image_layers_come_through_the_free_endpoint_of_s3(graph: Graph, stack: str) -> None:
    endpoint = graph.one("aws:ec2/vpcEndpoint:VpcEndpoint", f"aviary-{stack}-s3").inputs
    assert endpoint["vpcEndpointType"] == "Gateway"
    assert endpoint["serviceName"] == "com.amazonaws.us-east-1.s3"
    assert endpoint["routeTableIds"] == ["rtb-public", "rtb-private", "rtb-isolated"]


def test_the_connections_of_the_network_are_recorded(graph: Graph, stack: str) -> None:
    flow = graph.one("aws:ec2/flowLog:FlowLog", f"aviary-{stack}").inputs
    assert flow["trafficType"] == "ALL"
    assert flow["vpcId"] == f"vpc-aviary-{stack}"


def test_flow_logs_can_be_switched_off() -> None:
    assert not changed("dev", networkFlowLogs="false").all("aws:ec2/flowLog:FlowLog")
