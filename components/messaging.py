"""The queue of changes, its dead letter queue, and the topic that tells people."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.account import Account, only_over_tls, policy

# Emu extends its lease while it works, so this is only how long the rows of a killed Emu wait.
VISIBILITY_SECONDS = 60
# Emu sets a poison row aside by itself and never gives a message back because Pinecone is away; what is received this
# often kills the Emu that receives it.
RECEIVES_BEFORE_DEAD_LETTER = 10
RETENTION_SECONDS = 14 * 24 * 3600
# SQS asks KMS once an hour and caller, not for every message.
DATA_KEY_REUSE_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class MessagingArgs:
    account: Account
    key_arn: pulumi.Input[str]
    emails: Sequence[str]
    webhooks: Sequence[str]


class Messaging(pulumi.ComponentResource):
    """FIFO queues with encryption and redrive, and an encrypted topic with its subscriptions."""

    queue: aws.sqs.Queue
    dlq: aws.sqs.Queue
    topic_arn: pulumi.Output[str]

    def __init__(self, name: str, args: MessagingArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:messaging:Messaging", name, None, opts)
        self._child = pulumi.ResourceOptions(parent=self)
        self.dlq = self._queue(f"{name}-dlq", args.key_arn)
        self.queue = self._queue(
            f"{name}-changes",
            args.key_arn,
            redrive_policy=pulumi.Output.json_dumps(
                {"deadLetterTargetArn": self.dlq.arn, "maxReceiveCount": RECEIVES_BEFORE_DEAD_LETTER}
            ),
        )
        self.topic_arn = self._topic(name, args)
        self.register_outputs(
            {"queue": self.queue.url, "dlq": self.dlq.url, "topic_arn": self.topic_arn},
        )

    def _queue(
        self, name: str, key_arn: pulumi.Input[str], redrive_policy: pulumi.Input[str] | None = None
    ) -> aws.sqs.Queue:
        queue = aws.sqs.Queue(
            name,
            redrive_policy=redrive_policy,
            fifo_queue=True,
            content_based_deduplication=False,
            # One group is one shard: the limit on throughput then counts for each shard, not for the queue.
            deduplication_scope="messageGroup",
            fifo_throughput_limit="perMessageGroupId",
            visibility_timeout_seconds=VISIBILITY_SECONDS,
            message_retention_seconds=RETENTION_SECONDS,
            kms_master_key_id=key_arn,
            kms_data_key_reuse_period_seconds=DATA_KEY_REUSE_SECONDS,
            opts=self._child,
        )
        aws.sqs.QueuePolicy(
            name, queue_url=queue.url, policy=policy(only_over_tls([queue.arn], "sqs:*")), opts=self._child
        )
        return queue

    def _topic(self, name: str, args: MessagingArgs) -> pulumi.Output[str]:
        topic = aws.sns.Topic(f"{name}-notices", kms_master_key_id=args.key_arn, opts=self._child)
        aws.sns.TopicPolicy(
            name,
            arn=topic.arn,
            policy=policy(
                only_over_tls([topic.arn], "sns:Publish"),
                {
                    "Sid": "AlarmsOfThisAccount",
                    "Effect": "Allow",
                    "Principal": {"Service": "cloudwatch.amazonaws.com"},
                    "Action": "sns:Publish",
                    "Resource": topic.arn,
                    "Condition": {
                        "StringEquals": {"aws:SourceAccount": args.account.account_id},
                        "ArnLike": {"aws:SourceArn": args.account.arn("cloudwatch", "alarm:*")},
                    },
                },
            ),
            opts=self._child,
        )
        receivers = [("email", to) for to in args.emails] + [("https", to) for to in args.webhooks]
        if not receivers:
            pulumi.log.warn(
                "notices and alarms reach nobody; run `pulumi config set --path 'notificationsEmails[0]' you@example.org`",
                resource=self,
            )
        for number, (protocol, endpoint) in enumerate(receivers):
            aws.sns.TopicSubscription(
                f"{name}-{protocol}-{number}",
                topic=topic.arn,
                protocol=protocol,
                endpoint=endpoint,
                opts=self._child,
            )
        return topic.arn
