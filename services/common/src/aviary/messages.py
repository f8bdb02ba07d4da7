"""The message format between Pelican and Emu: JSON, typed, versioned. The only definition of it.

One SQS message is one `Batch`: changes of one shard of one source, newest state per key, at most `MAX_CHANGES`.
A reader refuses formats it does not know (`UnknownFormatError`) and anything that is not a batch
(`InvalidMessageError`); neither is ever dropped in silence, both go to the dead letter queue as they came.
"""

from typing import Literal

import msgspec

from aviary.chunking import Chunking
from aviary.source import MetadataValue

FORMAT = 1
MAX_CHANGES = 100
# SQS allows 262,144 bytes at least everywhere; the difference is room for message attributes.
MAX_MESSAGE_BYTES = 250_000


class MessageError(ValueError):
    """Base of what can be wrong with a message body."""


class InvalidMessageError(MessageError):
    """Not JSON, or JSON that is not a batch."""


class UnknownFormatError(MessageError):
    """A batch of a format that this reader does not know (a newer Pelican, most likely)."""


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state of one key, at one version.

    `version` grows with every later state of the key, whatever lane it came by; a writer never replaces a higher
    version by a lower. An upsert has `text`, `text_hash` and `metadata`; a delete has none of them, and says in
    `reason` whether the row is gone or its text is blank. `text_unchanged` is a hint, not a fact: the vector in the
    index is likely still right, so compare hashes before embedding.
    """

    key: str
    version: int
    op: Literal["upsert", "delete"]
    text: str = ""
    text_hash: str = ""
    metadata: dict[str, MetadataValue] = {}
    text_unchanged: bool = False
    reason: Literal["", "gone", "blank"] = ""

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("a change needs a key")
        if self.op == "upsert" and not (self.text.strip() and self.text_hash):
            raise ValueError("an upsert needs text and text_hash")


class Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message. Times are Unix milliseconds.

    Its place is `namespace` in the index at `index_host` ("" for the configured one); `model` makes its vectors.
    `lane` is `live` or `backfill`. `captured_at_ms`: when the oldest change in it was captured, for freshness.
    `expires_at_ms`: the claim behind this batch was given up if SQS took the message later than this (its
    SentTimestamp), and the same keys have been or will be sent again; such a message is void.

    `chunking`: how long texts are cut, as their hashes say. `most_chunks`: no row of the source was ever sent with a text
    that could become more vectors than that, this message included; so there are none beyond to be deleted.
    """

    format: int = FORMAT
    source: str
    namespace: str
    index_host: str = ""
    model: str
    shard: int
    lane: Literal["live", "backfill"] = "live"
    captured_at_ms: int
    expires_at_ms: int
    chunking: Chunking = Chunking(most=1)
    most_chunks: int = 1
    changes: tuple[Change, ...]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row that could not be processed, set aside alone: body of a message in the dead letter queue.

    `change` is there when the row became a change; `key` and `version` always, but in letters of older writers, which
    have them in `change` only. `body` instead holds a message that could not be read at all, as it came.
    """

    format: int = FORMAT
    reason: str
    source: str = ""
    namespace: str = ""
    index_host: str = ""
    model: str = ""
    key: str = ""
    version: int = 0
    failed_at_ms: int
    change: Change | None = None
    body: str = ""


class _Format(msgspec.Struct):
    format: int


_encoder = msgspec.json.Encoder()
_format = msgspec.json.Decoder(_Format)
_batch = msgspec.json.Decoder(Batch)
_dead_letter = msgspec.json.Decoder(DeadLetter)


def encode(message: Batch | DeadLetter) -> str:
    """The message body, UTF-8 text."""
    return _json(message).decode()


def encoded_size(change: Change) -> int:
    """Bytes that one change adds to a message body, its comma included."""
    return len(_json(change)) + 1


def decode_batch(body: str | bytes) -> Batch:
    """The batch in a message body; raises InvalidMessageError or UnknownFormatError."""
    _check_format(body)
    try:
        return _batch.decode(body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidMessageError(f"not a batch: {error}") from None


def decode_dead_letter(body: str | bytes) -> DeadLetter:
    """The dead letter in a message body; raises InvalidMessageError or UnknownFormatError."""
    _check_format(body)
    try:
        return _dead_letter.decode(body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidMessageError(f"not a dead letter: {error}") from None


def _json(value: Batch | DeadLetter | Change) -> bytes:
    # SQS refuses a whole call for one U+FFFE or U+FFFF (it takes what XML takes); inside JSON they may be escaped.
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
    return _encoder.encode(value).replace(b"\xef\xbf\xbe", b"\\ufffe").replace(b"\xef\xbf\xbf", b"\\uffff")


def _check_format(body: str | bytes) -> None:
    try:
        found = _format.decode(body).format
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidMessageError(f"not a message of ours: {error}") from None
    if found != FORMAT:
        raise UnknownFormatError(f"message format {found} is not known here (only {FORMAT}); update this service")
