"""A world of one module: a store of its own, the services patched to the model's clock."""

import logging
from collections.abc import Iterator

import pytest

from local.postgres import PostgresServer
from tests.model import profiles
from tests.model.world import World
from tests.services.pelican.conftest import copy_of, template

__all__ = ["profiles", "template"]


@pytest.fixture(scope="module")
def world(postgres_server: PostgresServer, template: str) -> Iterator[World]:
    # Thousands of faults are thousands of log lines that nobody reads.
    logging.disable(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as patch, copy_of(postgres_server, template) as store:
        world = World(store, patch)
        yield world
        world.close()
    logging.disable(logging.NOTSET)
