"""Emu's settings, from the environment."""

from typing import Literal, Self

from pydantic import Field, model_validator

from aviary.settings import HealthSettings, IndexSettings, QueueSettings


class EmuSettings(QueueSettings, IndexSettings, HealthSettings):
    """Built in `main()`. Emu sets poison rows aside, so it needs the dead letter queue."""

    dlq_url: str = Field(description="FIFO queue of dead letters")
    topic_arn: str = Field(default="", description="SNS topic for notices of what was set aside")
    receive_wait_seconds: int = Field(
        default=20,
        ge=0,
        le=20,
        description="SQS long poll; 20 costs fewest requests, 1 suits a queue server on a laptop",
    )
    visibility_seconds: int = Field(
        default=60, ge=2, le=43_200, description="how long a lease lasts; it is extended while work goes on"
    )
    drain_seconds: float = Field(
        default=25, ge=0, description="from SIGTERM to exit at most; keep it below the orchestrator's stop time-out"
    )
    units_in_flight: int = Field(default=3, ge=1, le=16, description="units received and not yet acknowledged")
    pinecone_timeout_seconds: float = Field(default=10, gt=0, description="for one request")
    abandoned_indexes: str = Field(
        default="",
        description="addresses of indexes, with commas between, that are gone for good: messages for them are set aside",
    )
    embed_precision: Literal["auto", "bf16", "f32"] = Field(
        default="auto", description="bf16 or f32; auto: bf16 where the CPU computes in it"
    )
    embed_threads: int | None = Field(default=None, ge=1, description="unset: as many as there are CPUs, at most 4")

    @model_validator(mode="after")
    def _lease_outlives_the_poll(self) -> Self:
        # A lease is counted from before the poll was sent, because only that is certain.
        if self.visibility_seconds <= self.receive_wait_seconds:
            raise ValueError(
                f"AVIARY_VISIBILITY_SECONDS ({self.visibility_seconds}) must be greater than "
                f"AVIARY_RECEIVE_WAIT_SECONDS ({self.receive_wait_seconds}); raise the first or lower the second"
            )
        return self

    @property
    def write_margin_seconds(self) -> float:
        """What must be left of a lease when a write is sent, so that it cannot arrive after the lease."""
        return min(self.pinecone_timeout_seconds, self.visibility_seconds / 3)
