"""The bucket for the load balancer's access logs: who asked for what, and nobody can read it but the account."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.account import Account, only_over_tls, policy


@dataclass(frozen=True, kw_only=True)
class AccessLogsArgs:
    """`bucket_name` is for a bucket that others must be able to name; None leaves it to Pulumi."""

    account: Account
    days: int
    force_destroy: bool
    bucket_name: pulumi.Input[str] | None = None


class AccessLogs(pulumi.ComponentResource):
    """`bucket` is ready to be written to by load balancers of this account once `ready` exists."""

    bucket: pulumi.Output[str]
    arn: pulumi.Output[str]
    ready: pulumi.Resource

    def __init__(self, name: str, args: AccessLogsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:web:AccessLogs", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        bucket = aws.s3.Bucket(name, bucket=args.bucket_name, force_destroy=args.force_destroy, opts=child)
        blocked = aws.s3.BucketPublicAccessBlock(
            name,
            bucket=bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=child,
        )
        aws.s3.BucketOwnershipControls(
            name, bucket=bucket.id, rule={"object_ownership": "BucketOwnerEnforced"}, opts=child
        )
        # Load balancers can write to buckets with S3's own keys only.
        # https://docs.aws.amazon.com/elasticloadbalancing/latest/application/enable-access-logging.html
        aws.s3.BucketServerSideEncryptionConfiguration(
            name,
            bucket=bucket.id,
            rules=[{"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}],
            opts=child,
        )
        aws.s3.BucketVersioning(name, bucket=bucket.id, versioning_configuration={"status": "Enabled"}, opts=child)
        aws.s3.BucketLifecycleConfiguration(
            name,
            bucket=bucket.id,
            rules=[
                {
                    "id": "expire",
                    "status": "Enabled",
                    "filter": {"prefix": ""},
                    "expiration": {"days": args.days},
                    "noncurrent_version_expiration": {"noncurrent_days": 1},
                    "abort_incomplete_multipart_upload": {"days_after_initiation": 1},
                }
            ],
            opts=child,
        )
        objects = pulumi.Output.concat(bucket.arn, "/*")
        self.ready = aws.s3.BucketPolicy(
            name,
            bucket=bucket.id,
            policy=policy(
                only_over_tls([bucket.arn, objects], "s3:*"),
                {
                    "Sid": "LoadBalancersOfThisAccount",
                    "Effect": "Allow",
                    "Principal": {"Service": "logdelivery.elasticloadbalancing.amazonaws.com"},
                    "Action": "s3:PutObject",
                    # They name their files by date and node, below this folder.
                    "Resource": pulumi.Output.concat(bucket.arn, "/AWSLogs/", args.account.account_id, "/*"),
                },
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[blocked]),
        )
        self.bucket = bucket.id
        self.arn = bucket.arn
        self.register_outputs({"bucket": self.bucket, "arn": self.arn})
