"""What runs: one image as a Fargate task, with roles that allow exactly what it calls, and its log group.

A service is such a task kept running (service.py); a scheduled task is the same definition started by a clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pulumi
import pulumi_aws as aws

from components.account import Account, Statement, allow, assumed_by, policy

# The images' own user; the root file system is read-only, and /tmp the only place to write.
USER = "10001:10001"
TEMPORARY = "tmp"
# The services drain for 25 s after SIGTERM; Fargate allows 120.
STOP_SECONDS = 40
# The same as HEALTHCHECK in the images.
HEALTH_CHECK = {"interval": 10, "timeout": 5, "startPeriod": 60, "retries": 3}
# What ECS calls to read a secret, by the service that keeps it.
READING = {"secretsmanager": "secretsmanager:GetSecretValue", "ssm": "ssm:GetParameters"}
PROBE = ("/opt/venv/bin/python", "-m", "aviary.health")


@dataclass(frozen=True, kw_only=True)
class Secret:
    """`reference` as ECS wants it in `valueFrom`: an ARN, perhaps with a key behind; `arn` for policies. `version` is of a
    value that changes by `pulumi up`: another one starts new tasks, because running ones never look again."""

    store: Literal["secretsmanager", "ssm"]
    reference: pulumi.Input[str]
    arn: pulumi.Input[str]
    version: pulumi.Input[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Container:
    """One container of a task. `command` are arguments to the image's entry point."""

    environment: Mapping[str, pulumi.Input[str]]
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    command: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class TaskArgs:
    """`port` serves /healthz; a task that ends by itself has none. `first` is a container that must end well before the main one starts. `statements` is
    what the task itself may do in AWS; what ECS needs to start it comes by itself."""

    account: Account
    image: pulumi.Input[str]
    repository_arn: pulumi.Input[str]
    cpu: int
    memory: int
    port: int | None
    main: Container
    statements: Sequence[Statement]
    key_arn: pulumi.Input[str]
    log_retention_days: int
    first: tuple[str, Container] | None = None


class Task(pulumi.ComponentResource):
    """Task definition, roles and log group. `container` is the main container's name."""

    container: str
    definition_arn: pulumi.Output[str]
    execution_role_arn: pulumi.Output[str]
    role_arn: pulumi.Output[str]
    log_group_name: pulumi.Output[str]

    def __init__(self, name: str, container: str, args: TaskArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:service:Task", name, None, opts)
        self.container = container
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        log_group = aws.cloudwatch.LogGroup(
            name, retention_in_days=args.log_retention_days, kms_key_id=args.key_arn, opts=self._child
        )
        self.log_group_name = log_group.name
        execution_role, starting = self._role(f"{name}-start", self._starting(log_group.arn))
        role, working = self._role(name, args.statements)
        containers = [self._definition(container, args.main, essential=True)]
        if args.first is not None:
            containers.append(self._definition(*args.first, essential=False))
            containers[0]["dependsOn"] = [{"containerName": args.first[0], "condition": "SUCCESS"}]
        containers[0]["stopTimeout"] = STOP_SECONDS
        if args.port is not None:
            containers[0] |= {
                "portMappings": [{"containerPort": args.port, "hostPort": args.port, "protocol": "tcp"}],
                "healthCheck": {"command": ["CMD", *PROBE, f"http://127.0.0.1:{args.port}/healthz"], **HEALTH_CHECK},
            }
        definition = aws.ecs.TaskDefinition(
            name,
            family=name,
            requires_compatibilities=["FARGATE"],
            network_mode="awsvpc",
            cpu=str(args.cpu),
            memory=str(args.memory),
            runtime_platform=aws.ecs.TaskDefinitionRuntimePlatformArgs(
                operating_system_family="LINUX", cpu_architecture="ARM64"
            ),
            execution_role_arn=execution_role.arn,
            task_role_arn=role.arn,
            volumes=[aws.ecs.TaskDefinitionVolumeArgs(name=TEMPORARY)],
            container_definitions=pulumi.Output.json_dumps(containers),
            # A task that starts before its roles have their policies fails, and too many of those end a deployment.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*starting, *working]),
        )
        self.definition_arn = definition.arn
        self.execution_role_arn = execution_role.arn
        self.role_arn = role.arn
        self.register_outputs(
            {
                "definition_arn": self.definition_arn,
                "execution_role_arn": self.execution_role_arn,
                "role_arn": self.role_arn,
                "log_group_name": self.log_group_name,
            }
        )

    def _role(self, name: str, statements: Sequence[Statement]) -> tuple[aws.iam.Role, list[aws.iam.RolePolicy]]:
        account = self._args.account
        role = aws.iam.Role(
            name,
            assume_role_policy=assumed_by("ecs-tasks.amazonaws.com", account, account.arn("ecs", "*")),
            opts=self._child,
        )
        if not statements:
            return role, []
        return role, [aws.iam.RolePolicy(name, role=role.id, policy=policy(*statements), opts=self._child)]

    def _starting(self, log_group_arn: pulumi.Output[str]) -> list[Statement]:
        """What ECS needs to start the task: its image, its log streams, its secrets."""
        args = self._args
        containers = [args.main, *([args.first[1]] if args.first else [])]
        secrets = [secret for container in containers for secret in container.secrets.values()]
        statements = [
            # The token is one for the whole registry: AWS offers no resource for this action.
            allow(["ecr:GetAuthorizationToken"], ["*"]),
            allow(
                ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                [args.repository_arn],
            ),
            # Streams are named after containers and tasks, and a task's id is not known before it starts.
            allow(
                ["logs:CreateLogStream", "logs:PutLogEvents"], [pulumi.Output.concat(log_group_arn, ":log-stream:*")]
            ),
        ]
        for store, action in READING.items():
            if arns := list(dict.fromkeys(secret.arn for secret in secrets if secret.store == store)):
                via = {"StringEquals": {"kms:ViaService": f"{store}.{args.account.region}.amazonaws.com"}}
                statements += [allow([action], arns), allow(["kms:Decrypt"], [args.key_arn], Condition=via)]
        return statements

    def _definition(self, name: str, container: Container, *, essential: bool) -> dict[str, Any]:
        """A container definition as ECS has it, with nothing that the container could change or gain."""
        versions = {
            f"version.{key}": s.version for key, s in sorted(container.secrets.items()) if s.version is not None
        }
        return {
            "name": name,
            "image": self._args.image,
            "essential": essential,
            "command": list(container.command),
            "environment": [{"name": key, "value": value} for key, value in sorted(container.environment.items())],
            "secrets": [{"name": key, "valueFrom": s.reference} for key, s in sorted(container.secrets.items())],
            # ECS cannot be asked for a version of a parameter. Another label makes another definition, and so new tasks.
            # https://github.com/aws/containers-roadmap/issues/859
            **({"dockerLabels": versions} if versions else {}),
            "user": USER,
            "privileged": False,
            "readonlyRootFilesystem": True,
            "linuxParameters": {"initProcessEnabled": True, "capabilities": {"drop": ["ALL"]}},
            "mountPoints": [{"sourceVolume": TEMPORARY, "containerPath": "/tmp", "readOnly": False}],  # noqa: S108 - the container's own, a volume of this task
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {
                    "awslogs-group": self.log_group_name,
                    "awslogs-region": self._args.account.region,
                    "awslogs-stream-prefix": name,
                    # A log service that is away must not stop the work: lines beyond this are lost instead.
                    "mode": "non-blocking",
                    "max-buffer-size": "10m",
                },
            },
        }
