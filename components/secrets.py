"""The Pinecone API key, as tasks get it: an encrypted parameter."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True, kw_only=True)
class SecretsArgs:
    """`after`: resources that use the key themselves. One that refuses a new key keeps it from the tasks."""

    pinecone_api_key: pulumi.Output[str]
    key_arn: pulumi.Input[str]
    after: Sequence[pulumi.Resource] = ()


class Secrets(pulumi.ComponentResource):
    """`pinecone_api_key_arn` is for policies and for a task's `secrets`; `pinecone_api_key_version` counts its values."""

    pinecone_api_key_arn: pulumi.Output[str]
    pinecone_api_key_version: pulumi.Output[str]

    def __init__(self, name: str, args: SecretsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:secrets:Secrets", name, None, opts)
        parameter = aws.ssm.Parameter(
            f"{name}-pinecone",
            description="API key of Pinecone",
            type=aws.ssm.ParameterType.SECURE_STRING,
            key_id=args.key_arn,
            value=args.pinecone_api_key,
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        self.pinecone_api_key_arn = parameter.arn
        self.pinecone_api_key_version = parameter.version.apply(str)
        self.register_outputs(
            {
                "pinecone_api_key_arn": self.pinecone_api_key_arn,
                "pinecone_api_key_version": self.pinecone_api_key_version,
            }
        )
