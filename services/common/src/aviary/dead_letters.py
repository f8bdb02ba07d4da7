"""What is in the dead letter queue, and who may look: reading it, and understanding the letters of every kind.

A queue can only be looked at by receiving: each message looked at is hidden from everybody else until it is given back,
its receive count grows by one, and of a FIFO group never more than ten messages can be had before the first of them is
deleted. Emu's and Pelican's own letters each are a group, so all of them can be read; messages that SQS itself moved
keep the group they had.
"""

import ast
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from aviary.depth import Depth, queue_depth
from aviary.messages import MessageError, decode_batch, decode_dead_letter

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

# SQS: messages of one receive, entries of one batch request.
RECEIVE_LIMIT = 10
# How long letters stay hidden when whoever looks at them is killed; a look that takes longer meets some of them twice.
HOLD_SECONDS = 60

Kind = Literal["row", "unsent", "message", "moved"]
KINDS: Mapping[Kind, str] = {
    "row": "a row that Emu could not process",
    "unsent": "a row that Pelican could not send",
    "message": "a whole message that Emu could not read, or that is not for its model",
    "moved": "a message that SQS moved here, because Emus that received it never finished it",
}
_PELICANS_REASON = re.compile(r"row (?P<key>'.*'|\".*\") (?:has no valid change|does not fit a message)", re.DOTALL)


class Key(NamedTuple):
    """A row that a letter is about. `version` is 0 where it is not known."""

    key: str
    version: int


class Held(NamedTuple):
    """A message of the dead letter queue as received; hidden from others until it is given back."""

    id: str
    receipt: str
    group: str
    body: str
    sent_at_ms: int
    moved: bool


class Letter(NamedTuple):
    """A dead letter as people and tools see it. Its place in an index is `namespace` at `index_host` ("": the configured
    one). `keys` is empty when they cannot be known."""

    id: str
    kind: Kind
    reason: str
    source: str
    namespace: str
    at_ms: int
    keys: tuple[Key, ...]
    index_host: str = ""

    def age_seconds(self) -> float:
        return max(0.0, time.time() - self.at_ms / 1000)


class _AnyBatch(msgspec.Struct):
    """What messages of any format are likely to have."""

    changes: tuple["_AnyChange", ...]
    source: str
    namespace: str = ""
    index_host: str = ""


class _AnyChange(msgspec.Struct):
    key: str
    version: int = 0


_any_batch = msgspec.json.Decoder(_AnyBatch)


def read(held: Held) -> Letter:
    """The letter in a message, whatever it is: never raises."""
    try:
        letter = decode_dead_letter(held.body)
    except MessageError:
        kind: Kind = "moved" if held.moved or _is_batch(held.body) else "message"
        return _whole(held.id, kind, _why_not_a_letter(held), held.sent_at_ms, held.body)
    if letter.body:
        return _whole(held.id, "message", letter.reason, letter.failed_at_ms, letter.body)
    key, version = letter.key, letter.version
    if letter.change is not None:
        key, version = letter.change.key, letter.change.version
    elif not key:
        key = _key_in_reason(letter.reason)
    keys = (Key(key, version),) if key else ()
    kind = "row" if letter.change is not None else "unsent"
    place = letter.source, letter.namespace
    return Letter(held.id, kind, letter.reason, *place, letter.failed_at_ms, keys, letter.index_host)


def whole_message(held: Held) -> str:
    """The message of the change queue that the letter holds, as it came; "" when it is about one row."""
    try:
        return decode_dead_letter(held.body).body
    except MessageError:
        return held.body


def is_void(letter: Letter, stored: Mapping[str, float], absent: Collection[str]) -> bool:
    """Whether nothing is left to be done for a letter: for each of its keys the index holds this version or a later one,
    or there is neither a vector nor a row with text. `stored`: the versions in the letter's namespace, by key; `absent`:
    keys that have no row now, or one without text."""

    def settled(key: Key) -> bool:
        version = stored.get(key.key)
        return key.key in absent if version is None else 0 < key.version <= version

    return bool(letter.keys) and all(map(settled, letter.keys))


class DeadLetterQueue:
    """The dead letter queue, for looking at it. Every method raises botocore's errors when SQS does not answer."""

    def __init__(self, client: "SQSClient", url: str) -> None:
        self._client = client
        self._url = url

    def depth(self) -> Depth:
        """How many letters there are; `held` by those who look at them."""
        return queue_depth(self._client, self._url)

    @contextmanager
    def look(self, hold_seconds: int = HOLD_SECONDS) -> Iterator["Look"]:
        """Look through the queue; what was not deleted is given back at the end, whatever ends it."""
        look = Look(self._client, self._url, self.depth(), hold_seconds)
        try:
            yield look
        finally:
            look.give_back()


class Look:
    """One pass over the queue. `depth` is what it held at the beginning."""

    def __init__(self, client: "SQSClient", url: str, depth: Depth, hold_seconds: int) -> None:
        self.depth = depth
        self._client = client
        self._url = url
        self._hold_seconds = hold_seconds
        self._receipts: dict[str, str] = {}
        self._seen: set[str] = set()
        self._ended = False

    def batches(self) -> Iterator[list[Held]]:
        """Every letter that can be had, each once, up to ten at a time. They stay held until the look ends, because one
        that is given back earlier would come again at once."""
        while True:
            # While there should be more, an empty answer of one server is not the end; the long poll asks them all.
            wait_seconds = 1 if len(self._seen) < self.depth.waiting else 0
            received = self._receive(wait_seconds)
            fresh = [held for held in received if held.id not in self._seen]
            self._receipts.update((held.id, held.receipt) for held in received)
            self._seen.update(held.id for held in received)
            if not fresh:
                self._ended = True
                return
            yield fresh

    @property
    def out_of_reach(self) -> int:
        """Letters that no receive gave, because ten others of their group stand before them. Approximate."""
        return max(0, self.depth.waiting - len(self._seen)) if self._ended else 0

    def delete(self, ids: Collection[str]) -> list[str]:
        """Delete letters; returns the ids of those that SQS kept, because another reader has them by now."""
        kept: list[str] = []
        for some in _tens(list(ids)):
            answer = self._client.delete_message_batch(
                QueueUrl=self._url,
                Entries=[{"Id": str(n), "ReceiptHandle": self._receipts[each]} for n, each in enumerate(some)],
            )
            failed = {int(failure["Id"]) for failure in answer.get("Failed", [])}
            kept += [each for n, each in enumerate(some) if n in failed]
            for each in some:
                self._receipts.pop(each)
        return kept

    def give_back(self) -> None:
        """Make what is held visible to others again. Where SQS does not answer, it becomes so by itself."""
        receipts, self._receipts = list(self._receipts.values()), {}
        for some in _tens(receipts):
            with suppress(BotoCoreError, ClientError):
                self._client.change_message_visibility_batch(
                    QueueUrl=self._url,
                    Entries=[
                        {"Id": str(n), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                        for n, receipt in enumerate(some)
                    ],
                )

    def _receive(self, wait_seconds: int) -> list[Held]:
        answer = self._client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=RECEIVE_LIMIT,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=self._hold_seconds,
            MessageSystemAttributeNames=["DeadLetterQueueSourceArn", "MessageGroupId", "SentTimestamp"],
        )
        found = []
        for message in answer.get("Messages", []):
            attributes = message.get("Attributes", {})
            found.append(
                Held(
                    id=message["MessageId"],
                    receipt=message["ReceiptHandle"],
                    group=attributes.get("MessageGroupId", ""),
                    body=message["Body"],
                    sent_at_ms=int(attributes.get("SentTimestamp", 0)),
                    moved=bool(attributes.get("DeadLetterQueueSourceArn")),
                )
            )
        return found


def _tens(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), RECEIVE_LIMIT):
        yield items[start : start + RECEIVE_LIMIT]


def _whole(id: str, kind: Kind, reason: str, at_ms: int, body: str) -> Letter:
    """The letter around a message of any format: source, place and keys as far as they can be known."""
    try:
        batch = _any_batch.decode(body)
    except (msgspec.MsgspecError, UnicodeError):
        return Letter(id, kind, reason, "", "", at_ms, ())
    keys = tuple(Key(change.key, change.version) for change in batch.changes if change.key)
    return Letter(id, kind, reason, batch.source, batch.namespace, at_ms, keys, batch.index_host)


def _is_batch(body: str) -> bool:
    try:
        decode_batch(body)
    except MessageError:
        return False
    return True


def _why_not_a_letter(held: Held) -> str:
    try:
        decode_batch(held.body)
    except MessageError as error:
        what = str(error)
    else:
        what = "a message with nothing wrong to see in it"
    if held.moved:
        return f"SQS moved it here, because it was received again and again and never finished; it is {what}"
    return f"as it came, without a reason: {what}"


def _key_in_reason(reason: str) -> str:
    """Pelican's letters had the key in the reason only, as Python prints a string."""
    found = _PELICANS_REASON.match(reason)
    if found is None:
        return ""
    try:
        return str(ast.literal_eval(found["key"]))
    except (ValueError, SyntaxError):
        return ""
