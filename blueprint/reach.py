"""Who may open connections to whom, computed from the recorded rules of all security groups, and what is public."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from blueprint.graph import Graph, Resource

ANYWHERE = frozenset({"0.0.0.0/0", "::/0"})
INTERNET = "internet"


class Port(NamedTuple):
    """An inclusive range; protocol -1 is all of them."""

    protocol: str
    first: int
    last: int

    def __str__(self) -> str:
        if self.protocol == "-1":
            return "everything"
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return ports if self.protocol == "tcp" else f"{self.protocol} {ports}"


class Link(NamedTuple):
    """`source` may open connections to `target`. Either is a group's short name, an address range, a prefix list or
    `internet`. A link between two groups exists only when a rule on each side lets it through."""

    source: str
    target: str
    port: Port


@dataclass(frozen=True, kw_only=True)
class Reach:
    """`half` are links that one side allows and the other does not: nothing passes, and one rule is left over."""

    links: tuple[Link, ...]
    half: tuple[Link, ...]


class _Rule(NamedTuple):
    group: str
    inward: bool
    peer: str  # a group's id, or what an address is shown as
    port: Port


def reach(graph: Graph) -> Reach:
    """All links of the stack, sorted."""
    groups = {group.id: graph.short_name(group.name) for group in graph.of("aws:ec2:SecurityGroup")}
    inward: set[Link] = set()
    outward: set[Link] = set()
    for rule in _rules(graph):
        source, target = (rule.peer, rule.group) if rule.inward else (rule.group, rule.peer)
        link = Link(groups.get(source, source), groups.get(target, target), rule.port)
        (inward if rule.inward else outward).add(link)
    names = set(groups.values())
    between = {link for link in inward | outward if link.source in names and link.target in names}
    outside = (inward | outward) - between
    both = between & inward & outward
    return Reach(links=tuple(sorted(outside | both)), half=tuple(sorted(between - both)))


def _rules(graph: Graph) -> Iterator[_Rule]:
    for resource in graph.of("aws:vpc:SecurityGroupIngressRule", "aws:vpc:SecurityGroupEgressRule"):
        given = resource.inputs
        for key in ("referencedSecurityGroupId", "cidrIpv4", "cidrIpv6", "prefixListId"):
            if given.get(key):
                inward = "Ingress" in resource.type
                yield _Rule(given["securityGroupId"], inward, _peer(graph, given[key]), _port(given, "ipProtocol"))
    for group in graph.of("aws:ec2:SecurityGroup", "aws:ec2:DefaultSecurityGroup"):
        for direction in ("ingress", "egress"):
            for given in group.inputs.get(direction) or []:
                for key in ("securityGroups", "cidrBlocks", "ipv6CidrBlocks", "prefixListIds"):
                    for peer in given.get(key) or []:
                        yield _Rule(group.id, direction == "ingress", _peer(graph, peer), _port(given, "protocol"))
    for old in graph.of("aws:ec2:SecurityGroupRule"):
        raise ValueError(f"{old.name} is an aws.ec2.SecurityGroupRule, which is not read here; use aws.vpc's rules")


def _port(given: Any, protocol: str) -> Port:
    return Port(str(given.get(protocol)), int(given.get("fromPort") or 0), int(given.get("toPort") or 0))


def _peer(graph: Graph, peer: str) -> str:
    if peer in ANYWHERE:
        return INTERNET
    if peer.startswith("pl-"):
        found = next((e for e in graph.of("aws:ec2:VpcEndpoint") if e.outputs.get("prefixListId") == peer), None)
        return service_name(found) if found else peer
    return peer


def service_name(endpoint: Resource) -> str:
    """`com.amazonaws.us-east-1.ecr.api` → `ecr.api`."""
    return str(endpoint.inputs["serviceName"]).split(".", 3)[-1]


def public(graph: Graph) -> list[str]:
    """Sentences: everything that somebody outside the VPC can reach, and everything that could be made to be."""
    found = []
    for balancer in graph.of("aws:lb:LoadBalancer"):
        if balancer.inputs.get("internal"):
            continue
        listeners = [r for r in graph.of("aws:lb:Listener") if r.inputs["loadBalancerArn"] == balancer.arn]
        does = sorted((int(r.inputs["port"]), _listens(r)) for r in listeners)
        found.append(f"load balancer {graph.short_name(balancer.name)}: " + ", ".join(text for _, text in does))
    found += [
        f"security group {link.target}: port {link.port} from {link.source}"
        for link in reach(graph).links
        if link.source == INTERNET or "/" in link.source
    ]
    found += [
        f"database {graph.short_name(database.name)} has a public address"
        for database in graph.of("aws:rds:Instance")
        if database.inputs.get("publiclyAccessible")
    ]
    found += [
        f"tasks of {graph.short_name(service.name)} have public addresses"
        for service in graph.of("aws:ecs:Service")
        if (service.inputs.get("networkConfiguration") or {}).get("assignPublicIp")
    ]
    blocked = {
        r.inputs["bucket"]
        for r in graph.of("aws:s3:BucketPublicAccessBlock")
        if all(r.inputs.get(k) for k in ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls"))
    }
    found += [
        f"bucket {graph.short_name(bucket.name)} may be made public"
        for bucket in graph.of("aws:s3:Bucket")
        if bucket.id not in blocked
    ]
    return found


def _listens(listener: Resource) -> str:
    action = listener.inputs["defaultActions"][0]["type"]
    return f"{listener.inputs['protocol']} {listener.inputs['port']} ({action}s)"
