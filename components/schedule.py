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
    once."""

    account: Account
    task: TaskArgs
    cluster_arn: pulumi.Input[str]
    subnet_ids: pulumi.Input[list[str]]
    security_group_id: pulumi.Input[str]
    hours: int
    spot: bool
    key_arn: pulumi.Input[str]
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
        group = aws.scheduler.ScheduleGroup(name, opts=child)
        # A schedule group, because a role that only one schedule may assume cannot be made before it.
        # https://docs.aws.amazon.com/scheduler/latest/UserGuide/cross-service-confused-deputy-prevention.html
        role = aws.iam.Role(
            f"{name}-schedule",
            assume_role_policy=assumed_by("scheduler.amazonaws.com", args.account, group.arn),
            opts=child,
        )
        via = f"scheduler.{args.account.region}.amazonaws.com"
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
                allow(["kms:Decrypt"], [args.key_arn], Condition={"StringEquals": {"kms:ViaService": via}}),
            ),
            opts=child,
        )
        schedule = aws.scheduler.Schedule(
            name,
            group_name=group.name,
            schedule_expression=f"rate({args.hours} hour{'s' * (args.hours > 1)})",
            flexible_time_window=aws.scheduler.ScheduleFlexibleTimeWindowArgs(mode="OFF"),
            kms_key_arn=args.key_arn,
            target=aws.scheduler.ScheduleTargetArgs(
                arn=args.cluster_arn,
                role_arn=role.arn,
                ecs_parameters=aws.scheduler.ScheduleTargetEcsParametersArgs(
                    task_definition_arn=self.task.definition_arn,
                    task_count=1,
                    platform_version="LATEST",
                    enable_ecs_managed_tags=False,
                    capacity_provider_strategies=[
                        aws.scheduler.ScheduleTargetEcsParametersCapacityProviderStrategyArgs(
                            capacity_provider="FARGATE_SPOT" if args.spot else "FARGATE", weight=1
                        )
                    ],
                    network_configuration=aws.scheduler.ScheduleTargetEcsParametersNetworkConfigurationArgs(
                        subnets=args.subnet_ids, security_groups=[args.security_group_id], assign_public_ip=False
                    ),
                ),
                retry_policy=aws.scheduler.ScheduleTargetRetryPolicyArgs(
                    maximum_retry_attempts=RETRIES, maximum_event_age_in_seconds=RETRY_SECONDS
                ),
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[allowed, *args.before]),
        )
        self.schedule_arn = schedule.arn
        self.register_outputs({"schedule_arn": self.schedule_arn})
