"""Pelican's settings, from environment variables named AVIARY_… (see aviary.settings for the shared ones)."""

from pydantic import Field

from aviary.settings import ChunkSettings, DatabaseSettings, HealthSettings, IndexSettings, QueueSettings


class BackfillSettings(DatabaseSettings):
    """Of what fills the outbox: `backfill`, the worker, which goes on with it, and a repair of `reconcile`."""

    backfill_outbox_limit: int = Field(
        default=20_000, ge=1_000, description="keys a backfill or a repair enqueues ahead"
    )


class PelicanSettings(BackfillSettings, QueueSettings, ChunkSettings, HealthSettings):
    """Of the worker."""

    workers: int = Field(default=2, ge=1, le=16, description="threads, each with a connection of its own")
    poll_seconds: float = Field(default=1.0, ge=0.05, le=20, description="how often to look without a NOTIFY")
    backfill_queue_limit: int = Field(
        default=4,
        ge=1,
        description="messages in the queue that a backfill begins with; more while Emus take all at once",
    )
    live_queue_limit: int = Field(default=1_000, ge=1, description="messages in the queue above which everything waits")
    live_merge_limit: int = Field(
        default=16,
        ge=1,
        description="messages waiting in the queue at which small live changes wait in the outbox, to go together",
    )
    claim_seconds: float = Field(
        default=20.0,
        gt=0,
        le=20,
        description="a claim whose messages SQS has not taken by then is given up; they expire after 1.25 of it, "
        "and a silent session loses its locks after 3 of it",
    )

    @property
    def expiry_seconds(self) -> float:
        """From the claim until its messages are void. The quarter more is room for clocks that disagree."""
        return self.claim_seconds * 1.25

    @property
    def silence_seconds(self) -> float:
        """After this, Postgres ends the session of a Pelican that was stopped, and frees what it holds."""
        return self.claim_seconds * 3 + self.poll_seconds


class ReconcileSettings(BackfillSettings, QueueSettings, IndexSettings, ChunkSettings):
    """Of `reconcile`, and of whoever empties a namespace: both ends, and the queue between them."""


class ReindexSettings(DatabaseSettings, IndexSettings, ChunkSettings):
    """Of the steps of `reindex` that look at the index."""
