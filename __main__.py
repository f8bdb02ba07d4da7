"""Aviary in an AWS account: composes the components. What each of them promises stands in its own file."""

from pathlib import Path

import pulumi
import pulumi_aws as aws

from components import config_reader, metrics
from components.access_logs import AccessLogs, AccessLogsArgs
from components.account import Account
from components.alarms import Alarms, AlarmsArgs, Service
from components.autoscaling import Autoscaling, AutoscalingArgs, Backlog
from components.certificate import Certificate, CertificateArgs
from components.config import ServiceSize
from components.database import Database, DatabaseArgs
from components.encryption import Encryption, EncryptionArgs
from components.firewall import Firewall, FirewallArgs
from components.graphs import Watched
from components.images import Images, ImagesArgs
from components.load_balancer import LoadBalancer, LoadBalancerArgs
from components.messaging import Messaging, MessagingArgs
from components.network import Endpoints, EndpointsArgs, Network, NetworkArgs
from components.observability import Observability, ObservabilityArgs
from components.registry import Registry, RegistryArgs
from components.schedule import ScheduledTask, ScheduledTaskArgs
from components.secrets import Secrets, SecretsArgs
from components.security_groups import SecurityGroups, SecurityGroupsArgs
from components.service import FargateService, FargateServiceArgs
from components.task import Task, TaskArgs
from components.vector_index import VectorIndex, VectorIndexArgs
from components.workloads import SERVICES, Workloads

# What the embedder makes (services/common/src/aviary/source.py), and how its vectors are compared.
DIMENSION = 384
METRIC = "cosine"
# A page of rows and vectors at a time needs little, whatever the table's size.
RECONCILE_SIZE = ServiceSize(cpu=256, memory=512)

OPERATOR_SIZE = ServiceSize(cpu=256, memory=1024)

config = config_reader.read()
name = f"{pulumi.get_project()}-{pulumi.get_stack()}"
account = Account(
    region=config.region,
    account_id=aws.get_caller_identity_output().account_id,
    partition=aws.get_partition_output().partition,
)

encryption = Encryption(name, EncryptionArgs(account=account, recovery_days=config.recovery_days))
network = Network(
    name,
    NetworkArgs(
        account=account,
        config=config.network,
        key_arn=encryption.key_arn,
        log_retention_days=config.log_retention_days,
    ),
)
groups = SecurityGroups(
    name,
    SecurityGroupsArgs(
        vpc_id=network.vpc_id,
        allowed_cidrs=config.web.allowed_cidrs,
        http=config.web.http_redirect,
        https=bool(config.web.domain_name),
        endpoints=config.network.interface_endpoints,
        s3_prefix_list_id=network.s3_prefix_list_id,
    ),
)
endpoints = (
    []
    if groups.endpoints is None
    else [
        Endpoints(
            name,
            EndpointsArgs(
                region=account.region,
                services=config.network.interface_endpoints,
                vpc_id=network.vpc_id,
                subnet_ids=network.private_subnet_ids,
                security_group_id=groups.endpoints,
            ),
        )
    ]
)

database = Database(
    name,
    DatabaseArgs(
        account=account,
        config=config.database,
        subnet_ids=network.isolated_subnet_ids,
        security_group_id=groups.database,
        key_arn=encryption.key_arn,
        log_retention_days=config.log_retention_days,
        deletion_protection=config.deletion_protection,
        destroy_deletes_data=config.destroy_deletes_data,
    ),
)
messaging = Messaging(
    name,
    MessagingArgs(
        account=account,
        key_arn=encryption.key_arn,
        emails=config.notifications.emails,
        webhooks=config.notifications.webhooks,
    ),
)
index = VectorIndex(
    name,
    VectorIndexArgs(
        index_name=config.index.name or name,
        dimension=DIMENSION,
        metric=METRIC,
        cloud=config.index.cloud,
        region=config.index.region,
        tags={"managed-by": f"pulumi {pulumi.get_organization()} {pulumi.get_project()} {pulumi.get_stack()}"},
        deletion_protection=config.deletion_protection,
        adopt=config.index.adopt,
        api_key=config.pinecone_api_key,
    ),
)
secrets = Secrets(
    name, SecretsArgs(pinecone_api_key=config.pinecone_api_key, key_arn=encryption.key_arn, after=[index])
)
registry = Registry(
    name,
    RegistryArgs(services=SERVICES, key_arn=encryption.key_arn, force_delete=config.destroy_deletes_data),
)
images = Images(name, ImagesArgs(config=config.images, context=Path("services"), repositories=registry.repositories))

access_logs = (
    None
    if config.web.access_log_bucket
    else AccessLogs(
        f"{name}-access-logs",
        AccessLogsArgs(account=account, days=config.web.access_log_days, force_destroy=config.destroy_deletes_data),
    )
)
certificate = (
    Certificate(name, CertificateArgs(domain_name=config.web.domain_name, hosted_zone_id=config.web.hosted_zone_id))
    if config.web.domain_name and not config.web.certificate_arn
    else None
)
load_balancer = LoadBalancer(
    name,
    LoadBalancerArgs(
        vpc_id=network.vpc_id,
        subnet_ids=network.public_subnet_ids,
        security_group_id=groups.load_balancer,
        access_logs_bucket=access_logs.bucket if access_logs else config.web.access_log_bucket,
        domain_name=config.web.domain_name,
        hosted_zone_id=config.web.hosted_zone_id,
        certificate_arn=certificate.arn if certificate else config.web.certificate_arn or None,
        http_redirect=config.web.http_redirect,
        deletion_protection=config.deletion_protection,
        before=[access_logs.ready] if access_logs else [],
    ),
)
if config.web.firewall:
    Firewall(
        name,
        FirewallArgs(
            load_balancer_arn=load_balancer.arn,
            key_arn=encryption.key_arn,
            log_retention_days=config.log_retention_days,
        ),
    )

workloads = Workloads(
    account=account,
    key_arn=encryption.key_arn,
    log_retention_days=config.log_retention_days,
    database=database,
    messaging=messaging,
    secrets=secrets,
    index=index,
)


def run(
    service: str,
    task: TaskArgs,
    size: ServiceSize,
    group: pulumi.Output[str],
    *,
    backlog: Backlog | None = None,
    target_group_arn: pulumi.Output[str] | None = None,
    after: list[pulumi.Resource] | None = None,
) -> FargateService:
    """One service with its scaling. It starts when the network lets it reach what it needs."""
    running = FargateService(
        f"{name}-{service}",
        service,
        FargateServiceArgs(
            task=task,
            subnet_ids=network.private_subnet_ids,
            security_group_id=group,
            desired_count=size.min_tasks,
            spot=size.spot,
            container_insights=config.container_insights,
            wait_for_steady_state=config.wait_for_steady_state,
            target_group_arn=target_group_arn,
            before=[network, groups, *endpoints, *(after or [])],
        ),
    )
    Autoscaling(
        f"{name}-{service}",
        AutoscalingArgs(
            cluster_name=running.cluster_name,
            service_name=running.service_name,
            min_tasks=size.min_tasks,
            max_tasks=size.max_tasks,
            cpu_percent=config.scaling.cpu_percent,
            backlog=backlog,
        ),
    )
    return running


pelican = run(
    "pelican",
    workloads.pelican(config.pelican, images.references["pelican"], registry.repositories["pelican"]),
    config.pelican,
    groups.pelican,
    backlog=Backlog(
        depth=metrics.OUTBOX_LIVE_KEYS,
        per_task=config.scaling.pelican_backlog,
        age=metrics.OUTBOX_LIVE_AGE_SECONDS,
        max_age_seconds=config.scaling.max_age_seconds,
    ),
)
emu = run(
    "emu",
    workloads.emu(config.emu, images.references["emu"], registry.repositories["emu"]),
    config.emu,
    groups.emu,
    backlog=Backlog(
        depth=metrics.queue(messaging.queue.name, "ApproximateNumberOfMessagesVisible", "Maximum"),
        per_task=config.scaling.emu_backlog,
        age=metrics.queue(messaging.queue.name, "ApproximateAgeOfOldestMessage", "Maximum"),
        max_age_seconds=config.scaling.max_age_seconds,
    ),
)
# After Pelican, whose task runs the migrations.
frontend = run(
    "frontend",
    workloads.frontend(
        config.frontend,
        images.references["frontend"],
        registry.repositories["frontend"],
        host=load_balancer.host,
        editing=config.web.editing,
    ),
    config.frontend,
    groups.frontend,
    target_group_arn=load_balancer.target_group_arn,
    after=[load_balancer.ready, pelican.service],
)

# In Pelican's cluster, with Pelican's image; after Pelican, whose task runs the migrations.
reconcile = (
    ScheduledTask(
        f"{name}-reconcile",
        "reconcile",
        ScheduledTaskArgs(
            account=account,
            task=workloads.reconcile(
                RECONCILE_SIZE,
                images.references["pelican"],
                registry.repositories["pelican"],
                repair=config.reconcile.repair,
            ),
            cluster_arn=pelican.cluster_arn,
            subnet_ids=network.private_subnet_ids,
            security_group_id=groups.reconcile,
            hours=config.reconcile.hours,
            spot=config.pelican.spot,
            before=[network, groups, *endpoints, pelican.service],
        ),
    )
    if config.reconcile.hours
    else None
)

# Nobody runs it by itself; behind reconcile's security group, which reaches database and Pinecone.
operator = Task(
    f"{name}-operator",
    "operator",
    workloads.operator(OPERATOR_SIZE, images.references["emu"], registry.repositories["emu"]),
)

running = {"pelican": pelican, "emu": emu, "frontend": frontend}
watched = {
    service: Service(
        cluster_name=one.cluster_name, service_name=one.service_name, min_tasks=getattr(config, service).min_tasks
    )
    for service, one in running.items()
}
observability = Observability(
    name,
    ObservabilityArgs(
        region=account.region,
        watched=Watched(
            queue_name=messaging.queue.name,
            dlq_name=messaging.dlq.name,
            database_identifier=database.identifier,
            load_balancer=load_balancer.dimensions,
            services=watched,
            log_groups={service: one.task.log_group_name for service, one in running.items()}
            | ({"reconcile": reconcile.task.log_group_name} if reconcile else {}),
        ),
        saved_queries=config.saved_queries,
    ),
)
if config.alarms:
    Alarms(
        name,
        AlarmsArgs(
            topic_arn=messaging.topic_arn,
            queue_name=messaging.queue.name,
            dlq_name=messaging.dlq.name,
            load_balancer=load_balancer.dimensions,
            database_identifier=database.identifier,
            database_storage_gb=config.database.storage_gb,
            services=watched,
            reconcile_hours=config.reconcile.hours,
        ),
    )

pulumi.export("frontend_url", load_balancer.url)
pulumi.export("load_balancer_dns_name", load_balancer.dns_name)
pulumi.export("database_address", database.address)
pulumi.export("queue_url", messaging.queue.url)
pulumi.export("dlq_url", messaging.dlq.url)
pulumi.export("topic_arn", messaging.topic_arn)
pulumi.export("index_name", index.index_name)
pulumi.export("index_host", index.host)
pulumi.export("repository_urls", {s: r.repository_url for s, r in registry.repositories.items()})
pulumi.export("dashboard_url", observability.dashboard_url)
pulumi.export("logs_dashboard_url", observability.logs_dashboard_url)
pulumi.export("clusters", {service: one.cluster_name for service, one in running.items()})
# As `aws ecs run-task --cli-input-json` takes it.
pulumi.export(
    "operator",
    {
        "cluster": emu.cluster_name,
        "taskDefinition": operator.definition_arn,
        "launchType": "FARGATE",
        "networkConfiguration": {
            "awsvpcConfiguration": {
                "subnets": network.private_subnet_ids,
                "securityGroups": [groups.reconcile],
                "assignPublicIp": "DISABLED",
            }
        },
    },
)
pulumi.export("operator_log_group", operator.log_group_name)
pulumi.export("services", {service: one.service_name for service, one in running.items()})
if certificate:
    pulumi.export("certificate_validation", certificate.validation)
