"""The CloudWatch metrics that scaling, alarms and dashboard are about, each named once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

# What the services write themselves (aviary.logs.metrics).
OWN_NAMESPACE = "Aviary"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric with the statistic that makes sense of it."""

    namespace: str
    name: str
    statistic: str
    dimensions: Mapping[str, pulumi.Input[str]]

    def widget(self, **more: object) -> list[Any]:
        """The metric as a dashboard's widget lists it; `more` are rendering properties such as label."""
        flat = [part for pair in self.dimensions.items() for part in pair]
        return [self.namespace, self.name, *flat, {"stat": self.statistic, **more}]


def own(service: str, name: str, statistic: str) -> Metric:
    return Metric(namespace=OWN_NAMESPACE, name=name, statistic=statistic, dimensions={"service": service})


def queue(queue_name: pulumi.Input[str], name: str, statistic: str) -> Metric:
    return Metric(namespace="AWS/SQS", name=name, statistic=statistic, dimensions={"QueueName": queue_name})


def service(cluster_name: pulumi.Input[str], service_name: pulumi.Input[str], name: str, statistic: str) -> Metric:
    dimensions = {"ClusterName": cluster_name, "ServiceName": service_name}
    return Metric(namespace="AWS/ECS", name=name, statistic=statistic, dimensions=dimensions)


def database(identifier: pulumi.Input[str], name: str, statistic: str) -> Metric:
    return Metric(namespace="AWS/RDS", name=name, statistic=statistic, dimensions={"DBInstanceIdentifier": identifier})


def load_balancer(dimensions: Mapping[str, pulumi.Input[str]], name: str, statistic: str) -> Metric:
    return Metric(namespace="AWS/ApplicationELB", name=name, statistic=statistic, dimensions=dimensions)


# Pelican reports the whole outbox, every Pelican the same one: the greatest report is the one to believe. Scaling and alarms
# look at live changes only: a backfill waits there by design, and more Pelicans would not bring it on.
OUTBOX_LIVE_KEYS = own("pelican", "OutboxLiveKeys", "Maximum")
OUTBOX_BACKFILL_KEYS = own("pelican", "OutboxBackfillKeys", "Maximum")
OUTBOX_LIVE_AGE_SECONDS = own("pelican", "OutboxLiveOldestSeconds", "Maximum")
DRIFT = own("pelican", "Drift", "Maximum")
RECONCILED = own("pelican", "ReconcileFinished", "Sum")
FRESHNESS_P50 = own("emu", "FreshnessP50", "Average")
FRESHNESS_P99 = own("emu", "FreshnessP99", "Maximum")
ROWS_UPSERTED = own("emu", "RowsUpserted", "Sum")
ROWS_DELETED = own("emu", "RowsDeleted", "Sum")
ROWS_EMBEDDED = own("emu", "RowsEmbedded", "Sum")
ROWS_POISONED = own("emu", "RowsPoisoned", "Sum")
EMU_ERRORS = own("emu", "Errors", "Sum")
