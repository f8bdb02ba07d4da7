"""The three images: built from services/ for arm64, tagged by commit, deployed by digest."""

import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_aws as aws
import pulumi_docker as docker

from components.config import Images as ImagesConfig

PLATFORM = "linux/arm64"
COMMIT_CHARS = 12


@dataclass(frozen=True, kw_only=True)
class ImagesArgs:
    """`context` is the folder that all three Dockerfiles build in, each standing at `<context>/<service>/Dockerfile`;
    relative to the program, because it is kept in the stack's state and must be the same on every machine."""

    config: ImagesConfig
    context: Path
    repositories: Mapping[str, aws.ecr.Repository]


class Images(pulumi.ComponentResource):
    """References by digest, by service. With `imagesBuild` off they are what the configuration says, and no Docker
    engine is needed."""

    references: Mapping[str, pulumi.Output[str]]

    def __init__(self, name: str, args: ImagesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:registry:Images", name, None, opts)
        if args.config.build:
            tag = args.config.tag or image_tag(args.context)
            self.references = {
                service: self._build(f"{name}-{service}", service, tag, repository, args.context)
                for service, repository in args.repositories.items()
            }
        else:
            self.references = {s: pulumi.Output.from_input(getattr(args.config, s)) for s in args.repositories}
        self.register_outputs({"references": self.references})

    def _build(
        self, name: str, service: str, tag: str, repository: aws.ecr.Repository, context: Path
    ) -> pulumi.Output[str]:
        login = aws.ecr.get_authorization_token_output(
            registry_id=repository.registry_id, opts=pulumi.InvokeOutputOptions(parent=self)
        )
        image = docker.Image(
            name,
            image_name=pulumi.Output.concat(repository.repository_url, ":", tag),
            build=docker.DockerBuildArgs(
                context=str(context),
                dockerfile=str(context / service / "Dockerfile"),
                platform=PLATFORM,
                builder_version=docker.BuilderVersion.BUILDER_BUILD_KIT,
            ),
            registry=docker.RegistryArgs(
                server=repository.repository_url,
                username=login.user_name,
                password=pulumi.Output.secret(login.password),
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        return image.repo_digest


def image_tag(folder: Path) -> str:
    """The commit that last changed `folder`, so that what else changes builds no new image. Where it holds changes
    that no commit has, or there is no git, a digest of its files is added: a tag never stands for two contents."""
    try:
        tag = _git(folder, "log", "-1", f"--abbrev={COMMIT_CHARS}", "--format=%h", "--", ".")
        changed = bool(_git(folder, "status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        tag, changed = "", True
    return f"{tag or 'uncommitted'}-{_digest(folder)}" if changed or not tag else tag


def _git(folder: Path, *arguments: str) -> str:
    # Read-only, and it must not wait for a person's editor that holds the index.
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:COMMIT_CHARS]
