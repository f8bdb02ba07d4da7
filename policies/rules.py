"""The rules about single resources."""

import json
import re
from collections.abc import Iterator

from policies.rule import Properties, Rule, document, listed, statements

EVERYONE = frozenset({"0.0.0.0/0", "::/0"})
WEB_PORTS = frozenset({80, 443})
SECRET_NAME = re.compile(r"(PASSWORD|SECRET|TOKEN|API_?KEY|CREDENTIAL)", re.IGNORECASE)
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
# AWS offers no resource for these (Service Authorization Reference).
ACTIONS_WITHOUT_RESOURCE = frozenset({"ecr:GetAuthorizationToken"})


def _internet_ports(properties: Properties) -> Iterator[str]:
    inline = [*listed(properties.get("ingress")), properties]
    for rule in inline:
        sources = {
            rule.get("cidrIpv4"),
            rule.get("cidrIpv6"),
            *listed(rule.get("cidrBlocks")),
            *listed(rule.get("ipv6CidrBlocks")),
        }
        if not sources & EVERYONE:
            continue
        ports = (rule.get("fromPort"), rule.get("toPort"))
        if ports[0] != ports[1] or ports[0] not in WEB_PORTS:
            yield f"ports {ports[0]} to {ports[1]} are open to the whole internet"


def _closed_default(properties: Properties) -> Iterator[str]:
    for direction in ("ingress", "egress"):
        if listed(properties.get(direction)):
            yield f"the default security group allows {direction}"


def _database_reach(properties: Properties) -> Iterator[str]:
    if properties.get("publiclyAccessible"):
        yield "the database is publicly accessible"
    if not properties.get("storageEncrypted"):
        yield "the database's disk is not encrypted"


def _database_login(properties: Properties) -> Iterator[str]:
    if properties.get("password"):
        yield "the master password stands in the program"
    if not properties.get("manageMasterUserPassword"):
        yield "RDS does not manage the master password"
    if not properties.get("iamDatabaseAuthenticationEnabled"):
        yield "login by IAM token is off"


def _database_backups(properties: Properties) -> Iterator[str]:
    days = properties.get("backupRetentionPeriod") or 0
    if days < 1:
        yield "the database keeps no backups"
    if properties.get("deletionProtection") and properties.get("skipFinalSnapshot"):
        yield "the database is protected from deletion, and yet would be deleted without a last snapshot"


def _tls_to_database(properties: Properties) -> Iterator[str]:
    values = {p.get("name"): str(p.get("value")) for p in listed(properties.get("parameters"))}
    if values.get("rds.force_ssl") != "1":
        yield f"rds.force_ssl is {values.get('rds.force_ssl')!r}"


def _encrypted_queue(properties: Properties) -> Iterator[str]:
    if not (properties.get("kmsMasterKeyId") or properties.get("sqsManagedSseEnabled")):
        yield "the queue is not encrypted"


def _ordered_queue(properties: Properties) -> Iterator[str]:
    if not properties.get("fifoQueue"):
        yield "the queue is not FIFO"


def _encrypted_topic(properties: Properties) -> Iterator[str]:
    if not properties.get("kmsMasterKeyId"):
        yield "the topic is not encrypted"


def _log_group(properties: Properties) -> Iterator[str]:
    if not properties.get("retentionInDays"):
        yield "the log group keeps its lines for ever"
    if not properties.get("kmsKeyId"):
        yield "the log group has no key of ours"


def _containers(properties: Properties) -> list[Properties]:
    value = properties.get("containerDefinitions")
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return []
    return listed(found)


def _confined(properties: Properties) -> Iterator[str]:
    for container in _containers(properties):
        name = container.get("name")
        if not container.get("readonlyRootFilesystem"):
            yield f"container {name} may write to its root file system"
        if str(container.get("user") or "0").split(":")[0] in ("0", "root"):
            yield f"container {name} runs as root"
        if container.get("privileged"):
            yield f"container {name} is privileged"


def _no_clear_secrets(properties: Properties) -> Iterator[str]:
    for container in _containers(properties):
        for variable in listed(container.get("environment")):
            if SECRET_NAME.search(str(variable.get("name"))):
                yield f"container {container.get('name')} gets {variable['name']} as a plain environment value"


def _pinned(properties: Properties) -> Iterator[str]:
    for container in _containers(properties):
        if not DIGEST.search(str(container.get("image"))):
            yield f"container {container.get('name')} runs {container.get('image')}, which is not pinned by digest"


def _logged(properties: Properties) -> Iterator[str]:
    for container in _containers(properties):
        options = document(document(container.get("logConfiguration")).get("options"))
        if not options.get("awslogs-group"):
            yield f"container {container.get('name')} logs nowhere"
        if options.get("awslogs-create-group") == "true":
            yield f"container {container.get('name')} would make its own log group, without retention"


def _no_wildcards(properties: Properties) -> Iterator[str]:
    for statement in statements(properties.get("policy")):
        if statement.get("Effect") != "Allow":
            continue
        actions = [str(action) for action in listed(statement.get("Action"))]
        if "NotAction" in statement or "NotResource" in statement:
            yield "a statement allows everything but a list"
        for action in actions:
            if "*" in action:
                yield f"a statement allows the wildcard action {action}"
        if "*" in listed(statement.get("Resource")) and not set(actions) <= ACTIONS_WITHOUT_RESOURCE:
            yield f"a statement allows {', '.join(actions)} on every resource"


def _narrow_trust(properties: Properties) -> Iterator[str]:
    for statement in statements(properties.get("assumeRolePolicy")):
        principal = statement.get("Principal")
        named = document(principal)
        values = [v for kind in ("AWS", "Service", "Federated") for v in listed(named.get(kind))] or [principal]
        if "*" in values:
            yield "anybody may assume the role"
        if not statement.get("Condition"):
            yield "the role's trust has no condition (a source account, or a subject)"


def _load_balancer(properties: Properties) -> Iterator[str]:
    if not properties.get("dropInvalidHeaderFields"):
        yield "the load balancer passes invalid header fields on"
    if not document(properties.get("accessLogs")).get("enabled"):
        yield "the load balancer keeps no access log"


def _listener(properties: Properties) -> Iterator[str]:
    kinds = {action.get("type") for action in listed(properties.get("defaultActions"))}
    if properties.get("protocol") == "HTTP" and kinds != {"redirect"}:
        yield "the listener serves plain HTTP"
    if properties.get("protocol") == "HTTPS" and not re.match(
        r"ELBSecurityPolicy-TLS13-1-[23]", str(properties.get("sslPolicy"))
    ):
        yield f"the listener offers {properties.get('sslPolicy')}, which allows old TLS"


def _public_block(properties: Properties) -> Iterator[str]:
    for switch in ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"):
        if not properties.get(switch):
            yield f"{switch} is off"


def _repository(properties: Properties) -> Iterator[str]:
    if properties.get("imageTagMutability") != "IMMUTABLE":
        yield "a tag can be pushed again with another image behind it"
    if not document(properties.get("imageScanningConfiguration")).get("scanOnPush"):
        yield "images are not scanned when pushed"


def _service(properties: Properties) -> Iterator[str]:
    if document(properties.get("networkConfiguration")).get("assignPublicIp"):
        yield "tasks get public addresses"
    breaker = document(properties.get("deploymentCircuitBreaker"))
    if not (breaker.get("enable") and breaker.get("rollback")):
        yield "a failed deployment is not rolled back"
    if properties.get("enableExecuteCommand"):
        yield "anybody with ECS rights gets a shell in a task"


def _alarm(properties: Properties) -> Iterator[str]:
    if not listed(properties.get("alarmActions")):
        yield "the alarm tells nobody"


def _secret(properties: Properties) -> Iterator[str]:
    if properties.get("type", "SecureString") != "SecureString":
        yield "the parameter is kept in clear"
    elif not (properties.get("kmsKeyId") or properties.get("keyId")):
        yield "the secret is encrypted with the account's shared key"


RULES = (
    Rule(
        name="internet-reaches-only-web-ports",
        types=(
            "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
            "aws:ec2/securityGroup:SecurityGroup",
            "aws:ec2/securityGroupRule:SecurityGroupRule",
        ),
        reason="The internet has business with the load balancer's web ports, and with nothing else.",
        fix="Name a security group as the source, or open 80 or 443 alone.",
        check=_internet_ports,
    ),
    Rule(
        name="default-security-group-is-closed",
        types=("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup",),
        reason="What is made without a security group lands in this one and would talk to everything in it.",
        fix="Leave its ingress and egress empty.",
        check=_closed_default,
    ),
    Rule(
        name="database-is-private-and-encrypted",
        types=("aws:rds/instance:Instance",),
        reason="The table is the customer's data.",
        fix="Set publicly_accessible=False and storage_encrypted=True.",
        check=_database_reach,
    ),
    Rule(
        name="nobody-holds-a-database-password",
        types=("aws:rds/instance:Instance",),
        reason="A password in a program ends in state files, logs and environments.",
        fix="Set manage_master_user_password and iam_database_authentication_enabled, and no password.",
        check=_database_login,
    ),
    Rule(
        name="database-can-be-brought-back",
        types=("aws:rds/instance:Instance",),
        reason="The index can be built again from the table; the table cannot be built from anything.",
        fix="Set backup_retention_period to at least 1, and take a final snapshot of what is protected.",
        check=_database_backups,
    ),
    Rule(
        name="database-speaks-tls-only",
        types=("aws:rds/parameterGroup:ParameterGroup",),
        reason="A login token that travels in clear can be used by whoever sees it.",
        fix='Set the parameter rds.force_ssl to "1".',
        check=_tls_to_database,
    ),
    Rule(
        name="queue-is-encrypted",
        types=("aws:sqs/queue:Queue",),
        reason="Messages carry the text of rows.",
        fix="Set kms_master_key_id.",
        check=_encrypted_queue,
    ),
    Rule(
        name="queue-keeps-order",
        types=("aws:sqs/queue:Queue",),
        reason="An old state must not overtake a newer one of the same key.",
        fix="Set fifo_queue=True and send with the shard as the message group.",
        check=_ordered_queue,
    ),
    Rule(
        name="topic-is-encrypted",
        types=("aws:sns/topic:Topic",),
        reason="Alarms tell what is broken.",
        fix="Set kms_master_key_id.",
        check=_encrypted_topic,
    ),
    Rule(
        name="log-group-ends-and-is-encrypted",
        types=("aws:cloudwatch/logGroup:LogGroup",),
        reason="Logs that never end cost more every month, and nobody decided to keep them.",
        fix="Set retention_in_days and kms_key_id.",
        check=_log_group,
    ),
    Rule(
        name="container-is-confined",
        types=("aws:ecs/taskDefinition:TaskDefinition",),
        reason="What breaks into a process should find nothing that it can change.",
        fix="Set readonlyRootFilesystem, a numeric user, and no privileges.",
        check=_confined,
    ),
    Rule(
        name="container-gets-no-secret-in-clear",
        types=("aws:ecs/taskDefinition:TaskDefinition",),
        reason="Environment values are shown to everybody who may describe a task.",
        fix="Inject it by the container's `secrets`.",
        check=_no_clear_secrets,
    ),
    Rule(
        name="image-is-pinned-by-digest",
        types=("aws:ecs/taskDefinition:TaskDefinition",),
        reason="A tag can come to mean another image between two starts of the same task.",
        fix="Use the repository's digest (name@sha256:…).",
        check=_pinned,
        advisory=True,
    ),
    Rule(
        name="container-logs-to-a-group-of-ours",
        types=("aws:ecs/taskDefinition:TaskDefinition",),
        reason="What is not logged cannot be looked into.",
        fix="Set awslogs-group to a log group of the program.",
        check=_logged,
    ),
    Rule(
        name="iam-allows-no-wildcards",
        types=("aws:iam/rolePolicy:RolePolicy", "aws:iam/policy:Policy"),
        reason="What a task does not call it must not be able to call.",
        fix="Name the actions and the resources' ARNs.",
        check=_no_wildcards,
    ),
    Rule(
        name="roles-are-assumed-by-whom-we-mean",
        types=("aws:iam/role:Role",),
        reason="A service acts for many accounts, and an identity provider for many repositories.",
        fix="Add a condition on aws:SourceAccount or on the token's subject.",
        check=_narrow_trust,
    ),
    Rule(
        name="load-balancer-is-strict",
        types=("aws:lb/loadBalancer:LoadBalancer",),
        reason="It is the only thing that the internet reaches.",
        fix="Set drop_invalid_header_fields=True and enable access_logs.",
        check=_load_balancer,
    ),
    Rule(
        name="listener-speaks-modern-tls",
        types=("aws:lb/listener:Listener",),
        reason="Searches and edits are nobody else's to read.",
        fix="Set webDomainName, so that there is HTTPS and plain HTTP at most redirects.",
        check=_listener,
        advisory=True,
    ),
    Rule(
        name="bucket-cannot-become-public",
        types=("aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",),
        reason="One careless policy is enough otherwise.",
        fix="Turn on all four switches.",
        check=_public_block,
    ),
    Rule(
        name="repository-keeps-its-images",
        types=("aws:ecr/repository:Repository",),
        reason="What was tested must be what runs.",
        fix='Set image_tag_mutability="IMMUTABLE" and scan_on_push=True.',
        check=_repository,
    ),
    Rule(
        name="service-is-private-and-rolls-back",
        types=("aws:ecs/service:Service",),
        reason="Tasks live behind the load balancer, and a bad image must not stay.",
        fix="Set assign_public_ip=False, a circuit breaker with rollback, and no execute command.",
        check=_service,
    ),
    Rule(
        name="alarm-tells-somebody",
        types=("aws:cloudwatch/metricAlarm:MetricAlarm",),
        reason="An alarm without an action is a picture.",
        fix="Set alarm_actions to the notification topic.",
        check=_alarm,
    ),
    Rule(
        name="secret-has-a-key-of-ours",
        types=("aws:ssm/parameter:Parameter", "aws:secretsmanager/secret:Secret"),
        reason="Who may read it is then decided in two places, by us.",
        fix="Set key_id of a SecureString, or kms_key_id.",
        check=_secret,
    ),
)
