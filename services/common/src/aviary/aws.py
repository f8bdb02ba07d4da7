"""Clients of the AWS services that carry changes and notices: one place for time-outs, retries and pool sizes.

Endpoints come from the SDK's own AWS_ENDPOINT_URL_SQS and AWS_ENDPOINT_URL_SNS, credentials from its usual chain.
Clients may be shared by threads; make them at start, because making one is not thread-safe.
"""

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from aviary.settings import Settings

if TYPE_CHECKING:
    from types_boto3_sns import SNSClient
    from types_boto3_sqs import SQSClient

CONNECT_TIMEOUT_SECONDS = 3
# SQS and SNS answer in milliseconds. A caller that holds a lease must hear of a dead connection well before it ends.
READ_TIMEOUT_SECONDS = 8
ATTEMPTS = 3
POOL_CONNECTIONS = 20


def sqs_client(settings: Settings, *, long_poll_seconds: int = 0) -> "SQSClient":
    """A client for SQS. A receiver names the longest WaitTimeSeconds (0 to 20) it will ask for, so that the read
    time-out leaves room for it; a sender leaves it at 0."""
    return boto3.client(
        "sqs", region_name=settings.aws_region, config=_config(READ_TIMEOUT_SECONDS + long_poll_seconds)
    )


def sns_client(settings: Settings) -> "SNSClient":
    """A client for SNS."""
    return boto3.client("sns", region_name=settings.aws_region, config=_config(READ_TIMEOUT_SECONDS))


def _config(read_timeout_seconds: int) -> Config:
    return Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=read_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        tcp_keepalive=True,
        max_pool_connections=POOL_CONNECTIONS,
    )
