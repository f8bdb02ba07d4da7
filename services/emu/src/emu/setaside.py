"""Setting poison aside: a dead letter with the reason first, then a notice to people."""

import hashlib
import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import orjson

from aviary.logs import log
from aviary.messages import MAX_MESSAGE_BYTES, DeadLetter, encode
from emu.planning import Refused, Task
from emu.queue import AwsError, ChangeQueue, Received
from emu.stats import Stats

if TYPE_CHECKING:
    from types_boto3_sns import SNSClient

LOGGER = logging.getLogger(__name__)
REASON_LIMIT_CHARS = 500
NOTICE_INTERVAL_SECONDS = 60.0
NOTICE_KEYS = 20
FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 10.0


class Notices:
    """Tells people by SNS what was set aside: counts, kinds and hashes of keys, no row content. The first at once,
    later ones together, at most one a minute."""

    def __init__(self, client: "SNSClient | None", topic_arn: str, dlq_url: str) -> None:
        self._client = client
        self._topic_arn = topic_arn
        self._dlq_url = dlq_url
        self._lock = threading.Lock()
        self._kinds: Counter[str] = Counter()
        self._keys: list[str] = []
        self._last = -NOTICE_INTERVAL_SECONDS

    def add(self, kind: str, source: str, key: str) -> None:
        """One more; `key` may be empty when it is not known."""
        with self._lock:
            self._kinds[f"{source}: {kind}" if source else kind] += 1
            if key and len(self._keys) < NOTICE_KEYS:
                self._keys.append(hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16])

    def flush(self, *, at_once: bool = False) -> None:
        """Publish what is due. A notice that SNS does not take is tried again at the next flush."""
        with self._lock:
            if not self._kinds or (not at_once and time.monotonic() - self._last < NOTICE_INTERVAL_SECONDS):
                return
            kinds, keys = self._kinds, self._keys
            self._kinds, self._keys, self._last = Counter(), [], time.monotonic()
        if self._client is None:
            return
        body = {
            "set_aside": sum(kinds.values()),
            "kinds": kinds,
            "key_hashes": keys,
            "dead_letter_queue": self._dlq_url,
        }
        try:
            self._client.publish(
                TopicArn=self._topic_arn,
                Subject=f"Aviary: {body['set_aside']} set aside in the dead letter queue",
                Message=orjson.dumps(body).decode(),
            )
        except AwsError:
            LOGGER.exception("notice_failed")
            with self._lock:
                self._kinds += kinds
                self._keys = (keys + self._keys)[:NOTICE_KEYS]


class SetAside:
    """Puts rows and messages into the dead letter queue. Each method returns once SQS has the letter."""

    def __init__(self, queue: ChangeQueue, notices: Notices, stats: Stats, stopping: threading.Event) -> None:
        self._queue = queue
        self._notices = notices
        self._stats = stats
        self._stopping = stopping

    def row(self, task: Task, kind: str, reason: str) -> None:
        """One row, alone."""
        letter = DeadLetter(
            reason=reason[:REASON_LIMIT_CHARS],
            source=task.source,
            namespace=task.namespace,
            index_host=task.index_host,
            model=task.model,
            key=task.change.key,
            version=task.change.version,
            failed_at_ms=_now_ms(),
            change=task.change,
        )
        self._send(
            encode(letter), f"{task.index_host}\0{task.namespace}\0{task.change.key}\0{task.change.version}\0{kind}"
        )
        self._note(kind, task.source, task.change.key)

    def message(self, message: Received, refused: Refused) -> None:
        """A whole message, in a letter as it came. Where the letter would be too long, the message itself."""
        body = encode(DeadLetter(reason=refused.reason[:REASON_LIMIT_CHARS], failed_at_ms=_now_ms(), body=message.body))
        if len(body.encode()) > MAX_MESSAGE_BYTES:
            body = message.body
        self._send(body, f"{refused.kind}\0{message.body}")
        self._note(refused.kind, "", "")

    def _note(self, kind: str, source: str, key: str) -> None:
        self._stats.count("poisoned")
        self._notices.add(kind, source, key)
        log(LOGGER, logging.WARNING, "set_aside", kind=kind, source=source)

    def _send(self, body: str, identity: str) -> None:
        name = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
        delay = FIRST_DELAY_SECONDS
        while True:
            try:
                # A group of its own: letters of one group could only be read ten at a time.
                self._queue.dead_letter(body, group=name, deduplication_id=name)
            except AwsError:
                LOGGER.exception("dead_letter_failed")
                self._stats.count("errors")
                if self._stopping.wait(delay):
                    raise
                delay = min(delay * 2, LONGEST_DELAY_SECONDS)
            else:
                return


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
