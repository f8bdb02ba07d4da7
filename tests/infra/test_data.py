"""What the stack keeps: encrypted, backed up where it must be, and hard to delete by mistake."""

import pytest

from tests.infra.engine import API_KEY, Graph, changed, whole, with_own_access_logs

KEY = "arn:aws:kms:us-east-1:123456789012:key/key-aviary-{stack}"


def test_everything_that_is_kept_is_encrypted_with_the_stacks_key(graph: Graph, stack: str) -> None:
    key = KEY.format(stack=stack)
    (database,) = graph.all("aws:rds/instance:Instance")
    assert database.inputs["storageEncrypted"] is True
    keys = ("kmsKeyId", "masterUserSecretKmsKeyId", "performanceInsightsKmsKeyId")
    assert {database.inputs[name] for name in keys} == {key}
    for queue in graph.all("aws:sqs/queue:Queue"):
        assert queue.inputs["kmsMasterKeyId"] == key, queue.name
    for topic in graph.all("aws:sns/topic:Topic"):
        assert topic.inputs["kmsMasterKeyId"] == key, topic.name
    (parameter,) = graph.all("aws:ssm/parameter:Parameter")
    assert (parameter.inputs["type"], parameter.inputs["keyId"]) == ("SecureString", key)
    for group in graph.all("aws:cloudwatch/logGroup:LogGroup"):
        assert group.inputs["kmsKeyId"] == key, group.name
    for repository in graph.all("aws:ecr/repository:Repository"):
        assert repository.inputs["encryptionConfigurations"] == [{"encryptionType": "KMS", "kmsKey": key}]


def test_the_key_rotates_and_can_be_brought_back(graph: Graph, stack: str) -> None:
    key = graph.one("aws:kms/key:Key", f"aviary-{stack}").inputs
    assert key["enableKeyRotation"] is True
    assert key["deletionWindowInDays"] == {"dev": 7, "prod": 30}[stack]


def test_access_logs_are_encrypted_versioned_and_end(stack: str) -> None:
    graph = with_own_access_logs(stack)
    name = f"aviary-{stack}-access-logs"
    (rule,) = graph.one(
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration", name
    ).inputs["rules"]
    assert rule["applyServerSideEncryptionByDefault"] == {"sseAlgorithm": "AES256"}
    versions = graph.one("aws:s3/bucketVersioning:BucketVersioning", name).inputs
    assert versions["versioningConfiguration"] == {"status": "Enabled"}
    (life,) = graph.one("aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration", name).inputs["rules"]
    assert life["expiration"] == {"days": {"dev": 7, "prod": 90}[stack]}
    assert life["noncurrentVersionExpiration"] == {"noncurrentDays": 1}


def test_postgres_talks_only_tls_and_logs_no_values(graph: Graph, stack: str) -> None:
    group = graph.one("aws:rds/parameterGroup:ParameterGroup", f"aviary-{stack}").inputs
    parameters = {one["name"]: one["value"] for one in group["parameters"]}
    assert group["family"] == "postgres17"
    assert parameters["rds.force_ssl"] == "1"
    assert parameters["log_parameter_max_length"] == "0"
    assert parameters["log_parameter_max_length_on_error"] == "0"
    database = graph.one("aws:rds/instance:Instance", f"aviary-{stack}").inputs
    assert database["parameterGroupName"] == f"aviary-{stack}-1a2b3c4"


def test_services_log_in_by_token_and_nobody_knows_the_owners_password(graph: Graph, stack: str) -> None:
    database = graph.one("aws:rds/instance:Instance", f"aviary-{stack}").inputs
    assert database["iamDatabaseAuthenticationEnabled"] is True
    assert database["manageMasterUserPassword"] is True
    assert not {"password", "passwordWo"} & database.keys()


def test_the_parameter_family_follows_the_version() -> None:
    graph = changed("dev", databaseEngineVersion="16.4")
    assert graph.one("aws:rds/parameterGroup:ParameterGroup", "aviary-dev").inputs["family"] == "postgres16"


def test_prod_survives_a_zone_a_mistake_and_a_month() -> None:
    graph = whole("prod")
    database = graph.one("aws:rds/instance:Instance", "aviary-prod")
    assert database.inputs["multiAz"] is True
    assert database.inputs["backupRetentionPeriod"] == 30
    assert database.inputs["deletionProtection"] is True
    assert database.inputs["skipFinalSnapshot"] is False
    assert database.inputs["finalSnapshotIdentifier"] == "aviary-prod-final"
    assert database.inputs["deleteAutomatedBackups"] is False
    assert database.protect is True
    index = graph.one("pulumi-python:dynamic/pinecone:VectorIndex", "aviary-prod")
    assert index.inputs["deletion_protection"] is True
    assert index.protect is True
    assert graph.one("aws:lb/loadBalancer:LoadBalancer", "aviary-prod-alb").inputs["enableDeletionProtection"] is True
    assert not [r.name for r in graph.all("aws:ecr/repository:Repository") if r.inputs["forceDelete"]]
    bucket = with_own_access_logs("prod").one("aws:s3/bucket:Bucket", "aviary-prod-access-logs")
    assert bucket.inputs["forceDestroy"] is False


def test_dev_can_be_destroyed_whole() -> None:
    graph = whole("dev")
    database = graph.one("aws:rds/instance:Instance", "aviary-dev")
    assert database.inputs["deletionProtection"] is False
    assert database.inputs["skipFinalSnapshot"] is True
    assert not [r.name for r in graph.resources if r.protect]
    assert all(r.inputs["forceDelete"] for r in graph.all("aws:ecr/repository:Repository"))
    assert graph.one("aws:s3/bucket:Bucket", "aviary-dev-access-logs").inputs["forceDestroy"] is True
    assert graph.one("aws:lb/loadBalancer:LoadBalancer", "aviary-dev-alb").inputs["enableDeletionProtection"] is False


@pytest.mark.parametrize(("stack", "days"), [("dev", 7), ("prod", 400)])
def test_every_log_group_ends_its_lines(stack: str, days: int) -> None:
    groups = whole(stack).all("aws:cloudwatch/logGroup:LogGroup")
    assert {group.inputs["retentionInDays"] for group in groups} == {days}


def test_log_groups_that_aws_would_make_by_itself_are_made_before(graph: Graph, stack: str) -> None:
    names = {group.inputs.get("name") for group in graph.all("aws:cloudwatch/logGroup:LogGroup")}
    database = graph.one("aws:rds/instance:Instance", f"aviary-{stack}").inputs
    assert {
        f"/aws/rds/instance/{database['identifier']}/{log}" for log in database["enabledCloudwatchLogsExports"]
    } <= names
    insights = {cluster.name for cluster in graph.all("aws:ecs/cluster:Cluster")} if stack == "prod" else set()
    assert {name for name in names if name and "containerinsights" in name} == {
        f"/aws/ecs/containerinsights/{cluster}-1a2b3c4/performance" for cluster in insights
    }


def test_a_queue_hands_what_kills_its_reader_to_the_dead_letter_queue(graph: Graph, stack: str) -> None:
    queue = graph.one("aws:sqs/queue:Queue", f"aviary-{stack}-changes")
    dlq = graph.one("aws:sqs/queue:Queue", f"aviary-{stack}-dlq")
    assert queue.json("redrivePolicy") == {
        "deadLetterTargetArn": f"arn:aws:sqs:us-east-1:123456789012:aviary-{stack}-dlq.fifo",
        "maxReceiveCount": 10,
    }
    for one in (queue.inputs, dlq.inputs):
        assert one["fifoQueue"] is True
        assert one["contentBasedDeduplication"] is False
        assert one["fifoThroughputLimit"] == "perMessageGroupId"
        assert one["deduplicationScope"] == "messageGroup"
        assert one["messageRetentionSeconds"] == 14 * 24 * 3600
    assert queue.inputs["visibilityTimeoutSeconds"] == 60


def test_people_are_told_where_the_configuration_says() -> None:
    graph = changed("dev", notificationsEmails='["a@ours.test"]', notificationsWebhooks='["https://ours.test/hook"]')
    told = {
        (s.inputs["protocol"], s.inputs["endpoint"]) for s in graph.all("aws:sns/topicSubscription:TopicSubscription")
    }
    assert told == {("email", "a@ours.test"), ("https", "https://ours.test/hook")}
    assert not graph.messages


def test_a_stack_that_tells_nobody_says_so(graph: Graph) -> None:
    assert [line for _, line in graph.messages if "pulumi config set --path 'notificationsEmails[0]'" in line]


def test_the_pinecone_key_is_in_two_secret_places_and_nowhere_else(graph: Graph) -> None:
    holders = {(r.type.rpartition(":")[2], r.name) for r in graph.resources if API_KEY in str(r.inputs)}
    assert {kind for kind, _ in holders} == {"Parameter", "VectorIndex"}
    (parameter,) = graph.all("aws:ssm/parameter:Parameter")
    assert parameter.secrets == ("value",)
    assert parameter.inputs["value"] == API_KEY
    (index,) = graph.all("pulumi-python:dynamic/pinecone:VectorIndex")
    assert "api_key" in index.secrets
    assert "api_key" in index.secret_outputs
    assert API_KEY not in str(graph.exports)


def test_the_registrys_password_is_a_secret(graph: Graph) -> None:
    images = graph.all("docker:index/image:Image")
    assert len(images) == 3
    assert all("registry" in image.secrets for image in images)


def test_images_keep_their_tags_and_are_scanned(graph: Graph) -> None:
    for repository in graph.all("aws:ecr/repository:Repository"):
        assert repository.inputs["imageTagMutability"] == "IMMUTABLE"
        assert repository.inputs["imageScanningConfiguration"] == {"scanOnPush": True}
    for policy in graph.all("aws:ecr/lifecyclePolicy:LifecyclePolicy"):
        kept = {
            rule["selection"]["tagStatus"]: rule["selection"]["countNumber"] for rule in policy.json("policy")["rules"]
        }
        assert kept == {"untagged": 7, "any": 20}
