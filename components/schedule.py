"""A task started by a clock, in the cluster of a service: it runs, and ends by itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.account import Account, allow, assumed_by, policy
from components.task import Task, TaskArgs

# When ECS takes the order for a task and has no room for it, or is away.
RETRIES = 5
RETRY_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class ScheduledTaskArgs:
    """`hours`: from one start to the next. `before`: resources that must exist before the first start, which comes at
    once or one period later."""

    account: Account
    task: TaskArgs
    cluster_arn: pulumi.Input[str]
    subnet_ids: pulumi.Input[list[str]]
    security_group_id: pulumi.Input[str]
    hours: int
    spot: bool
    before: Sequence[pulumi.Resource] = ()


class ScheduledTask(pulumi.ComponentResource):
    """The schedule may start this one task, in this one cluster, and nothing else."""

    task: Task
    schedule_arn: pulumi.Output[str]

    def __init__(
        self, name: str, container: str, args: ScheduledTaskArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("aviary:service:ScheduledTask", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        self.task = Task(name, container, args.task, opts=child)
        rule = aws.cloudwatch.EventRule(
            name, schedule_expression=f"rate({args.hours} hour{'s' * (args.hours > 1)})", opts=child
        )
        role = aws.iam.Role(
            f"{name}-schedule",
            assume_role_policy=assumed_by("events.amazonaws.com", args.account, rule.arn),
            opts=child,
        )
        allowed = aws.iam.RolePolicy(
            f"{name}-schedule",
            role=role.id,
            policy=policy(
                allow(
                    ["ecs:RunTask"],
                    [self.task.definition_arn],
                    Condition={"ArnEquals": {"ecs:cluster": args.cluster_arn}},
                ),
                allow(
                    ["iam:PassRole"],
                    [self.task.execution_role_arn, self.task.role_arn],
                    Condition={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
                ),
            ),
            opts=child,
        )
        aws.cloudwatch.EventTarget(
            name,
            rule=rule.name,
            arn=args.cluster_arn,
            role_arn=role.arn,
            ecs_target=aws.cloudwatch.EventTargetEcsTargetArgs(
                task_definition_arn=self.task.definition_arn,
                task_count=1,
                platform_version="LATEST",
                capacity_provider_strategies=[
                    aws.cloudwatch.EventTargetEcsTargetCapacityProviderStrategyArgs(
                        capacity_provider="FARGATE_SPOT" if args.spot else "FARGATE", weight=1
                    )
                ],
                network_configuration=aws.cloudwatch.EventTargetEcsTargetNetworkConfigurationArgs(
                    subnets=args.subnet_ids, security_groups=[args.security_group_id], assign_public_ip=False
                ),
            ),
            retry_policy=aws.cloudwatch.EventTargetRetryPolicyArgs(
                maximum_retry_attempts=RETRIES, maximum_event_age_in_seconds=RETRY_SECONDS
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[allowed, *args.before]),
        )
        self.schedule_arn = rule.arn
        self.register_outputs({"schedule_arn": self.schedule_arn})
