"""What people are told of, and when."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pulumi
import pulumi_aws as aws

from components import metrics
from components.metrics import Metric

GIB = 2**30
MIB = 2**20
# A run itself takes some minutes, and its start may be retried for an hour.
RECONCILE_LATE_HOURS = 3


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service and the fewest tasks that it may have."""

    cluster_name: pulumi.Output[str]
    service_name: pulumi.Output[str]
    min_tasks: int


@dataclass(frozen=True, kw_only=True)
class AlarmsArgs:
    """`load_balancer`: the dimensions of its metrics. `reconcile_hours`: 0 where no comparison is scheduled."""

    topic_arn: pulumi.Input[str]
    queue_name: pulumi.Input[str]
    dlq_name: pulumi.Input[str]
    load_balancer: Mapping[str, pulumi.Output[str]]
    database_identifier: pulumi.Input[str]
    database_storage_gb: int
    reconcile_hours: int
    services: Mapping[str, Service]


class Alarms(pulumi.ComponentResource):
    """One alarm for each way in which the system fails its users. Each tells the topic when it begins and when it ends."""

    def __init__(self, name: str, args: AlarmsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:observability:Alarms", name, None, opts)
        self._name = name
        self._topic_arn = args.topic_arn
        self._changes(args)
        self._searches(args)
        self._database(args)
        for service, running in args.services.items():
            self._service(service, running)
        self.register_outputs({})

    def _changes(self, args: AlarmsArgs) -> None:
        self._alarm(
            "dead-letters",
            "Rows were set aside that could not be processed: docs/operate.md says how to look at them",
            metrics.queue(args.dlq_name, "ApproximateNumberOfMessagesVisible", "Maximum"),
            above=0,
            minutes=1,
        )
        self._alarm(
            "queue-age",
            "Changes wait in the queue for more than five minutes: Emu is down, or too slow",
            metrics.queue(args.queue_name, "ApproximateAgeOfOldestMessage", "Maximum"),
            above=300,
            minutes=3,
        )
        self._alarm(
            "outbox-age",
            "Live changes wait in the outbox for more than five minutes: Pelican is down, or SQS refuses",
            metrics.OUTBOX_LIVE_AGE_SECONDS,
            above=300,
            minutes=3,
        )
        self._alarm(
            "freshness",
            "It takes changes more than a minute to become searchable",
            metrics.FRESHNESS_P99,
            above=60_000,
            minutes=5,
        )
        self._alarm("emu-errors", "Emu meets error after error", metrics.EMU_ERRORS, above=10, minutes=5)

        if args.reconcile_hours:
            self._reconcile(args.reconcile_hours)

    def _reconcile(self, hours: int) -> None:
        self._alarm(
            "drift",
            "Table and index were out of step: docs/operate.md says what to look at, also where it was repaired",
            metrics.DRIFT,
            above=0,
            minutes=1,
        )
        self._alarm(
            "reconcile-absent",
            "No comparison of tables and index has ended in time: it fails, takes too long, or is not started",
            metrics.RECONCILED,
            below=1,
            minutes=(hours + RECONCILE_LATE_HOURS) * 60,
            period_minutes=60,
            missing="breaching",
        )

    def _searches(self, args: AlarmsArgs) -> None:
        whole = {"LoadBalancer": args.load_balancer["LoadBalancer"]}
        self._alarm(
            "server-errors",
            "The frontend answers with errors",
            metrics.load_balancer(whole, "HTTPCode_Target_5XX_Count", "Sum"),
            above=10,
            minutes=5,
        )
        self._alarm(
            "no-answer",
            "The load balancer finds no frontend to ask",
            metrics.load_balancer(whole, "HTTPCode_ELB_5XX_Count", "Sum"),
            above=10,
            minutes=5,
        )
        self._alarm(
            "slow",
            "One request in a hundred takes longer than a second",
            metrics.load_balancer(whole, "TargetResponseTime", "p99"),
            above=1,
            minutes=15,
        )
        self._alarm(
            "unhealthy",
            "A frontend task is not ready",
            metrics.load_balancer(args.load_balancer, "UnHealthyHostCount", "Maximum"),
            above=0,
            minutes=10,
        )

    def _database(self, args: AlarmsArgs) -> None:
        def metric(name: str, statistic: str) -> Metric:
            return metrics.database(args.database_identifier, name, statistic)

        self._alarm(
            "database-cpu",
            "The database is busy all the time",
            metric("CPUUtilization", "Average"),
            above=80,
            minutes=15,
        )
        self._alarm(
            "database-disk",
            "Less than a tenth of the database's first disk is free",
            metric("FreeStorageSpace", "Minimum"),
            below=args.database_storage_gb * GIB / 10,
            minutes=5,
        )
        self._alarm(
            "database-memory",
            "The database has hardly any memory left",
            metric("FreeableMemory", "Minimum"),
            below=64 * MIB,
            minutes=15,
        )

    def _service(self, service: str, running: Service) -> None:
        def metric(name: str, statistic: str) -> Metric:
            return metrics.service(running.cluster_name, running.service_name, name, statistic)

        self._alarm(
            f"{service}-tasks",
            f"Fewer than {running.min_tasks} tasks of {service} are running",
            metric("CPUUtilization", "SampleCount"),
            below=running.min_tasks,
            minutes=5,
            missing="breaching",
        )
        self._alarm(
            f"{service}-memory",
            f"A task of {service} is about to run out of memory",
            metric("MemoryUtilization", "Maximum"),
            above=90,
            minutes=5,
        )

    def _alarm(
        self,
        name: str,
        description: str,
        metric: Metric,
        *,
        minutes: int,
        above: float | None = None,
        below: float | None = None,
        missing: Literal["notBreaching", "breaching"] = "notBreaching",
        period_minutes: int = 1,
    ) -> None:
        """`minutes` in a row above or below the bound raise the alarm, looked at by periods."""
        percentile = metric.statistic.startswith("p")
        aws.cloudwatch.MetricAlarm(
            f"{self._name}-{name}",
            alarm_description=description,
            namespace=metric.namespace,
            metric_name=metric.name,
            dimensions=dict(metric.dimensions),
            statistic=None if percentile else metric.statistic,
            extended_statistic=metric.statistic if percentile else None,
            period=period_minutes * 60,
            evaluation_periods=minutes // period_minutes,
            comparison_operator="LessThanThreshold" if above is None else "GreaterThanThreshold",
            threshold=below if above is None else above,
            treat_missing_data=missing,
            alarm_actions=[self._topic_arn],
            ok_actions=[self._topic_arn],
            opts=pulumi.ResourceOptions(parent=self),
        )
