"""The one adapter around SQS: where changes go."""

import email.utils
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import botocore.exceptions

from aviary.depth import Depth, queue_depth
from pelican.packing import Message, calls

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef


class QueueError(RuntimeError):
    """The queue did not take everything, or did not say so; nothing is known about what it took."""


class ChangeQueue(Protocol):
    """What Pelican needs of a queue. Thread-safe; every method raises QueueError."""

    def send(self, messages: Sequence[Message]) -> int | None:
        """Returns once all are accepted, in order within each group: the time by which they were, in Unix milliseconds
        by the queue's own clock and rounded up; None where the queue does not say."""

    def set_aside(self, messages: Sequence[Message]) -> None:
        """Put dead letters where people look for them. Of one group only ten can be read at a time, so give each its
        own."""

    def depth(self) -> Depth:
        """Approximate."""


class SqsQueue:
    """ChangeQueue over a FIFO queue and its dead letter queue ("" when there is none)."""

    def __init__(self, client: "SQSClient", queue_url: str, dlq_url: str = "") -> None:
        self._client = client
        self._queue_url = queue_url
        self._dlq_url = dlq_url

    def send(self, messages: Sequence[Message]) -> int | None:
        return self._send(self._queue_url, messages)

    def set_aside(self, messages: Sequence[Message]) -> None:
        if self._dlq_url:
            self._send(self._dlq_url, messages)

    def depth(self) -> Depth:
        try:
            return queue_depth(self._client, self._queue_url)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise QueueError(f"the queue does not tell its depth: {_name(error)}") from error

    def _send(self, url: str, messages: Sequence[Message]) -> int | None:
        taken_ms: int | None = None
        for call in calls(messages):
            entries: list[SendMessageBatchRequestEntryTypeDef] = [
                {
                    "Id": str(number),
                    "MessageBody": message.body,
                    "MessageGroupId": message.group,
                    "MessageDeduplicationId": message.deduplication_id,
                }
                for number, message in enumerate(call)
            ]
            try:
                answer = self._client.send_message_batch(QueueUrl=url, Entries=entries)
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
                raise QueueError(f"the queue does not confirm a send: {_name(error)}") from error
            if failed := answer.get("Failed"):
                raise QueueError(f"the queue refused {len(failed)} of {len(call)} messages: {failed[0]['Code']}")
            taken_ms = _answered_ms(answer["ResponseMetadata"]["HTTPHeaders"])
        return taken_ms


def _answered_ms(headers: Mapping[str, str]) -> int | None:
    """When SQS answered, by its clock; the Date of an answer has whole seconds, so it is the end of that second."""
    try:
        date = email.utils.parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        return None
    return int(date.timestamp() * 1000) + 999


def _name(error: Exception) -> str:
    if isinstance(error, botocore.exceptions.ClientError):
        return str(error.response.get("Error", {}).get("Code", "ClientError"))
    return type(error).__name__
