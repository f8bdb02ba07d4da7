"""A task kept running: a cluster of its own, a Fargate service in private subnets, and its scaling."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.task import Task, TaskArgs

# A task that stops for Spot, or is replaced, must not be counted as gone before its successor is there.
MINIMUM_HEALTHY_PERCENT = 100
MAXIMUM_PERCENT = 200
# From the start of a task until the load balancer may call it unhealthy: image, model and first connections.
GRACE_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class FargateServiceArgs:
    """`before`: resources that must exist before the first task starts."""

    task: TaskArgs
    subnet_ids: pulumi.Input[list[str]]
    security_group_id: pulumi.Input[str]
    desired_count: int
    spot: bool
    container_insights: str
    wait_for_steady_state: bool
    target_group_arn: pulumi.Input[str] | None = None
    before: Sequence[pulumi.Resource] = ()


class FargateService(pulumi.ComponentResource):
    """A service that rolls back by itself when a deployment fails. The number of tasks belongs to the scaling after the
    first deployment."""

    task: Task
    service: aws.ecs.Service
    cluster_name: pulumi.Output[str]
    cluster_arn: pulumi.Output[str]
    service_name: pulumi.Output[str]

    def __init__(
        self, name: str, container: str, args: FargateServiceArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("aviary:service:FargateService", name, None, opts)
        self._child = pulumi.ResourceOptions(parent=self)
        self.task = Task(name, container, args.task, opts=self._child)
        provider = "FARGATE_SPOT" if args.spot else "FARGATE"
        cluster, ready = self._cluster(name, provider, args)
        self.service = aws.ecs.Service(
            name,
            cluster=cluster.arn,
            task_definition=self.task.definition_arn,
            desired_count=args.desired_count,
            capacity_provider_strategies=[
                aws.ecs.ServiceCapacityProviderStrategyArgs(capacity_provider=provider, weight=1)
            ],
            platform_version="LATEST",
            network_configuration=aws.ecs.ServiceNetworkConfigurationArgs(
                subnets=args.subnet_ids, security_groups=[args.security_group_id], assign_public_ip=False
            ),
            load_balancers=_behind(container, args),
            health_check_grace_period_seconds=None if args.target_group_arn is None else GRACE_SECONDS,
            deployment_minimum_healthy_percent=MINIMUM_HEALTHY_PERCENT,
            deployment_maximum_percent=MAXIMUM_PERCENT,
            deployment_circuit_breaker=aws.ecs.ServiceDeploymentCircuitBreakerArgs(enable=True, rollback=True),
            enable_ecs_managed_tags=True,
            enable_execute_command=False,
            propagate_tags="SERVICE",
            wait_for_steady_state=args.wait_for_steady_state,
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[*ready, *args.before], ignore_changes=["desired_count"]
            ),
        )
        self.cluster_name = cluster.name
        self.cluster_arn = cluster.arn
        self.service_name = self.service.name
        self.register_outputs(
            {"cluster_name": self.cluster_name, "cluster_arn": self.cluster_arn, "service_name": self.service_name}
        )

    def _cluster(
        self, name: str, provider: str, args: FargateServiceArgs
    ) -> tuple[aws.ecs.Cluster, list[pulumi.Resource]]:
        """The cluster, and what must stand beside it before its first task."""
        cluster = aws.ecs.Cluster(
            name,
            settings=[aws.ecs.ClusterSettingArgs(name="containerInsights", value=args.container_insights)],
            opts=self._child,
        )
        ready: list[pulumi.Resource] = [
            aws.ecs.ClusterCapacityProviders(
                name,
                cluster_name=cluster.name,
                capacity_providers=["FARGATE", "FARGATE_SPOT"],
                default_capacity_provider_strategies=[
                    aws.ecs.ClusterCapacityProvidersDefaultCapacityProviderStrategyArgs(
                        capacity_provider=provider, weight=1
                    )
                ],
                opts=self._child,
            )
        ]
        if args.container_insights != "disabled":
            # With the first task ECS would make this group by itself, without an end to its lines.
            ready.append(
                aws.cloudwatch.LogGroup(
                    f"{name}-insights",
                    name=pulumi.Output.concat("/aws/ecs/containerinsights/", cluster.name, "/performance"),
                    retention_in_days=args.task.log_retention_days,
                    kms_key_id=args.task.key_arn,
                    opts=self._child,
                )
            )
        return cluster, ready


def _behind(container: str, args: FargateServiceArgs) -> list[aws.ecs.ServiceLoadBalancerArgs]:
    if args.target_group_arn is None:
        return []
    if args.task.port is None:
        raise ValueError(f"{container} is to stand behind a load balancer, but its task has no port; give it one")
    return [
        aws.ecs.ServiceLoadBalancerArgs(
            target_group_arn=args.target_group_arn, container_name=container, container_port=args.task.port
        )
    ]
