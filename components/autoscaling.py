"""How many tasks a service runs: by its CPU, by the work that waits for each task, and by how long work has waited."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components import metrics
from components.metrics import Metric

SCALE_OUT_COOLDOWN_SECONDS = 60
# Longer than the pauses between bursts, because a new Emu has to load its model.
SCALE_IN_COOLDOWN_SECONDS = 300
PERIOD_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """Work that waits for the service: `depth` is kept at `per_task` for each task, and when `age` (seconds) passes
    `max_age_seconds` there are more tasks whatever the depth, because one slow change is late too."""

    depth: Metric
    per_task: int
    age: Metric
    max_age_seconds: int


@dataclass(frozen=True, kw_only=True)
class AutoscalingArgs:
    cluster_name: pulumi.Input[str]
    service_name: pulumi.Input[str]
    min_tasks: int
    max_tasks: int
    cpu_percent: int
    backlog: Backlog | None = None


class Autoscaling(pulumi.ComponentResource):
    """Policies on the service's number of tasks. The most that any of them asks for is what runs."""

    def __init__(self, name: str, args: AutoscalingArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:service:Autoscaling", name, None, opts)
        self._child = pulumi.ResourceOptions(parent=self)
        self._target = aws.appautoscaling.Target(
            name,
            service_namespace="ecs",
            scalable_dimension="ecs:service:DesiredCount",
            resource_id=pulumi.Output.concat("service/", args.cluster_name, "/", args.service_name),
            min_capacity=args.min_tasks,
            max_capacity=args.max_tasks,
            opts=self._child,
        )
        self._track(
            f"{name}-cpu",
            {
                "predefined_metric_specification": {"predefined_metric_type": "ECSServiceAverageCPUUtilization"},
                "target_value": float(args.cpu_percent),
            },
        )
        if args.backlog is not None:
            tasks = metrics.service(args.cluster_name, args.service_name, "CPUUtilization", "SampleCount")
            self._backlog_per_task(f"{name}-backlog", args.backlog, tasks)
            self._age(f"{name}-age", args.backlog)
        self.register_outputs({})

    def _track(
        self, name: str, configuration: "aws.appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationArgsDict"
    ) -> None:
        configuration["scale_in_cooldown"] = SCALE_IN_COOLDOWN_SECONDS
        configuration["scale_out_cooldown"] = SCALE_OUT_COOLDOWN_SECONDS
        aws.appautoscaling.Policy(
            name,
            policy_type="TargetTrackingScaling",
            service_namespace=self._target.service_namespace,
            scalable_dimension=self._target.scalable_dimension,
            resource_id=self._target.resource_id,
            target_tracking_scaling_policy_configuration=configuration,
            opts=self._child,
        )

    def _backlog_per_task(self, name: str, backlog: Backlog, tasks: Metric) -> None:
        """Each running task adds one sample a minute to the service's CPU metric, so their count is the number of tasks;
        Container Insights would tell the same for money.
        https://docs.aws.amazon.com/AmazonECS/latest/userguide/cloudwatch-metrics.html

        Neither metric is there when nothing happens: no depth is an empty one, no task is about to be one."""
        self._track(
            name,
            {
                "customized_metric_specification": {
                    "metrics": [
                        {"id": "depth", "return_data": False, "metric_stat": _statistic(backlog.depth)},
                        {"id": "tasks", "return_data": False, "metric_stat": _statistic(tasks)},
                        {"id": "per_task", "expression": "FILL(depth, 0) / FILL(tasks, 1)", "return_data": True},
                    ]
                },
                "target_value": float(backlog.per_task),
            },
        )

    def _age(self, name: str, backlog: Backlog) -> None:
        more = aws.appautoscaling.Policy(
            name,
            policy_type="StepScaling",
            service_namespace=self._target.service_namespace,
            scalable_dimension=self._target.scalable_dimension,
            resource_id=self._target.resource_id,
            step_scaling_policy_configuration={
                "adjustment_type": "ChangeInCapacity",
                "cooldown": SCALE_OUT_COOLDOWN_SECONDS,
                "metric_aggregation_type": "Maximum",
                # Bounds are relative to the alarm's threshold.
                "step_adjustments": [
                    {
                        "metric_interval_lower_bound": "0",
                        "metric_interval_upper_bound": str(backlog.max_age_seconds * 4),
                        "scaling_adjustment": 1,
                    },
                    {"metric_interval_lower_bound": str(backlog.max_age_seconds * 4), "scaling_adjustment": 2},
                ],
            },
            opts=self._child,
        )
        aws.cloudwatch.MetricAlarm(
            name,
            alarm_description=f"A change waits longer than {backlog.max_age_seconds} s: one more task, then two",
            namespace=backlog.age.namespace,
            metric_name=backlog.age.name,
            dimensions=dict(backlog.age.dimensions),
            statistic=backlog.age.statistic,
            period=PERIOD_SECONDS,
            evaluation_periods=2,
            comparison_operator="GreaterThanThreshold",
            threshold=backlog.max_age_seconds,
            treat_missing_data="notBreaching",
            alarm_actions=[more.arn],
            opts=self._child,
        )


def _statistic(
    metric: Metric,
) -> "aws.appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationCustomizedMetricSpecificationMetricMetricStatArgsDict":
    return {
        "stat": metric.statistic,
        "metric": {
            "namespace": metric.namespace,
            "metric_name": metric.name,
            "dimensions": [{"name": name, "value": value} for name, value in metric.dimensions.items()],
        },
    }
