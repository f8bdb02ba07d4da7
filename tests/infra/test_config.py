"""The configuration: what a stack may say, and the one sentence for what it may not."""

import re
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from components import config_reader
from components.config import MEMORY_MIB_BY_CPU, StackConfig, keys
from components.config_reader import ConfigurationError
from tests.infra.engine import API_KEY, ROOT, run

ENOUGH = {
    "aws:region": "eu-west-1",
    "aws:defaultTags": '{"tags":{"project":"aviary"}}',
    "aviary:pineconeApiKey": API_KEY,
}
SECRET = ["aviary:pineconeApiKey"]


def read(stack: str = "test", /, **values: str) -> StackConfig:
    """What the reader makes of these keys, in a stack that has all it must have."""
    found: list[StackConfig] = []
    config = ENOUGH | {f"aviary:{key}": value for key, value in values.items()}
    run(lambda: found.append(config_reader.read()), stack=stack, config=config, secrets=SECRET)
    return found[0]


def refused(stack: str = "test", /, **values: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read(stack, **values)
    return str(caught.value).split("\n")


def test_a_stack_that_says_only_what_it_must_gets_the_defaults() -> None:
    config = read()
    assert config.region == "eu-west-1"
    assert config.network.nat_gateways == "single"
    assert config.emu.max_tasks == 4
    assert config.deletion_protection is True
    assert config.destroy_deletes_data is False


def test_values_come_as_the_types_they_are() -> None:
    config = read(
        networkZones="3",
        databaseMonitoringSeconds="60",
        emuSpot="true",
        webAllowedCidrs='["10.0.0.0/8"]',
        notificationsEmails='["a@example.org","b@example.org"]',
        frontendMemory="2048",
    )
    assert config.network.zones == 3
    assert config.database.monitoring_seconds == 60
    assert config.emu.spot is True
    assert config.emu.cpu == 512, "the other fields of a section keep the section's own defaults"
    assert config.web.allowed_cidrs == ("10.0.0.0/8",)
    assert config.notifications.emails == ("a@example.org", "b@example.org")
    assert config.frontend.memory == 2048


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "networkZones",
            "4",
            "aviary:networkZones is '4', but it must be less than or equal to 3; run `pulumi config set networkZones 2`",
        ),
        (
            "networkZones",
            "many",
            (
                "aviary:networkZones is 'many', but it must be a valid integer, unable to parse string as an integer; "
                "run `pulumi config set networkZones 2`"
            ),
        ),
        (
            "networkNatGateways",
            "none",
            (
                "aviary:networkNatGateways is 'none', but it must be 'single' or 'one-per-zone'; "
                "run `pulumi config set networkNatGateways single`"
            ),
        ),
        (
            "emuMemory",
            "512",
            (
                "aviary:emuMemory is '512', but with 512 CPU units it must be 1024 to 4096 by 1024; "
                "run `pulumi config set emuMemory 1024`"
            ),
        ),
        (
            "pelicanMinTasks",
            "3",
            (
                "aviary:pelicanMaxTasks is '2', but it must be at least as many as the fewest tasks (3); "
                "run `pulumi config set pelicanMaxTasks 3`"
            ),
        ),
        (
            "databaseStorageGb",
            "500",
            (
                "aviary:databaseMaxStorageGb is '100', but it must be at least databaseStorageGb (500); "
                "run `pulumi config set databaseMaxStorageGb 500`"
            ),
        ),
        (
            "webHostedZoneId",
            "Z123",
            (
                "aviary:webDomainName is '', but it must be set, because webHostedZoneId is; "
                "run `pulumi config set webDomainName search.example.org`"
            ),
        ),
        (
            "webCertificateArn",
            "arn:aws:acm:eu-west-1:123456789012:certificate/1",
            (
                "aviary:webDomainName is '', but it must be set, because webCertificateArn is; "
                "run `pulumi config set webDomainName search.example.org`"
            ),
        ),
        (
            "webHttpRedirect",
            "false",
            (
                "aviary:webHttpRedirect is 'false', but without webDomainName it must be on: port 80 is the only way in; "
                "run `pulumi config set webHttpRedirect true`"
            ),
        ),
        (
            "notificationsEmails",
            '["nobody"]',
            (
                "aviary:notificationsEmails is 'nobody', but it must look like you@example.org; "
                "run `pulumi config set --path 'notificationsEmails[0]' you@example.org`"
            ),
        ),
        (
            "webAllowedCidrs",
            "10.0.0.0/8",
            (
                "aviary:webAllowedCidrs is '10.0.0.0/8', but it must be a list; "
                "run `pulumi config set --path 'webAllowedCidrs[0]' 203.0.113.0/24`"
            ),
        ),
        (
            "webEditing",
            "true",
            (
                "aviary:webAllowedCidrs is '[\"0.0.0.0/0\"]', but with webEditing on it must name your own networks, "
                "not everybody; run `pulumi config set --path 'webAllowedCidrs[0]' 203.0.113.0/24`"
            ),
        ),
        (
            "alarms",
            "maybe",
            (
                "aviary:alarms is 'maybe', but it must be a valid boolean, unable to interpret input; "
                "run `pulumi config set alarms true`"
            ),
        ),
        (
            "databaseMultiAZ",
            "true",
            (
                "aviary:databaseMultiAZ is no key of this program, perhaps databaseMultiAz was meant; "
                "run `pulumi config rm databaseMultiAZ`"
            ),
        ),
    ],
)
def test_a_wrong_value_fails_with_one_sentence_that_says_how_to_mend_it(key: str, value: str, sentence: str) -> None:
    assert refused(**{key: value}) == [sentence]


def test_a_certificate_of_another_region_is_refused_before_anything_is_made() -> None:
    given = "arn:aws:acm:us-east-1:123456789012:certificate/1"
    (sentence,) = refused(webDomainName="search.example.org", webCertificateArn=given)
    assert sentence == (
        f"aviary:webCertificateArn is '{given}', but it must be in eu-west-1, where the load balancer is (aws:region); "
        "run `pulumi config set webCertificateArn` with one that was made there"
    )


def test_a_certificate_is_one_of_acm_in_that_region_or_one_of_iam() -> None:
    for given in (
        "arn:aws:acm:eu-west-1:123456789012:certificate/1",
        "arn:aws:iam::123456789012:server-certificate/a/b",
    ):
        assert read(webDomainName="search.example.org", webCertificateArn=given).web.certificate_arn == given


def test_what_is_no_certificate_is_refused() -> None:
    (sentence,) = refused(webDomainName="search.example.org", webCertificateArn="my-certificate")
    assert sentence.startswith("aviary:webCertificateArn is 'my-certificate', but it must look like arn:aws:acm:")


def test_images_must_come_from_somewhere() -> None:
    (sentence,) = refused(imagesBuild="false", imagesPelican="repo@sha256:1", imagesFrontend="repo:2")
    assert sentence.startswith("aviary:imagesEmu is '', but it must name an image, because imagesBuild is off; run ")


def test_every_wrong_key_is_told_at_once() -> None:
    assert len(refused(networkZones="9", emuCpu="7", webFirewalls="true")) == 3


@pytest.mark.parametrize(
    ("missing", "start", "command"),
    [
        ("aws:region", "aws:region is missing", "pulumi config set aws:region us-east-1"),
        (
            "aws:defaultTags",
            "aws:defaultTags is missing",
            "pulumi config set --path aws:defaultTags.tags.project aviary",
        ),
        (
            "aviary:pineconeApiKey",
            "aviary:pineconeApiKey is missing",
            "pulumi config set --secret pineconeApiKey",
        ),
    ],
)
def test_what_a_stack_must_say_is_asked_for(missing: str, start: str, command: str) -> None:
    config = {key: value for key, value in ENOUGH.items() if key != missing}
    with pytest.raises(ConfigurationError) as caught:
        run(config_reader.read, config=config, secrets=SECRET)
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(f"run `{command}`")


def test_a_stack_with_a_long_name_is_refused_before_aws_refuses_it() -> None:
    (sentence,) = refused("a-stack-of-thirteen")
    assert "'a-stack-of-thirteen' is longer than 12 characters" in sentence


def test_the_api_key_is_never_part_of_a_complaint() -> None:
    assert API_KEY not in "\n".join(refused(networkZones="9", pineconeApiKeys="x"))


def test_the_configuration_cannot_be_changed_or_extended() -> None:
    config = read()
    with pytest.raises(ValueError, match="frozen"):
        config.network.zones = 3
    with pytest.raises(ValueError, match="Extra inputs"):
        type(config.network)(zone=3)  # type: ignore[call-arg] # that is the test


def test_every_fargate_size_offered_is_one_of_fargates() -> None:
    assert {cpu: (sizes[0], sizes[-1]) for cpu, sizes in MEMORY_MIB_BY_CPU.items()} == {
        256: (512, 2048),
        512: (1024, 4096),
        1024: (2048, 8192),
        2048: (4096, 16384),
        4096: (8192, 30720),
    }


def project() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "Pulumi.yaml").read_text("utf-8")))


def test_pulumis_own_schema_declares_exactly_our_keys() -> None:
    types = {str: "string", bool: "boolean", int: "integer", tuple: "array"}
    expected: dict[str, dict[str, Any]] = {
        "pineconeApiKey": {"type": "string", "secret": True, "description": "API key of Pinecone"}
    }
    for key in keys():
        default = list(key.default) if isinstance(key.default, tuple) else key.default
        expected[key.name] = {"type": types[type(key.default)], "default": default, "description": key.info.description}
        if isinstance(key.default, tuple):
            expected[key.name]["items"] = {"type": "string"}
    assert project()["config"] == expected


def test_the_readme_of_the_components_lists_exactly_our_keys() -> None:
    assert config_reader.table() in (ROOT / "components" / "README.md").read_text("utf-8"), (
        "run `python -m components.config_reader` and put what it prints into components/README.md"
    )


def stack_files() -> list[Path]:
    return sorted(ROOT.glob("Pulumi.*.yaml"))


def test_stack_files_hold_no_secret_in_clear_text() -> None:
    assert {path.name for path in stack_files()} == {"Pulumi.dev.yaml", "Pulumi.prod.yaml"}
    for path in stack_files():
        config = yaml.safe_load(path.read_text("utf-8"))["config"]
        assert list(config["aviary:pineconeApiKey"]) == ["secure"], path.name
        assert re.fullmatch(r"v1:[\w+/=]+:[\w+/=]+", config["aviary:pineconeApiKey"]["secure"]), path.name
        plain = [key for key in config if re.search(r"key|password|secret|token", key, re.IGNORECASE)]
        assert plain == ["aviary:pineconeApiKey"], path.name


def test_every_resource_says_whose_it_is() -> None:
    for path in stack_files():
        tags = yaml.safe_load(path.read_text("utf-8"))["config"]["aws:defaultTags"]["tags"]
        assert tags == {"project": "aviary", "stack": path.name.split(".")[1], "managed-by": "pulumi"}


def test_complaints_reach_the_user_without_a_traceback() -> None:
    assert issubclass(ConfigurationError, pulumi.RunError)
