"""`load FILE.csv`: the command around `local.load`."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg

from local.console import Screen
from local.csvfile import HeaderError
from local.events import Event
from local.folder import Folder
from local.gauges import Gauges
from local.load import LoadError, load

POLL_SECONDS = 0.2


def load_file(folder: Folder, path: Path, mapping: Mapping[str, str], source: str, *, wait: bool) -> int:
    """Load the file and wait until its rows are searchable; 1 with every bad row named when it has any."""
    began = time.monotonic()
    state = folder.state() if folder.running_pid() is not None else {}
    if not state:
        return _refuse(f"nothing runs on {folder.path}; start it with `python -m local up --detach` first")
    try:
        data = path.read_bytes()
    except OSError as error:
        return _refuse(f"{path} cannot be read: {error.strerror}")
    try:
        with psycopg.connect(state["postgres_dsn"], autocommit=True) as connection:
            result = load(connection, source, data, mapping)
    except (HeaderError, LoadError) as error:
        return _refuse(f"{path}: {error}")
    if result.unused:
        print(f"not used, because the table has no such column: {', '.join(result.unused)}")
    if result.problems:
        for line, reason in result.problems:
            print(f"{path}:{line}: {reason}", file=sys.stderr)
        return _refuse(f"nothing was loaded; problems: {len(result.problems):,}")
    print(f"rows added: {result.inserted:,}; changed: {result.updated:,}; as they were: {result.unchanged:,}")
    if wait:
        _wait(state, source)
        print(f"all is searchable, {time.monotonic() - began:.1f} s after the start")
    return 0


def _wait(state: dict[str, object], source: str) -> None:
    screen = Screen(clock=False)
    try:
        with Gauges(state) as gauges:
            while True:
                reading = gauges.try_read()
                if reading is not None:
                    mine = reading.of({source})
                    screen.show(Event(kind="progress", name="index", done=mine.searchable, total=mine.rows))
                    if mine.settled:
                        return
                time.sleep(POLL_SECONDS)
    finally:
        screen.close()


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1
