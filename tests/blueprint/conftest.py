"""Both stacks, recorded once."""

from collections.abc import Callable
from typing import Any

import pytest

from blueprint.graph import Graph, Resource
from tests.infra.engine import whole

Declare = Callable[..., Resource]


@pytest.fixture(scope="session")
def graphs() -> dict[str, Graph]:
    return {stack: whole(stack) for stack in ("dev", "prod")}


@pytest.fixture
def dev(graphs: dict[str, Graph]) -> Graph:
    return graphs["dev"]


@pytest.fixture
def prod(graphs: dict[str, Graph]) -> Graph:
    return graphs["prod"]


def resource(type_: str, name: str, *, id_: str = "", outputs: dict[str, Any] | None = None, **inputs: Any) -> Resource:
    """A registration as the recorder would have it, of a graph made by hand."""
    return Resource(
        urn=f"urn:{type_}::{name}",
        type=type_,
        name=name,
        parent="",
        custom=True,
        id=id_ or f"{name}-id",
        inputs=inputs,
        outputs=inputs | (outputs or {}),
    )


def graph(*resources: Resource) -> Graph:
    return Graph(project="aviary", stack="dev", resources=resources)


@pytest.fixture
def declare() -> Declare:
    return resource


@pytest.fixture
def graph_of() -> Callable[..., Graph]:
    return graph
