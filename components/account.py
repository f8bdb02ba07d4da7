"""Where a stack is built, and the few words of IAM that every component writes with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

Statement = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Account:
    """The account and region of the stack. `partition` is `aws` but for China and GovCloud."""

    region: str
    account_id: pulumi.Input[str]
    partition: pulumi.Input[str]

    def arn(self, service: str, resource: pulumi.Input[str]) -> pulumi.Output[str]:
        """The ARN of a resource of this account and region."""
        return pulumi.Output.format(
            "arn:{}:{}:{}:{}:{}", self.partition, service, self.region, self.account_id, resource
        )


def policy(*statements: Statement) -> pulumi.Output[str]:
    """A policy document as JSON. Statements may hold outputs."""
    return pulumi.Output.json_dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(actions: Sequence[str], resources: Sequence[pulumi.Input[str]], **more: object) -> Statement:
    """A statement that allows `actions` on `resources`; `more` are its further elements, such as Condition."""
    return {"Effect": "Allow", "Action": list(actions), "Resource": list(resources), **more}


def assumed_by(service: str, account: Account, source: pulumi.Input[str] | None = None) -> pulumi.Output[str]:
    """A trust policy for an AWS service, on behalf of this account only (the confused deputy); `source` is an ARN
    pattern of the resources that it may come from."""
    condition: dict[str, Any] = {"StringEquals": {"aws:SourceAccount": account.account_id}}
    if source is not None:
        condition["ArnLike"] = {"aws:SourceArn": source}
    return policy(
        {
            "Effect": "Allow",
            "Principal": {"Service": service},
            "Action": "sts:AssumeRole",
            "Condition": condition,
        }
    )


def only_over_tls(resources: Sequence[pulumi.Input[str]], actions: str) -> Statement:
    """A statement for a resource's own policy: nobody, whatever other policies say, may use it without TLS. The
    wildcards make a denial stricter, never an allowance wider."""
    return {
        "Sid": "OnlyOverTls",
        "Effect": "Deny",
        "Principal": "*",
        "Action": actions,
        "Resource": list(resources),
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
