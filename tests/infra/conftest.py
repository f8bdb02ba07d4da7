"""Graphs of both stacks, as most tests of the infrastructure want them."""

import pytest

from tests.infra.engine import Graph, whole

STACKS = ("dev", "prod")


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def graph(stack: str) -> Graph:
    """What `pulumi up` would make of the stack file."""
    return whole(stack)


@pytest.fixture
def previewed(stack: str) -> Graph:
    """What `pulumi preview` sees of a stack that does not exist yet."""
    return whole(stack, preview=True)
