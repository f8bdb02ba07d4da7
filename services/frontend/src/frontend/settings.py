"""Settings of the frontend, from environment variables `AVIARY_…`."""

import ipaddress
from typing import Literal

from pydantic import Field

from aviary.settings import ChunkSettings, DatabaseSettings, IndexSettings
from frontend.origin import LOOPBACK_NAMES

EXAMPLE_QUERIES = (
    "something to keep soup hot until lunch",
    "cannot fall asleep because of the street light",
    "my back hurts at my desk",
    "get red wine out of the carpet",
    "water the plants while I am away",
    "make real coffee at a campsite",
)


class FrontendSettings(DatabaseSettings, IndexSettings, ChunkSettings):
    """Database, index, and where to listen. The queues' addresses are wanted only for the status page: without them
    it says that their depths are not known."""

    queue_url: str = Field(default="", description="only for its depth on the status page")
    dlq_url: str = Field(default="", description="the same")
    http_host: str = "0.0.0.0"  # noqa: S104 - inside a task the load balancer comes from outside the process
    http_port: int = Field(default=8000, ge=0, le=65_535, description="0 picks a free port")
    drain_seconds: int = Field(default=20, ge=0, description="from SIGTERM to exit at most; below the stop time-out")
    pinecone_timeout_seconds: float = Field(default=3, gt=0, description="for one attempt of a request")
    embed_precision: Literal["auto", "bf16", "f32"] = Field(
        default="auto", description="bf16 or f32; auto: bf16 where the CPU computes in it"
    )
    embed_threads: int = Field(
        default=1, ge=1, description="queries embedded at once; a short one that is alone takes two cores"
    )
    read_only: bool | None = Field(
        default=None, description="refuse every change; unless given: no on a loopback address, yes on any other"
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="a JSON array of names without port; unless given: loopback's own names on a loopback address, else any",
    )
    trusted_proxies: int = Field(
        default=0, ge=0, le=8, description="proxies before this that append to X-Forwarded-For; 0 ignores the header"
    )
    client_reads_per_second: float = Field(default=100, ge=0, description="for each client; 0 is no limit")
    client_writes_per_second: float = Field(default=20, ge=0, description="for each client; 0 is no limit")
    total_reads_per_second: float = Field(default=1_000, ge=0, description="for all in this process; 0 is no limit")
    total_writes_per_second: float = Field(default=200, ge=0, description="for all in this process; 0 is no limit")
    currency: str = Field(default="$", max_length=8, description="shown before a price; the table holds plain numbers")
    examples: tuple[str, ...] = Field(
        default=EXAMPLE_QUERIES, description="a JSON array of queries that the empty page offers to click"
    )

    @property
    def shows_only(self) -> bool:
        """Whether changes are refused. Nobody but this machine's own people reaches a loopback address."""
        return not self._is_loopback if self.read_only is None else self.read_only

    @property
    def hosts(self) -> frozenset[str]:
        """The names that requests may be for, in lower case; empty: any."""
        given = self.allowed_hosts or (LOOPBACK_NAMES if self._is_loopback else ())
        return frozenset(name.lower() for name in given)

    @property
    def _is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.http_host).is_loopback
        except ValueError:
            return self.http_host.lower() == "localhost"
