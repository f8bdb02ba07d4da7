"""Postgres on RDS: private, encrypted, only over TLS; services log in by IAM token."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.account import Account, assumed_by
from components.config import Database as DatabaseConfig
from components.security_groups import POSTGRES_PORT

DATABASE = "aviary"
OWNER = "aviary_owner"
LOG_EXPORTS = ("postgresql", "upgrade")
# The days that are free of charge.
INSIGHTS_DAYS = 7
PARAMETERS = {
    "rds.force_ssl": "1",
    # Statements that change the schema or run long are worth a line; the values in them are rows, and stay out.
    "log_statement": "ddl",
    "log_min_duration_statement": "1000",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_connections": "1",
    "log_lock_waits": "1",
}


@dataclass(frozen=True, kw_only=True)
class DatabaseArgs:
    account: Account
    config: DatabaseConfig
    subnet_ids: pulumi.Input[list[str]]
    security_group_id: pulumi.Input[str]
    key_arn: pulumi.Input[str]
    log_retention_days: int
    deletion_protection: bool
    destroy_deletes_data: bool


class Database(pulumi.ComponentResource):
    """`address` is a host name without a port. `master_secret_arn` is the owner's user name and password, which RDS
    made and rotates; only migrations use it."""

    identifier: pulumi.Output[str]
    address: pulumi.Output[str]
    resource_id: pulumi.Output[str]
    master_secret_arn: pulumi.Output[str]

    def __init__(self, name: str, args: DatabaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:database:Database", name, None, opts)
        self._account = args.account
        self._child = pulumi.ResourceOptions(parent=self)
        # RDS names its log groups after the instance, and would make them without an end to their lines.
        log_groups = [
            aws.cloudwatch.LogGroup(
                f"{name}-{export}",
                name=f"/aws/rds/instance/{name}/{export}",
                retention_in_days=args.log_retention_days,
                kms_key_id=args.key_arn,
                opts=self._child,
            )
            for export in LOG_EXPORTS
        ]
        instance = aws.rds.Instance(
            name,
            identifier=name,
            engine="postgres",
            engine_version=args.config.engine_version,
            instance_class=args.config.instance_class,
            auto_minor_version_upgrade=True,
            db_name=DATABASE,
            username=OWNER,
            manage_master_user_password=True,
            master_user_secret_kms_key_id=args.key_arn,
            iam_database_authentication_enabled=True,
            ca_cert_identifier="rds-ca-rsa2048-g1",
            port=POSTGRES_PORT,
            db_subnet_group_name=aws.rds.SubnetGroup(name, subnet_ids=args.subnet_ids, opts=self._child).name,
            vpc_security_group_ids=[args.security_group_id],
            publicly_accessible=False,
            multi_az=args.config.multi_az,
            parameter_group_name=self._parameters(name, args.config.engine_version),
            storage_type="gp3",
            allocated_storage=args.config.storage_gb,
            max_allocated_storage=args.config.max_storage_gb,
            storage_encrypted=True,
            kms_key_id=args.key_arn,
            backup_retention_period=args.config.backup_days,
            backup_window="03:00-04:00",
            maintenance_window="sun:04:30-sun:05:30",
            copy_tags_to_snapshot=True,
            delete_automated_backups=args.destroy_deletes_data,
            skip_final_snapshot=args.destroy_deletes_data,
            final_snapshot_identifier=None if args.destroy_deletes_data else f"{name}-final",
            deletion_protection=args.deletion_protection,
            enabled_cloudwatch_logs_exports=list(LOG_EXPORTS),
            performance_insights_enabled=True,
            performance_insights_kms_key_id=args.key_arn,
            performance_insights_retention_period=INSIGHTS_DAYS,
            monitoring_interval=args.config.monitoring_seconds,
            monitoring_role_arn=self._monitoring_role(name) if args.config.monitoring_seconds else None,
            # Pulumi's own protection speaks before a destroy has taken anything else down.
            opts=pulumi.ResourceOptions(parent=self, depends_on=log_groups, protect=args.deletion_protection),
        )
        self.identifier = instance.identifier
        self.address = instance.address
        self.resource_id = instance.resource_id
        made = instance.master_user_secrets.apply(lambda secrets: secrets[0].secret_arn if secrets else "")
        self.master_secret_arn = pulumi.Output.all(made, self._no_secret()).apply(lambda found: found[0] or found[1])
        self.register_outputs(
            {
                "identifier": self.identifier,
                "address": self.address,
                "resource_id": self.resource_id,
                "master_secret_arn": self.master_secret_arn,
            }
        )

    def _no_secret(self) -> pulumi.Output[str]:
        """What stands for the secret where nothing has made one (a rehearsal without an engine): the ARN of none, so
        that a policy written with it allows nothing."""
        return self._account.arn("secretsmanager", "secret:rds!db-none")

    def _parameters(self, name: str, engine_version: str) -> pulumi.Output[str]:
        group = aws.rds.ParameterGroup(
            name,
            family=f"postgres{engine_version.partition('.')[0]}",
            parameters=[
                aws.rds.ParameterGroupParameterArgs(name=parameter, value=value)
                for parameter, value in PARAMETERS.items()
            ],
            opts=self._child,
        )
        return group.name

    def _monitoring_role(self, name: str) -> pulumi.Output[str]:
        role = aws.iam.Role(
            f"{name}-monitoring",
            assume_role_policy=assumed_by("monitoring.rds.amazonaws.com", self._account),
            opts=self._child,
        )
        aws.iam.RolePolicyAttachment(
            f"{name}-monitoring",
            role=role.name,
            policy_arn=pulumi.Output.format(
                "arn:{}:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole", self._account.partition
            ),
            opts=self._child,
        )
        return role.arn
