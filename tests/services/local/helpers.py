"""What several tests of the laptop stack need."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Return once the condition is true; fail when it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.01)
