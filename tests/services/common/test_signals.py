"""The end of a service, asked for at the worst moment."""

import subprocess
import sys

SCRIPT = """
import signal, threading
from aviary.signals import on_end

stop, names = threading.Event(), []

def end(name):
    names.append(name)
    if len(names) == 2:
        stop.set()

on_end(end)
with stop._cond:  # as the main thread holds it for a moment while it waits
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
stop.wait()
print(*names)
"""


def test_signals_end_a_service_whatever_lock_its_main_thread_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=True, start_new_session=True
    )
    assert done.stdout.split() == ["SIGTERM", "SIGINT"]
