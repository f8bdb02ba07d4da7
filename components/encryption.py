"""One key for everything the stack keeps: database, queues, topic, secrets, logs and images."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.account import Account, policy


@dataclass(frozen=True, kw_only=True)
class EncryptionArgs:
    """`recovery_days`: how long a deleted key can still be brought back, 7 to 30."""

    account: Account
    recovery_days: int


class Encryption(pulumi.ComponentResource):
    """A symmetric key that rotates every year. Identities of the account may use it as their own policies say; beyond
    them only the log service, for this account's log groups, and CloudWatch, whose alarms tell the topic."""

    key_arn: pulumi.Output[str]

    def __init__(self, name: str, args: EncryptionArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:encryption:Encryption", name, None, opts)
        account = args.account
        # In a key's policy the resource "*" is the key itself, and kms:* for the account is what leaves all further
        # decisions to IAM. Without that statement nobody could ever change the key again.
        # https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
        owner = {
            "Sid": "IamDecides",
            "Effect": "Allow",
            "Principal": {"AWS": pulumi.Output.format("arn:{}:iam::{}:root", account.partition, account.account_id)},
            "Action": "kms:*",
            "Resource": "*",
        }
        logs = {
            "Sid": "LogGroupsOfThisAccount",
            "Effect": "Allow",
            "Principal": {"Service": f"logs.{account.region}.amazonaws.com"},
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
            "Condition": {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": account.arn("logs", "log-group:*")}},
        }
        alarms = {
            "Sid": "AlarmsToTheTopic",
            "Effect": "Allow",
            "Principal": {"Service": "cloudwatch.amazonaws.com"},
            "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
            "Resource": "*",
            "Condition": {"StringEquals": {"aws:SourceAccount": account.account_id}},
        }
        key = aws.kms.Key(
            name,
            description=f"{name}: database, queues, topic, secrets, logs and images",
            enable_key_rotation=True,
            deletion_window_in_days=args.recovery_days,
            policy=policy(owner, logs, alarms),
            opts=pulumi.ResourceOptions(parent=self),
        )
        aws.kms.Alias(name, name=f"alias/{name}", target_key_id=key.key_id, opts=pulumi.ResourceOptions(parent=self))
        self.key_arn = key.arn
        self.register_outputs({"key_arn": self.key_arn})
