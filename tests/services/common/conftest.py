"""Fixtures of the tests of what the services share."""

import io
import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from aviary import logs


@pytest.fixture
def log_stream() -> Iterator[io.StringIO]:
    """What `configure` sends everything to; the logging of this process is as before afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    stream = io.StringIO()
    logs.configure("test", stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
