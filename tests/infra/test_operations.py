"""How many tasks run, what people are told of, and what they can look at."""

import re
from typing import Any

import pytest

from components import metrics
from components.config import StackConfig
from components.observability import COLUMNS, QUESTIONS
from tests.infra.engine import ROOT, Graph, Recorded, changed, whole

SERVICES = ("pelican", "emu", "frontend")
TARGET = "aws:appautoscaling/target:Target"
POLICY = "aws:appautoscaling/policy:Policy"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"


def policies(graph: Graph, kind: str) -> dict[str, Recorded]:
    """Scaling policies of one kind, by service."""
    return {p.name.split("-")[2]: p for p in graph.all(POLICY) if p.name.endswith(f"-{kind}")}


def alarms(graph: Graph) -> dict[str, Recorded]:
    return {alarm.name.split("-", 2)[2]: alarm for alarm in graph.all(ALARM)}


@pytest.mark.parametrize(
    ("stack", "bounds"),
    [
        ("dev", {"pelican": (1, 2), "emu": (1, 2), "frontend": (1, 2)}),
        ("prod", {"pelican": (2, 4), "emu": (2, 12), "frontend": (2, 8)}),
    ],
)
def test_every_service_scales_between_its_bounds(stack: str, bounds: dict[str, tuple[int, int]]) -> None:
    found = {t.name.split("-")[2]: t.inputs for t in whole(stack).all(TARGET)}
    assert {name: (one["minCapacity"], one["maxCapacity"]) for name, one in found.items()} == bounds
    for name, one in found.items():
        physical = f"aviary-{stack}-{name}-1a2b3c4"
        assert one["resourceId"] == f"service/{physical}/{physical}"
        assert one["scalableDimension"] == "ecs:service:DesiredCount"


def test_every_service_is_kept_at_a_share_of_its_cpu(graph: Graph) -> None:
    found = policies(graph, "cpu")
    assert set(found) == set(SERVICES)
    for policy in found.values():
        configuration = policy.inputs["targetTrackingScalingPolicyConfiguration"]
        assert configuration["targetValue"] == 60
        assert configuration["predefinedMetricSpecification"] == {
            "predefinedMetricType": "ECSServiceAverageCPUUtilization"
        }
        assert configuration["scaleInCooldown"] == 300
        assert configuration["scaleOutCooldown"] == 60


def test_pelican_and_emu_are_kept_at_a_backlog_for_each_task(graph: Graph, stack: str) -> None:
    found = policies(graph, "backlog")
    assert set(found) == {"pelican", "emu"}
    depth = {
        "pelican": ("Aviary", "OutboxLiveKeys", {"service": "pelican"}, 5000),
        "emu": ("AWS/SQS", "ApproximateNumberOfMessagesVisible", {"QueueName": f"aviary-{stack}-changes.fifo"}, 20),
    }
    for name, policy in found.items():
        configuration = policy.inputs["targetTrackingScalingPolicyConfiguration"]
        by_id = {one["id"]: one for one in configuration["customizedMetricSpecification"]["metrics"]}
        assert by_id["per_task"]["expression"] == "FILL(depth, 0) / FILL(tasks, 1)"
        assert [key for key, one in by_id.items() if one["returnData"]] == ["per_task"]
        namespace, metric, dimensions, target = depth[name]
        assert stat(by_id["depth"]) == (namespace, metric, dimensions, "Maximum")
        physical = f"aviary-{stack}-{name}-1a2b3c4"
        cluster = {"ClusterName": physical, "ServiceName": physical}
        assert stat(by_id["tasks"]) == ("AWS/ECS", "CPUUtilization", cluster, "SampleCount")
        assert configuration["targetValue"] == target


def stat(query: dict[str, Any]) -> tuple[str, str, dict[str, str], str]:
    metric = query["metricStat"]["metric"]
    dimensions = {one["name"]: one["value"] for one in metric["dimensions"]}
    return metric["namespace"], metric["metricName"], dimensions, query["metricStat"]["stat"]


def test_a_change_that_waits_too_long_brings_more_tasks(graph: Graph, stack: str) -> None:
    found = policies(graph, "age")
    assert set(found) == {"pelican", "emu"}
    age = {"pelican": ("Aviary", "OutboxLiveOldestSeconds"), "emu": ("AWS/SQS", "ApproximateAgeOfOldestMessage")}
    for name, policy in found.items():
        steps = policy.inputs["stepScalingPolicyConfiguration"]["stepAdjustments"]
        assert steps == [
            {"metricIntervalLowerBound": "0", "metricIntervalUpperBound": "240", "scalingAdjustment": 1},
            {"metricIntervalLowerBound": "240", "scalingAdjustment": 2},
        ]
        alarm = graph.one(ALARM, f"aviary-{stack}-{name}-age").inputs
        assert (alarm["namespace"], alarm["metricName"]) == age[name]
        assert alarm["threshold"] == 60
        assert alarm["alarmActions"] == [f"arn:aws:appautoscaling:us-east-1:123456789012:policy/{policy.name}-1a2b3c4"]


def test_every_alarm_has_an_action_and_says_what_it_means(graph: Graph) -> None:
    found = graph.all(ALARM)
    assert found
    for alarm in found:
        assert len(alarm.inputs["alarmActions"]) == 1, alarm.name
        assert len(alarm.inputs["alarmDescription"]) > 20, alarm.name
        assert alarm.inputs.get("actionsEnabled") is not False, alarm.name


def test_prod_tells_people_when_its_users_suffer_and_when_it_is_over() -> None:
    topic = "arn:aws:sns:us-east-1:123456789012:aviary-prod-notices-1a2b3c4"
    found = {name: alarm for name, alarm in alarms(whole("prod")).items() if alarm.inputs["alarmActions"] == [topic]}
    assert set(found) == {
        "dead-letters",
        "queue-age",
        "outbox-age",
        "freshness",
        "emu-errors",
        "drift",
        "reconcile-absent",
        "server-errors",
        "no-answer",
        "slow",
        "unhealthy",
        "database-cpu",
        "database-disk",
        "database-memory",
        *(f"{service}-{what}" for service in SERVICES for what in ("tasks", "memory")),
    }
    for alarm in found.values():
        assert alarm.inputs["okActions"] == [topic]


def test_any_drift_is_enough_for_an_alarm_and_so_is_a_comparison_that_does_not_end() -> None:
    drift, absent = (alarms(whole("prod"))[name].inputs for name in ("drift", "reconcile-absent"))
    assert (drift["metricName"], drift["comparisonOperator"], drift["threshold"]) == (
        "Drift",
        "GreaterThanThreshold",
        0,
    )
    assert (drift["evaluationPeriods"], drift["treatMissingData"]) == (1, "notBreaching")
    assert (absent["metricName"], absent["statistic"]) == ("ReconcileFinished", "Sum")
    assert (absent["comparisonOperator"], absent["threshold"]) == ("LessThanThreshold", 1)
    assert (absent["period"], absent["evaluationPeriods"], absent["treatMissingData"]) == (3600, 27, "breaching")


def test_the_alarm_for_a_comparison_that_does_not_end_fits_what_cloudwatch_looks_back_on() -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/AlarmThatSendsEmail.html: seven days by the hour."""
    absent = alarms(changed("prod", reconcileHours="144"))["reconcile-absent"].inputs
    assert absent["period"] * absent["evaluationPeriods"] <= 7 * 24 * 3600


def test_a_stack_that_never_compares_has_no_alarm_for_it() -> None:
    assert not {"drift", "reconcile-absent"} & alarms(changed("prod", reconcileHours="0")).keys()


def test_no_backfill_in_the_outbox_raises_an_alarm_or_starts_a_task() -> None:
    """It waits there for hours by design. Everything else that looks at Pelican's outbox would take that for lateness."""
    graph = whole("prod")
    asked = {alarm.inputs["metricName"] for alarm in graph.all(ALARM)}
    for policy in graph.all(POLICY):
        tracked = policy.inputs.get("targetTrackingScalingPolicyConfiguration") or {}
        queries = (tracked.get("customizedMetricSpecification") or {}).get("metrics") or []
        asked |= {stat(query)[1] for query in queries if "metricStat" in query}
    assert {name for name in asked if name.startswith("Outbox")} == {"OutboxLiveKeys", "OutboxLiveOldestSeconds"}
    alarm = alarms(graph)["outbox-age"].inputs
    assert (alarm["metricName"], alarm["threshold"], alarm["evaluationPeriods"]) == ("OutboxLiveOldestSeconds", 300, 3)


def test_one_dead_letter_is_enough_for_an_alarm() -> None:
    alarm = alarms(whole("prod"))["dead-letters"].inputs
    assert alarm["metricName"] == "ApproximateNumberOfMessagesVisible"
    assert alarm["dimensions"] == {"QueueName": "aviary-prod-dlq.fifo"}
    assert (alarm["comparisonOperator"], alarm["threshold"]) == ("GreaterThanThreshold", 0)
    assert alarm["evaluationPeriods"] == 1


def test_a_service_without_tasks_has_no_metrics_and_still_raises_its_alarm() -> None:
    for service in SERVICES:
        alarm = alarms(whole("prod"))[f"{service}-tasks"].inputs
        assert alarm["treatMissingData"] == "breaching"
        assert (alarm["comparisonOperator"], alarm["threshold"]) == ("LessThanThreshold", 2)
        assert (alarm["metricName"], alarm["statistic"]) == ("CPUUtilization", "SampleCount")


def test_the_slowest_request_in_a_hundred_is_a_percentile() -> None:
    alarm = alarms(whole("prod"))["slow"].inputs
    assert alarm["extendedStatistic"] == "p99"
    assert "statistic" not in alarm


def test_dev_has_only_the_alarms_that_scale() -> None:
    assert set(alarms(whole("dev"))) == {"pelican-age", "emu-age"}
    assert "dead-letters" in alarms(changed("dev", alarms="true"))


def own_metrics() -> dict[str, str]:
    """Our own metrics that scaling, alarms and dashboard use, with the service that writes each."""
    found = [value for value in vars(metrics).values() if isinstance(value, metrics.Metric)]
    return {metric.name: str(metric.dimensions["service"]) for metric in found}


def test_every_metric_of_our_own_is_one_that_its_service_writes() -> None:
    found = own_metrics()
    assert {"OutboxLiveKeys", "FreshnessP99"} <= found.keys()
    for name, service in found.items():
        sources = (ROOT / "services" / service / "src").rglob("*.py")
        text = "\n".join(path.read_text("utf-8") for path in sources)
        # FreshnessP50 and P99 are written as one name and a number.
        assert f'"{name}"' in text or f'"{re.sub("[0-9]+$", "", name)}{{' in text, f"{service} does not write {name}"


def widgets(graph: Graph, type: str = "metric") -> list[dict[str, Any]]:
    """Those of the dashboard of metrics, or of the one of logs."""
    dashboards = graph.all("aws:cloudwatch/dashboard:Dashboard")
    body = dashboards[["metric", "log"].index(type)].json("dashboardBody")
    assert {widget["type"] for widget in body["widgets"]} == {type}
    assert isinstance(body["widgets"], list)
    return list(body["widgets"])


def test_the_dashboard_shows_what_users_feel_and_what_it_costs(graph: Graph) -> None:
    shown = {line[1] for widget in widgets(graph) for line in widget["properties"]["metrics"] if len(line) > 1}
    (searched,) = [line for widget in widgets(graph) for line in widget["properties"]["metrics"] if len(line) == 1]
    assert "BytesOutToDestination" in searched[0]["expression"]
    for metric in (
        *own_metrics(),
        *("ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage", "TargetResponseTime", "RequestCount"),
        *("FreeStorageSpace", "NumberOfEmptyReceives", "IncomingBytes", "ConsumedLCUs"),
    ):
        assert metric in shown, metric


def test_the_dashboards_graphs_do_not_overlap_and_name_real_lines(graph: Graph) -> None:
    cells: set[tuple[int, int]] = set()
    for widget in widgets(graph):
        place = {
            (x, y)
            for x in range(widget["x"], widget["x"] + widget["width"])
            for y in range(widget["y"], widget["y"] + widget["height"])
        }
        assert not place & cells, widget["properties"]["title"]
        assert widget["x"] + widget["width"] <= COLUMNS
        cells |= place
        for line in widget["properties"]["metrics"]:
            assert isinstance(line[-1], dict)
            # Namespace and name, then pairs of dimensions, then how to draw it; or an expression alone.
            assert len(line) == 1 or len(line) % 2 == 1, line


def test_saved_questions_go_to_the_services_logs(graph: Graph, stack: str) -> None:
    sources = " | ".join(f"SOURCE 'aviary-{stack}-{service}'" for service in (*SERVICES, "reconcile"))
    found = {widget["properties"]["title"]: widget["properties"]["query"] for widget in widgets(graph, "log")}
    assert found == {title: f"{sources} | {question}" for title, question in QUESTIONS.items()}


def test_saved_questions_are_in_the_consoles_own_list_too(stack: str) -> None:
    found = changed(stack, savedQueries="true").all("aws:cloudwatch/queryDefinition:QueryDefinition")
    assert {one.inputs["name"]: one.inputs["queryString"] for one in found} == {
        f"aviary-{stack}/{title}": question for title, question in QUESTIONS.items()
    }
    for one in found:
        assert one.inputs["logGroupNames"] == [f"aviary-{stack}-{service}" for service in (*SERVICES, "reconcile")]


def test_only_the_rehearsed_files_leave_the_saved_queries_out() -> None:
    """Their default is on."""
    for stack in ("dev", "prod"):
        assert not whole(stack).all("aws:cloudwatch/queryDefinition:QueryDefinition")
        assert StackConfig.model_fields["saved_queries"].default is True


def test_saved_questions_ask_for_fields_that_the_services_log() -> None:
    logged = "\n".join(path.read_text("utf-8") for path in (ROOT / "services").glob("*/src/**/*.py"))
    for field in ("level", "service", "event", "error", "at", "kind", "source", "RowsUpserted", "RowsDeleted"):
        assert any(field in question for question in QUESTIONS.values())
        assert f'"{field}"' in logged or f"{field}=" in logged, field
    assert '"set_aside"' in logged
