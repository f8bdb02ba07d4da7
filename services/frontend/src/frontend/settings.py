"""Settings of the frontend, from environment variables `AVIARY_…`."""

from typing import Literal

from pydantic import Field

from aviary.settings import DatabaseSettings, IndexSettings

EXAMPLE_QUERIES = (
    "something to keep soup hot until lunch",
    "cannot fall asleep because of the street light",
    "my back hurts at my desk",
    "get red wine out of the carpet",
    "water the plants while I am away",
    "make real coffee at a campsite",
)


class FrontendSettings(DatabaseSettings, IndexSettings):
    """Database, index, and where to listen. The queues' addresses are wanted only for the status page: without them
    it says that their depths are not known."""

    queue_url: str = ""
    dlq_url: str = ""
    http_host: str = "0.0.0.0"  # noqa: S104 - inside a task the load balancer comes from outside the process
    http_port: int = Field(default=8000, ge=0, le=65_535, description="0 picks a free port")
    drain_seconds: int = Field(default=20, ge=0, description="from SIGTERM to exit at most; below the stop time-out")
    pinecone_timeout_seconds: float = Field(default=3, gt=0, description="for one attempt of a request")
    embed_precision: Literal["auto", "bf16", "f32"] = "auto"
    embed_threads: int = Field(default=1, ge=1, description="queries embedded at once; one takes some milliseconds")
    currency: str = Field(default="$", max_length=8, description="shown before a price; the table holds plain numbers")
    examples: tuple[str, ...] = Field(default=EXAMPLE_QUERIES, description="a JSON array of queries to click")
