"""The network: public subnets for the load balancer, private ones for the tasks, isolated ones for the database."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws
import pulumi_awsx as awsx

from components.account import Account, allow, assumed_by, policy
from components.config import Network as NetworkConfig

NAT_STRATEGIES = {
    "single": awsx.ec2.NatGatewayStrategy.SINGLE,
    "one-per-zone": awsx.ec2.NatGatewayStrategy.ONE_PER_AZ,
}


@dataclass(frozen=True, kw_only=True)
class NetworkArgs:
    account: Account
    config: NetworkConfig
    key_arn: pulumi.Input[str]
    log_retention_days: int


class Network(pulumi.ComponentResource):
    """A VPC whose own default security group lets nothing through. Isolated subnets have no way to the internet."""

    vpc_id: pulumi.Output[str]
    public_subnet_ids: pulumi.Output[list[str]]
    private_subnet_ids: pulumi.Output[list[str]]
    isolated_subnet_ids: pulumi.Output[list[str]]
    s3_prefix_list_id: pulumi.Output[str]

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:network:Network", name, None, opts)
        vpc = awsx.ec2.Vpc(
            name,
            cidr_block=args.config.cidr,
            number_of_availability_zones=args.config.zones,
            enable_dns_hostnames=True,  # private endpoints are found by name
            nat_gateways=awsx.ec2.NatGatewayConfigurationArgs(strategy=NAT_STRATEGIES[args.config.nat_gateways]),
            subnet_strategy=awsx.ec2.SubnetAllocationStrategy.AUTO,
            subnet_specs=[
                awsx.ec2.SubnetSpecArgs(type=awsx.ec2.SubnetType.PUBLIC),
                awsx.ec2.SubnetSpecArgs(type=awsx.ec2.SubnetType.PRIVATE),
                awsx.ec2.SubnetSpecArgs(type=awsx.ec2.SubnetType.ISOLATED),
            ],
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.vpc_id = vpc.vpc_id
        self.public_subnet_ids = vpc.public_subnet_ids.apply(list)
        self.private_subnet_ids = vpc.private_subnet_ids.apply(list)
        self.isolated_subnet_ids = vpc.isolated_subnet_ids.apply(list)
        self._child = pulumi.ResourceOptions(parent=self)

        aws.ec2.DefaultSecurityGroup(name, vpc_id=self.vpc_id, opts=self._child)
        # Image layers come from S3, so this spares the NAT most of its traffic, and costs nothing. awsx does not say
        # which route tables are private; a route to S3 in the other ones lets nobody do more.
        s3 = aws.ec2.VpcEndpoint(
            f"{name}-s3",
            vpc_id=self.vpc_id,
            service_name=f"com.amazonaws.{args.account.region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=vpc.route_tables.apply(lambda tables: [table.id for table in tables]),
            opts=self._child,
        )
        self.s3_prefix_list_id = s3.prefix_list_id
        if args.config.flow_logs:
            self._flow_logs(name, args)
        self.register_outputs(
            {
                "vpc_id": self.vpc_id,
                "public_subnet_ids": self.public_subnet_ids,
                "private_subnet_ids": self.private_subnet_ids,
                "isolated_subnet_ids": self.isolated_subnet_ids,
                "s3_prefix_list_id": self.s3_prefix_list_id,
            }
        )

    def _flow_logs(self, name: str, args: NetworkArgs) -> None:
        log_group = aws.cloudwatch.LogGroup(
            f"{name}-flow", retention_in_days=args.log_retention_days, kms_key_id=args.key_arn, opts=self._child
        )
        role = aws.iam.Role(
            f"{name}-flow",
            assume_role_policy=assumed_by(
                "vpc-flow-logs.amazonaws.com", args.account, args.account.arn("ec2", "vpc-flow-log/*")
            ),
            opts=self._child,
        )
        writing = aws.iam.RolePolicy(
            f"{name}-flow",
            role=role.id,
            policy=policy(
                # The streams are named after network interfaces that do not exist yet.
                allow(
                    ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
                    [log_group.arn, pulumi.Output.concat(log_group.arn, ":log-stream:*")],
                ),
                # The service looks its group up in a list, which AWS grants for all groups or none.
                # https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-iam-role.html
                allow(["logs:DescribeLogGroups"], [args.account.arn("logs", "log-group:*")]),
            ),
            opts=self._child,
        )
        aws.ec2.FlowLog(
            name,
            vpc_id=self.vpc_id,
            traffic_type="ALL",
            log_destination=log_group.arn,
            iam_role_arn=role.arn,
            max_aggregation_interval=600,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[writing]),
        )


@dataclass(frozen=True, kw_only=True)
class EndpointsArgs:
    """`services` as in `com.amazonaws.<region>.<service>`."""

    region: str
    services: tuple[str, ...]
    vpc_id: pulumi.Input[str]
    subnet_ids: pulumi.Input[list[str]]
    security_group_id: pulumi.Input[str]


class Endpoints(pulumi.ComponentResource):
    """Private endpoints of AWS services in the private subnets: each costs some 7 $ a month and zone."""

    def __init__(self, name: str, args: EndpointsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:network:Endpoints", name, None, opts)
        for service in args.services:
            aws.ec2.VpcEndpoint(
                f"{name}-{service.replace('.', '-')}",
                vpc_id=args.vpc_id,
                service_name=f"com.amazonaws.{args.region}.{service}",
                vpc_endpoint_type="Interface",
                private_dns_enabled=True,
                subnet_ids=args.subnet_ids,
                security_group_ids=[args.security_group_id],
                opts=pulumi.ResourceOptions(parent=self),
            )
        self.register_outputs({})
