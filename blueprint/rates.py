"""What use costs on top of idling. Assumptions are the constants here, and each rate's sentence names its own."""

from collections.abc import Iterator
from typing import NamedTuple

from blueprint.graph import Graph, Resource
from blueprint.prices import Prices

ROWS = 1_000_000
# What a backfill sends. Single edits fill their messages less, and cost up to a hundred times as much a row.
ROWS_PER_MESSAGE = 100
# Sent, received and deleted.
REQUESTS_PER_MESSAGE = 3
# 384 floats as the SDK writes them.
JSON_KB_PER_VECTOR = 8.1
# Careful: half of what a core does in the benchmarks, whose processor is another one.
ROWS_PER_VCPU_SECOND = 150
GB_PER_VCPU = 2
SECONDS_PER_HOUR = 3600


class Rate(NamedTuple):
    """Dollars for each unit of use."""

    unit: str
    price: float
    sentence: str


def rates(graph: Graph, table: Prices) -> Iterator[Rate]:
    """Indexing first, then what is paid by size and by time."""
    yield from _indexing(graph, table)
    yield Rate("GB through NAT", table["nat_gb"], "to AWS and Pinecone; S3 is spared by its endpoint")
    yield Rate("GB out to the internet", table["internet_gb"], "pages and answers; the first 100 GB a month are free")
    yield Rate("GB of logs", table["logs_gb"], "collected; flow logs of the network are most of it in a quiet stack")
    yield Rate("GB of logs kept, a month", table["logs_gb_month"], "until their retention ends")
    yield Rate("load balancer unit, an hour", table["alb_lcu_hour"], "25 new connections a second, or 1 GB an hour")
    yield Rate("GB of images, a month", table["ecr_gb_month"], "the latest 20 of each service are kept")
    yield Rate("GB of access logs, a month", table["s3_gb_month"], "in S3")
    yield Rate("GB of backups, a month", table["rds_backup_gb_month"], "beyond the size of the disk")
    if any(endpoint.inputs.get("vpcEndpointType") == "Interface" for endpoint in graph.of("aws:ec2:VpcEndpoint")):
        yield Rate("GB through private endpoints", table["endpoint_gb"], "instead of NAT")
    if any(graph.of("aws:wafv2:WebAcl")):
        yield Rate("million requests", table["waf_million"], "looked at by the firewall")


def _indexing(graph: Graph, table: Prices) -> Iterator[Rate]:
    requests = ROWS / ROWS_PER_MESSAGE * REQUESTS_PER_MESSAGE
    gigabytes = ROWS * JSON_KB_PER_VECTOR / 1e6
    yield Rate(
        "million rows indexed: network",
        gigabytes * (table["nat_gb"] + table["internet_gb"]),
        f"{gigabytes:.1f} GB of vectors through NAT and out to Pinecone",
    )
    for service in graph.of("aws:ecs:Service"):
        if graph.short_name(service.name) != "emu":
            continue
        hours = ROWS / ROWS_PER_VCPU_SECOND / SECONDS_PER_HOUR
        hour = table["fargate_vcpu_hour"] + GB_PER_VCPU * table["fargate_gb_hour"]
        yield Rate(
            "million rows indexed: tasks",
            hours * hour * (table["fargate_spot_share"] if on_spot(service) else 1),
            f"{hours:.1f} vCPU-hours of Emu beyond those that idle, at {ROWS_PER_VCPU_SECOND} rows/s each",
        )
    yield Rate(
        "million rows indexed: queue",
        requests / 1e6 * table["sqs_fifo_million"],
        f"{ROWS_PER_MESSAGE} rows a message, {REQUESTS_PER_MESSAGE} requests each",
    )


def on_spot(service: Resource) -> bool:
    """Whether the service's tasks run on spare capacity."""
    chosen = service.inputs.get("capacityProviderStrategies") or []
    return any(strategy["capacityProvider"] == "FARGATE_SPOT" for strategy in chosen)
