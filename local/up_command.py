"""`up`: run the stack in this terminal, or in the background and show here how it comes up.

Nothing heavy is imported at the top: each half of a detached `up` imports what it needs while the other works.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from local.events import Event, decode, to_pipe
from local.folder import Folder

if TYPE_CHECKING:
    from local.up import Options

REPOSITORY = Path(__file__).resolve().parents[1]
INTERRUPTED = 130


def in_terminal(options: "Options") -> int:
    """Until Ctrl-C."""
    from local.console import Screen  # noqa: PLC0415 - see the top
    from local.up import run  # noqa: PLC0415 - see the top

    screen = Screen()
    try:
        return run(options, [screen.show])
    finally:
        screen.close()


def in_background(options: "Options", events_fd: int) -> int:
    """The half that stays: events go to an inherited pipe, and what Python itself may say to supervisor.log."""
    from local.up import run  # noqa: PLC0415 - see the top

    def redirect() -> None:
        log = os.open(options.folder.log("supervisor"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)

    return run(options, [to_pipe(events_fd)], redirect)


def start_in_background(folder: Folder, arguments: Sequence[str]) -> int:
    """Start the half that stays as `python -m local up ARGUMENTS`, and show its events until all is searchable."""
    reader, writer = os.pipe()
    subprocess.Popen(
        [sys.executable, "-m", "local", "up", *arguments, "--events-fd", str(writer)],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[writer],
        start_new_session=True,
    )
    os.close(writer)
    from local.console import Screen  # noqa: PLC0415 - see the top

    screen = Screen()
    last: Event | None = None
    try:
        with os.fdopen(reader, "rb") as pipe:
            for line in pipe:
                last = decode(line)
                screen.show(last)
    except KeyboardInterrupt:
        screen.close()
        print(f"it goes on in the background; stop it with `python -m local down --data-dir {folder.path}`")
        return INTERRUPTED
    finally:
        screen.close()
    if last is not None and last.kind == "searchable":
        return 0
    if last is None or last.kind != "failed":
        print(f"the stack ended before it was up; see {folder.log('supervisor')}", file=sys.stderr)
    return 1
