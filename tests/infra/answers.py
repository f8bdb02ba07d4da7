"""What the stand-in engine says that AWS made: only what the program asks back for."""

from collections.abc import Callable
from typing import Any

import pulumi
from pulumi.runtime.rpc import _special_resource_sig, _special_sig_key

REGION = "us-east-1"
ACCOUNT = "123456789012"

State = dict[str, Any]


def arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"


def state(type: str, name: str, inputs: State) -> State:
    """The outputs of a resource: its inputs, a name, an ARN, and what its kind has besides."""
    service = type.partition(":")[2].partition("/")[0]
    physical = inputs.get("name") or f"{name}-1a2b3c4"
    common = {"name": physical, "arn": arn(service, f"{type.rpartition(':')[2].lower()}/{physical}")}
    return {**common, **inputs, **_extras(type, name, inputs)}


def _extras(type: str, name: str, inputs: State) -> State:
    return EXTRAS[type](name, inputs) if type in EXTRAS else {}


def call(token: str, inputs: State) -> State:
    """The answer of a look-up."""
    if token == "pulumi:pulumi:getResource":  # of a resource that came as a reference, see `_reference`
        return {"urn": inputs["urn"], "id": inputs["urn"].rpartition("::")[2], "state": {}}
    return {
        "aws:index/getCallerIdentity:getCallerIdentity": {"accountId": ACCOUNT, "id": ACCOUNT},
        "aws:index/getPartition:getPartition": {"partition": "aws", "id": "aws"},
        "aws:ecr/getAuthorizationToken:getAuthorizationToken": {"userName": "AWS", "password": "registry-password"},
    }[token]


def _vpc(name: str, inputs: State) -> State:
    zones = range(1, inputs["numberOfAvailabilityZones"] + 1)
    subnets = {kind: [f"{kind}-{zone}" for zone in zones] for kind in ("public", "private", "isolated")}
    return {
        "vpcId": f"{name}-vpc",
        **{f"{kind}SubnetIds": ids for kind, ids in subnets.items()},
        "routeTables": [_reference("aws:ec2/routeTable:RouteTable", f"table-{kind}") for kind in subnets],
    }


def _reference(type: str, id: str) -> State:
    """A whole resource as an output, which a remote component may have; as it is on the wire."""
    return {
        _special_sig_key: _special_resource_sig,
        "urn": f"urn:pulumi:{pulumi.get_stack()}::{pulumi.get_project()}::{type}::{id}",
        "id": id,
    }


EXTRAS: dict[str, Callable[[str, State], State]] = {
    "awsx:ec2:Vpc": _vpc,
    "aws:kms/key:Key": lambda name, _: {"keyId": f"{name}-key"},
    "aws:ec2/vpcEndpoint:VpcEndpoint": lambda _, __: {"prefixListId": "pl-s3"},
    "aws:sqs/queue:Queue": lambda name, _: {
        "url": f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}.fifo",
        "name": f"{name}.fifo",
        "arn": arn("sqs", f"{name}.fifo"),
    },
    "aws:sns/topic:Topic": lambda name, _: {"arn": arn("sns", name)},
    "aws:rds/instance:Instance": lambda name, _: {
        "address": f"{name}.rds.test",
        "resourceId": "db-RESOURCE",
        "masterUserSecrets": [{"secretArn": arn("secretsmanager", "secret:rds!db-owner")}],
    },
    "aws:secretsmanager/secret:Secret": lambda name, _: {"arn": arn("secretsmanager", f"secret:{name}-AbCdEf")},
    "aws:secretsmanager/secretVersion:SecretVersion": lambda _, __: {"versionId": "version-1"},
    "aws:ecr/repository:Repository": lambda name, _: {
        "repositoryUrl": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{name}",
        "registryId": ACCOUNT,
        "arn": arn("ecr", f"repository/{name}"),
    },
    "docker:index/image:Image": lambda name, inputs: {
        "repoDigest": f"{inputs['imageName'].rpartition(':')[0]}@sha256:{name.encode().hex():0<64.64}"
    },
    "aws:cloudwatch/logGroup:LogGroup": lambda name, inputs: {
        "arn": arn("logs", f"log-group:{inputs.get('name') or name}"),
        "name": inputs.get("name") or name,
    },
    "aws:acm/certificate:Certificate": lambda _, inputs: {
        "domainValidationOptions": [
            {
                "domainName": inputs["domainName"],
                "resourceRecordName": f"_proof.{inputs['domainName']}",
                "resourceRecordType": "CNAME",
                "resourceRecordValue": "_value.acm.test",
            }
        ]
    },
    "aws:lb/loadBalancer:LoadBalancer": lambda name, _: {
        "dnsName": f"{name}.elb.test",
        "zoneId": "ZELB",
        "arnSuffix": f"app/{name}/1",
    },
    "aws:lb/targetGroup:TargetGroup": lambda name, _: {"arnSuffix": f"targetgroup/{name}/1"},
    "pulumi-python:dynamic/pinecone:VectorIndex": lambda name, _: {"host": f"https://{name}.pinecone.test"},
}
