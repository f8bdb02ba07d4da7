"""`down` and `reset`: stop a stack that runs somewhere else, and delete its data."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import psutil

from local.console import Screen, confirm
from local.events import Event, decode
from local.folder import Folder
from local.postgres import PostgresServer
from local.supervisor import end_leftovers

# Each of four stages may take 30 s.
STOP_SECONDS = 130.0
POLL_SECONDS = 0.05


def down(folder: Folder) -> int:
    """Ask the supervisor to stop and show how it does."""
    screen = Screen(clock=False)
    pid = folder.running_pid()
    if pid is None:
        left = _end_leftovers(folder)
        if left:
            folder.write_processes([])
            folder.clear_state()
            screen.show(Event(kind="note", text=f"ended what a killed run had left: {', '.join(left)}"))
        screen.show(Event(kind="note", text=f"nothing runs on {folder.path}"))
        return 0
    with _events(folder) as events:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while folder.running_pid() is not None:
            for event in events():
                screen.show(event)
            if time.monotonic() > deadline:
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
                _end_leftovers(folder)
                screen.show(Event(kind="failed", text=f"it did not stop within {STOP_SECONDS:.0f} s and was killed"))
                return 1
            time.sleep(POLL_SECONDS)
        for event in events():
            screen.show(event)
    return 0


def reset(folder: Folder, *, sure: bool) -> int:
    """Stop what runs and delete the folder; asks unless `sure`."""
    if not folder.path.exists():
        print(f"there is no {folder.path}")
        return 0
    folder.check_ours()
    if not sure and not confirm(f"delete {folder.path} with its database, index and logs?"):
        print("nothing was deleted (--yes does not ask)")
        return 1
    stopped = down(folder)
    folder.delete()
    print(f"deleted {folder.path}")
    return stopped


def _end_leftovers(folder: Folder) -> list[str]:
    """End what a killed supervisor has left; the names of the processes that still ran."""
    names = end_leftovers(folder.processes())
    PostgresServer(folder.postgres, folder.log("postgres")).tidy()
    return names


@contextlib.contextmanager
def _events(folder: Folder) -> Iterator[Callable[[], list[Event]]]:
    """A function that returns the events since it was last called."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(folder.events.open("rb")) if folder.events.exists() else None
        if file is not None:
            file.seek(0, os.SEEK_END)

        def read() -> list[Event]:
            return [decode(line) for line in file] if file is not None else []

        yield read
