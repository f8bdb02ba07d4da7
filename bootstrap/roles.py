"""The roles of GitHub's workflows: who may assume each (by OpenID Connect, no stored keys), and what it may then do."""

from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_aws as aws

from bootstrap.state import State

ISSUER = "token.actions.githubusercontent.com"
AUDIENCE = "sts.amazonaws.com"
ENVIRONMENTS = ("dev", "prod")
ONE_HOUR_SECONDS = 3600
# A first `up` with a Multi-AZ database and three images takes longer than an hour's token may last.
TWO_HOURS_SECONDS = 7200

# IAM actions that a deployment needs for the roles of its own tasks, and no other.
ROLE_ACTIONS = (
    "iam:AttachRolePolicy",
    "iam:CreateRole",
    "iam:DeleteRole",
    "iam:DeleteRolePolicy",
    "iam:DetachRolePolicy",
    "iam:GetRole",
    "iam:GetRolePolicy",
    "iam:ListAttachedRolePolicies",
    "iam:ListInstanceProfilesForRole",
    "iam:ListRolePolicies",
    "iam:ListRoleTags",
    "iam:PutRolePolicy",
    "iam:TagRole",
    "iam:UntagRole",
    "iam:UpdateAssumeRolePolicy",
    "iam:UpdateRole",
    "iam:UpdateRoleDescription",
)
# What a reader must not read: the contents of queues, logs, buckets and tables are none of a preview's business.
CONTENTS = (
    "dynamodb:GetItem",
    "dynamodb:Query",
    "dynamodb:Scan",
    "logs:FilterLogEvents",
    "logs:GetLogEvents",
    "logs:StartQuery",
    "sqs:ReceiveMessage",
)
# Parameters hold keys; Aviary's own may be compared with what was deployed.
PARAMETERS = ("ssm:GetParameter", "ssm:GetParameterHistory", "ssm:GetParameters", "ssm:GetParametersByPath")
# All that makes or changes a certificate. A deployment needs none of it where the certificate is made here.
CERTIFICATE_ACTIONS = (
    "acm:AddTagsToCertificate",
    "acm:DeleteCertificate",
    "acm:ExportCertificate",
    "acm:ImportCertificate",
    "acm:PutAccountConfiguration",
    "acm:RemoveTagsFromCertificate",
    "acm:RenewCertificate",
    "acm:RequestCertificate",
    "acm:ResendValidationEmail",
    "acm:RevokeCertificate",
    "acm:UpdateCertificateOptions",
)
# Who runs under the roles that a deployment makes.
PASSED_TO = (
    "ecs-tasks.amazonaws.com",
    "events.amazonaws.com",
    "monitoring.rds.amazonaws.com",
    "vpc-flow-logs.amazonaws.com",
)


class Roles(pulumi.ComponentResource):
    """GitHub's provider and the four roles."""

    preview: aws.iam.Role
    drift: aws.iam.Role
    deploy: dict[str, aws.iam.Role]

    def __init__(
        self,
        name: str,
        *,
        repository: str,
        main_branch: str,
        create_provider: bool,
        state: State,
        access_logs_arn: pulumi.Output[str],
        certificate_is_made_here: bool,
        account_id: pulumi.Input[str],
        partition: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("aviary:bootstrap:Roles", name, None, opts)
        self._prefix, self._repository, self._state = name, repository, state
        self._partition, self._account_id = partition, account_id
        self._access_logs_arn = access_logs_arn
        self._issuer_arn: pulumi.Output[str]
        if create_provider:
            made = aws.iam.OpenIdConnectProvider(
                name,
                url=f"https://{ISSUER}",
                client_id_lists=[AUDIENCE],
                opts=pulumi.ResourceOptions(parent=self),
            )
            self._issuer_arn = made.arn
        else:
            self._issuer_arn = pulumi.Output.format("arn:{}:iam::{}:oidc-provider/{}", partition, account_id, ISSUER)

        self.preview = self._role("preview", "pull_request", ONE_HOUR_SECONDS)
        self._may("preview", self.preview, [*self._state_statements(write=False)])
        self.drift = self._role("drift", f"ref:refs/heads/{main_branch}", ONE_HOUR_SECONDS)
        self._managed("drift", self.drift, "ReadOnlyAccess")
        self._may(
            "drift",
            self.drift,
            [*self._state_statements(write=True), *self._parameter_to_compare(), _denied("NoContents", CONTENTS)],
        )
        self.deploy = {}
        for environment in ENVIRONMENTS:
            label = f"deploy-{environment}"
            role = self._role(label, f"environment:{environment}", TWO_HOURS_SECONDS)
            # Everything but IAM and the organisation, as AWS itself defines it.
            self._managed(label, role, "PowerUserAccess")
            statements = [*self._state_statements(write=True), *self._roles_of_tasks(), self._traces()]
            # dev may have a domain too, and then makes its own certificate.
            if environment == "prod" and certificate_is_made_here:
                statements.append(_denied("LeaveTheCertificate", CERTIFICATE_ACTIONS))
            self._may(label, role, statements)
            self.deploy[environment] = role
        self.register_outputs({"preview": self.preview.arn, "drift": self.drift.arn})

    def _role(self, label: str, subject: str, seconds: int) -> aws.iam.Role:
        """A role that only workflows of this repository may assume, and only in this situation. Both conditions are
        equalities: a pattern here is how roles are stolen."""
        trust = {
            "Effect": "Allow",
            "Principal": {"Federated": self._issuer_arn},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {
                "StringEquals": {f"{ISSUER}:aud": AUDIENCE, f"{ISSUER}:sub": f"repo:{self._repository}:{subject}"}
            },
        }
        return aws.iam.Role(
            f"{self._prefix}-{label}",
            description=f"GitHub workflows of {self._repository}, {subject}",
            max_session_duration=seconds,
            assume_role_policy=pulumi.Output.json_dumps({"Version": "2012-10-17", "Statement": [trust]}),
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _managed(self, label: str, role: aws.iam.Role, policy: str) -> None:
        aws.iam.RolePolicyAttachment(
            f"{self._prefix}-{label}",
            role=role.name,
            policy_arn=pulumi.Output.format("arn:{}:iam::aws:policy/{}", self._partition, policy),
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _may(self, label: str, role: aws.iam.Role, statements: Sequence[dict[str, Any]]) -> None:
        aws.iam.RolePolicy(
            f"{self._prefix}-{label}",
            role=role.id,
            policy=pulumi.Output.json_dumps({"Version": "2012-10-17", "Statement": list(statements)}),
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _state_statements(self, *, write: bool) -> list[dict[str, Any]]:
        """Reading the state takes a lock, and so a preview writes one file and removes it. Files below these folders are
        named by stack, time and process, which nobody knows beforehand."""
        bucket, locks = self._state.bucket.arn, pulumi.Output.concat(self._state.bucket.arn, "/.pulumi/locks/*")
        everything = pulumi.Output.concat(bucket, "/.pulumi/*")
        return [
            {"Sid": "FindState", "Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [bucket]},
            {"Sid": "ReadState", "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [everything]},
            {
                "Sid": "WriteState" if write else "LockState",
                "Effect": "Allow",
                "Action": ["s3:DeleteObject", "s3:PutObject"],
                "Resource": [everything if write else locks],
            },
            {
                "Sid": "UseStateKey",
                "Effect": "Allow",
                "Action": ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"],
                "Resource": [self._state.key.arn],
            },
        ]

    def _parameter_to_compare(self) -> list[dict[str, Any]]:
        """A refresh compares the stored Pinecone key with the deployed one. The prefix is the program's own. The stacks'
        encryption keys are not made yet, so that any of the account's is named, for these parameters alone."""
        ours = pulumi.Output.format("arn:{}:ssm:*:{}:parameter/aviary-*", self._partition, self._account_id)
        return [
            {"Sid": "CompareParameters", "Effect": "Allow", "Action": ["ssm:GetParameter"], "Resource": [ours]},
            {"Sid": "NoOtherParameters", "Effect": "Deny", "Action": list(PARAMETERS), "NotResource": [ours]},
            {
                "Sid": "DecryptParameters",
                "Effect": "Allow",
                "Action": ["kms:Decrypt"],
                "Resource": [pulumi.Output.format("arn:{}:kms:*:{}:key/*", self._partition, self._account_id)],
                # https://docs.aws.amazon.com/kms/latest/developerguide/services-parameter-store.html
                "Condition": {"StringLike": {"kms:EncryptionContext:PARAMETER_ARN": ours}},
            },
        ]

    def _traces(self) -> dict[str, Any]:
        """Whoever deploys cannot remove the traces of what was deployed. The wildcards make the denial stricter."""
        bucket = self._access_logs_arn
        return {
            "Sid": "LeaveTheTraces",
            "Effect": "Deny",
            "Action": ["s3:Delete*", "s3:Put*"],
            "Resource": [bucket, pulumi.Output.concat(bucket, "/*")],
        }

    def _roles_of_tasks(self) -> list[dict[str, Any]]:
        """Pulumi adds a random suffix to the names it makes, so their ARNs can only be told by prefix."""
        roles = pulumi.Output.format("arn:{}:iam::{}:role/aviary-*", self._partition, self._account_id)
        github = pulumi.Output.format("arn:{}:iam::{}:role/{}-*", self._partition, self._account_id, self._prefix)
        return [
            {"Sid": "ManageTaskRoles", "Effect": "Allow", "Action": list(ROLE_ACTIONS), "Resource": [roles]},
            {
                "Sid": "NeverItsOwnRoles",
                "Effect": "Deny",
                "Action": [action for action in ROLE_ACTIONS if not action.startswith(("iam:Get", "iam:List"))],
                "Resource": [github],
            },
            {
                "Sid": "PassTaskRoles",
                "Effect": "Allow",
                "Action": ["iam:PassRole"],
                "Resource": [roles],
                "Condition": {"StringEquals": {"iam:PassedToService": list(PASSED_TO)}},
            },
            {
                "Sid": "ServiceLinkedRoles",
                "Effect": "Allow",
                "Action": ["iam:CreateServiceLinkedRole"],
                # The service gives its role a name of its own.
                "Resource": [
                    pulumi.Output.format(
                        "arn:{}:iam::{}:role/aws-service-role/{}/*", self._partition, self._account_id, service
                    )
                    for service in (
                        "ecs.amazonaws.com",
                        "ecs.application-autoscaling.amazonaws.com",
                        "elasticloadbalancing.amazonaws.com",
                        "rds.amazonaws.com",
                    )
                ],
            },
        ]


def _denied(sid: str, actions: Sequence[str]) -> dict[str, Any]:
    """A denial may be as wide as it likes."""
    return {"Sid": sid, "Effect": "Deny", "Action": list(actions), "Resource": "*"}
