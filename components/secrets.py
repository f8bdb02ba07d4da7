"""The Pinecone API key, as tasks get it."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True, kw_only=True)
class SecretsArgs:
    pinecone_api_key: pulumi.Output[str]
    key_arn: pulumi.Input[str]
    recovery_days: int


class Secrets(pulumi.ComponentResource):
    """`pinecone_api_key_arn` is for policies; `pinecone_api_key_reference` is for a task's `secrets` and names the
    version, so that a new key starts new tasks."""

    pinecone_api_key_arn: pulumi.Output[str]
    pinecone_api_key_reference: pulumi.Output[str]

    def __init__(self, name: str, args: SecretsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:secrets:Secrets", name, None, opts)
        secret = aws.secretsmanager.Secret(
            f"{name}-pinecone",
            description="API key of Pinecone",
            kms_key_id=args.key_arn,
            recovery_window_in_days=args.recovery_days,
            opts=pulumi.ResourceOptions(parent=self),
        )
        version = aws.secretsmanager.SecretVersion(
            f"{name}-pinecone",
            secret_id=secret.id,
            secret_string=args.pinecone_api_key,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.pinecone_api_key_arn = secret.arn
        self.pinecone_api_key_reference = pulumi.Output.concat(secret.arn, ":::", version.version_id)
        self.register_outputs(
            {
                "pinecone_api_key_arn": self.pinecone_api_key_arn,
                "pinecone_api_key_reference": self.pinecone_api_key_reference,
            }
        )
