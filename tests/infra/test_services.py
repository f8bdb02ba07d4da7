"""What runs: the three services with their tasks, as the images and the services' own settings want them."""

import json
import re
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from aviary.settings import DatabaseSettings
from components import task, workloads
from emu.settings import EmuSettings
from frontend.settings import FrontendSettings
from pelican.settings import PelicanSettings
from tests.infra.engine import API_KEY, ROOT, Graph, Recorded, changed, whole

SERVICES = ("pelican", "emu", "frontend")
SETTINGS: dict[str, type[BaseSettings]] = {
    "pelican": PelicanSettings,
    "migrate": DatabaseSettings,
    "emu": EmuSettings,
    "frontend": FrontendSettings,
}
SECRET_NAMES = {"pelican": [], "migrate": ["PGPASSWORD", "PGUSER"], "emu": ["PINECONE_API_KEY"]}
SECRET_NAMES["frontend"] = SECRET_NAMES["emu"]


def definition(graph: Graph, service: str) -> Recorded:
    (found,) = [r for r in graph.all("aws:ecs/taskDefinition:TaskDefinition") if r.name.endswith(f"-{service}")]
    return found


def containers(graph: Graph) -> dict[str, dict[str, Any]]:
    """All container definitions, by name."""
    return {one["name"]: one for s in SERVICES for one in definition(graph, s).json("containerDefinitions")}


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["environment"]}


def service(graph: Graph, name: str) -> Recorded:
    (found,) = [r for r in graph.all("aws:ecs/service:Service") if r.name.endswith(f"-{name}")]
    return found


def test_there_are_three_services_each_in_its_own_cluster(graph: Graph, stack: str) -> None:
    names = {f"aviary-{stack}-{name}" for name in SERVICES}
    assert {r.name for r in graph.all("aws:ecs/service:Service")} == names
    assert {r.name for r in graph.all("aws:ecs/cluster:Cluster")} == names
    clusters = {r.inputs["cluster"] for r in graph.all("aws:ecs/service:Service")}
    assert clusters == {f"arn:aws:ecs:us-east-1:123456789012:cluster/{name}-1a2b3c4" for name in names}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_each_service_starts_with_the_environment_it_is_given(
    graph: Graph, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = containers(graph)[name]
    for variable, value in environment(container).items():
        monkeypatch.setenv(variable, value)
    for variable in SECRET_NAMES[name]:
        monkeypatch.setenv(variable, "from a secret")
    settings = SETTINGS[name]()
    fields = {alias for one in SETTINGS[name].model_fields for alias in (f"AVIARY_{one.upper()}",)}
    unread = {key for key in environment(container) if key.startswith("AVIARY_")} - fields
    assert not unread, f"{type(settings).__name__} does not read them"


def test_services_reach_what_they_are_connected_to(graph: Graph, stack: str) -> None:
    queue = f"https://sqs.us-east-1.amazonaws.com/123456789012/aviary-{stack}-changes.fifo"
    dlq = f"https://sqs.us-east-1.amazonaws.com/123456789012/aviary-{stack}-dlq.fifo"
    common, checked = {"AWS_REGION": "us-east-1"}, {"AVIARY_HEALTH_PORT": "8080"}
    index = {"AVIARY_INDEX_HOST": f"https://aviary-{stack}-abc1234.svc.aped-4627-b74a.pinecone.io"}
    queues = {"AVIARY_QUEUE_URL": queue, "AVIARY_DLQ_URL": dlq}

    def postgres(user: str) -> dict[str, str]:
        return {
            "AVIARY_POSTGRES_DSN": f"postgresql://{user}@aviary-{stack}.abcdefghijkl.us-east-1.rds.amazonaws.com:5432/aviary?sslmode=verify-full",
            "AVIARY_POSTGRES_AUTH": "iam",
            "AVIARY_POSTGRES_ROOT_CERT": "/etc/ssl/rds/global-bundle.pem",
        }

    web = {
        "AVIARY_HTTP_PORT": "8000",
        "AVIARY_READ_ONLY": "true",
        "AVIARY_ALLOWED_HOSTS": json.dumps(
            ["aviary.example.com" if stack == "prod" else "aviary-dev-alb-0123456789.us-east-1.elb.amazonaws.com"]
        ),
        "AVIARY_TRUSTED_PROXIES": "1",
    }
    found = {name: environment(container) for name, container in containers(graph).items()}
    assert found == {
        "pelican": common | checked | queues | postgres("aviary_pelican"),
        "emu": common
        | checked
        | queues
        | index
        | {"AVIARY_TOPIC_ARN": f"arn:aws:sns:us-east-1:123456789012:aviary-{stack}-notices-1a2b3c4"},
        "frontend": common | queues | index | postgres("aviary_frontend") | web,
        "migrate": common
        | {
            "AVIARY_POSTGRES_AUTH": "dsn",
            "AVIARY_POSTGRES_DSN": f"postgresql://aviary-{stack}.abcdefghijkl.us-east-1.rds.amazonaws.com:5432/aviary"
            "?sslmode=verify-full&sslrootcert=/etc/ssl/rds/global-bundle.pem",
        },
    }


def test_rows_are_changed_from_networks_that_somebody_named_and_from_nowhere_else() -> None:
    graph = changed("prod", webEditing="true", webAllowedCidrs='["203.0.113.0/24"]')
    assert environment(containers(graph)["frontend"])["AVIARY_READ_ONLY"] == "false"


def test_secrets_come_by_reference_and_only_to_who_needs_them(graph: Graph, stack: str) -> None:
    pinecone = f"arn:aws:ssm:us-east-1:123456789012:parameter/aviary-{stack}-pinecone-1a2b3c4"
    owner = f"arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!db-aviary-{stack}-AbCdEf"
    found = {name: {s["name"]: s["valueFrom"] for s in one["secrets"]} for name, one in containers(graph).items()}
    assert found == {
        "pelican": {},
        "migrate": {"PGUSER": f"{owner}:username::", "PGPASSWORD": f"{owner}:password::"},
        "emu": {"PINECONE_API_KEY": pinecone},
        "frontend": {"PINECONE_API_KEY": pinecone},
    }


def test_a_new_key_starts_new_tasks(graph: Graph) -> None:
    """A running task never looks again, and ECS cannot be asked for a version of a parameter."""
    (parameter,) = graph.all("aws:ssm/parameter:Parameter")
    labels = {name: one["dockerLabels"] for name, one in containers(graph).items() if "dockerLabels" in one}
    label = {"version.PINECONE_API_KEY": str(parameter.outputs["version"])}
    assert labels == {"emu": label, "frontend": label}


def test_no_environment_value_holds_a_secret(graph: Graph) -> None:
    for name, container in containers(graph).items():
        text = str(environment(container))
        assert API_KEY not in text, name
        assert "password" not in text.lower(), name
        assert not re.search(r"://[^/@]+:[^/@]+@", text), f"{name} has a password in a URL"


def test_containers_can_change_and_gain_nothing(graph: Graph) -> None:
    for name, one in containers(graph).items():
        assert one["readonlyRootFilesystem"] is True, name
        assert one["user"] == "10001:10001", name
        assert one["privileged"] is False, name
        assert one["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}, name
        assert one["mountPoints"] == [{"sourceVolume": "tmp", "containerPath": "/tmp", "readOnly": False}], name
    for name in SERVICES:
        assert definition(graph, name).inputs["volumes"] == [{"name": "tmp"}]


def test_tasks_are_for_fargate_on_arm(graph: Graph) -> None:
    for name in SERVICES:
        inputs = definition(graph, name).inputs
        assert inputs["requiresCompatibilities"] == ["FARGATE"]
        assert inputs["networkMode"] == "awsvpc"
        assert inputs["runtimePlatform"] == {"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"}


def test_sizes_are_those_of_the_stack() -> None:
    sizes = {name: definition(whole("prod"), name).inputs for name in SERVICES}
    assert {name: (one["cpu"], one["memory"]) for name, one in sizes.items()} == {
        "pelican": ("512", "1024"),
        "emu": ("1024", "2048"),
        "frontend": ("1024", "2048"),
    }


def test_images_are_pinned_by_digest(graph: Graph, stack: str) -> None:
    for name, container in containers(graph).items():
        repository = "pelican" if name == "migrate" else name
        wanted = rf"123456789012\.dkr\.ecr\.us-east-1\.amazonaws\.com/aviary-{stack}-{repository}@sha256:\w{{64}}"
        assert re.fullmatch(wanted, container["image"]), container["image"]


def dockerfile(name: str) -> str:
    return re.sub(r"\\\n\s*", "", (ROOT / "services" / name / "Dockerfile").read_text("utf-8"))


@pytest.mark.parametrize("name", SERVICES)
def test_ecs_asks_for_health_as_the_image_does(name: str) -> None:
    """The same command, interval, time-out, start period and number of tries."""
    found = re.search(
        r"^HEALTHCHECK --interval=(\d+)s --timeout=(\d+)s --start-period=(\d+)s --retries=(\d+)\s+CMD (\[.*\])$",
        dockerfile(name),
        re.MULTILINE,
    )
    assert found
    interval, timeout, start, retries = (int(group) for group in found.groups()[:4])
    check = containers(whole("dev"))[name]["healthCheck"]
    assert check == {
        "command": ["CMD", *re.findall(r'"([^"]+)"', found[5])],
        "interval": interval,
        "timeout": timeout,
        "startPeriod": start,
        "retries": retries,
    }


@pytest.mark.parametrize("name", SERVICES)
def test_the_image_has_the_user_that_ecs_runs_it_as_and_a_tmp_for_it(name: str) -> None:
    """ECS makes a volume for root alone, unless the image says what was there: then its permissions stay.
    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/bind-mounts.html"""
    last = dockerfile(name).rpartition("\nFROM ")[2]
    assert f"\nUSER {task.USER}\n" in last
    assert '\nVOLUME ["/tmp"]\n' in last


def test_the_port_of_health_and_traffic_is_the_services_own(graph: Graph) -> None:
    ports = {name: one.get("portMappings", []) for name, one in containers(graph).items()}
    assert {name: [p["containerPort"] for p in found] for name, found in ports.items()} == {
        "pelican": [workloads.HEALTH_PORT],
        "emu": [workloads.HEALTH_PORT],
        "frontend": [8000],
        "migrate": [],
    }


def test_a_task_is_given_longer_to_stop_than_its_service_takes_to_drain(graph: Graph) -> None:
    found = containers(graph)
    drain = EmuSettings.model_fields["drain_seconds"].default
    for name in SERVICES:
        assert drain < found[name]["stopTimeout"] <= 120, name


def test_pelican_starts_only_when_the_migrations_have_succeeded(graph: Graph) -> None:
    found = containers(graph)
    assert found["pelican"]["dependsOn"] == [{"containerName": "migrate", "condition": "SUCCESS"}]
    assert found["pelican"]["essential"] is True
    assert found["migrate"]["essential"] is False, "a container that ends well must not end the task"
    assert found["migrate"]["command"] == ["migrate"]
    assert found["migrate"]["image"] == found["pelican"]["image"]
    assert [name for name, one in found.items() if one["command"]] == ["migrate"]


def test_logs_go_to_the_tasks_own_group_and_never_stop_the_work(graph: Graph, stack: str) -> None:
    for name, container in containers(graph).items():
        group = "pelican" if name == "migrate" else name
        assert container["logConfiguration"] == {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": f"aviary-{stack}-{group}",
                "awslogs-region": "us-east-1",
                "awslogs-stream-prefix": name,
                "mode": "non-blocking",
                "max-buffer-size": "10m",
            },
        }


def test_a_deployment_that_fails_is_rolled_back_and_loses_no_task(graph: Graph) -> None:
    for name in SERVICES:
        inputs = service(graph, name).inputs
        assert inputs["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}
        assert inputs["deploymentMinimumHealthyPercent"] == 100
        assert inputs["deploymentMaximumPercent"] == 200
        assert inputs["enableExecuteCommand"] is False


def test_a_later_deployment_leaves_the_number_of_tasks_to_the_scaling(graph: Graph) -> None:
    for name in SERVICES:
        assert service(graph, name).ignore_changes == ("desiredCount",)


def test_a_service_starts_with_the_fewest_tasks_it_may_have() -> None:
    counts = {name: service(whole("prod"), name).inputs["desiredCount"] for name in SERVICES}
    assert counts == {"pelican": 2, "emu": 2, "frontend": 2}


@pytest.mark.parametrize(
    ("stack", "spot"),
    [("dev", {"pelican": True, "emu": True, "frontend": False}), ("prod", dict.fromkeys(SERVICES, False))],
)
def test_spot_carries_what_may_stop_and_only_in_dev(stack: str, spot: dict[str, bool]) -> None:
    graph = whole(stack)
    for name in SERVICES:
        provider = "FARGATE_SPOT" if spot[name] else "FARGATE"
        assert service(graph, name).inputs["capacityProviderStrategies"] == [
            {"capacityProvider": provider, "weight": 1}
        ]
        offered = graph.one(
            "aws:ecs/clusterCapacityProviders:ClusterCapacityProviders", f"aviary-{stack}-{name}"
        ).inputs
        assert offered["capacityProviders"] == ["FARGATE", "FARGATE_SPOT"]


def test_only_the_frontend_stands_behind_the_load_balancer(graph: Graph, stack: str) -> None:
    (behind,) = service(graph, "frontend").inputs["loadBalancers"]
    assert (behind["containerName"], behind["containerPort"]) == ("frontend", 8000)
    assert f"aviary-{stack}-web" in behind["targetGroupArn"]
    assert service(graph, "frontend").inputs["healthCheckGracePeriodSeconds"] == 120
    for name in ("pelican", "emu"):
        assert not service(graph, name).inputs.get("loadBalancers")
        assert "healthCheckGracePeriodSeconds" not in service(graph, name).inputs


def test_up_waits_for_the_services_when_it_is_told_to() -> None:
    assert service(whole("dev"), "emu").inputs["waitForSteadyState"] is False
    assert service(changed("dev", waitForSteadyState="true"), "emu").inputs["waitForSteadyState"] is True


def test_container_insights_is_as_the_stack_says() -> None:
    for stack, value in (("dev", "disabled"), ("prod", "enabled")):
        for cluster in whole(stack).all("aws:ecs/cluster:Cluster"):
            assert cluster.inputs["settings"] == [{"name": "containerInsights", "value": value}]
