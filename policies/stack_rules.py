"""The rules about how resources stand to each other. They are judged when ids are known, after an update."""

from collections.abc import Iterator, Sequence
from typing import Any

from policies.rule import Resource, StackRule, document, listed
from policies.rules import EVERYONE

INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
LOAD_BALANCER = "aws:lb/loadBalancer:LoadBalancer"
QUEUE = "aws:sqs/queue:Queue"
REDRIVE = "aws:sqs/redrivePolicy:RedrivePolicy"
QUEUE_POLICY = "aws:sqs/queuePolicy:QueuePolicy"
BUCKET = "aws:s3/bucket:Bucket"
BLOCK = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"


def _of(resources: Sequence[Resource], type_: str) -> list[Resource]:
    return [resource for resource in resources if resource.type == type_]


def _values(resources: Sequence[Resource], type_: str, key: str) -> set[Any]:
    return {resource.properties.get(key) for resource in _of(resources, type_)}


def _only_the_load_balancer(resources: Sequence[Resource]) -> Iterator[str]:
    public = {group for lb in _of(resources, LOAD_BALANCER) for group in listed(lb.properties.get("securityGroups"))}
    for rule in _of(resources, INGRESS):
        sources = {rule.properties.get("cidrIpv4"), rule.properties.get("cidrIpv6")}
        if sources & EVERYONE and rule.properties.get("securityGroupId") not in public:
            yield f"{rule.name} lets the internet reach a security group that is not a load balancer's"


def _one_public_balancer(resources: Sequence[Resource]) -> Iterator[str]:
    public = [lb.name for lb in _of(resources, LOAD_BALANCER) if not lb.properties.get("internal")]
    if len(public) > 1:
        yield f"{', '.join(public)} all face the internet"


def _dead_letters(resources: Sequence[Resource]) -> Iterator[str]:
    queues = _of(resources, QUEUE)
    redrives = [q.properties.get("redrivePolicy") for q in queues] + [
        r.properties.get("redrivePolicy") for r in _of(resources, REDRIVE)
    ]
    receiving = {document(redrive).get("deadLetterTargetArn") for redrive in redrives}
    redriven = _values(resources, REDRIVE, "queueUrl")
    for queue in queues:
        names = {queue.properties.get("id"), queue.properties.get("url")} - {None}
        if queue.properties.get("redrivePolicy") or names & redriven or queue.properties.get("arn") in receiving:
            continue
        yield f"queue {queue.name} neither has a dead letter queue nor is one"


def _queue_policies(resources: Sequence[Resource]) -> Iterator[str]:
    governed = _values(resources, QUEUE_POLICY, "queueUrl")
    for queue in _of(resources, QUEUE):
        if not {queue.properties.get("id"), queue.properties.get("url")} & governed:
            yield f"queue {queue.name} has no policy, so it accepts requests without TLS"


def _blocked_buckets(resources: Sequence[Resource]) -> Iterator[str]:
    blocked = _values(resources, BLOCK, "bucket")
    for bucket in _of(resources, BUCKET):
        if not {bucket.properties.get("id"), bucket.properties.get("bucket")} & blocked:
            yield f"bucket {bucket.name} is not blocked from becoming public"


STACK_RULES = (
    StackRule(
        name="only-the-load-balancer-is-public",
        reason="Everything else lives in private subnets and trusts its neighbours by security group.",
        fix="Name the load balancer's security group as the source.",
        check=_only_the_load_balancer,
    ),
    StackRule(
        name="one-way-in",
        reason="Each public address is one more thing to watch and to patch.",
        fix="Put the second service behind a listener rule of the first load balancer.",
        check=_one_public_balancer,
    ),
    StackRule(
        name="queue-has-dead-letters",
        reason="A message that kills its reader would be read for ever.",
        fix="Set redrive_policy to a dead letter queue's ARN and a number of receives.",
        check=_dead_letters,
    ),
    StackRule(
        name="queue-speaks-tls-only",
        reason="Messages carry the text of rows.",
        fix="Add a QueuePolicy that denies what does not come over TLS.",
        check=_queue_policies,
    ),
    StackRule(
        name="bucket-is-blocked",
        reason="One careless policy is enough otherwise.",
        fix="Add a BucketPublicAccessBlock for it.",
        check=_blocked_buckets,
    ),
)
