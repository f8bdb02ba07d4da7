"""The graphs of the dashboard, row by row: what users feel first, what it costs last."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from components import metrics
from components.alarms import Service

# A title, and the lines as a dashboard's widget lists them.
Graph = tuple[str, list[list[Any]]]


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Everything that is looked at. `log_groups`: names of the services' log groups, by service. `load_balancer`:
    dimensions of its metrics."""

    queue_name: pulumi.Input[str]
    dlq_name: pulumi.Input[str]
    database_identifier: pulumi.Input[str]
    load_balancer: Mapping[str, pulumi.Output[str]]
    services: Mapping[str, Service]
    log_groups: Mapping[str, pulumi.Output[str]]


def rows(watched: Watched) -> list[list[Graph]]:
    """All of them."""
    return [*_changes(watched), _searches(watched), _tasks(watched), _database(watched), _costs(watched)]


def _changes(watched: Watched) -> list[list[Graph]]:
    def queue(name: str) -> metrics.Metric:
        return metrics.queue(watched.queue_name, name, "Maximum")

    return [
        [
            (
                "Freshness: commit to searchable (ms)",
                [metrics.FRESHNESS_P50.widget(label="p50"), metrics.FRESHNESS_P99.widget(label="p99")],
            ),
            (
                "Backlog",
                [
                    metrics.OUTBOX_LIVE_KEYS.widget(label="keys in the outbox, live"),
                    metrics.OUTBOX_BACKFILL_KEYS.widget(label="keys in the outbox, backfill"),
                    queue("ApproximateNumberOfMessagesVisible").widget(label="messages waiting"),
                    queue("ApproximateNumberOfMessagesNotVisible").widget(label="messages in work"),
                ],
            ),
            (
                "Oldest live change that waits (s)",
                [
                    metrics.OUTBOX_LIVE_AGE_SECONDS.widget(label="outbox"),
                    queue("ApproximateAgeOfOldestMessage").widget(label="queue"),
                ],
            ),
        ],
        [
            (
                "Throughput (rows)",
                [
                    metrics.ROWS_UPSERTED.widget(label="upserted"),
                    metrics.ROWS_EMBEDDED.widget(label="embedded"),
                    metrics.ROWS_DELETED.widget(label="deleted"),
                ],
            ),
            (
                "Errors",
                [
                    metrics.EMU_ERRORS.widget(label="Emu"),
                    metrics.ROWS_POISONED.widget(label="rows set aside"),
                    metrics.queue(watched.dlq_name, "ApproximateNumberOfMessagesVisible", "Maximum").widget(
                        label="dead letters"
                    ),
                ],
            ),
            (
                "Drift: rows and vectors out of step",
                [metrics.DRIFT.widget(label="found"), metrics.RECONCILED.widget(label="comparisons that ended")],
            ),
        ],
    ]


def _searches(watched: Watched) -> list[Graph]:
    whole = {"LoadBalancer": watched.load_balancer["LoadBalancer"]}

    def balancer(name: str, statistic: str) -> metrics.Metric:
        return metrics.load_balancer(whole, name, statistic)

    return [
        (
            "Requests",
            [
                balancer("RequestCount", "Sum").widget(label="all"),
                balancer("HTTPCode_Target_5XX_Count", "Sum").widget(label="frontend errors"),
                balancer("HTTPCode_ELB_5XX_Count", "Sum").widget(label="no answer"),
            ],
        ),
        (
            "Response time (s)",
            [balancer("TargetResponseTime", s).widget(label=s) for s in ("p50", "p99")],
        ),
        (
            "Frontend tasks behind the load balancer",
            [
                metrics.load_balancer(watched.load_balancer, name, "Maximum").widget(label=label)
                for name, label in (("HealthyHostCount", "ready"), ("UnHealthyHostCount", "not ready"))
            ],
        ),
    ]


def _tasks(watched: Watched) -> list[Graph]:
    def each(name: str, statistic: str) -> list[list[Any]]:
        return [
            metrics.service(running.cluster_name, running.service_name, name, statistic).widget(label=service)
            for service, running in watched.services.items()
        ]

    return [
        ("Tasks running", each("CPUUtilization", "SampleCount")),
        ("CPU (%)", each("CPUUtilization", "Average")),
        ("Memory (%)", each("MemoryUtilization", "Maximum")),
    ]


def _database(watched: Watched) -> list[Graph]:
    def metric(name: str, statistic: str) -> list[list[Any]]:
        return [metrics.database(watched.database_identifier, name, statistic).widget()]

    return [
        ("Database: CPU (%)", metric("CPUUtilization", "Average")),
        ("Database: connections", metric("DatabaseConnections", "Maximum")),
        ("Database: free disk (bytes)", metric("FreeStorageSpace", "Minimum")),
    ]


def _costs(watched: Watched) -> list[Graph]:
    """What the bill grows with. NAT gateways have no names here, so all of the region are shown."""
    nat = "SEARCH('{AWS/NATGateway,NatGatewayId} MetricName=\"BytesOutToDestination\"', 'Sum')"
    return [
        ("Cost: bytes through NAT", [[{"expression": nat, "label": "NAT"}]]),
        (
            "Cost: SQS messages and empty polls",
            [
                metrics.queue(watched.queue_name, name, "Sum").widget(label=label)
                for name, label in (
                    ("NumberOfMessagesSent", "sent"),
                    ("NumberOfMessagesReceived", "received"),
                    ("NumberOfEmptyReceives", "empty polls"),
                )
            ],
        ),
        (
            "Cost: bytes logged",
            [
                ["AWS/Logs", "IncomingBytes", "LogGroupName", group, {"stat": "Sum", "label": service}]
                for service, group in watched.log_groups.items()
            ],
        ),
        (
            "Cost: load balancer units",
            [
                metrics.load_balancer(
                    {"LoadBalancer": watched.load_balancer["LoadBalancer"]}, "ConsumedLCUs", "Sum"
                ).widget()
            ],
        ),
    ]
