"""The change queue and its dead letter queue: the one adapter around SQS."""

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import MessageTypeDef

# SQS: entries of one batch request, and messages of one receive.
BATCH_LIMIT = 10


class PartialFailureError(RuntimeError):
    """SQS did a part of a batch request, and the rest may go well the next time."""


# What a call to AWS raises, whether it answered or not.
AwsError = (BotoCoreError, ClientError, PartialFailureError)


class Received(NamedTuple):
    """One message as received. `times` counts its receives, this one included; `sent_at_ms` is SQS's own clock."""

    id: str
    receipt: str
    body: str
    group: str
    times: int
    sent_at_ms: int


class ChangeQueue(Protocol):
    """What Emu needs of the queue. Methods block, are thread-safe, and raise `AwsError` when SQS does not answer."""

    def receive(self, wait_seconds: int, visibility_seconds: int) -> list[Received]:
        """Up to 10 messages; returns at once when there are any, else after `wait_seconds`."""

    def delete(self, messages: Sequence[Received]) -> list[Received]:
        """Acknowledge; returns those that SQS refused."""

    def change_visibility(self, messages: Sequence[Received], seconds: int) -> bool:
        """Extend the lease, or give it up with 0. False when SQS says that one of them is no longer ours."""

    def dead_letter(self, body: str, *, group: str, deduplication_id: str) -> None:
        """Put a message into the dead letter queue."""


class SqsQueue:
    """`ChangeQueue` over SQS FIFO queues."""

    def __init__(self, client: "SQSClient", queue_url: str, dlq_url: str) -> None:
        self._client = client
        self._queue_url = queue_url
        self._dlq_url = dlq_url

    def receive(self, wait_seconds: int, visibility_seconds: int) -> list[Received]:
        answer = self._client.receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=BATCH_LIMIT,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=visibility_seconds,
            # With it, the client's own retry after a broken connection gets the same messages again at once; without,
            # they would stay invisible, and their groups blocked, for a whole visibility time-out.
            ReceiveRequestAttemptId=str(uuid.uuid4()),
            MessageSystemAttributeNames=["ApproximateReceiveCount", "MessageGroupId", "SentTimestamp"],
        )
        return [_received(message) for message in answer.get("Messages", [])]

    def delete(self, messages: Sequence[Received]) -> list[Received]:
        refused: list[Received] = []
        for start in range(0, len(messages), BATCH_LIMIT):
            some = messages[start : start + BATCH_LIMIT]
            answer = self._client.delete_message_batch(
                QueueUrl=self._queue_url,
                Entries=[{"Id": str(n), "ReceiptHandle": m.receipt} for n, m in enumerate(some)],
            )
            refused += [some[int(failure["Id"])] for failure in answer.get("Failed", [])]
        return refused

    def change_visibility(self, messages: Sequence[Received], seconds: int) -> bool:
        for start in range(0, len(messages), BATCH_LIMIT):
            some = messages[start : start + BATCH_LIMIT]
            answer = self._client.change_message_visibility_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {"Id": str(n), "ReceiptHandle": m.receipt, "VisibilityTimeout": seconds} for n, m in enumerate(some)
                ],
            )
            failures = answer.get("Failed", [])
            if any(failure["SenderFault"] for failure in failures):
                return False
            if failures:
                raise PartialFailureError(f"{len(failures)} of {len(some)} leases were not changed")
        return True

    def dead_letter(self, body: str, *, group: str, deduplication_id: str) -> None:
        self._client.send_message(
            QueueUrl=self._dlq_url, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=deduplication_id
        )


def _received(message: "MessageTypeDef") -> Received:
    attributes = message.get("Attributes", {})
    return Received(
        id=message["MessageId"],
        receipt=message["ReceiptHandle"],
        body=message["Body"],
        group=attributes.get("MessageGroupId", ""),
        times=int(attributes.get("ApproximateReceiveCount", 1)),
        sent_at_ms=int(attributes.get("SentTimestamp", 0)),
    )
