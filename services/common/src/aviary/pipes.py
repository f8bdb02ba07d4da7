"""What a command's output is read by may stop reading: `python -m pelican sources | head -1`."""

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending_quietly() -> Iterator[None]:
    """Around a whole command: ended by SIGPIPE, as other tools are (141 in a shell), once nobody reads its stdout.

    Not by taking SIGPIPE as it comes: then a connection that breaks would end a service without a word.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)


def _nobody_reads() -> bool:
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)  # errors and hang-ups are always told of
    return bool(asked.poll(0))
