"""Who may do what: every statement of every policy, compared whole."""

import json
from typing import Any

import pytest

from tests.infra.engine import ACCOUNT, Graph, changed, statements, whole, with_own_access_logs

ROLE_POLICY = "aws:iam/rolePolicy:RolePolicy"
ROLE = "aws:iam/role:Role"
REGION = "us-east-1"
TASKS = ("pelican", "emu", "frontend", "reconcile", "operator")
# The only wildcards there are: (policy, actions, resource). Each has its reason beside it in the component.
WILDCARDS = {
    ("{service}-start", "ecr:GetAuthorizationToken", "*"),
    ("{service}-start", "logs:CreateLogStream logs:PutLogEvents", "{log_group}:log-stream:*"),
    ("flow", "logs:CreateLogStream logs:DescribeLogStreams logs:PutLogEvents", "{log_group}:log-stream:*"),
    ("flow", "logs:DescribeLogGroups", "{log_groups}"),
}


def arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"


def allow(actions: list[str], *resources: str, **more: object) -> dict[str, object]:
    return {"Effect": "Allow", "Action": actions, "Resource": list(resources), **more}


def via(*services: str) -> dict[str, object]:
    named = [f"{service}.{REGION}.amazonaws.com" for service in services]
    return {"StringEquals": {"kms:ViaService": named}}


def expected(stack: str) -> dict[str, list[dict[str, object]]]:
    name = f"aviary-{stack}"
    key = arn("kms", f"key/key-{name}")
    queue, dlq = arn("sqs", f"{name}-changes.fifo"), arn("sqs", f"{name}-dlq.fifo")

    def starting(service: str, reading: str, secret: str, image: str = "") -> list[dict[str, object]]:
        return [
            allow(["ecr:GetAuthorizationToken"], "*"),
            allow(
                ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                arn("ecr", f"repository/{name}-{image or service}"),
            ),
            allow(
                ["logs:CreateLogStream", "logs:PutLogEvents"], arn("logs", f"log-group:{name}-{service}:log-stream:*")
            ),
            allow([reading], secret),
            allow(
                ["kms:Decrypt"],
                key,
                Condition={"StringEquals": {"kms:ViaService": f"{reading.partition(':')[0]}.{REGION}.amazonaws.com"}},
            ),
        ]

    owner = ("secretsmanager:GetSecretValue", arn("secretsmanager", f"secret:rds!db-{name}-AbCdEf"))
    pinecone = ("ssm:GetParameters", arn("ssm", f"parameter/{name}-pinecone-1a2b3c4"))
    return {
        f"{name}-pelican": [
            allow(["sqs:GetQueueAttributes", "sqs:SendMessage"], queue),
            allow(
                ["sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes", "sqs:ReceiveMessage", "sqs:SendMessage"], dlq
            ),
            allow(["kms:Decrypt", "kms:GenerateDataKey"], key, Condition=via("sqs")),
            allow(["rds-db:connect"], arn("rds-db", f"dbuser:DB-{name.upper()}/aviary_pelican")),
        ],
        f"{name}-emu": [
            allow(
                ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"],
                queue,
            ),
            allow(["sqs:SendMessage"], dlq),
            allow(["sns:Publish"], arn("sns", f"{name}-notices-1a2b3c4")),
            allow(["kms:Decrypt", "kms:GenerateDataKey"], key, Condition=via("sqs", "sns")),
        ],
        f"{name}-frontend": [
            allow(["sqs:GetQueueAttributes"], queue, dlq),
            allow(["rds-db:connect"], arn("rds-db", f"dbuser:DB-{name.upper()}/aviary_frontend")),
        ],
        f"{name}-reconcile": [
            allow(["sqs:GetQueueAttributes"], queue),
            allow(["rds-db:connect"], arn("rds-db", f"dbuser:DB-{name.upper()}/aviary_pelican")),
        ],
        f"{name}-operator": [
            allow(
                ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"],
                dlq,
            ),
            allow(["kms:Decrypt", "kms:GenerateDataKey"], key, Condition=via("sqs")),
            allow(["rds-db:connect"], arn("rds-db", f"dbuser:DB-{name.upper()}/aviary_operator")),
        ],
        f"{name}-operator-start": starting("operator", *pinecone, image="emu"),
        f"{name}-reconcile-start": starting("reconcile", *pinecone, image="pelican"),
        f"{name}-reconcile-schedule": [
            allow(
                ["ecs:RunTask"],
                arn("ecs", f"task-definition/{name}-reconcile:1"),
                Condition={"ArnEquals": {"ecs:cluster": arn("ecs", f"cluster/{name}-pelican-1a2b3c4")}},
            ),
            allow(
                ["iam:PassRole"],
                *(f"arn:aws:iam::{ACCOUNT}:role/{name}-reconcile{what}-1a2b3c4" for what in ("-start", "")),
                Condition={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
            ),
        ],
        f"{name}-pelican-start": starting("pelican", *owner),
        f"{name}-emu-start": starting("emu", *pinecone),
        f"{name}-frontend-start": starting("frontend", *pinecone),
        f"{name}-flow": [
            allow(
                ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
                arn("logs", f"log-group:{name}-flow"),
                arn("logs", f"log-group:{name}-flow:log-stream:*"),
            ),
            allow(["logs:DescribeLogGroups"], arn("logs", "log-group:*")),
        ],
    }


def test_every_role_may_do_exactly_this(graph: Graph, stack: str) -> None:
    found = {policy.name: list(statements(policy.inputs["policy"])) for policy in graph.all(ROLE_POLICY)}
    assert found == expected(stack)


def test_every_policy_belongs_to_the_role_of_its_name(graph: Graph) -> None:
    for policy in graph.all(ROLE_POLICY):
        assert policy.inputs["role"] == f"{policy.name}-1a2b3c4"


def test_only_enhanced_monitoring_uses_a_policy_that_aws_wrote(graph: Graph, stack: str) -> None:
    attached = [a.inputs["policyArn"] for a in graph.all("aws:iam/rolePolicyAttachment:RolePolicyAttachment")]
    monitoring = "arn:aws:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
    assert attached == ([monitoring] if stack == "prod" else [])


def test_each_wildcard_in_a_role_is_one_of_the_listed(graph: Graph, stack: str) -> None:
    name = f"aviary-{stack}"
    allowed = {
        (
            f"{name}-{policy.format(service=service)}",
            actions,
            resource.format(
                log_group=arn("logs", f"log-group:{name}-{'flow' if policy == 'flow' else service}"),
                log_groups=arn("logs", "log-group:*"),
            ),
        )
        for policy, actions, resource in WILDCARDS
        for service in TASKS
    }
    for policy in graph.all(ROLE_POLICY):
        for statement in statements(policy.inputs["policy"]):
            assert not [action for action in statement["Action"] if "*" in action], policy.name
            for resource in statement["Resource"]:
                if "*" in resource:
                    assert (policy.name, " ".join(statement["Action"]), resource) in allowed


@pytest.mark.parametrize(
    ("suffix", "service", "source"),
    [
        (
            "reconcile-schedule",
            "events.amazonaws.com",
            "arn:aws:events:us-east-1:123456789012:rule/aviary-{stack}-reconcile-1a2b3c4",
        ),
        ("flow", "vpc-flow-logs.amazonaws.com", "arn:aws:ec2:us-east-1:123456789012:vpc-flow-log/*"),
        *[
            (role, "ecs-tasks.amazonaws.com", "arn:aws:ecs:us-east-1:123456789012:*")
            for one in TASKS
            for role in (one, f"{one}-start")
        ],
    ],
)
def test_each_role_is_assumed_by_one_service_for_this_account_only(suffix: str, service: str, source: str) -> None:
    for stack in ("dev", "prod"):
        role = whole(stack).one(ROLE, f"aviary-{stack}-{suffix}")
        assert list(statements(role.inputs["assumeRolePolicy"])) == [
            {
                "Effect": "Allow",
                "Principal": {"Service": service},
                "Action": "sts:AssumeRole",
                "Condition": {
                    "StringEquals": {"aws:SourceAccount": ACCOUNT},
                    "ArnLike": {"aws:SourceArn": source.format(stack=stack)},
                },
            }
        ]


def test_there_are_no_other_roles(graph: Graph, stack: str) -> None:
    known = {f"aviary-{stack}-{role}" for one in TASKS for role in (one, f"{one}-start")}
    known |= {f"aviary-{stack}-flow", f"aviary-{stack}-reconcile-schedule"}
    known |= {"aviary-prod-monitoring"} if stack == "prod" else set()
    assert {role.name for role in graph.all(ROLE)} == known


def test_only_pelicans_start_may_read_the_database_owners_password(graph: Graph) -> None:
    readers = [p.name for p in graph.all(ROLE_POLICY) if "rds!db-" in p.inputs["policy"]]
    assert [name.rpartition("-")[0].rpartition("-")[2] for name in readers] == ["pelican"]
    assert [name.rpartition("-")[2] for name in readers] == ["start"]


def test_the_key_is_used_by_iams_leave_and_two_services(graph: Graph, stack: str) -> None:
    key = graph.one("aws:kms/key:Key", f"aviary-{stack}")
    assert list(statements(key.inputs["policy"])) == [
        {
            "Sid": "IamDecides",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
            "Action": "kms:*",
            "Resource": "*",
        },
        {
            "Sid": "LogGroupsOfThisAccount",
            "Effect": "Allow",
            "Principal": {"Service": "logs.us-east-1.amazonaws.com"},
            "Action": [
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:Encrypt",
                "kms:GenerateDataKey",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ],
            "Resource": "*",
            "Condition": {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": arn("logs", "log-group:*")}},
        },
        {
            "Sid": "AlarmsToTheTopic",
            "Effect": "Allow",
            "Principal": {"Service": "cloudwatch.amazonaws.com"},
            "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
            "Resource": "*",
            "Condition": {"StringEquals": {"aws:SourceAccount": ACCOUNT}},
        },
    ]


def denied_without_tls(action: str, *resources: str) -> dict[str, object]:
    return {
        "Sid": "OnlyOverTls",
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": list(resources),
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def test_queues_take_nothing_without_tls_and_let_nobody_else_in(graph: Graph, stack: str) -> None:
    for queue in ("changes", "dlq"):
        name = f"aviary-{stack}-{queue}"
        policy = graph.one("aws:sqs/queuePolicy:QueuePolicy", name)
        assert list(statements(policy.inputs["policy"])) == [denied_without_tls("sqs:*", arn("sqs", f"{name}.fifo"))]
        assert policy.inputs["queueUrl"].endswith(f"/{name}.fifo")


def test_the_topic_hears_alarms_of_this_account_and_nobody_without_tls(graph: Graph, stack: str) -> None:
    topic = arn("sns", f"aviary-{stack}-notices-1a2b3c4")
    policy = graph.one("aws:sns/topicPolicy:TopicPolicy", f"aviary-{stack}")
    assert list(statements(policy.inputs["policy"])) == [
        denied_without_tls("sns:Publish", topic),
        {
            "Sid": "AlarmsOfThisAccount",
            "Effect": "Allow",
            "Principal": {"Service": "cloudwatch.amazonaws.com"},
            "Action": "sns:Publish",
            "Resource": topic,
            "Condition": {
                "StringEquals": {"aws:SourceAccount": ACCOUNT},
                "ArnLike": {"aws:SourceArn": arn("cloudwatch", "alarm:*")},
            },
        },
    ]


def test_only_load_balancers_write_to_the_access_logs(stack: str) -> None:
    graph = with_own_access_logs(stack)
    name = f"aviary-{stack}-access-logs"
    bucket = f"arn:aws:s3:::{name}-1a2b3c4"
    policy = graph.one("aws:s3/bucketPolicy:BucketPolicy", name)
    assert list(statements(policy.inputs["policy"])) == [
        denied_without_tls("s3:*", bucket, f"{bucket}/*"),
        {
            "Sid": "LoadBalancersOfThisAccount",
            "Effect": "Allow",
            "Principal": {"Service": "logdelivery.elasticloadbalancing.amazonaws.com"},
            "Action": "s3:PutObject",
            "Resource": f"{bucket}/AWSLogs/{ACCOUNT}/*",
        },
    ]


def test_policies_of_a_preview_have_the_shape_of_the_real_ones(previewed: Graph, stack: str) -> None:
    """What is unknown may only be missing, never be written into a policy as something else."""
    known = {p.name: p for p in whole(stack).all(ROLE_POLICY)}
    for policy in previewed.all(ROLE_POLICY):
        text: Any = policy.inputs["policy"]
        assert "Output" not in text, policy.name
        assert policy.name in known
        if text.startswith("{"):
            actions = [s["Action"] for s in json.loads(text)["Statement"]]
            assert actions == [s["Action"] for s in statements(known[policy.name].inputs["policy"])]


def test_a_stack_without_flow_logs_has_no_role_for_them() -> None:
    names = {role.name for role in changed("dev", networkFlowLogs="false").all(ROLE)}
    assert "aviary-dev-flow" not in names
