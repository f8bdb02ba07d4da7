"""How the system is seen: one dashboard, and saved questions to the logs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from components import metrics
from components.alarms import Service

COLUMNS = 24
WIDGET_HEIGHT = 6
PERIOD_SECONDS = 60

QUERIES = {
    "errors": "filter level = 'ERROR' or level = 'WARNING' | stats count(*) as lines by service, event, error | sort lines desc",
    "latest-errors": "filter level = 'ERROR' | fields @timestamp, service, event, error, at | sort @timestamp desc | limit 100",
    "set-aside": "filter event = 'set_aside' | stats count(*) as rows by source, kind, bin(1h)",
    "freshness": "filter ispresent(FreshnessP99) | stats max(FreshnessP99) as p99_ms, avg(FreshnessP50) as p50_ms by bin(5m)",
    "throughput": "filter ispresent(RowsUpserted) | stats sum(RowsUpserted) as upserted, sum(RowsDeleted) as deleted by bin(5m)",
    "what-fills-the-logs": "stats sum(strlen(@message)) as bytes, count(*) as lines by service, event | sort bytes desc",
}


@dataclass(frozen=True, kw_only=True)
class ObservabilityArgs:
    """`log_groups`: names of the services' log groups, by service. `load_balancer`: dimensions of its metrics."""

    region: str
    queue_name: pulumi.Input[str]
    dlq_name: pulumi.Input[str]
    database_identifier: pulumi.Input[str]
    load_balancer: Mapping[str, pulumi.Output[str]]
    services: Mapping[str, Service]
    log_groups: Mapping[str, pulumi.Output[str]]


class Observability(pulumi.ComponentResource):
    """`dashboard_url` opens in the console."""

    dashboard_url: pulumi.Output[str]

    def __init__(self, name: str, args: ObservabilityArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:observability:Observability", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        widgets = [widget for row, graphs in enumerate(_rows(args)) for widget in _row(args.region, row, graphs)]
        dashboard = aws.cloudwatch.Dashboard(
            name, dashboard_name=name, dashboard_body=pulumi.Output.json_dumps({"widgets": widgets}), opts=child
        )
        for title, query in QUERIES.items():
            aws.cloudwatch.QueryDefinition(
                f"{name}-{title}",
                name=f"{name}/{title}",
                log_group_names=list(args.log_groups.values()),
                query_string=query,
                opts=child,
            )
        self.dashboard_url = pulumi.Output.concat(
            f"https://{args.region}.console.aws.amazon.com/cloudwatch/home?region={args.region}#dashboards:name=",
            dashboard.dashboard_name,
        )
        self.register_outputs({"dashboard_url": self.dashboard_url})


Graph = tuple[str, list[list[Any]]]


def _rows(args: ObservabilityArgs) -> list[list[Graph]]:
    """The graphs, row by row: what users feel first, what it costs last."""
    return [*_changes(args), _searches(args), _tasks(args), _database(args), _costs(args)]


def _changes(args: ObservabilityArgs) -> list[list[Graph]]:
    def queue(name: str) -> metrics.Metric:
        return metrics.queue(args.queue_name, name, "Maximum")

    return [
        [
            (
                "Freshness: commit to searchable (ms)",
                [metrics.FRESHNESS_P50.widget(label="p50"), metrics.FRESHNESS_P99.widget(label="p99")],
            ),
            (
                "Backlog",
                [
                    metrics.OUTBOX_KEYS.widget(label="keys in the outbox"),
                    queue("ApproximateNumberOfMessagesVisible").widget(label="messages waiting"),
                    queue("ApproximateNumberOfMessagesNotVisible").widget(label="messages in work"),
                ],
            ),
            (
                "Oldest change that waits (s)",
                [
                    metrics.OUTBOX_AGE_SECONDS.widget(label="outbox"),
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
                    metrics.queue(args.dlq_name, "ApproximateNumberOfMessagesVisible", "Maximum").widget(
                        label="dead letters"
                    ),
                ],
            ),
        ],
    ]


def _searches(args: ObservabilityArgs) -> list[Graph]:
    whole = {"LoadBalancer": args.load_balancer["LoadBalancer"]}

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
                metrics.load_balancer(args.load_balancer, name, "Maximum").widget(label=label)
                for name, label in (("HealthyHostCount", "ready"), ("UnHealthyHostCount", "not ready"))
            ],
        ),
    ]


def _tasks(args: ObservabilityArgs) -> list[Graph]:
    def each(name: str, statistic: str) -> list[list[Any]]:
        return [
            metrics.service(running.cluster_name, running.service_name, name, statistic).widget(label=service)
            for service, running in args.services.items()
        ]

    return [
        ("Tasks running", each("CPUUtilization", "SampleCount")),
        ("CPU (%)", each("CPUUtilization", "Average")),
        ("Memory (%)", each("MemoryUtilization", "Maximum")),
    ]


def _database(args: ObservabilityArgs) -> list[Graph]:
    def metric(name: str, statistic: str) -> list[list[Any]]:
        return [metrics.database(args.database_identifier, name, statistic).widget()]

    return [
        ("Database: CPU (%)", metric("CPUUtilization", "Average")),
        ("Database: connections", metric("DatabaseConnections", "Maximum")),
        ("Database: free disk (bytes)", metric("FreeStorageSpace", "Minimum")),
    ]


def _costs(args: ObservabilityArgs) -> list[Graph]:
    """What the bill grows with. NAT gateways have no names here, so all of the region are shown."""
    nat = "SEARCH('{AWS/NATGateway,NatGatewayId} MetricName=\"BytesOutToDestination\"', 'Sum')"
    return [
        ("Cost: bytes through NAT", [[{"expression": nat, "label": "NAT"}]]),
        (
            "Cost: SQS messages and empty polls",
            [
                metrics.queue(args.queue_name, name, "Sum").widget(label=label)
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
                for service, group in args.log_groups.items()
            ],
        ),
        (
            "Cost: load balancer units",
            [
                metrics.load_balancer(
                    {"LoadBalancer": args.load_balancer["LoadBalancer"]}, "ConsumedLCUs", "Sum"
                ).widget()
            ],
        ),
    ]


def _row(region: str, row: int, graphs: list[Graph]) -> list[dict[str, Any]]:
    width = COLUMNS // len(graphs)
    return [
        {
            "type": "metric",
            "x": column * width,
            "y": row * WIDGET_HEIGHT,
            "width": width,
            "height": WIDGET_HEIGHT,
            "properties": {
                "title": title,
                "region": region,
                "period": PERIOD_SECONDS,
                "view": "timeSeries",
                "metrics": lines,
            },
        }
        for column, (title, lines) in enumerate(graphs)
    ]
