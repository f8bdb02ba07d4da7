"""What a stack decides, with its rules, defaults and descriptions. `config_reader.read()` makes it from Pulumi's config.

Keys are flat, so that `pulumi config set` reaches each: section and field in camel case, such as `databaseInstanceClass`.
Pulumi.yaml and components/README.md list the same keys, and a test holds them to it.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, NamedTuple, Self

import pulumi
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

Cidr = Annotated[str, StringConstraints(pattern=r"^(\d{1,3}\.){3}\d{1,3}/\d{1,2}$")]
Email = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")]
HttpsUrl = Annotated[str, StringConstraints(pattern=r"^https://\S+$")]
Image = Annotated[str, StringConstraints(pattern=r"^(\S+[:@]\S+)?$")]
LogDays = Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 3653]
Endpoint = Literal["ecr.api", "ecr.dkr", "logs", "secretsmanager", "ssm", "sqs", "sns", "kms", "monitoring"]

# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html#fargate-tasks-size
MEMORY_MIB_BY_CPU: Mapping[int, range] = {
    256: range(512, 2048 + 1, 512),
    512: range(1024, 4096 + 1, 1024),
    1024: range(2048, 8192 + 1, 1024),
    2048: range(4096, 16384 + 1, 1024),
    4096: range(8192, 30720 + 1, 1024),
}


class RuleError(ValueError):
    """A rule that involves several fields, told of one of them; `example` would hold it."""

    def __init__(self, field: str, sentence: str, example: object) -> None:
        super().__init__(sentence)
        self.field = field
        self.example = example


class Section(BaseModel):
    """Base of all sections: frozen, and without room for a key that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(Section):
    cidr: Cidr = Field(default="10.20.0.0/16", description="Address range of the VPC")
    zones: int = Field(default=2, ge=2, le=3, description="Availability zones to use")
    nat_gateways: Literal["single", "one-per-zone"] = Field(
        default="single", description="NAT gateways: one for all zones, or one in each so that a zone may fail alone"
    )
    interface_endpoints: tuple[Endpoint, ...] = Field(
        default=(), description="AWS services reached by private endpoints instead of NAT", examples=["sqs"]
    )
    flow_logs: bool = Field(default=True, description="Record accepted and rejected connections of the VPC")


class Images(Section):
    build: bool = Field(default=True, description="Build and push the images; off needs the three image keys below")
    tag: str = Field(
        default="",
        pattern=r"^[\w.-]{0,128}$",
        description="Tag of the images; empty: the commit that last touched services/",
        examples=["v1.2.3"],
    )
    pelican: Image = Field(
        default="", description="Image of Pelican when images are not built", examples=["repo@sha256:…"]
    )
    emu: Image = Field(default="", description="Image of Emu when images are not built", examples=["repo@sha256:…"])
    frontend: Image = Field(
        default="", description="Image of the frontend when images are not built", examples=["repo@sha256:…"]
    )

    @model_validator(mode="after")
    def _images_from_somewhere(self) -> Self:
        for name in ("pelican", "emu", "frontend"):
            if not self.build and not getattr(self, name):
                raise RuleError(name, "it must name an image, because imagesBuild is off", "repo@sha256:…")
        return self


class Database(Section):
    instance_class: str = Field(default="db.t4g.micro", pattern=r"^db\.\w+\.\w+$", description="RDS instance class")
    engine_version: str = Field(
        default="17", pattern=r"^1[6-9](\.\d+)?$", description="Postgres version, major or full"
    )
    storage_gb: int = Field(default=20, ge=20, le=65_536, description="Disk at the start, gp3")
    max_storage_gb: int = Field(default=100, ge=20, le=65_536, description="The disk grows by itself up to this")
    multi_az: bool = Field(default=False, description="A standby in another zone")
    backup_days: int = Field(default=7, ge=1, le=35, description="Days of point-in-time restore")
    monitoring_seconds: Literal[0, 1, 5, 10, 15, 30, 60] = Field(
        default=0, description="Interval of RDS enhanced monitoring; 0 is off"
    )

    @model_validator(mode="after")
    def _disk_can_only_grow(self) -> Self:
        if self.max_storage_gb < self.storage_gb:
            raise RuleError(
                "max_storage_gb", f"it must be at least databaseStorageGb ({self.storage_gb})", self.storage_gb
            )
        return self


class Notifications(Section):
    emails: tuple[Email, ...] = Field(default=(), description="Who is told of alarms", examples=["you@example.org"])
    webhooks: tuple[HttpsUrl, ...] = Field(
        default=(), description="HTTPS endpoints that are told of alarms", examples=["https://example.org/hook"]
    )


class Web(Section):
    domain_name: str = Field(
        default="",
        pattern=r"^([a-z0-9-]+\.)*[a-z0-9-]*$",
        description="Host name of the frontend, which then speaks HTTPS; empty: plain HTTP",
        examples=["search.example.org"],
    )
    certificate_arn: str = Field(
        default="",
        pattern=r"^(arn:[\w-]+:(acm:[\w-]+:\d{12}:certificate|iam::\d{12}:server-certificate)/[\w+=,.@/-]+)?$",
        description="Certificate of the domain that is there already, such as the bootstrap's; empty: one of the stack's own",
        examples=["arn:aws:acm:us-east-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"],
    )
    http_redirect: bool = Field(
        default=True, description="Port 80 is open and leads to HTTPS; off, which needs a domain: it is closed"
    )
    hosted_zone_id: str = Field(
        default="",
        pattern=r"^(Z[A-Z0-9]+)?$",
        description="Route 53 zone of the domain; empty: you set the DNS records",
        examples=["Z0123456789ABCDEF"],
    )
    allowed_cidrs: tuple[Cidr, ...] = Field(
        default=("0.0.0.0/0",), min_length=1, description="Who may reach the load balancer", examples=["203.0.113.0/24"]
    )
    editing: bool = Field(
        default=False,
        description="Whoever reaches the page may change rows (there is no login); needs webAllowedCidrs without everybody",
    )
    firewall: bool = Field(
        default=False, description="AWS WAF with managed rules and a rate limit before the load balancer"
    )
    access_log_bucket: str = Field(
        default="",
        pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$",
        description="Bucket for access logs that is there already, such as the bootstrap's; empty: one of the stack's own",
        examples=["aviary-access-logs-123456789012"],
    )
    access_log_days: int = Field(
        default=90, ge=1, le=3650, description="Days that access logs are kept in the stack's own bucket"
    )

    @model_validator(mode="after")
    def _names_need_a_domain(self) -> Self:
        for key, needs_it in (("webHostedZoneId", self.hosted_zone_id), ("webCertificateArn", self.certificate_arn)):
            if needs_it and not self.domain_name:
                raise RuleError("domain_name", f"it must be set, because {key} is", "search.example.org")
        return self

    @model_validator(mode="after")
    def _some_port_is_open(self) -> Self:
        if not self.domain_name and not self.http_redirect:
            raise RuleError("http_redirect", "without webDomainName it must be on: port 80 is the only way in", True)
        return self

    @model_validator(mode="after")
    def _the_internet_may_not_edit(self) -> Self:
        if self.editing and any(cidr.endswith("/0") for cidr in self.allowed_cidrs):
            raise RuleError(
                "allowed_cidrs", "with webEditing on it must name your own networks, not everybody", "203.0.113.0/24"
            )
        return self


class ServiceSize(Section):
    cpu: Literal[256, 512, 1024, 2048, 4096] = Field(default=256, description="CPU units of a task; 1024 is one core")
    memory: int = Field(default=1024, description="MiB of memory of a task")
    min_tasks: int = Field(default=1, ge=1, le=100, description="Fewest tasks")
    max_tasks: int = Field(default=2, ge=1, le=100, description="Most tasks")
    spot: bool = Field(
        default=False, description="Run on Fargate Spot: a third of the price, stopped at two minutes' notice"
    )

    @model_validator(mode="after")
    def _fargate_offers_it(self) -> Self:
        allowed = MEMORY_MIB_BY_CPU[self.cpu]
        if self.memory not in allowed:
            rule = f"with {self.cpu} CPU units it must be {allowed[0]} to {allowed[-1]} by {allowed.step}"
            raise RuleError("memory", rule, allowed[0])
        if self.max_tasks < self.min_tasks:
            raise RuleError(
                "max_tasks", f"it must be at least as many as the fewest tasks ({self.min_tasks})", self.min_tasks
            )
        return self


class Scaling(Section):
    # From `python -m benchmarks.scaling --sweep`: a backlog of 5 to 100 messages an Emu makes no difference to the age of
    # changes, and to have no such rule does; 75 % of CPU would cost less, and docs/decisions/0120-sixty-per-cent.md says why it stays at 60.
    cpu_percent: int = Field(default=60, ge=10, le=90, description="CPU at which each service is kept")
    emu_backlog: int = Field(default=20, ge=1, description="Messages waiting for each Emu (100 rows each at most)")
    pelican_backlog: int = Field(default=5_000, ge=100, description="Keys waiting in the outbox for each Pelican")
    max_age_seconds: int = Field(default=60, ge=30, description="A change that waits longer brings another task")


class Reconcile(Section):
    hours: int = Field(
        default=24, ge=0, le=144, description="Hours from one comparison of tables and index to the next; 0: never"
    )
    repair: bool = Field(default=True, description="Mend what has drifted, and not only tell of it")


class Index(Section):
    name: str = Field(
        default="",
        pattern=r"^[a-z0-9-]{0,45}$",
        description="Pinecone index; empty: project and stack, as in aviary-dev",
        examples=["products"],
    )
    cloud: Literal["aws", "gcp", "azure"] = Field(default="aws", description="Cloud of the index")
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]+$", description="Region of the index, in its cloud")
    adopt: bool = Field(default=False, description="Take over an index of that name which exists already, if it fits")


class StackConfig(Section):
    """Everything a stack decides. `region` comes from `aws:region`, the Pinecone key from a secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    network: Network = Network()
    images: Images = Images()
    database: Database = Database()
    notifications: Notifications = Notifications()
    web: Web = Web()
    pelican: ServiceSize = ServiceSize(memory=512)
    emu: ServiceSize = ServiceSize(cpu=512, max_tasks=4)
    frontend: ServiceSize = ServiceSize()
    scaling: Scaling = Scaling()
    reconcile: Reconcile = Reconcile()
    index: Index = Index()
    deletion_protection: bool = Field(
        default=True, description="Database, load balancer and index refuse to be deleted"
    )
    destroy_deletes_data: bool = Field(
        default=False, description="`pulumi destroy` takes no last snapshot, and deletes images and access logs"
    )
    recovery_days: int = Field(
        default=30, ge=7, le=30, description="Days in which the deleted encryption key can be brought back"
    )
    log_retention_days: LogDays = Field(default=30, description="Days that every log group keeps its lines")
    container_insights: Literal["disabled", "enabled", "enhanced"] = Field(
        default="disabled", description="ECS Container Insights; its metrics cost some 8 $ a month and cluster"
    )
    saved_queries: bool = Field(
        default=True, description="The questions to the logs as saved queries in Logs Insights, beside their dashboard"
    )
    alarms: bool = Field(default=True, description="CloudWatch alarms that tell the notification topic")
    wait_for_steady_state: bool = Field(
        default=True, description="`pulumi up` waits until each service runs, and fails when one is rolled back"
    )
    region: str = Field(exclude=True)
    pinecone_api_key: pulumi.Output[str] = Field(exclude=True)


class Key(NamedTuple):
    """One key of the configuration: its name, where it goes, and what it says of itself."""

    name: str
    section: str
    field: str
    info: FieldInfo
    default: object


def keys() -> Iterator[Key]:
    """Every key but the two that are not plain values (`aws:region` and the Pinecone key), in order."""
    for name, info in StackConfig.model_fields.items():
        if info.exclude:
            continue
        if not isinstance(info.default, Section):
            yield Key(to_camel(name), "", name, info, info.default)
            continue
        for field, inner in type(info.default).model_fields.items():
            yield Key(to_camel(f"{name}_{field}"), name, field, inner, getattr(info.default, field))
