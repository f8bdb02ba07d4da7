"""Connections to Postgres: by DSN on a laptop, by IAM token over verified TLS on RDS."""

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from aviary.settings import DatabaseSettings

CONNECT_TIMEOUT_SECONDS = 10
# Keepalives find a dead peer in about 25 s where the kernel's own default takes two hours.
KEEPALIVE = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


def connection_parameters(settings: DatabaseSettings, application_name: str) -> dict[str, Any]:
    """Keyword arguments for psycopg's connect: sync, async or a pool's `kwargs`. Call it anew for each connection,
    because an IAM token lives for 15 minutes.

    https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html
    """
    given: dict[str, Any] = conninfo_to_dict(settings.postgres_dsn.get_secret_value())
    given = {**KEEPALIVE, "connect_timeout": CONNECT_TIMEOUT_SECONDS, **given, "application_name": application_name}
    if settings.postgres_auth == "iam":
        if settings.postgres_root_cert is None:
            raise ValueError(
                "AVIARY_POSTGRES_AUTH=iam needs AVIARY_POSTGRES_ROOT_CERT, the file of RDS certificate authorities"
            )
        missing = [name for name in ("host", "user") if not given.get(name)]
        if missing:
            raise ValueError(f"AVIARY_POSTGRES_AUTH=iam needs {' and '.join(missing)} in AVIARY_POSTGRES_DSN")
        # A fifth of a second to import, which services without IAM need not wait for when they start.
        import boto3  # noqa: PLC0415

        given["password"] = boto3.client("rds", region_name=settings.aws_region).generate_db_auth_token(
            DBHostname=given["host"], Port=int(given.get("port") or 5432), DBUsername=given["user"]
        )
        given |= {"sslmode": "verify-full", "sslrootcert": str(settings.postgres_root_cert)}
    return given


def connect(settings: DatabaseSettings, application_name: str, **options: Any) -> psycopg.Connection[Any]:
    """An open connection; `options` go to `psycopg.connect` (autocommit, row_factory, …)."""
    return psycopg.connect(**connection_parameters(settings, application_name), **options)
