"""Each policy finds what it is there for, says why and how to mend it, and leaves a good resource alone."""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from policies.pack import policies
from policies.rule import Resource
from policies.rules import RULES
from policies.stack_rules import STACK_RULES

DIGEST = "repo@sha256:" + "0" * 64
CONTAINER = {
    "name": "emu",
    "image": DIGEST,
    "user": "10001:10001",
    "readonlyRootFilesystem": True,
    "environment": [{"name": "AVIARY_QUEUE_URL", "value": "…"}],
    "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "emu"}},
}
GOOD: Mapping[str, dict[str, Any]] = {
    "internet-reaches-only-web-ports": {"cidrIpv4": "0.0.0.0/0", "fromPort": 443, "toPort": 443},
    "default-security-group-is-closed": {"ingress": [], "egress": []},
    "database-is-private-and-encrypted": {"publiclyAccessible": False, "storageEncrypted": True},
    "nobody-holds-a-database-password": {"manageMasterUserPassword": True, "iamDatabaseAuthenticationEnabled": True},
    "database-can-be-brought-back": {"backupRetentionPeriod": 7, "deletionProtection": True},
    "database-speaks-tls-only": {"parameters": [{"name": "rds.force_ssl", "value": "1"}]},
    "queue-is-encrypted": {"kmsMasterKeyId": "key"},
    "queue-keeps-order": {"fifoQueue": True},
    "topic-is-encrypted": {"kmsMasterKeyId": "key"},
    "log-group-ends-and-is-encrypted": {"retentionInDays": 30, "kmsKeyId": "key"},
    "container-is-confined": {"containerDefinitions": [CONTAINER]},
    "container-gets-no-secret-in-clear": {"containerDefinitions": [CONTAINER]},
    "image-is-pinned-by-digest": {"containerDefinitions": [CONTAINER]},
    "container-logs-to-a-group-of-ours": {"containerDefinitions": [CONTAINER]},
    "iam-allows-no-wildcards": {
        "policy": {"Statement": [{"Effect": "Allow", "Action": ["sqs:SendMessage"], "Resource": ["arn:aws:sqs:::q"]}]}
    },
    "roles-are-assumed-by-whom-we-mean": {
        "assumeRolePolicy": {"Statement": {"Principal": {"Service": "ecs"}, "Condition": {"StringEquals": {}, "x": 1}}}
    },
    "load-balancer-is-strict": {"dropInvalidHeaderFields": True, "accessLogs": {"enabled": True}},
    "listener-speaks-modern-tls": {"protocol": "HTTPS", "sslPolicy": "ELBSecurityPolicy-TLS13-1-2-2021-06"},
    "bucket-cannot-become-public": {
        "blockPublicAcls": True,
        "blockPublicPolicy": True,
        "ignorePublicAcls": True,
        "restrictPublicBuckets": True,
    },
    "repository-keeps-its-images": {
        "imageTagMutability": "IMMUTABLE",
        "imageScanningConfiguration": {"scanOnPush": True},
    },
    "service-is-private-and-rolls-back": {
        "networkConfiguration": {"assignPublicIp": False},
        "deploymentCircuitBreaker": {"enable": True, "rollback": True},
    },
    "alarm-tells-somebody": {"alarmActions": ["topic"]},
    "secret-has-a-key-of-ours": {"kmsKeyId": "key"},
}
# (rule, path to a value in the good example, the value that breaks the rule, a word of the finding)
BROKEN: list[tuple[str, list[str | int], Any, str]] = [
    ("internet-reaches-only-web-ports", ["fromPort"], 5432, "5432"),
    ("internet-reaches-only-web-ports", ["toPort"], 65535, "65535"),
    (
        "internet-reaches-only-web-ports",
        ["ingress"],
        [{"cidrBlocks": ["0.0.0.0/0"], "fromPort": 22, "toPort": 22}],
        "22",
    ),
    (
        "internet-reaches-only-web-ports",
        ["ingress"],
        [{"ipv6CidrBlocks": ["::/0"], "fromPort": 0, "toPort": 0}],
        "internet",
    ),
    ("default-security-group-is-closed", ["ingress"], [{"self": True}], "ingress"),
    ("default-security-group-is-closed", ["egress"], [{"cidrBlocks": ["0.0.0.0/0"]}], "egress"),
    ("database-is-private-and-encrypted", ["publiclyAccessible"], True, "publicly"),
    ("database-is-private-and-encrypted", ["storageEncrypted"], False, "not encrypted"),
    ("nobody-holds-a-database-password", ["password"], "hunter2", "master password stands"),
    ("nobody-holds-a-database-password", ["manageMasterUserPassword"], False, "does not manage"),
    ("nobody-holds-a-database-password", ["iamDatabaseAuthenticationEnabled"], False, "IAM token"),
    ("database-can-be-brought-back", ["backupRetentionPeriod"], 0, "no backups"),
    ("database-can-be-brought-back", ["skipFinalSnapshot"], True, "last snapshot"),
    ("database-speaks-tls-only", ["parameters", 0, "value"], "0", "force_ssl"),
    ("queue-is-encrypted", ["kmsMasterKeyId"], None, "not encrypted"),
    ("queue-keeps-order", ["fifoQueue"], False, "FIFO"),
    ("topic-is-encrypted", ["kmsMasterKeyId"], None, "not encrypted"),
    ("log-group-ends-and-is-encrypted", ["retentionInDays"], None, "for ever"),
    ("log-group-ends-and-is-encrypted", ["kmsKeyId"], None, "key"),
    ("container-is-confined", ["containerDefinitions", 0, "readonlyRootFilesystem"], False, "root file system"),
    ("container-is-confined", ["containerDefinitions", 0, "user"], "0:0", "as root"),
    ("container-is-confined", ["containerDefinitions", 0, "user"], None, "as root"),
    ("container-is-confined", ["containerDefinitions", 0, "privileged"], True, "privileged"),
    (
        "container-gets-no-secret-in-clear",
        ["containerDefinitions", 0, "environment", 0, "name"],
        "PINECONE_API_KEY",
        "PINECONE_API_KEY",
    ),
    ("image-is-pinned-by-digest", ["containerDefinitions", 0, "image"], "repo:latest", "repo:latest"),
    ("container-logs-to-a-group-of-ours", ["containerDefinitions", 0, "logConfiguration"], None, "nowhere"),
    (
        "container-logs-to-a-group-of-ours",
        ["containerDefinitions", 0, "logConfiguration", "options", "awslogs-create-group"],
        "true",
        "its own",
    ),
    ("iam-allows-no-wildcards", ["policy", "Statement", 0, "Action"], "sqs:*", "sqs:*"),
    ("iam-allows-no-wildcards", ["policy", "Statement", 0, "Resource"], "*", "every resource"),
    ("iam-allows-no-wildcards", ["policy", "Statement", 0, "NotAction"], ["iam:*"], "but a list"),
    ("roles-are-assumed-by-whom-we-mean", ["assumeRolePolicy", "Statement", "Principal"], "*", "anybody"),
    ("roles-are-assumed-by-whom-we-mean", ["assumeRolePolicy", "Statement", "Principal"], {"AWS": ["*"]}, "anybody"),
    ("roles-are-assumed-by-whom-we-mean", ["assumeRolePolicy", "Statement", "Condition"], None, "no condition"),
    ("load-balancer-is-strict", ["dropInvalidHeaderFields"], False, "header"),
    ("load-balancer-is-strict", ["accessLogs", "enabled"], False, "access log"),
    ("listener-speaks-modern-tls", ["protocol"], "HTTP", "plain HTTP"),
    ("listener-speaks-modern-tls", ["sslPolicy"], "ELBSecurityPolicy-2016-08", "old TLS"),
    ("bucket-cannot-become-public", ["blockPublicAcls"], False, "blockPublicAcls"),
    ("bucket-cannot-become-public", ["blockPublicPolicy"], False, "blockPublicPolicy"),
    ("bucket-cannot-become-public", ["ignorePublicAcls"], False, "ignorePublicAcls"),
    ("bucket-cannot-become-public", ["restrictPublicBuckets"], False, "restrictPublicBuckets"),
    ("repository-keeps-its-images", ["imageTagMutability"], "MUTABLE", "pushed again"),
    ("repository-keeps-its-images", ["imageScanningConfiguration", "scanOnPush"], False, "scanned"),
    ("secret-has-a-key-of-ours", ["type"], "String", "in clear"),
    ("service-is-private-and-rolls-back", ["networkConfiguration", "assignPublicIp"], True, "public"),
    ("service-is-private-and-rolls-back", ["deploymentCircuitBreaker", "rollback"], False, "rolled back"),
    ("service-is-private-and-rolls-back", ["enableExecuteCommand"], True, "shell"),
    ("alarm-tells-somebody", ["alarmActions"], [], "nobody"),
    ("secret-has-a-key-of-ours", ["kmsKeyId"], None, "shared key"),
]
RULES_BY_NAME = {rule.name: rule for rule in RULES}


def changed(properties: Mapping[str, Any], path: list[str | int], value: Any) -> dict[str, Any]:
    result = copy.deepcopy(dict(properties))
    place: Any = result
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return result


def as_json_text(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Documents as the engine has them: as text."""
    texts = ("policy", "assumeRolePolicy", "containerDefinitions")
    return {key: json.dumps(value) if key in texts else value for key, value in properties.items()}


FORMS: list[Callable[[Mapping[str, Any]], Mapping[str, Any]]] = [dict, as_json_text]


@pytest.mark.parametrize("form", FORMS, ids=["objects", "json"])
@pytest.mark.parametrize("name", list(GOOD))
def test_a_good_resource_passes(name: str, form: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    rule = RULES_BY_NAME[name]
    for type_ in rule.types:
        assert list(rule.findings(type_, form(GOOD[name]))) == []


@pytest.mark.parametrize("form", FORMS, ids=["objects", "json"])
@pytest.mark.parametrize(("name", "path", "value", "word"), BROKEN)
def test_a_broken_resource_is_found_with_the_reason_and_the_fix(
    name: str, path: list[str | int], value: Any, word: str, form: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> None:
    rule = RULES_BY_NAME[name]
    messages = list(rule.findings(rule.types[0], form(changed(GOOD[name], path, value))))
    assert len(messages) == 1
    assert word in messages[0]
    assert messages[0].endswith(f"{rule.reason} {rule.fix}")


def test_every_rule_has_a_good_example_and_one_that_breaks_it() -> None:
    assert set(GOOD) == set(RULES_BY_NAME)
    assert {name for name, *_ in BROKEN} == set(RULES_BY_NAME)


def test_a_rule_looks_only_at_its_own_resources() -> None:
    for rule in RULES:
        assert list(rule.findings("aws:other/thing:Thing", {"cidrIpv4": "0.0.0.0/0"})) == []


def test_a_document_that_is_not_known_yet_is_not_judged() -> None:
    assert list(RULES_BY_NAME["iam-allows-no-wildcards"].findings("aws:iam/rolePolicy:RolePolicy", {})) == []


def test_the_pack_holds_every_rule_under_a_name_of_its_own() -> None:
    names = [policy.name for policy in policies()]
    assert sorted(names) == sorted({rule.name for rule in (*RULES, *STACK_RULES)})


LB = Resource(type="aws:lb/loadBalancer:LoadBalancer", name="alb", properties={"securityGroups": ["sg-alb"]})
OPEN = {"cidrIpv4": "0.0.0.0/0", "fromPort": 443, "toPort": 443}
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
REDRIVE = {"redrivePolicy": '{"deadLetterTargetArn": "arn:d", "maxReceiveCount": 10}'}
QUEUE = Resource(type="aws:sqs/queue:Queue", name="changes", properties={"id": "q", "arn": "arn:q", **REDRIVE})
DEAD = Resource(type="aws:sqs/queue:Queue", name="dead", properties={"id": "d", "arn": "arn:d"})
BARE = Resource(type="aws:sqs/queue:Queue", name="changes", properties={"id": "q", "arn": "arn:q"})
GOVERNED = [
    Resource(type="aws:sqs/queuePolicy:QueuePolicy", name="p", properties={"queueUrl": "q"}),
    Resource(type="aws:sqs/queuePolicy:QueuePolicy", name="pd", properties={"queueUrl": "d"}),
]
BUCKET = Resource(type="aws:s3/bucket:Bucket", name="logs", properties={"id": "b"})
BLOCK = Resource(type="aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock", name="b", properties={"bucket": "b"})
GOOD_STACK = [
    LB,
    Resource(type=INGRESS, name="web", properties={**OPEN, "securityGroupId": "sg-alb"}),
    QUEUE,
    DEAD,
    *GOVERNED,
    BUCKET,
    BLOCK,
]


@pytest.mark.parametrize("rule", STACK_RULES, ids=lambda rule: rule.name)
def test_a_good_stack_passes(rule: Any) -> None:
    assert list(rule.findings(GOOD_STACK)) == []


@pytest.mark.parametrize(
    ("name", "stack", "word"),
    [
        (
            "only-the-load-balancer-is-public",
            [*GOOD_STACK, Resource(type=INGRESS, name="oops", properties={**OPEN, "securityGroupId": "sg-db"})],
            "oops",
        ),
        ("one-way-in", [*GOOD_STACK, Resource(type=LB.type, name="second", properties={})], "second"),
        ("queue-has-dead-letters", [BARE], "changes"),
        ("queue-speaks-tls-only", [r for r in GOOD_STACK if r.name != "pd"], "dead"),
        ("bucket-is-blocked", [r for r in GOOD_STACK if r is not BLOCK], "logs"),
    ],
)
def test_a_broken_stack_is_found_with_the_reason_and_the_fix(name: str, stack: list[Resource], word: str) -> None:
    rule = next(rule for rule in STACK_RULES if rule.name == name)
    messages = list(rule.findings(stack))
    assert len(messages) == 1
    assert word in messages[0]
    assert messages[0].endswith(f"{rule.reason} {rule.fix}")


def test_a_redrive_policy_may_be_a_resource_of_its_own() -> None:
    rule = next(rule for rule in STACK_RULES if rule.name == "queue-has-dead-letters")
    apart = Resource(type="aws:sqs/redrivePolicy:RedrivePolicy", name="r", properties={"queueUrl": "q", **REDRIVE})
    assert list(rule.findings([BARE, DEAD, apart])) == []
