"""Fixtures of Emu's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Queues
from tests.services.emu import helpers
from tests.services.emu.helpers import Bench, EmuProcess
from tests.services.pinecone.process import PineconeTestIndex


@pytest.fixture
def bench(queues: Queues, pinecone_index: PineconeTestIndex) -> Iterator[Bench]:
    with helpers.bench(queues, pinecone_index) as made:
        yield made


@pytest.fixture
def start_emu(bench: Bench, tmp_path: Path) -> Iterator[Callable[..., EmuProcess]]:
    """Starts `python -m emu`; keyword arguments are settings. All are ended after the test."""
    started: list[EmuProcess] = []

    def start(**fields: Any) -> EmuProcess:
        started.append(EmuProcess(bench, tmp_path, **fields))
        return started[-1]

    yield start
    for emu in started:
        emu.end()
