"""The rehearsal calls Pulumi in the right order, in nobody's account, and cleans up whatever happens."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
import yaml

from blueprint import rehearsal
from blueprint.record import ROOT

# Writes down what it was asked, where, and whether the servers answered. Fails where FAIL_AT names its first argument.
FAKE = """#!{python}
import json, os, sys, urllib.error, urllib.request
def answers(url):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers={{"Api-Key": "any"}}), timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
with open("{log}", "a") as log:
    seen = dict(arguments=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ), files=os.listdir("."))
    seen["answered"] = [answers(os.environ["AWS_ENDPOINT_URL"] + "/moto-api/"),
                        answers(os.environ["PINECONE_CONTROLLER_HOST"] + "/indexes")]
    seen["config"] = open("Pulumi.rehearsal.yaml").read()
    print(json.dumps(seen), file=log)
sys.exit(7 if sys.argv[1] == os.environ.get("FAIL_AT") else 0)
"""
STEPS = ["stack init", "config set", "up --yes", "up --yes", "destroy --yes"]


class Rehearsed:
    def __init__(self, done: "subprocess.CompletedProcess[str]", log: Path) -> None:
        self.status, self.said = done.returncode, done.stdout + done.stderr
        self.calls: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]

    @property
    def steps(self) -> list[str]:
        return [" ".join(call["arguments"][:2]) for call in self.calls]


def rehearsed(folder: Path, **more: str) -> Rehearsed:
    """The rehearsal as `make rehearse` runs it, with a Pulumi that only writes down what it is asked."""
    tools, temporary, log = folder / "bin", folder / "tmp", folder / "log"
    tools.mkdir()
    temporary.mkdir()
    fake = tools / "pulumi"
    fake.write_text(FAKE.format(python=sys.executable, log=log))
    fake.chmod(0o755)
    log.touch()
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "TMPDIR": str(temporary),
        "AWS_PROFILE": "somebody",
        "AWS_SECRET_ACCESS_KEY": "of-somebody",
        "AWS_SESSION_TOKEN": "of-somebody",
        "PULUMI_ACCESS_TOKEN": "of-somebody",
        "PINECONE_API_KEY": "of-somebody",
        **more,
    }
    command = [str(ROOT / ".ci" / "rehearse-engine")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    return Rehearsed(done, log)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rehearsed, Path]:
    folder = tmp_path_factory.mktemp("good")
    return rehearsed(folder), folder


def test_up_comes_twice_and_destroy_last(good: tuple[Rehearsed, Path]) -> None:
    run, _ = good
    assert run.status == 0, run.said
    assert run.steps == STEPS
    assert "--expect-no-changes" not in run.calls[2]["arguments"]
    assert "--expect-no-changes" in run.calls[3]["arguments"]
    assert all("--non-interactive" in call["arguments"] for call in run.calls)


def test_every_up_keeps_our_rules(good: tuple[Rehearsed, Path]) -> None:
    run, _ = good
    for call in run.calls:
        packs = [after for one, after in pairwise(call["arguments"]) if one == "--policy-pack"]
        assert packs == ([str(ROOT / "policies")] if call["arguments"][0] == "up" else [])


def test_the_engine_is_led_to_servers_on_loopback_that_answer(good: tuple[Rehearsed, Path]) -> None:
    run, _ = good
    for call in run.calls:
        environment = call["environment"]
        for key in ("AWS_ENDPOINT_URL", "PINECONE_CONTROLLER_HOST"):
            assert urlsplit(environment[key]).hostname == "127.0.0.1"
        assert urlsplit(environment["PULUMI_BACKEND_URL"]).scheme == "file"
        assert len(environment["PULUMI_CONFIG_PASSPHRASE"]) == 32
        assert call["answered"] == [200, 200]


def test_nobodys_credentials_reach_the_engine(good: tuple[Rehearsed, Path]) -> None:
    run, _ = good
    for call in run.calls:
        environment = call["environment"]
        assert not [key for key, value in environment.items() if value in ("of-somebody", "somebody")]
        assert environment["AWS_SHARED_CREDENTIALS_FILE"] == environment["AWS_CONFIG_FILE"] == os.devnull
        assert environment["AWS_ACCESS_KEY_ID"] == "testing"


def test_the_rehearsal_runs_a_copy_and_leaves_nothing(good: tuple[Rehearsed, Path]) -> None:
    run, folder = good
    assert {call["folder"] for call in run.calls} != {str(ROOT)}
    assert {"__main__.py", "components", "Pulumi.yaml", "Pulumi.rehearsal.yaml"} <= set(run.calls[0]["files"])
    assert list((folder / "tmp").iterdir()) == []
    assert not (ROOT / "Pulumi.rehearsal.yaml").exists()


def test_the_rehearsed_configuration_is_devs_without_images_and_secrets(good: tuple[Rehearsed, Path]) -> None:
    run, _ = good
    config = yaml.safe_load(run.calls[0]["config"])["config"]
    dev = yaml.safe_load((ROOT / "Pulumi.dev.yaml").read_text())["config"]
    assert config["aviary:databaseInstanceClass"] == dev["aviary:databaseInstanceClass"]
    assert config["aviary:imagesBuild"] is False
    assert config["aviary:savedQueries"] is True
    assert config["aviary:waitForSteadyState"] is False
    assert all("@sha256:" in config[f"aviary:images{service}"] for service in ("Pelican", "Emu", "Frontend"))
    assert config["aws:skipCredentialsValidation"] is True
    assert "secure" not in run.calls[0]["config"]


def test_an_up_that_fails_is_destroyed_and_cleaned_up(tmp_path: Path) -> None:
    run = rehearsed(tmp_path, FAIL_AT="up")
    assert run.status == 1
    assert run.steps == ["stack init", "config set", "up --yes", "destroy --yes"]
    assert "`pulumi up --yes" in run.said
    assert "status 7" in run.said
    assert list((tmp_path / "tmp").iterdir()) == []


def test_without_pulumi_it_says_so_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert rehearsal.main() == 2
    said = capsys.readouterr().err
    assert "no pulumi on PATH" in said
    assert said.count("\n") == 1


def test_a_server_that_does_not_start_ends_the_rehearsal(tmp_path: Path) -> None:
    with (
        pytest.raises(rehearsal.RehearsalError, match="the Pinecone server did not start; it said"),
        rehearsal._server("Pinecone", 1, tmp_path, "local.pinecone", "--port", "nonsense"),
    ):
        pytest.fail("it cannot have started")


def test_the_account_keeps_saved_queries(tmp_path: Path) -> None:
    port = rehearsal._free_port()
    with rehearsal._server("moto", port, tmp_path, "blueprint.account", "--port", str(port)):
        logs = boto3.client("logs", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        made = logs.put_query_definition(name="aviary/errors", queryString="fields @message", logGroupNames=["emu"])
        found = logs.describe_query_definitions(queryDefinitionNamePrefix="aviary/")["queryDefinitions"]
        assert [(one["queryDefinitionId"], one["logGroupNames"]) for one in found] == [
            (made["queryDefinitionId"], ["emu"])
        ]
        logs.delete_query_definition(queryDefinitionId=made["queryDefinitionId"])
        assert logs.describe_query_definitions()["queryDefinitions"] == []
        logs.close()
