"""Who may reach whom, whole: every security group and every rule of the stack stands here.

    allowed addresses ──443, 80──► load balancer ──8000──► frontend ──┐
                                                                      ├──5432──► database
                                                          Pelican ────┘
    reconcile, operator ──5432──► database
    frontend, Pelican, Emu, reconcile, operator ──443──► AWS and Pinecone (private endpoints where there are any)

The operator's task stands behind reconcile's group. Nothing else comes in anywhere, and the database reaches nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

HTTP_PORT = 80
HTTPS_PORT = 443
FRONTEND_PORT = 8000
POSTGRES_PORT = 5432
ANYWHERE = "0.0.0.0/0"
# What a Pelican task calls, its start by ECS included. With private endpoints for all of these it needs no way out.
PELICAN_CALLS = frozenset({"ecr.api", "ecr.dkr", "logs", "secretsmanager", "sqs"})


@dataclass(frozen=True, kw_only=True)
class SecurityGroupsArgs:
    """`http`, `https`: the load balancer listens on 80, on 443. `endpoints`: AWS services that have private endpoints."""

    vpc_id: pulumi.Input[str]
    allowed_cidrs: Sequence[str]
    http: bool
    https: bool
    endpoints: Sequence[str]
    s3_prefix_list_id: pulumi.Input[str]


class SecurityGroups(pulumi.ComponentResource):
    """The groups, each for one part of the system. Attributes are group ids."""

    load_balancer: pulumi.Output[str]
    frontend: pulumi.Output[str]
    pelican: pulumi.Output[str]
    emu: pulumi.Output[str]
    reconcile: pulumi.Output[str]
    database: pulumi.Output[str]
    endpoints: pulumi.Output[str] | None

    def __init__(self, name: str, args: SecurityGroupsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:network:SecurityGroups", name, None, opts)
        self._name = name
        self._child = pulumi.ResourceOptions(parent=self)
        self.load_balancer = self._group("load-balancer", args, "Public load balancer")
        self.frontend = self._group("frontend", args, "Frontend tasks")
        self.pelican = self._group("pelican", args, "Pelican tasks")
        self.emu = self._group("emu", args, "Emu tasks")
        self.reconcile = self._group("reconcile", args, "Scheduled tasks that compare table and index")
        self.database = self._group("database", args, "Postgres")
        self.endpoints = self._group("endpoints", args, "Private endpoints") if args.endpoints else None

        for port in [*([HTTP_PORT] if args.http else []), *([HTTPS_PORT] if args.https else [])]:
            for number, cidr in enumerate(args.allowed_cidrs):
                self._in_from_addresses("load-balancer", self.load_balancer, cidr, port, number)
        self._link("load-balancer", self.load_balancer, "frontend", self.frontend, FRONTEND_PORT)
        self._link("frontend", self.frontend, "database", self.database, POSTGRES_PORT)
        self._link("pelican", self.pelican, "database", self.database, POSTGRES_PORT)
        self._link("reconcile", self.reconcile, "database", self.database, POSTGRES_PORT)

        for part, group in (
            ("frontend", self.frontend),
            ("pelican", self.pelican),
            ("emu", self.emu),
            ("reconcile", self.reconcile),
        ):
            if self.endpoints is not None:
                self._link(part, group, "endpoints", self.endpoints, HTTPS_PORT)
            if part == "pelican" and set(args.endpoints) >= PELICAN_CALLS:
                self._out_to_s3(part, group, args.s3_prefix_list_id)
            else:
                # Pinecone's and AWS's public addresses change and are published nowhere as a short list.
                self._out_anywhere(part, group)
        self.register_outputs(
            {
                "load_balancer": self.load_balancer,
                "frontend": self.frontend,
                "pelican": self.pelican,
                "emu": self.emu,
                "reconcile": self.reconcile,
                "database": self.database,
                "endpoints": self.endpoints,
            }
        )

    def _group(self, part: str, args: SecurityGroupsArgs, description: str) -> pulumi.Output[str]:
        group = aws.ec2.SecurityGroup(
            f"{self._name}-{part}", vpc_id=args.vpc_id, description=description, opts=self._child
        )
        return group.id

    def _link(
        self, source: str, sender: pulumi.Output[str], target: str, receiver: pulumi.Output[str], port: int
    ) -> None:
        """Let one group open connections to another: a rule on each side."""
        aws.vpc.SecurityGroupEgressRule(
            f"{self._name}-{source}-to-{target}",
            security_group_id=sender,
            referenced_security_group_id=receiver,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            description=f"To {target}",
            opts=self._child,
        )
        aws.vpc.SecurityGroupIngressRule(
            f"{self._name}-{target}-from-{source}",
            security_group_id=receiver,
            referenced_security_group_id=sender,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            description=f"From {source}",
            opts=self._child,
        )

    def _in_from_addresses(self, part: str, group: pulumi.Output[str], cidr: str, port: int, number: int) -> None:
        aws.vpc.SecurityGroupIngressRule(
            f"{self._name}-{part}-{port}-{number}",
            security_group_id=group,
            cidr_ipv4=cidr,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            description="From allowed addresses",
            opts=self._child,
        )

    def _out_anywhere(self, part: str, group: pulumi.Output[str]) -> None:
        aws.vpc.SecurityGroupEgressRule(
            f"{self._name}-{part}-https",
            security_group_id=group,
            cidr_ipv4=ANYWHERE,
            ip_protocol="tcp",
            from_port=HTTPS_PORT,
            to_port=HTTPS_PORT,
            description="To AWS and Pinecone over TLS",
            opts=self._child,
        )

    def _out_to_s3(self, part: str, group: pulumi.Output[str], prefix_list_id: pulumi.Input[str]) -> None:
        aws.vpc.SecurityGroupEgressRule(
            f"{self._name}-{part}-s3",
            security_group_id=group,
            prefix_list_id=prefix_list_id,
            ip_protocol="tcp",
            from_port=HTTPS_PORT,
            to_port=HTTPS_PORT,
            description="To S3, where the layers of images are",
            opts=self._child,
        )
