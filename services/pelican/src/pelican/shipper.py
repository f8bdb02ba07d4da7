"""Claims from Postgres to the queue: the order of steps here is what every promise of Pelican rests on.

    lock the shard → draw the version → read outbox and rows (one snapshot) → announce the messages (durable)
    → send them → delete the outbox rows and clear the announcement → unlock

Whatever ends this half-way leaves outbox rows and announcement behind. Whoever claims the shard next sees the
announcement of messages that may still be on their way to the queue, and first sends empty messages under their
deduplication ids: those of the old messages that were taken stand before its own, and the queue will drop the others
as duplicates. So nothing of an old claim can follow a newer one.

Claims of several shards go together where they are small: each is locked, versioned and read by itself, and they share
the announcement's commit, the calls to the queue, and the end. What one fails at, all repeat.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import psycopg

from aviary.chunking import Chunking
from aviary.logs import log
from aviary.messages import MAX_MESSAGE_BYTES, Batch, Change, DeadLetter, encode
from aviary.source import Source, render
from pelican.clock import QueueClock
from pelican.outbox import FILL, LIVE, Claim, LostClaimError, PostgresOutbox, Row, Work
from pelican.packing import MAX_CALL_MESSAGES, Captured, Message, calls, deduplication_id, pack, to_messages
from pelican.sqs import ChangeQueue, QueueError
from pelican.stats import Stats
from pelican.throttle import Gate
from pelican.watch import DROPPING

FIRST_KEYS, FEWEST_KEYS, MOST_KEYS = 200, 20, 1_000
# Of a backfill: with no more than 0.02 requests to SQS and 0.01 to Pinecone a row; and half of it while there are live changes,
# because those of the same shard wait until the claim is embedded.
BACKFILL_KEYS, BACKFILL_KEYS_BESIDE_LIVE = 240, 120
# What a claim should weigh as encoded: bounds the memory of a worker, whatever the size of rows.
CLAIM_BYTES = 2_000_000
# An announcement is of no concern any more this long after its messages expired (clocks of hosts differ a little).
FORGET_SECONDS = 60.0

_logger = logging.getLogger(__name__)


class Refused(NamedTuple):
    """A row that no message can carry, and a sentence that says why."""

    key: str
    reason: str


class Shipped(NamedTuple):
    """What a claim became: changes for the queue, and the rows that no message can carry. `most_chunks`: how many vectors
    one of the changes may need."""

    changes: list[Captured]
    refused: list[Refused]
    most_chunks: int


class Parcel(NamedTuple):
    """A claim, packed: `messages` are the encoded `batches`; `letters`: rows set aside; `size`: bytes of all changes."""

    claim: Claim
    batches: list[Batch]
    messages: list[Message]
    letters: int
    size: int


class Shipper:
    """Ships claims. Not thread-safe: each worker has its own."""

    def __init__(
        self,
        outbox: PostgresOutbox,
        queue: ChangeQueue,
        gate: Gate,
        stats: Stats,
        *,
        chunking: Chunking,
        claim_seconds: float,
        expiry_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._queue = queue
        self._gate = gate
        self._stats = stats
        self._chunking = chunking
        self._claim_seconds = claim_seconds
        self._expiry_seconds = expiry_seconds
        self._clock = clock
        self._queue_clock = QueueClock(self._clock, lambda: time.time_ns() // 1_000_000)
        self._row_bytes: dict[int, float] = {}
        self._unconfirmed: list[Claim] = []

    def ship(self, works: deque[Work]) -> bool:
        """Ship the oldest rows of the first of these shards, which are of one source and lane, and take from `works` what
        was tried; False when there were none to be had. Raises QueueError, SourceError or psycopg.Error; the claims are
        given up then, and later ones repeat them."""
        claims = self._claim(works)
        if not claims:
            return False
        try:
            self._send(claims)
        except (QueueError, LostClaimError):
            self._stats.add(retries=len(claims))
            self._outbox.release(claims)
            raise
        try:
            self._outbox.finish(claims)
        except psycopg.Error:
            # Perhaps they are finished, perhaps another Pelican has claimed a shard in between and sent newer states
            # before ours arrived. Enqueued again, the newest state follows in order in either case.
            self._unconfirmed += claims
            self._stats.add(retries=len(claims))
            raise
        return True

    def settle(self) -> None:
        """Enqueue again what was sent by claims of which it is not known whether they were finished."""
        while self._unconfirmed:
            claim = self._unconfirmed[-1]
            self._outbox.enqueue(claim.work, [row.key for row in claim.rows])
            self._unconfirmed.pop()

    def _claim(self, works: deque[Work]) -> list[Claim]:
        """As many shards as fit one call to the queue, and as long as they are small: no more keys than one may have."""
        keys = self._keys(works[0])
        claims: list[Claim] = []
        rows = 0
        while works and len(claims) < MAX_CALL_MESSAGES and rows <= keys // 2:
            claim = self._outbox.claim(works.popleft(), keys - rows)
            if claim is not None:
                claims.append(claim)
                rows += len(claim.rows)
        return claims

    def _keys(self, work: Work) -> int:
        backfill_keys = BACKFILL_KEYS if self._gate.is_quiet else BACKFILL_KEYS_BESIDE_LIVE
        most = MOST_KEYS if work.lane == LIVE else backfill_keys
        if work.source_id not in self._row_bytes:
            return min(most, FIRST_KEYS)
        return max(FEWEST_KEYS, min(most, int(CLAIM_BYTES / self._row_bytes[work.source_id])))

    def _send(self, claims: Sequence[Claim]) -> None:
        oldest = claims[0]
        now_ms = self._queue_clock.now_ms()
        expires_at_ms = now_ms + int((self._expiry_seconds - (self._clock() - oldest.at)) * 1000)
        for claim in claims:
            self._void_earlier(
                claim, self._batch(claim, claim.source, claim.most_chunks, now_ms, expires_at_ms), now_ms
            )
        parcels = [self._parcel(claim, now_ms, expires_at_ms) for claim in claims]
        rows = sum(len(claim.rows) for claim in claims)
        messages = [message for parcel in parcels for message in parcel.messages]
        if messages:
            announced = [(parcel.claim, len(parcel.messages)) for parcel in parcels if parcel.messages]
            self._outbox.fence(announced, expires_at_ms)
            for call in calls(messages):
                self._check_time(oldest)
                taken_ms = self._queue.send(call)
                self._queue_clock.learn(taken_ms)
                if taken_ms is not None and taken_ms > expires_at_ms:
                    raise QueueError("the queue took messages that had expired by its clock")
                self._gate.sent(len(call))
            if oldest.work.lane == LIVE:
                self._gate.packed(rows, len(messages))
        self._check_time(oldest)
        self._row_bytes[oldest.work.source_id] = sum(parcel.size for parcel in parcels) / rows + 1
        for parcel in parcels:
            self._count(parcel.batches, parcel.letters)

    def _parcel(self, claim: Claim, now_ms: int, expires_at_ms: int) -> Parcel:
        shipped = [(target.source, to_changes(claim, target, self._chunking)) for target in targets(claim)]
        most_chunks = max((found.most_chunks for _, found in shipped), default=1)
        if most_chunks > claim.most_chunks:
            # Before the first such message: every later claim must know what there may be to delete.
            self._outbox.raise_most_chunks(claim, most_chunks)
        batches: list[Batch] = []
        letters: list[DeadLetter] = []
        size = 0
        for source, found in shipped:
            template = self._batch(claim, source, max(most_chunks, claim.most_chunks), now_ms, expires_at_ms)
            packed = pack(found.changes, template)
            refused = [*found.refused, *map(_too_big, packed.too_big)]
            letters += [_letter(source, row, claim.version, now_ms) for row in refused]
            batches += packed.batches
            size += packed.size
        self._set_aside(claim, letters)
        # All places of a claim share its group, so that in each of them its changes follow those of the claim before.
        return Parcel(claim, batches, to_messages(batches, claim.work.group, claim.version), len(letters), size)

    def _batch(self, claim: Claim, source: Source, most_chunks: int, now_ms: int, expires_at_ms: int) -> Batch:
        """An empty batch for the place that `source` describes."""
        return Batch(
            source=source.name,
            namespace=source.namespace,
            index_host=source.index_host,
            model=source.model,
            shard=claim.work.shard,
            lane="live" if claim.work.lane == LIVE else "backfill",
            captured_at_ms=now_ms,
            expires_at_ms=expires_at_ms,
            chunking=self._chunking,
            most_chunks=most_chunks,
            changes=(),
        )

    def _check_time(self, claim: Claim) -> None:
        if self._clock() - claim.at > self._claim_seconds:
            raise QueueError("the queue took longer than a claim may last")

    def _void_earlier(self, claim: Claim, template: Batch, now_ms: int) -> None:
        earlier = claim.earlier
        old = self._queue_clock.is_known and now_ms > earlier.expires_at_ms + FORGET_SECONDS * 1000
        if not earlier.messages or old:
            return
        group = claim.work.group
        body = encode(msgspec.structs.replace(template, expires_at_ms=0))
        size = len(body.encode())
        ids = [deduplication_id(group, earlier.version, number) for number in range(earlier.messages)]
        self._queue.send([Message(body, group, name, size) for name in ids])
        self._stats.add(voids=len(ids))
        log(_logger, logging.INFO, "unfinished_claim_voided", group=group, messages=len(ids))

    def _set_aside(self, claim: Claim, letters: list[DeadLetter]) -> None:
        for number, letter in enumerate(letters):
            body = encode(letter)
            name = f"{deduplication_id(claim.work.group, claim.version, number)}-set-aside"
            self._queue.set_aside([Message(body, name, name, len(body.encode()))])
        if letters:
            log(_logger, logging.ERROR, "rows_set_aside", source=claim.source.name, rows=len(letters))

    def _count(self, batches: list[Batch], set_aside: int) -> None:
        reasons = [change.reason for batch in batches for change in batch.changes]
        self._stats.add(
            claims=1,
            sent=len(reasons),
            messages=len(batches),
            deletes=reasons.count("gone"),
            blanks=reasons.count("blank"),
            set_aside=set_aside,
        )


class Target(NamedTuple):
    """Where changes of a claim go: the source as it is in that place. `drops`: whatever the row, it leaves this place."""

    source: Source
    drops: bool = False


def targets(claim: Claim) -> list[Target]:
    """The places that a claim's changes go to. One that is being dropped gets nothing but what its own lane holds:
    deletes, which show when all that was sent to it before has arrived (see pelican.reindex)."""
    active, other = Target(claim.source), claim.other
    if claim.work.lane == FILL:
        return [] if other is None else [Target(other.source, other.state == DROPPING)]
    return [active] if other is None or other.state == DROPPING else [active, Target(other.source)]


def to_changes(claim: Claim, target: Target, chunking: Chunking) -> Shipped:
    """f of every row of the claim: an upsert, or a delete where the row is gone or its text blank."""
    changes: list[Captured] = []
    refused: list[Refused] = []
    most_chunks = 1
    for row in claim.rows:
        try:
            change = _to_change(claim, row, target, chunking)
            changes.append(Captured(change, row.at_ms))
            most_chunks = max(most_chunks, chunking.most_of(change.text))
        except Exception as error:  # noqa: BLE001 - whatever one row's values do, its neighbours go on
            refused.append(Refused(row.key, f"row {row.key!r} has no valid change: {type(error).__name__}"))
    return Shipped(changes, refused, most_chunks)


def _to_change(claim: Claim, row: Row, target: Target, chunking: Chunking) -> Change:
    if not row.found or target.drops:
        return Change(key=row.key, version=claim.version, op="delete", reason="gone")
    values = dict(zip(claim.columns, row.values, strict=True))
    document = render(target.source, row.key, values, chunking)
    if document is None:
        return Change(key=row.key, version=claim.version, op="delete", reason="blank")
    return Change(
        key=row.key,
        version=claim.version,
        op="upsert",
        text=document.text,
        text_hash=document.text_hash,
        metadata=document.metadata,
        text_unchanged=row.text_unchanged,
    )


def _letter(source: Source, refused: Refused, version: int, now_ms: int) -> DeadLetter:
    return DeadLetter(
        reason=refused.reason,
        source=source.name,
        namespace=source.namespace,
        index_host=source.index_host,
        model=source.model,
        key=refused.key,
        version=version,
        failed_at_ms=now_ms,
    )


def _too_big(change: Change) -> Refused:
    reason = f"row {change.key!r} does not fit a message of {MAX_MESSAGE_BYTES} bytes; shorten its metadata columns"
    return Refused(change.key, reason)
