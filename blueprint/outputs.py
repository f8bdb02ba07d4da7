"""What providers would answer, made up believably and the same every time: ids, ARNs, addresses.

A resource that is created echoes its inputs; here is only what the provider adds.
"""

from collections.abc import Callable, Mapping
from typing import Any

REGION = "us-east-1"
ACCOUNT = "123456789012"
DIGEST = "sha256:" + "0" * 64
# What Pulumi adds to a name of its own making, so that a test sees where the logical name was taken for the real one.
RANDOM = "1a2b3c4"

# Signatures of Pulumi's wire format.
# https://github.com/pulumi/pulumi/blob/master/sdk/python/lib/pulumi/runtime/rpc.py
SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - Pulumi's published mark of a secret, none itself
RESOURCE = "5cf8f73096256a8f31e491e813e4eb8e"

Inputs = Mapping[str, Any]
Made = Callable[[str, Inputs], dict[str, Any]]


class UnknownCallError(LookupError):
    """The program asks a provider for something that is not known here."""


def arn(service: str, resource: str, *, region: str = REGION) -> str:
    return f"arn:aws:{service}:{region}:{ACCOUNT}:{resource}"


def _physical(name: str, inputs: Inputs) -> str:
    return str(inputs.get("name") or f"{name}-{RANDOM}")


def _reference(type_: str, id_: str) -> dict[str, str]:
    """A whole resource as an output, which a component of another process may have; as it is on the wire."""
    return {SIGNATURE: RESOURCE, "urn": f"urn:pulumi:stack::project::{type_}::{id_}", "id": id_}


def _queue(name: str, inputs: Inputs) -> dict[str, Any]:
    full = str(inputs.get("name") or name + (".fifo" if inputs.get("fifoQueue") else ""))
    url = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{full}"
    return {"id": url, "name": full, "url": url, "arn": arn("sqs", full)}


def _database(name: str, inputs: Inputs) -> dict[str, Any]:
    identifier = inputs.get("identifier") or name
    address = f"{identifier}.abcdefghijkl.{REGION}.rds.amazonaws.com"
    secret = arn("secretsmanager", f"secret:rds!db-{identifier}-AbCdEf")
    return {
        "id": f"db-{identifier}",
        "address": address,
        "endpoint": f"{address}:{inputs.get('port', 5432)}",
        "resourceId": f"db-{identifier}".upper(),
        "arn": arn("rds", f"db:{identifier}"),
        "masterUserSecrets": [{"secretArn": secret, "secretStatus": "active"}]
        if inputs.get("manageMasterUserPassword")
        else [],
    }


def _repository(name: str, inputs: Inputs) -> dict[str, Any]:
    full = str(inputs.get("name") or name)
    return {
        "id": full,
        "name": full,
        "registryId": ACCOUNT,
        "repositoryUrl": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{full}",
        "arn": arn("ecr", f"repository/{full}"),
    }


def _balancer(name: str, _inputs: Inputs) -> dict[str, Any]:
    suffix = f"app/{name}/0123456789abcdef"
    made = arn("elasticloadbalancing", f"loadbalancer/{suffix}")
    return {
        "id": made,
        "arn": made,
        "arnSuffix": suffix,
        "dnsName": f"{name}-0123456789.{REGION}.elb.amazonaws.com",
        "zoneId": "Z35SXDOTRQ7X7K",
    }


def _vpc(name: str, inputs: Inputs) -> dict[str, Any]:
    zones = int(inputs.get("numberOfAvailabilityZones") or 3)
    subnets = {
        f"{kind}SubnetIds": [f"subnet-{name}-{kind}-{zone + 1}" for zone in range(zones)]
        for kind in ("public", "private", "isolated")
    }
    tables = [_reference("aws:ec2/routeTable:RouteTable", f"rtb-{kind}") for kind in ("public", "private", "isolated")]
    return {"vpcId": f"vpc-{name}", "routeTables": tables, **subnets}


def _parameter(name: str, inputs: Inputs) -> dict[str, Any]:
    full = _physical(name, inputs)
    return {"id": full, "arn": arn("ssm", f"parameter/{full}"), "name": full, "version": 1}


def _log_group(name: str, inputs: Inputs) -> dict[str, Any]:
    full = str(inputs.get("name") or name)
    return {"id": full, "name": full, "arn": arn("logs", f"log-group:{full}")}


def _bucket(name: str, inputs: Inputs) -> dict[str, Any]:
    full = str(inputs.get("bucket") or f"{name}-{RANDOM}")
    return {"id": full, "bucket": full, "arn": f"arn:aws:s3:::{full}"}


def _certificate(name: str, inputs: Inputs) -> dict[str, Any]:
    domain = inputs.get("domainName", name)
    made = arn("acm", f"certificate/{name}")
    proof = {
        "domainName": domain,
        "resourceRecordName": f"_proof.{domain}.",
        "resourceRecordType": "CNAME",
        "resourceRecordValue": "_proof.acm-validations.aws.",
    }
    return {"id": made, "arn": made, "domainValidationOptions": [proof]}


def _image(_name: str, inputs: Inputs) -> dict[str, Any]:
    reference = str(inputs.get("imageName", "image"))
    return {"repoDigest": f"{reference.rpartition(':')[0] or reference}@{DIGEST}", "baseImageName": reference}


def _index(name: str, inputs: Inputs) -> dict[str, Any]:
    index = str(inputs.get("name", name))
    return {"id": index, "host": f"https://{index}-abc1234.svc.aped-4627-b74a.pinecone.io"}


def _arn(service: str, kind: str = "", *, id_is_arn: bool = False, region: str = REGION) -> Made:
    """The common case: a name and an ARN made of it."""

    def made(name: str, inputs: Inputs) -> dict[str, Any]:
        full = _physical(name, inputs)
        made_arn = arn(service, f"{kind}{full}", region=region)
        return {"id": made_arn if id_is_arn else full, "arn": made_arn, "name": full}

    return made


def _id(prefix: str, **more: str) -> Made:
    """Things of EC2: an id with a prefix. `more`: further outputs, where {} is the name."""
    return lambda name, _inputs: {
        "id": prefix + name,
        "arn": arn("ec2", prefix + name),
        **{key: value.format(name) for key, value in more.items()},
    }


MADE: Mapping[str, Made] = {
    "awsx:ec2:Vpc": _vpc,
    "aws:ec2/securityGroup:SecurityGroup": _id("sg-"),
    "aws:ec2/vpcEndpoint:VpcEndpoint": _id("vpce-", prefixListId="pl-{}"),
    "aws:ec2/flowLog:FlowLog": _id("fl-"),
    "aws:sqs/queue:Queue": _queue,
    "aws:sns/topic:Topic": _arn("sns", id_is_arn=True),
    "aws:rds/instance:Instance": _database,
    "aws:ecr/repository:Repository": _repository,
    "aws:lb/loadBalancer:LoadBalancer": _balancer,
    "aws:lb/targetGroup:TargetGroup": lambda name, _: {
        "id": arn("elasticloadbalancing", f"targetgroup/{name}/0123456789abcdef"),
        "arn": arn("elasticloadbalancing", f"targetgroup/{name}/0123456789abcdef"),
        "arnSuffix": f"targetgroup/{name}/0123456789abcdef",
    },
    "aws:ssm/parameter:Parameter": _parameter,
    "aws:cloudwatch/logGroup:LogGroup": _log_group,
    "aws:cloudwatch/dashboard:Dashboard": lambda name, inputs: {"dashboardName": inputs.get("dashboardName") or name},
    "aws:kms/key:Key": lambda name, _: {
        "id": f"key-{name}",
        "keyId": f"key-{name}",
        "arn": arn("kms", f"key/key-{name}"),
    },
    "aws:appautoscaling/policy:Policy": _arn("appautoscaling", "policy/"),
    "aws:iam/role:Role": _arn("iam", "role/", region=""),
    "aws:ecs/cluster:Cluster": _arn("ecs", "cluster/", id_is_arn=True),
    "aws:ecs/service:Service": _arn("ecs", "service/", id_is_arn=True),
    "aws:ecs/taskDefinition:TaskDefinition": lambda name, inputs: {
        "id": inputs.get("family") or name,
        "arn": arn("ecs", f"task-definition/{inputs.get('family') or name}:1"),
        "revision": 1,
    },
    "aws:cloudwatch/eventRule:EventRule": _arn("events", "rule/"),
    "aws:acm/certificate:Certificate": _certificate,
    "aws:s3/bucket:Bucket": _bucket,
    "aws:route53/record:Record": lambda name, inputs: {"fqdn": inputs.get("name", name)},
    "docker:index/image:Image": _image,
    "pulumi-python:dynamic/pinecone:VectorIndex": _index,
}


def made(type_: str, name: str, inputs: Inputs) -> dict[str, Any]:
    """What the provider adds to a new resource of this type; `id` is always there."""
    if type_ in MADE:
        return {"id": f"{name}-id", **MADE[type_](name, inputs)}
    service = type_.split(":")[1].partition("/")[0]
    return {"id": f"{name}-id", **_arn(service)(name, inputs)} if type_.startswith("aws:") else {"id": f"{name}-id"}


def called(token: str, arguments: Inputs) -> dict[str, Any]:
    """The answer to a look-up; raises UnknownCallError for one that the program did not make when this was written."""
    function = token.rpartition(":")[2]
    if function == "getCallerIdentity":
        return {"accountId": ACCOUNT, "userId": "AIDAEXAMPLE", "arn": arn("iam", "user/somebody"), "id": ACCOUNT}
    if function == "getPartition":
        return {"partition": "aws", "dnsSuffix": "amazonaws.com", "id": "aws", "reverseDnsPrefix": "com.amazonaws"}
    if function == "getResource":  # of a resource that came as a reference
        return {"urn": arguments["urn"], "id": arguments["urn"].rpartition("::")[2], "state": {}}
    if function == "getRegion":
        return {"name": REGION, "region": REGION, "id": REGION}
    if function == "getAvailabilityZones":
        zones = [f"{REGION}{letter}" for letter in "abc"]
        return {"names": zones, "zoneIds": zones, "id": REGION, "groupNames": [REGION]}
    if function == "getAuthorizationToken":
        return {"userName": "AWS", "password": "registry-password", "id": REGION, **arguments}
    raise UnknownCallError(f"{token} is called, but nothing is known of its answer; add it to blueprint/outputs.py")
