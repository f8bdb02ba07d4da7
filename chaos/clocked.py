"""Runs a service with a wall clock that can be stepped: `python -m chaos.clocked FILE MODULE`.

The seconds in FILE (none: 0) are added to `time.time` and `time.time_ns`, the clocks by which our services stamp what
they send. Clocks that only go forward (leases, claims, time-outs) are no wall clocks and stay as they are, as after an
`adjtime` or a `date -s`.
"""

import runpy
import sys
import time
from pathlib import Path

_time, _time_ns = time.time, time.time_ns


def install(file: Path) -> None:
    """Step this process's wall clock by what stands in the file, from now on and whenever it changes."""

    def offset() -> float:
        try:
            return float(file.read_text())
        except (OSError, ValueError):
            return 0.0

    time.time = lambda: _time() + offset()
    time.time_ns = lambda: _time_ns() + int(offset() * 1e9)


if __name__ == "__main__":
    install(Path(sys.argv[1]))
    module = sys.argv[2]
    sys.argv = sys.argv[2:]
    # The services set up logging and signals as when they are started by themselves.
    runpy.run_module(module, run_name="__main__", alter_sys=True)
