"""The recorder sees all that a program declares, and fails loudly where it cannot."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict

import pulumi
import pulumi_aws as aws
import pytest

from blueprint.graph import UNKNOWN, Graph
from blueprint.outputs import UnknownCallError, called
from blueprint.record import RecordingError, placeholder, record, run
from tests.infra.engine import whole


class Pair(pulumi.ComponentResource):
    def __init__(self, name: str) -> None:
        super().__init__("test:index:Pair", name)
        dlq = aws.sqs.Queue(f"{name}-dlq", fifo_queue=True, opts=pulumi.ResourceOptions(parent=self, protect=True))
        aws.sqs.Queue(
            f"{name}-queue",
            redrive_policy=pulumi.Output.json_dumps({"deadLetterTargetArn": dlq.arn}),
            tags={"key": pulumi.Config().require_secret("key")},
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["tags"]),
        )
        pulumi.export("dlq", dlq.url)
        pulumi.export("key", pulumi.Config().require_secret("key"))
        pulumi.log.warn("look out", resource=self)


def pair(*, preview: bool = False) -> Graph:
    config = {"aviary:key": "hidden"}
    return run(lambda: Pair("a"), config=config, secrets=["aviary:key"], preview=preview)


def test_a_recording_knows_parents_dependencies_and_options() -> None:
    found = {resource.name: resource for resource in pair().resources}
    assert found["a-dlq"].parent == found["a-queue"].parent == found["a"].urn
    assert found["a-queue"].dependencies == (found["a-dlq"].urn,)
    assert found["a-dlq"].protect
    assert found["a-queue"].ignore_changes == ("tags",)
    assert (found["a"].custom, found["a-dlq"].custom) == (False, True)


def test_secrets_are_opened_and_marked() -> None:
    graph = pair()
    queue = next(resource for resource in graph.resources if resource.name == "a-queue")
    assert queue.inputs["tags"] == {"key": "hidden"}
    assert queue.secrets == ("tags",)
    assert graph.secret_exports == ("key",)


def test_outputs_reach_other_resources_and_exports() -> None:
    graph = pair()
    queue = next(resource for resource in graph.resources if resource.name == "a-queue")
    dlq = next(resource for resource in graph.resources if resource.name == "a-dlq")
    assert json.loads(queue.inputs["redrivePolicy"]) == {"deadLetterTargetArn": dlq.arn}
    assert graph.exports["dlq"] == dlq.outputs["url"]
    assert graph.exports["dlq"].endswith("/a-dlq.fifo")


def test_in_a_preview_nothing_is_known_that_a_provider_makes() -> None:
    graph = pair(preview=True)
    queue = next(resource for resource in graph.resources if resource.name == "a-queue")
    assert queue.inputs["redrivePolicy"] == UNKNOWN
    assert graph.exports["dlq"] == UNKNOWN


def test_what_the_program_says_is_kept() -> None:
    assert pair().messages == (("warning", "look out"),)


def test_a_graph_survives_the_way_between_processes() -> None:
    graph = pair()
    assert Graph.from_json(json.loads(json.dumps(asdict(graph)))) == graph


def test_what_a_program_raises_is_raised() -> None:
    def broken() -> None:
        raise pulumi.RunError("no such thing")

    with pytest.raises(pulumi.RunError, match="no such thing"):
        run(broken)


def test_an_output_that_never_settles_ends_in_a_sentence() -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    def waiting() -> None:
        aws.sqs.Queue("a", name=never())

    with pytest.raises(RecordingError, match="did not settle within 1 s"):
        run(waiting, timeout_seconds=1)


def test_a_look_up_that_nobody_answers_names_where_to_add_it() -> None:
    with pytest.raises(UnknownCallError, match=r"getAmi.*blueprint/outputs\.py"):
        called("aws:ec2/getAmi:getAmi", {})


def test_a_process_of_its_own_records_the_same() -> None:
    assert record("dev") == whole("dev")


def test_a_wrong_configuration_fails_with_the_programs_own_sentence() -> None:
    with pytest.raises(RecordingError, match="databaseStorageGb is '1'"):
        record("dev", overrides={"databaseStorageGb": "1"})


def test_a_stack_without_a_file_is_refused() -> None:
    with pytest.raises(RecordingError, match=r"no Pulumi\.stage\.yaml; stacks with a file are dev, prod"):
        record("stage")


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_every_resource_hangs_on_another_or_on_the_stack(graphs: dict[str, Graph], stack: str) -> None:
    graph = graphs[stack]
    assert len(graph.resources) > 100
    urns = {resource.urn for resource in graph.resources}
    lost = [r.urn for r in graph.resources if r.parent not in urns and "pulumi:pulumi:Stack" not in r.parent]
    assert lost == []


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_the_pinecone_key_goes_to_the_index_and_the_secret_alone(graphs: dict[str, Graph], stack: str) -> None:
    graph = graphs[stack]
    key = placeholder("pineconeApiKey")
    holders = {resource.type for resource in graph.resources if key in json.dumps(dict(resource.inputs))}
    assert holders == {
        "pulumi-python:dynamic/pinecone:VectorIndex",
        "aws:ssm/parameter:Parameter",
    }
    assert key not in json.dumps(dict(graph.exports))


def test_names_lose_what_all_names_begin_with(declare: Callable[..., object], graph_of: Callable[..., Graph]) -> None:
    graph = graph_of()
    assert graph.short_name("aviary-dev-emu") == "emu"
    assert graph.short_name("aviary-dev") == "aviary-dev"
