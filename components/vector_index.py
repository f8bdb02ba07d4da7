"""The Pinecone index as a Pulumi resource."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi.dynamic import Resource

from components.pinecone_provider import VectorIndexProvider


@dataclass(frozen=True, kw_only=True)
class VectorIndexArgs:
    """`tags` must tell this stack's index from all others: an index that has them all is taken for its own."""

    index_name: str
    dimension: int
    metric: str
    cloud: str
    region: str
    tags: Mapping[str, str]
    deletion_protection: bool
    adopt: bool
    api_key: pulumi.Output[str]


class VectorIndex(Resource, module="pinecone", name="VectorIndex"):
    """A serverless index, ready to serve. `host` is a URL."""

    host: pulumi.Output[str]
    api_key: pulumi.Output[str]

    def __init__(self, name: str, args: VectorIndexArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        self.index_name = args.index_name
        super().__init__(
            VectorIndexProvider(),
            name,
            {
                "name": args.index_name,
                "dimension": args.dimension,
                "metric": args.metric,
                "cloud": args.cloud,
                "region": args.region,
                "tags": dict(args.tags),
                "deletion_protection": args.deletion_protection,
                "adopt": args.adopt,
                "api_key": args.api_key,
                "host": None,
            },
            pulumi.ResourceOptions.merge(
                pulumi.ResourceOptions(additional_secret_outputs=["api_key"], protect=args.deletion_protection), opts
            ),
        )
