"""A preview of a stack that does not exist, and the tests' own engine."""

import re

import pulumi
import pulumi_aws as aws
import pytest

from tests.infra.engine import API_KEY, UNKNOWN, Graph, run, whole


def test_a_preview_plans_exactly_what_an_up_makes(previewed: Graph, stack: str) -> None:
    def planned(graph: Graph) -> list[tuple[str, str]]:
        return sorted((r.type, r.name) for r in graph.resources)

    assert planned(previewed) == planned(whole(stack))


def test_what_is_unknown_stays_unknown(previewed: Graph) -> None:
    """An output written into a text by mistake reads "Calling __str__ on an Output is not supported"."""
    for resource in previewed.resources:
        assert not re.search(r"Output|<pulumi|object at 0x|__str__", str(resource.inputs)), resource.name
    for service in previewed.all("aws:ecs/service:Service"):
        assert service.inputs["networkConfiguration"]["subnets"] == UNKNOWN
    assert previewed.exports["queue_url"] == UNKNOWN


def test_a_preview_shows_no_secret(previewed: Graph) -> None:
    assert API_KEY not in str(previewed.exports)
    for resource in previewed.resources:
        if API_KEY in str(resource.inputs):
            assert resource.secrets, resource.name


def test_nothing_deprecated_is_used(graph: Graph) -> None:
    assert not [line for _, line in graph.messages if "deprecated" in line.lower()]


def test_every_component_has_its_own_type_and_holds_its_parts(graph: Graph) -> None:
    components = {r.urn for r in graph.resources if r.type.startswith("aviary:")}
    kinds = {r.type for r in graph.resources if r.type.startswith("aviary:")}
    assert all(re.fullmatch(r"aviary:[a-z]+:[A-Z]\w+", kind) for kind in kinds)
    for resource in graph.resources:
        if not resource.type.startswith(("aviary:", "pulumi-python:")):
            assert resource.parent in components, f"{resource.type} {resource.name} stands alone"


def test_the_engine_raises_what_goes_wrong_inside_an_apply() -> None:
    def program() -> None:
        queue = aws.sqs.Queue("queue")
        aws.sqs.Queue("other", name=queue.arn.apply(lambda _: 1 / 0))  # type: ignore[arg-type,return-value] # meant

    with pytest.raises(ZeroDivisionError):
        run(program)


def test_the_engine_waits_for_what_an_apply_sets_in_motion() -> None:
    seen: list[str] = []

    def program() -> None:
        def late(arn: str) -> None:
            aws.sqs.Queue("late", name=arn).url.apply(seen.append)

        aws.sqs.Queue("queue").arn.apply(late)

    graph = run(program)
    assert {r.name for r in graph.resources} == {"queue", "late"}
    assert len(seen) == 1


def test_the_engine_tells_secrets_from_the_rest() -> None:
    graph = run(lambda: aws.sqs.Queue("queue", policy=pulumi.Output.secret("x"), name="plain"))
    (queue,) = graph.resources
    assert queue.secrets == ("policy",)
    assert queue.inputs == {"policy": "x", "name": "plain"}
