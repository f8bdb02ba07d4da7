"""How the system is seen: a dashboard of its metrics, and questions to its logs, saved and on a dashboard."""

import re
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from components.graphs import Graph, Watched, rows

COLUMNS = 24
GRAPH_HEIGHT = 6
QUESTION_HEIGHT = 8
PERIOD_SECONDS = 60

# In CloudWatch Logs Insights' language. Each has its place on the second dashboard, from where it opens to be changed, and
# in the list of saved queries.
QUESTIONS = {
    "Warnings and errors, by kind": "filter level = 'ERROR' or level = 'WARNING' "
    "| stats count(*) as lines by service, event, error | sort lines desc",
    "The latest errors": "filter level = 'ERROR' "
    "| fields @timestamp, service, event, error, at | sort @timestamp desc | limit 100",
    "Rows set aside": "filter event = 'set_aside' | stats count(*) as rows by source, kind, bin(1h)",
    "Freshness (ms)": "filter ispresent(FreshnessP99) "
    "| stats max(FreshnessP99) as p99, avg(FreshnessP50) as p50 by bin(5m)",
    "Throughput (rows)": "filter ispresent(RowsUpserted) "
    "| stats sum(RowsUpserted) as upserted, sum(RowsDeleted) as deleted by bin(5m)",
    "What fills the logs": "stats sum(strlen(@message)) as bytes, count(*) as lines by service, event | sort bytes desc",
}


@dataclass(frozen=True, kw_only=True)
class ObservabilityArgs:
    """`saved_queries`: put the questions into Logs Insights' own list too."""

    region: str
    watched: Watched
    saved_queries: bool


class Observability(pulumi.ComponentResource):
    """The addresses open in the console."""

    dashboard_url: pulumi.Output[str]
    logs_dashboard_url: pulumi.Output[str]

    def __init__(self, name: str, args: ObservabilityArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:observability:Observability", name, None, opts)
        self._region = args.region
        graphs = [widget for row, some in enumerate(rows(args.watched)) for widget in _row(args.region, row, some)]
        self.dashboard_url = self._dashboard(name, graphs)
        sources = pulumi.Output.all(*args.watched.log_groups.values()).apply(
            lambda groups: " | ".join(f"SOURCE '{group}'" for group in groups)
        )
        self.logs_dashboard_url = self._dashboard(f"{name}-logs", _questions(args.region, sources))
        if args.saved_queries:
            for title, question in QUESTIONS.items():
                aws.cloudwatch.QueryDefinition(
                    f"{name}-{re.sub('[^a-z]+', '-', title.lower()).strip('-')}",
                    name=f"{name}/{title}",  # what is before the slash is a folder in the console
                    query_string=question,
                    log_group_names=list(args.watched.log_groups.values()),
                    opts=pulumi.ResourceOptions(parent=self),
                )
        self.register_outputs(
            {"dashboard_url": self.dashboard_url, "logs_dashboard_url": self.logs_dashboard_url},
        )

    def _dashboard(self, name: str, widgets: list[dict[str, Any]]) -> pulumi.Output[str]:
        dashboard = aws.cloudwatch.Dashboard(
            name,
            dashboard_name=name,
            dashboard_body=pulumi.Output.json_dumps({"widgets": widgets}),
            opts=pulumi.ResourceOptions(parent=self),
        )
        region = self._region
        return pulumi.Output.concat(
            f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#dashboards:name=",
            dashboard.dashboard_name,
        )


def _row(region: str, row: int, graphs: list[Graph]) -> list[dict[str, Any]]:
    width = COLUMNS // len(graphs)
    return [
        {
            "type": "metric",
            "x": column * width,
            "y": row * GRAPH_HEIGHT,
            "width": width,
            "height": GRAPH_HEIGHT,
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


def _questions(region: str, sources: pulumi.Output[str]) -> list[dict[str, Any]]:
    return [
        {
            "type": "log",
            "x": 0,
            "y": row * QUESTION_HEIGHT,
            "width": COLUMNS,
            "height": QUESTION_HEIGHT,
            "properties": {
                "title": title,
                "region": region,
                "view": "table",
                "query": pulumi.Output.concat(sources, " | ", question),
            },
        }
        for row, (title, question) in enumerate(QUESTIONS.items())
    ]
