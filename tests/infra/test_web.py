"""The way in: HTTPS where there is a domain, records and certificate, firewall, and names that AWS takes."""

import runpy

import pytest

from aviary.source import DIMENSION
from blueprint.record import stack_config
from components.config_reader import STACK_NAME_LIMIT_CHARS
from tests.infra.engine import ROOT, Graph, changed, run, whole, with_own_access_logs, with_own_certificate

LISTENER = "aws:lb/listener:Listener"
RECORD = "aws:route53/record:Record"
CERTIFICATE = "aws:acm/certificate:Certificate"


def test_prod_speaks_https_with_the_certificate_it_is_given_and_is_silent_on_port_80() -> None:
    graph = whole("prod")
    (https,) = graph.all(LISTENER)
    assert (https.name, https.inputs["port"], https.inputs["protocol"]) == ("aviary-prod-https", 443, "HTTPS")
    assert https.inputs["certificateArn"] == "arn:aws:iam::123456789012:server-certificate/yours"
    assert https.inputs["sslPolicy"] == "ELBSecurityPolicy-TLS13-1-2-2021-06"
    assert https.inputs["defaultActions"][0]["type"] == "forward"
    assert graph.exports["frontend_url"] == "https://aviary.example.com"
    assert not graph.all(CERTIFICATE, "aws:acm/certificateValidation:CertificateValidation")
    assert "certificate_validation" not in graph.exports


def test_plain_http_only_redirects_where_there_is_https() -> None:
    graph = with_own_certificate()
    http = graph.one(LISTENER, "aviary-prod-http").inputs
    assert (http["port"], http["protocol"]) == (80, "HTTP")
    (action,) = http["defaultActions"]
    assert action == {
        "type": "redirect",
        "redirect": {"port": "443", "protocol": "HTTPS", "statusCode": "HTTP_301"},
    }
    https = graph.one(LISTENER, "aviary-prod-https").inputs
    assert (https["port"], https["protocol"]) == (443, "HTTPS")
    assert https["sslPolicy"] == "ELBSecurityPolicy-TLS13-1-2-2021-06"
    assert https["defaultActions"][0]["type"] == "forward"
    assert graph.exports["frontend_url"] == "https://aviary.example.com"


def test_https_waits_for_a_certificate_that_is_valid() -> None:
    graph = with_own_certificate()
    valid = graph.one("aws:acm/certificateValidation:CertificateValidation", "aviary-prod")
    assert valid.urn in graph.before(graph.one(LISTENER, "aviary-prod-https"))


def test_nothing_is_deleted_before_what_replaces_it_is_there(graph: Graph) -> None:
    everything = [*graph.resources, *with_own_certificate().resources]
    assert not [r.name for r in everything if r.delete_before_replace]


def test_without_a_zone_the_user_is_told_which_record_to_set() -> None:
    graph = with_own_certificate()
    assert not graph.all(RECORD)
    assert graph.exports["certificate_validation"] == {
        "name": "_proof.aviary.example.com.",
        "type": "CNAME",
        "value": "_proof.acm-validations.aws.",
    }
    assert "waiting for the DNS record _proof.aviary.example.com. CNAME _proof.acm-validations.aws." in [
        line for _, line in graph.messages
    ]


def test_with_a_zone_the_records_are_made() -> None:
    graph = with_own_certificate(hosted_zone_id="Z0123456789ABCDEF")
    records = {record.inputs["type"]: record.inputs for record in graph.all(RECORD)}
    assert {record["zoneId"] for record in records.values()} == {"Z0123456789ABCDEF"}
    assert records["CNAME"]["name"] == "_proof.aviary.example.com."
    assert records["CNAME"]["records"] == ["_proof.acm-validations.aws."]
    assert records["A"]["name"] == "aviary.example.com"
    assert records["A"]["aliases"] == [
        {
            "name": "aviary-prod-alb-0123456789.us-east-1.elb.amazonaws.com",
            "zoneId": "Z35SXDOTRQ7X7K",
            "evaluateTargetHealth": True,
        }
    ]


def test_the_name_of_a_given_certificate_is_made_and_its_proof_is_left_to_whoever_made_it() -> None:
    (record,) = changed("prod", webHostedZoneId="Z0123456789ABCDEF").all(RECORD)
    assert (record.inputs["type"], record.inputs["name"]) == ("A", "aviary.example.com")


def test_without_a_domain_the_page_is_at_the_load_balancer() -> None:
    graph = whole("dev")
    (listener,) = graph.all(LISTENER)
    assert (listener.inputs["port"], listener.inputs["defaultActions"][0]["type"]) == (80, "forward")
    assert graph.exports["frontend_url"] == "http://aviary-dev-alb-0123456789.us-east-1.elb.amazonaws.com"
    assert not graph.all(CERTIFICATE)


def test_the_load_balancer_is_strict_and_keeps_a_log(graph: Graph, stack: str) -> None:
    balancer = graph.one("aws:lb/loadBalancer:LoadBalancer", f"aviary-{stack}-alb").inputs
    assert balancer["dropInvalidHeaderFields"] is True
    assert balancer["desyncMitigationMode"] == "strictest"
    bucket = {"dev": "aviary-dev-access-logs-1a2b3c4", "prod": "aviary-access-logs-123456789012"}[stack]
    assert balancer["accessLogs"] == {"bucket": bucket, "enabled": True}
    assert balancer["securityGroups"] == [f"sg-aviary-{stack}-load-balancer"]


def test_prod_is_behind_a_firewall_that_logs_what_it_stops() -> None:
    graph = whole("prod")
    acl = graph.one("aws:wafv2/webAcl:WebAcl", "aviary-prod").inputs
    rules = {rule["name"]: rule for rule in acl["rules"]}
    assert acl["defaultAction"] == {"allow": {}}
    assert rules["RateLimit"]["action"] == {"block": {}}
    assert rules["RateLimit"]["statement"]["rateBasedStatement"] == {"limit": 2000, "aggregateKeyType": "IP"}
    stopping = {name for name, rule in rules.items() if rule.get("overrideAction") == {"none": {}}}
    assert stopping == {
        "AWSManagedRulesAmazonIpReputationList",
        "AWSManagedRulesKnownBadInputsRuleSet",
        "AWSManagedRulesCommonRuleSet",
    }
    assert sorted(rule["priority"] for rule in rules.values()) == [1, 2, 3, 4, 5]
    association = graph.one("aws:wafv2/webAclAssociation:WebAclAssociation", "aviary-prod").inputs
    assert "aviary-prod-alb" in association["resourceArn"]
    log = graph.one("aws:wafv2/webAclLoggingConfiguration:WebAclLoggingConfiguration", "aviary-prod").inputs
    assert [field["singleHeader"]["name"] for field in log["redactedFields"]] == ["authorization", "cookie"]


def test_a_long_description_passes_the_firewall() -> None:
    acl = whole("prod").one("aws:wafv2/webAcl:WebAcl", "aviary-prod").inputs
    (common,) = [rule for rule in acl["rules"] if rule["name"] == "AWSManagedRulesCommonRuleSet"]
    overrides = common["statement"]["managedRuleGroupStatement"]["ruleActionOverrides"]
    assert overrides == [{"name": "SizeRestrictions_BODY", "actionToUse": {"count": {}}}]


def test_dev_has_no_firewall_to_pay_for() -> None:
    assert not whole("dev").all("aws:wafv2/webAcl:WebAcl")


@pytest.mark.parametrize(
    ("type", "limit"),
    [
        ("aws:lb/loadBalancer:LoadBalancer", 32),
        ("aws:lb/targetGroup:TargetGroup", 32),
        ("aws:iam/role:Role", 64),
        ("aws:rds/instance:Instance", 63),
        ("aws:s3/bucket:Bucket", 63),
        ("aws:sqs/queue:Queue", 80 - len(".fifo")),
    ],
)
def test_the_longest_stack_name_still_fits_the_names_of_aws(type: str, limit: int) -> None:
    """Pulumi appends a dash and seven digits to a logical name."""
    stack = "s" * STACK_NAME_LIMIT_CHARS
    found = [r.name.replace("-prod", f"-{stack}") for r in with_own_access_logs("prod").all(type)]
    assert found
    assert max(len(name) + len("-1234567") for name in found) <= limit


def test_what_a_user_needs_to_know_is_exported(graph: Graph, stack: str) -> None:
    exports = graph.exports
    assert exports.keys() - {"certificate_validation"} == {
        "frontend_url",
        "load_balancer_dns_name",
        "database_address",
        "queue_url",
        "dlq_url",
        "topic_arn",
        "index_name",
        "index_host",
        "repository_urls",
        "dashboard_url",
        "logs_dashboard_url",
        "clusters",
        "operator",
        "operator_log_group",
        "services",
    }
    assert exports["database_address"] == f"aviary-{stack}.abcdefghijkl.us-east-1.rds.amazonaws.com"
    assert exports["index_name"] == f"aviary-{stack}"
    assert exports["index_host"] == f"https://aviary-{stack}-abc1234.svc.aped-4627-b74a.pinecone.io"
    for key in ("repository_urls", "clusters", "services"):
        assert exports[key].keys() == {"pelican", "emu", "frontend"}
    assert exports["dashboard_url"].endswith(f"#dashboards:name=aviary-{stack}")


def test_the_index_can_have_a_name_and_place_of_its_own() -> None:
    graph = changed("dev", indexName="products", indexRegion="eu-west-1", indexAdopt="true")
    index = graph.one("pulumi-python:dynamic/pinecone:VectorIndex", "aviary-dev").inputs
    assert (index["name"], index["cloud"], index["region"], index["adopt"]) == ("products", "aws", "eu-west-1", True)
    assert graph.exports["index_name"] == "products"


def test_the_index_is_as_wide_as_what_the_embedder_makes(graph: Graph, stack: str) -> None:
    index = graph.one("pulumi-python:dynamic/pinecone:VectorIndex", f"aviary-{stack}").inputs
    assert (index["dimension"], index["metric"]) == (DIMENSION, "cosine")
    assert index["tags"] == {"managed-by": f"pulumi organization aviary {stack}"}


def test_a_stack_that_is_not_configured_builds_nothing() -> None:
    config, secrets = stack_config("dev")
    config["aviary:networkZones"] = "1"
    with pytest.raises(Exception, match="networkZones") as caught:
        run(lambda: runpy.run_path(str(ROOT / "__main__.py")), stack="dev", config=config, secrets=secrets)
    assert "pulumi config set networkZones 2" in str(caught.value)
