"""Three image repositories, one for each service."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

# A roll-back needs the images of the last deployments, nothing older.
IMAGES_KEPT = 20
UNTAGGED_DAYS = 7


@dataclass(frozen=True, kw_only=True)
class RegistryArgs:
    """`force_delete`: a repository may be deleted with its images."""

    services: Sequence[str]
    key_arn: pulumi.Input[str]
    force_delete: bool


class Registry(pulumi.ComponentResource):
    """Repositories with tags that never move, scans on push, and a limit on old images."""

    repositories: Mapping[str, aws.ecr.Repository]

    def __init__(self, name: str, args: RegistryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:registry:Registry", name, None, opts)
        self.repositories = {service: self._repository(f"{name}-{service}", args) for service in args.services}
        self.register_outputs({"repositories": {s: r.repository_url for s, r in self.repositories.items()}})

    def _repository(self, name: str, args: RegistryArgs) -> aws.ecr.Repository:
        repository = aws.ecr.Repository(
            name,
            image_tag_mutability="IMMUTABLE",
            image_scanning_configuration=aws.ecr.RepositoryImageScanningConfigurationArgs(scan_on_push=True),
            encryption_configurations=[
                aws.ecr.RepositoryEncryptionConfigurationArgs(encryption_type="KMS", kms_key=args.key_arn)
            ],
            force_delete=args.force_delete,
            opts=pulumi.ResourceOptions(parent=self),
        )
        aws.ecr.LifecyclePolicy(
            name,
            repository=repository.name,
            policy=json.dumps(
                {
                    "rules": [
                        {
                            "rulePriority": 1,
                            "description": "What a newer push left without a tag",
                            "selection": {
                                "tagStatus": "untagged",
                                "countType": "sinceImagePushed",
                                "countUnit": "days",
                                "countNumber": UNTAGGED_DAYS,
                            },
                            "action": {"type": "expire"},
                        },
                        {
                            "rulePriority": 2,
                            "description": "All but the latest images",
                            "selection": {
                                "tagStatus": "any",
                                "countType": "imageCountMoreThan",
                                "countNumber": IMAGES_KEPT,
                            },
                            "action": {"type": "expire"},
                        },
                    ]
                }
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        return repository
