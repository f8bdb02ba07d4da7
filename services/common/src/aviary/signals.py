"""How a service is told to end."""

import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue


def on_end(stop: Callable[[str], None]) -> None:
    """Call `stop` with the name of each SIGTERM and SIGINT, on a thread of its own. Call this on the main thread.

    A handler runs in the middle of whatever the main thread does, and of itself when a second signal comes; had it to take a
    lock that is held there, it would wait for ever. Putting into a SimpleQueue is all that it may do.
    """
    asked: SimpleQueue[int] = SimpleQueue()

    def listen() -> None:
        while True:
            stop(signal.Signals(asked.get()).name)

    threading.Thread(target=listen, name="signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.put(number))
