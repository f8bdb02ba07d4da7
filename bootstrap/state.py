"""Where Pulumi keeps its state: a versioned, encrypted bucket, and the key that encrypts it and the stacks' secrets."""

from typing import Any

import pulumi
import pulumi_aws as aws

# Old versions of the state are the way back from a broken deployment.
OLD_STATE_DAYS = 90


class State(pulumi.ComponentResource):
    """Bucket and key. `backend_url` and `secrets_provider` are what `pulumi login` and `pulumi stack init` take."""

    bucket: aws.s3.Bucket
    key: aws.kms.Key
    backend_url: pulumi.Output[str]
    secrets_provider: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        region: pulumi.Input[str],
        account_id: pulumi.Input[str],
        partition: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("aviary:bootstrap:State", name, None, opts)
        mine = pulumi.ResourceOptions(parent=self, protect=True)
        self.key = aws.kms.Key(
            name,
            description="Pulumi's state and the secrets in it",
            enable_key_rotation=True,
            deletion_window_in_days=30,
            policy=_key_policy(account_id, partition),
            opts=mine,
        )
        alias = aws.kms.Alias(f"{name}-alias", name=f"alias/{name}", target_key_id=self.key.key_id, opts=mine)
        self.bucket = aws.s3.Bucket(name, opts=mine)
        child = pulumi.ResourceOptions(parent=self)
        aws.s3.BucketVersioning(name, bucket=self.bucket.id, versioning_configuration={"status": "Enabled"}, opts=child)
        aws.s3.BucketServerSideEncryptionConfiguration(
            name,
            bucket=self.bucket.id,
            rules=[
                {
                    "apply_server_side_encryption_by_default": {
                        "sse_algorithm": "aws:kms",
                        "kms_master_key_id": self.key.arn,
                    },
                    "bucket_key_enabled": True,
                }
            ],
            opts=child,
        )
        block = aws.s3.BucketPublicAccessBlock(
            name,
            bucket=self.bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=child,
        )
        aws.s3.BucketLifecycleConfiguration(
            name,
            bucket=self.bucket.id,
            rules=[
                {
                    "id": "old-state",
                    "status": "Enabled",
                    "filter": {},
                    "noncurrent_version_expiration": {"noncurrent_days": OLD_STATE_DAYS},
                    "abort_incomplete_multipart_upload": {"days_after_initiation": 7},
                }
            ],
            opts=child,
        )
        aws.s3.BucketPolicy(
            name,
            bucket=self.bucket.id,
            policy=pulumi.Output.json_dumps(
                {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Sid": "OnlyOverTls",
                            "Effect": "Deny",
                            "Principal": "*",
                            "Action": "s3:*",
                            "Resource": [self.bucket.arn, pulumi.Output.concat(self.bucket.arn, "/*")],
                            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                        }
                    ],
                }
            ),
            # S3 refuses a policy and a block that arrive at the same moment.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[block]),
        )
        self.backend_url = pulumi.Output.concat("s3://", self.bucket.bucket)
        self.secrets_provider = pulumi.Output.concat("awskms://", alias.name, "?region=", region)
        self.register_outputs({"backend_url": self.backend_url, "secrets_provider": self.secrets_provider})


def _key_policy(account_id: pulumi.Input[str], partition: pulumi.Input[str]) -> pulumi.Output[str]:
    """The account's own IAM policies decide who uses the key; without this statement nobody could, for ever.

    `kms:*` on `*` is the form that AWS prescribes: in a key policy `*` means this key.
    https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
    """
    statement: dict[str, Any] = {
        "Sid": "TheAccountDecides",
        "Effect": "Allow",
        "Principal": {"AWS": pulumi.Output.format("arn:{}:iam::{}:root", partition, account_id)},
        "Action": "kms:*",
        "Resource": "*",
    }
    return pulumi.Output.json_dumps({"Version": "2012-10-17", "Statement": [statement]})
