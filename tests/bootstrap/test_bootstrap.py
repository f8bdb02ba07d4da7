"""The bootstrap program: who may assume the workflows' roles, and what each may then do."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from blueprint.graph import Graph, Resource
from blueprint.record import run

PROGRAM = Path(__file__).parents[2] / "bootstrap" / "__main__.py"
REPOSITORY = "example/aviary"
ISSUER = "token.actions.githubusercontent.com"


def bootstrap(**config: str) -> Graph:
    values = {"aviary-bootstrap:repository": REPOSITORY, "aws:region": "us-east-1"} | config
    return run(
        lambda: runpy.run_path(str(PROGRAM), run_name="__main__"),
        config=values,
        project_name="aviary-bootstrap",
        stack="main",
    )


@pytest.fixture(scope="module")
def graph() -> Graph:
    return bootstrap()


def role(graph: Graph, label: str) -> Resource:
    return next(r for r in graph.of("aws:iam:Role") if r.name == f"aviary-github-{label}")


def statements(graph: Graph, label: str) -> dict[str, dict[str, Any]]:
    policy = next(r for r in graph.of("aws:iam:RolePolicy") if r.name == f"aviary-github-{label}")
    return {s["Sid"]: s for s in json.loads(policy.inputs["policy"])["Statement"]}


def managed(graph: Graph, label: str) -> list[str]:
    return [
        r.inputs["policyArn"].rsplit("/", 1)[1]
        for r in graph.of("aws:iam:RolePolicyAttachment")
        if r.name == f"aviary-github-{label}"
    ]


@pytest.mark.parametrize(
    ("label", "subject"),
    [
        ("preview", "pull_request"),
        ("drift", "ref:refs/heads/main"),
        ("deploy-dev", "environment:dev"),
        ("deploy-prod", "environment:prod"),
    ],
)
def test_a_role_is_assumed_only_from_its_own_situation(graph: Graph, label: str, subject: str) -> None:
    [statement] = json.loads(role(graph, label).inputs["assumeRolePolicy"])["Statement"]
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert statement["Condition"] == {
        "StringEquals": {f"{ISSUER}:aud": "sts.amazonaws.com", f"{ISSUER}:sub": f"repo:{REPOSITORY}:{subject}"}
    }
    assert list(statement["Principal"]) == ["Federated"]


def test_there_is_no_fifth_role(graph: Graph) -> None:
    assert len(list(graph.of("aws:iam:Role"))) == 4


def test_a_preview_reads_the_state_and_writes_nothing_but_locks(graph: Graph) -> None:
    assert managed(graph, "preview") == []
    given = statements(graph, "preview")
    assert set(given) == {"FindState", "ReadState", "LockState", "UseStateKey"}
    [locks] = given["LockState"]["Resource"]
    assert locks.endswith("/.pulumi/locks/*")
    assert given["LockState"]["Action"] == ["s3:DeleteObject", "s3:PutObject"]
    assert given["ReadState"]["Action"] == ["s3:GetObject"]


def test_the_nightly_look_reads_everything_but_contents(graph: Graph) -> None:
    assert managed(graph, "drift") == ["ReadOnlyAccess"]
    denied = statements(graph, "drift")["NoContents"]
    assert denied["Effect"] == "Deny"
    assert {"sqs:ReceiveMessage", "logs:GetLogEvents"} <= set(denied["Action"])


def test_the_nightly_look_opens_the_parameters_that_are_ours_and_no_other(graph: Graph) -> None:
    given = statements(graph, "drift")
    ours = "arn:aws:ssm:*:123456789012:parameter/aviary-*"
    assert (given["CompareParameters"]["Action"], given["CompareParameters"]["Resource"]) == (
        ["ssm:GetParameter"],
        [ours],
    )
    assert (given["NoOtherParameters"]["Effect"], given["NoOtherParameters"]["NotResource"]) == ("Deny", [ours])
    assert {"ssm:GetParameter", "ssm:GetParameters"} <= set(given["NoOtherParameters"]["Action"])
    assert given["DecryptParameters"]["Action"] == ["kms:Decrypt"]
    assert given["DecryptParameters"]["Condition"] == {"StringLike": {"kms:EncryptionContext:PARAMETER_ARN": ours}}


def test_prods_certificate_is_made_here_and_out_of_reach_of_its_deployments() -> None:
    graph = bootstrap(**{"aviary-bootstrap:domainName": "search.example.org"})
    certificate = graph.one("aws:acm:Certificate", "aviary")
    assert certificate.inputs["domainName"] == "search.example.org"
    assert certificate.protect
    assert graph.exports["CERTIFICATE_VALIDATION"]["name"] == "_proof.search.example.org."
    assert graph.exports["CERTIFICATE_ARN"]
    denied = statements(graph, "deploy-prod")["LeaveTheCertificate"]
    assert (denied["Effect"], denied["Resource"]) == ("Deny", "*")
    assert {"acm:RequestCertificate", "acm:DeleteCertificate", "acm:ImportCertificate"} <= set(denied["Action"])
    assert "LeaveTheCertificate" not in statements(graph, "deploy-dev"), "dev makes its own, where it has a domain"


def test_the_proof_of_the_domain_is_set_where_its_zone_is_known() -> None:
    zone = {"aviary-bootstrap:domainName": "search.example.org", "aviary-bootstrap:hostedZoneId": "Z0123456789ABCDEF"}
    record = bootstrap(**zone).one("aws:route53:Record", "aviary")
    assert (record.inputs["zoneId"], record.inputs["type"]) == ("Z0123456789ABCDEF", "CNAME")


def test_without_a_domain_prod_makes_its_own_certificate_or_none(graph: Graph) -> None:
    assert not list(graph.of("aws:acm:Certificate"))
    assert "LeaveTheCertificate" not in statements(graph, "deploy-prod")


def test_a_zone_without_a_domain_is_refused() -> None:
    with pytest.raises(Exception, match="pulumi config set domainName"):
        bootstrap(**{"aviary-bootstrap:hostedZoneId": "Z0123456789ABCDEF"})


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_a_deployment_manages_the_roles_of_its_tasks_and_never_its_own(graph: Graph, environment: str) -> None:
    label = f"deploy-{environment}"
    assert managed(graph, label) == ["PowerUserAccess"], "everything but IAM and the organisation"
    given = statements(graph, label)
    [roles] = given["ManageTaskRoles"]["Resource"]
    assert roles.endswith(":role/aviary-*")
    assert given["NeverItsOwnRoles"]["Effect"] == "Deny"
    assert given["NeverItsOwnRoles"]["Resource"][0].endswith(":role/aviary-github-*")
    writing = [
        action for action in given["ManageTaskRoles"]["Action"] if not action.startswith(("iam:Get", "iam:List"))
    ]
    assert given["NeverItsOwnRoles"]["Action"] == writing
    assert given["PassTaskRoles"]["Condition"]["StringEquals"]["iam:PassedToService"]
    for statement in given.values():
        if statement["Effect"] == "Allow":
            assert not [action for action in statement["Action"] if "*" in action]
            assert "*" not in statement["Resource"]


def test_the_state_is_versioned_encrypted_private_and_tls_only(graph: Graph) -> None:
    versioning = graph.one("aws:s3:BucketVersioning", "aviary-state")
    assert versioning.inputs["versioningConfiguration"]["status"] == "Enabled"
    encryption = graph.one("aws:s3:BucketServerSideEncryptionConfiguration", "aviary-state")
    assert encryption.inputs["rules"][0]["applyServerSideEncryptionByDefault"]["sseAlgorithm"] == "aws:kms"
    block = graph.one("aws:s3:BucketPublicAccessBlock", "aviary-state")
    assert all(
        block.inputs[k] for k in ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
    )
    policy = graph.one("aws:s3:BucketPolicy", "aviary-state")
    [statement] = json.loads(policy.inputs["policy"])["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert block.urn in policy.dependencies
    for kind in ("aws:s3:Bucket", "aws:kms:Key"):
        made = graph.one(kind, "aviary-state")
        assert made.protect, "a destroy must not take the state of every stack with it"


def test_who_deploys_cannot_remove_the_traces_of_what_was_deployed(graph: Graph) -> None:
    bucket = graph.one("aws:s3:Bucket", "aviary-access-logs")
    assert graph.exports["ACCESS_LOG_BUCKET"] == "aviary-access-logs-123456789012" == bucket.inputs["bucket"]
    assert bucket.protect
    for environment in ("dev", "prod"):
        denied = statements(graph, f"deploy-{environment}")["LeaveTheTraces"]
        assert (denied["Effect"], denied["Action"]) == ("Deny", ["s3:Delete*", "s3:Put*"])
        assert denied["Resource"] == [bucket.arn, f"{bucket.arn}/*"]


def test_what_the_workflows_need_is_exported(graph: Graph) -> None:
    assert set(graph.exports) == {
        "PULUMI_BACKEND_URL",
        "PULUMI_SECRETS_PROVIDER",
        "ACCESS_LOG_BUCKET",
        "AWS_PREVIEW_ROLE_ARN",
        "AWS_DRIFT_ROLE_ARN",
        "AWS_DEPLOY_ROLE_ARN_dev",
        "AWS_DEPLOY_ROLE_ARN_prod",
    }
    assert graph.exports["PULUMI_BACKEND_URL"].startswith("s3://")
    assert graph.exports["PULUMI_SECRETS_PROVIDER"].startswith("awskms://alias/aviary-state?region=")


def test_a_provider_that_the_account_has_already_is_used() -> None:
    graph = bootstrap(**{"aviary-bootstrap:createProvider": "false"})
    assert not list(graph.of("aws:iam:OpenIdConnectProvider"))
    [statement] = json.loads(role(graph, "preview").inputs["assumeRolePolicy"])["Statement"]
    assert statement["Principal"]["Federated"].endswith(f":oidc-provider/{ISSUER}")


@pytest.mark.parametrize("repository", ["", "aviary", "a/b/c", "https://example.org/a/b", "*/aviary"])
def test_a_repository_that_is_not_owner_and_name_is_refused(repository: str) -> None:
    with pytest.raises(Exception, match="repository"):
        bootstrap(**{"aviary-bootstrap:repository": repository})
