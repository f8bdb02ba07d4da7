"""How many messages a queue holds."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient


class Depth(NamedTuple):
    """Messages `waiting` to be received, and `held` by those who received them. Approximate, as SQS says itself."""

    waiting: int
    held: int


def queue_depth(client: "SQSClient", url: str) -> Depth:
    """Ask SQS. Raises what the client raises."""
    found = client.get_queue_attributes(
        QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    )["Attributes"]
    return Depth(int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesNotVisible"]))
