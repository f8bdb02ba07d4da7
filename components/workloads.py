"""What each service runs with: its environment, its secrets, and all that it may do in AWS."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.account import Account, Statement, allow
from components.config import ServiceSize
from components.database import DATABASE, Database
from components.messaging import Messaging
from components.secrets import Secrets
from components.security_groups import FRONTEND_PORT, POSTGRES_PORT
from components.task import Container, Secret, TaskArgs
from components.vector_index import VectorIndex

SERVICES = ("pelican", "emu", "frontend")
HEALTH_PORT = 8080
# Of the services that ECS asks for their health at a port of its own.
CHECKED: dict[str, pulumi.Input[str]] = {"AVIARY_HEALTH_PORT": str(HEALTH_PORT)}
# The images hold RDS's certificate authorities here.
ROOT_CERTIFICATES = "/etc/ssl/rds/global-bundle.pem"
# What it takes to receive messages, hold them while they are worked on, and delete them.
EMPTY_A_QUEUE = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]


@dataclass(frozen=True, kw_only=True)
class Workloads:
    """Everything that the tasks are connected to. Each method is one service's task."""

    account: Account
    key_arn: pulumi.Output[str]
    log_retention_days: int
    database: Database
    messaging: Messaging
    secrets: Secrets
    index: VectorIndex

    def pelican(self, size: ServiceSize, image: pulumi.Input[str], repository: aws.ecr.Repository) -> TaskArgs:
        """Outbox to queue; a row that no message can carry to the dead letter queue, which it looks into for the status
        page and cannot empty. Before it, the migrations: the only container that has the database owner's password."""
        messaging = self.messaging
        return self._task(
            size,
            image,
            repository,
            HEALTH_PORT,
            main=Container(
                environment=self._common() | CHECKED | self._postgres("aviary_pelican") | self._queues(),
            ),
            first=("migrate", self._migrate()),
            statements=[
                allow(["sqs:GetQueueAttributes", "sqs:SendMessage"], [messaging.queue.arn]),
                allow(
                    [
                        "sqs:ChangeMessageVisibility",
                        "sqs:GetQueueAttributes",
                        "sqs:ReceiveMessage",
                        "sqs:SendMessage",
                    ],
                    [messaging.dlq.arn],
                ),
                self._use_key("sqs"),
                self._log_in("aviary_pelican"),
            ],
        )

    def emu(self, size: ServiceSize, image: pulumi.Input[str], repository: aws.ecr.Repository) -> TaskArgs:
        """Queue to index; what cannot be processed to the dead letter queue, with a notice to people."""
        messaging = self.messaging
        return self._task(
            size,
            image,
            repository,
            HEALTH_PORT,
            main=Container(
                environment=self._common()
                | CHECKED
                | self._queues()
                | self._index()
                | {"AVIARY_TOPIC_ARN": messaging.topic_arn},
                secrets=self._index_secrets(),
            ),
            statements=[
                allow(EMPTY_A_QUEUE, [messaging.queue.arn]),
                allow(["sqs:SendMessage"], [messaging.dlq.arn]),
                allow(["sns:Publish"], [messaging.topic_arn]),
                self._use_key("sqs", "sns"),
            ],
        )

    def frontend(
        self,
        size: ServiceSize,
        image: pulumi.Input[str],
        repository: aws.ecr.Repository,
        *,
        host: pulumi.Output[str],
        editing: bool,
    ) -> TaskArgs:
        """Search, and with `editing` edit, under the name `host` alone. Of the queues it may see the depths, for the status page."""
        messaging = self.messaging
        return self._task(
            size,
            image,
            repository,
            FRONTEND_PORT,
            main=Container(
                environment=self._common()
                | self._postgres("aviary_frontend")
                | self._queues()
                | self._index()
                | {
                    "AVIARY_HTTP_PORT": str(FRONTEND_PORT),
                    "AVIARY_READ_ONLY": "false" if editing else "true",
                    "AVIARY_ALLOWED_HOSTS": pulumi.Output.json_dumps([host]),
                    # The load balancer, which appends the address that it was asked from.
                    "AVIARY_TRUSTED_PROXIES": "1",
                },
                secrets=self._index_secrets(),
            ),
            statements=[
                allow(["sqs:GetQueueAttributes"], [messaging.queue.arn, messaging.dlq.arn]),
                self._log_in("aviary_frontend"),
            ],
        )

    def reconcile(
        self, size: ServiceSize, image: pulumi.Input[str], repository: aws.ecr.Repository, *, repair: bool
    ) -> TaskArgs:
        """Table against index: it reads both and the depth of the queue; what it repairs goes by the outbox. Only vectors
        that no row stands for are deleted by itself. Pelican's image and Pelican's user of the database."""
        return self._task(
            size,
            image,
            repository,
            None,
            main=Container(
                command=("reconcile", "--log", *(["--repair"] if repair else [])),
                environment=self._common() | self._postgres("aviary_pelican") | self._queues() | self._index(),
                secrets=self._index_secrets(),
            ),
            statements=[
                allow(["sqs:GetQueueAttributes"], [self.messaging.queue.arn]),
                self._log_in("aviary_pelican"),
            ],
        )

    def operator(self, size: ServiceSize, image: pulumi.Input[str], repository: aws.ecr.Repository) -> TaskArgs:
        """What a person starts to look after dead letters: the only task that may delete them. Emu's image, and a user of
        the database that may have rows sent again and read nothing."""
        return self._task(
            size,
            image,
            repository,
            None,
            main=Container(
                # A task's output ends in its log: this prints ids and sources, no keys and no contents.
                command=("dlq", "redrive", "--all", "--dry-run"),
                environment=self._common()
                | self._postgres("aviary_operator")
                | self._index()
                | {"AVIARY_DLQ_URL": self.messaging.dlq.url},
                secrets=self._index_secrets(),
            ),
            statements=[
                allow(EMPTY_A_QUEUE, [self.messaging.dlq.arn]),
                self._use_key("sqs"),
                self._log_in("aviary_operator"),
            ],
        )

    def _task(
        self,
        size: ServiceSize,
        image: pulumi.Input[str],
        repository: aws.ecr.Repository,
        port: int | None,
        *,
        main: Container,
        statements: list[Statement],
        first: tuple[str, Container] | None = None,
    ) -> TaskArgs:
        return TaskArgs(
            account=self.account,
            image=image,
            repository_arn=repository.arn,
            cpu=size.cpu,
            memory=size.memory,
            port=port,
            main=main,
            first=first,
            statements=statements,
            key_arn=self.key_arn,
            log_retention_days=self.log_retention_days,
        )

    def _common(self) -> dict[str, pulumi.Input[str]]:
        return {"AWS_REGION": self.account.region}

    def _queues(self) -> dict[str, pulumi.Input[str]]:
        return {"AVIARY_QUEUE_URL": self.messaging.queue.url, "AVIARY_DLQ_URL": self.messaging.dlq.url}

    def _index(self) -> dict[str, pulumi.Input[str]]:
        return {"AVIARY_INDEX_HOST": self.index.host}

    def _index_secrets(self) -> dict[str, Secret]:
        arn, version = self.secrets.pinecone_api_key_arn, self.secrets.pinecone_api_key_version
        return {"PINECONE_API_KEY": Secret(store="ssm", reference=arn, arn=arn, version=version)}

    def _postgres(self, user: str) -> dict[str, pulumi.Input[str]]:
        """Without a password: each connection logs in with an IAM token, over TLS that is verified."""
        return {
            "AVIARY_POSTGRES_DSN": self._dsn(f"{user}@"),
            "AVIARY_POSTGRES_AUTH": "iam",
            "AVIARY_POSTGRES_ROOT_CERT": ROOT_CERTIFICATES,
        }

    def _migrate(self) -> Container:
        """Logs in as the owner: libpq reads user and password from PGUSER and PGPASSWORD."""
        secret = self.database.master_secret_arn
        return Container(
            command=("migrate",),
            environment=self._common()
            | {
                "AVIARY_POSTGRES_DSN": self._dsn("", f"&sslrootcert={ROOT_CERTIFICATES}"),
                "AVIARY_POSTGRES_AUTH": "dsn",
            },
            secrets={
                variable: Secret(
                    store="secretsmanager", reference=pulumi.Output.concat(secret, f":{key}::"), arn=secret
                )
                for variable, key in (("PGUSER", "username"), ("PGPASSWORD", "password"))
            },
        )

    def _dsn(self, user: str, more: str = "") -> pulumi.Output[str]:
        return pulumi.Output.concat(
            f"postgresql://{user}", self.database.address, f":{POSTGRES_PORT}/{DATABASE}?sslmode=verify-full{more}"
        )

    def _log_in(self, user: str) -> Statement:
        """https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.IAMPolicy.html"""
        user_arn = self.account.arn("rds-db", pulumi.Output.concat("dbuser:", self.database.resource_id, f"/{user}"))
        return allow(["rds-db:connect"], [user_arn])

    def _use_key(self, *services: str) -> Statement:
        """What senders and receivers of encrypted messages need of the key, through those services only."""
        via = [f"{service}.{self.account.region}.amazonaws.com" for service in services]
        return allow(
            ["kms:Decrypt", "kms:GenerateDataKey"], [self.key_arn], Condition={"StringEquals": {"kms:ViaService": via}}
        )
