"""How deep the queues are. The status page wants to know; nothing else depends on it."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from aviary.depth import queue_depth
from aviary.logs import log
from frontend.settings import FrontendSettings

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

logger = logging.getLogger(__name__)


class Depths(NamedTuple):
    """Messages waiting or being worked on; None where unknown, and then `trouble` is a sentence, else empty."""

    queue: int | None
    dead_letters: int | None
    trouble: str


class QueueDepths:
    """Reads the depths of the queue and the dead letter queue on a thread of its own, so that an SQS that hangs
    delays no search."""

    def __init__(self, settings: FrontendSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="queues")
        self._client: SQSClient | None = None

    async def read(self) -> Depths:
        """Never raises for a queue that cannot be reached."""
        if not self._settings.queue_url:
            return Depths(None, None, "queue: AVIARY_QUEUE_URL is not set, so its depth is unknown")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read)
        except (BotoCoreError, ClientError) as error:
            log(logger, logging.WARNING, "queue_unavailable", error=type(error).__name__)
            return Depths(None, None, "queue: its depth cannot be read; changes are not lost, they wait in the outbox")

    def _read(self) -> Depths:
        dlq_url = self._settings.dlq_url
        return Depths(self._depth(self._settings.queue_url), self._depth(dlq_url) if dlq_url else None, "")

    def _depth(self, url: str) -> int:
        if self._client is None:
            self._client = _client(self._settings.aws_region)
        return sum(queue_depth(self._client, url))

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()


def _client(region: str) -> "SQSClient":
    # Here and not at the top: it takes half a second, and a frontend that starts again should answer searches first.
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    # Shorter than a sender's time-outs: a number for a page is not worth a long wait.
    config = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 1})
    return boto3.client("sqs", region_name=region, config=config)
