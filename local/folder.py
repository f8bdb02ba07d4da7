"""The data folder of one stack (`.local` by default): where everything is, who runs on it, and what must be kept.

aviary.json      marks the folder as ours; ports and choices that stay the same from one `up` to the next
lock             held by the running supervisor, with its pid in it
processes.json   every process that was started, so that the next `up` can end what a killed supervisor left
state.json       endpoints and processes, there while all is up: for people and programs
logs/            one file a process, and events.jsonl
postgres/ pinecone/ queue.sqlite   the data
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import orjson

from local import ports

MARKER = "aviary.json"
VERSION = 1
# `status` holds the lock for an instant when it looks whether anyone else does.
LOCK_ATTEMPTS = 10
LOCK_PAUSE_SECONDS = 0.03


class FolderError(RuntimeError):
    """The folder cannot be used; the message is one sentence with the way out."""


class Folder:
    """Paths and small files of one data folder. Making the object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.postgres = self.path / "postgres"
        self.pinecone = self.path / "pinecone"
        self.queue_journal = self.path / "queue.sqlite"
        self.logs = self.path / "logs"
        self.events = self.logs / "events.jsonl"
        self._marker = self.path / MARKER
        self._lock = self.path / "lock"
        self._processes = self.path / "processes.json"
        self._state = self.path / "state.json"

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self.logs / f"{name}.log"

    def make(self) -> None:
        """Make the folder, or check that what is there is ours and whole."""
        if self.path.exists() and not self.path.is_dir():
            raise FolderError(f"{self.path} is a file; name a folder with --data-dir")
        if not self._marker.exists():
            # Someone may have been stopped right after making the folder.
            begun = {MARKER + ".new"}
            if self.path.exists() and {entry.name for entry in self.path.iterdir()} - begun:
                raise FolderError(
                    f"{self.path} is not empty and not a data folder of this stack (no {MARKER} in it); "
                    "name another folder with --data-dir, or empty this one"
                )
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._write(self._marker, {"version": VERSION})
            except OSError as error:
                raise FolderError(
                    f"{self.path} cannot be written ({error.strerror}); name another folder with --data-dir"
                ) from None
        found = self.choices().get("version")
        if found != VERSION:
            raise FolderError(
                f"{self.path} was made by another version of this stack (format {found}, this is {VERSION}); "
                f"run `python -m local reset --data-dir {self.path}` or name another folder with --data-dir"
            )
        self.logs.mkdir(exist_ok=True)

    def choices(self) -> dict[str, Any]:
        """What is kept between runs."""
        try:
            choices = orjson.loads(self._marker.read_bytes())
        except FileNotFoundError:
            return {}
        except orjson.JSONDecodeError:
            choices = None
        if not isinstance(choices, dict):
            raise FolderError(
                f"{self._marker} is not readable JSON, so the folder is half-written or damaged; "
                f"run `python -m local reset --data-dir {self.path}` or name another folder with --data-dir"
            )
        return choices

    def keep(self, **choices: object) -> None:
        """Add to what is kept."""
        self._write(self._marker, {**self.choices(), **choices})

    def ports(self, names: Sequence[str], fixed: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
        """A port for each name: `fixed` as it is, the one of the last run where it is still free, else a new one.

        Also a sentence for each kept port that someone else has taken since.
        """
        kept: dict[str, int] = dict(self.choices().get("ports", {}))
        chosen = dict(fixed)
        notes = []
        for name in names:
            if name in chosen:
                continue
            port = kept.get(name, 0)
            if port and (port in chosen.values() or not ports.is_free(port)):
                notes.append(f"port {port} ({name}) is used by {ports.holder(port)} now; taking another one")
                port = 0
            chosen[name] = port or ports.free_port({*kept.values(), *chosen.values()})
        self.keep(ports={**kept, **{name: port for name, port in chosen.items() if name not in fixed}})
        return chosen, notes

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only supervisor of this folder; FolderError when another one is."""
        with self._lock.open("a+") as lock:
            if not _try_lock(lock):
                where = self.state().get("frontend_url", "still starting")
                raise FolderError(
                    f"a stack already runs on {self.path} (pid {self.running_pid() or 'unknown'}, {where}); "
                    "stop it with `python -m local down`, or name another folder with --data-dir"
                )
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            try:
                yield
            finally:
                lock.truncate(0)

    def running_pid(self) -> int | None:
        """The pid of the supervisor that runs on this folder; None when none does."""
        try:
            lock = self._lock.open("r")
        except OSError:
            return None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                written = lock.read().strip()
                return int(written) if written.isdigit() else 0
            return None

    def processes(self) -> list[dict[str, Any]]:
        """What an earlier or the running supervisor started."""
        try:
            found = orjson.loads(self._processes.read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return []
        return found if isinstance(found, list) else []

    def write_processes(self, processes: Sequence[Mapping[str, object]]) -> None:
        self._write(self._processes, list(processes))

    def state(self) -> dict[str, Any]:
        """The content of state.json; empty when there is none."""
        try:
            found = orjson.loads(self._state.read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_state(self, state: Mapping[str, object]) -> None:
        self._write(self._state, state)

    def clear_state(self) -> None:
        """Nothing is up any more (or not yet)."""
        self._state.unlink(missing_ok=True)

    def check_ours(self) -> None:
        """FolderError when the folder was not made by us, so that it is never deleted by mistake."""
        if not self._marker.exists():
            raise FolderError(
                f"{self.path} is not a data folder of this stack (no {MARKER} in it), so it is not deleted; "
                "delete it yourself if you are sure"
            )

    def delete(self) -> None:
        """Delete the folder with all its data; FolderError when it is not ours."""
        self.check_ours()
        # The marker goes last: a deletion that was cut short can be repeated.
        for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == MARKER):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self.path.rmdir()

    def _write(self, path: Path, content: object) -> None:
        """Whole or not at all, whenever the power goes."""
        beside = path.with_name(path.name + ".new")
        with beside.open("wb") as file:
            file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)


def _try_lock(lock: IO[str]) -> bool:
    for _ in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_SECONDS)
        else:
            return True
    return False
