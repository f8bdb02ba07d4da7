"""The laptop stack's own processes, started one by one, for measurements that need only some of them or others instead."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg

from aviary.index import PineconeIndex
from local.folder import Folder
from local.ports import free_port
from local.postgres import PostgresServer
from local.stack import API_KEY, INDEX, Plan, Stack
from local.supervisor import TETHER, Spec, last_line

# A stand-in with a million vectors reads its file first.
START_SECONDS = 180.0
POLL_SECONDS = 0.02
MIB = 1024 * 1024
STORES = ("postgres", "sqs", "pinecone")


class Rig:
    """A stack in a folder of its own, which is deleted at the end. The stores run from the beginning, services when told.

    With `vectors`, Emus look vectors up in that file (see benchmarks.recorded) and do not compute them. `settings` are
    environment variables for every service. What the queue server is asked is counted in `calls()`.
    """

    def __init__(
        self,
        *,
        pelicans: int = 1,
        emus: int = 1,
        vectors: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="aviary-bench-", ignore_cleanup_errors=True)
        Path(self._root.name).chmod(0o755)
        self._folder = Folder(Path(self._root.name) / "data")
        self._folder.make()
        self.stack = Stack(self._folder, Plan(pelicans=pelicans, emus=emus, port=free_port()))
        self.state = self.stack.state()
        self._calls = self._folder.path / "sqs-calls.jsonl"
        self._specs = {spec.name: spec for spec in self.stack.specs()}
        self._vectors = vectors
        self._settings = dict(settings or {})
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    # ---- processes

    def __enter__(self) -> Self:
        try:
            self.start(*STORES)
            for step in self.stack.steps():
                step.run()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def start(self, *names: str) -> None:
        """Return when all of these are ready; SystemExit with what one said last when it is not after a minute."""
        for name in names:
            spec = self._specs[name]
            if spec.prepare is not None:
                spec.prepare()
            command, environment = self._altered(spec)
            tether = [sys.executable, "-I", "-S", str(TETHER), str(int(spec.death_signal)), str(os.getpid()), spec.user]
            with spec.log.open("ab") as log:
                self._running[name] = subprocess.Popen(
                    [*tether, *command],
                    env=environment,
                    cwd=spec.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        for name in names:
            spec, deadline = self._specs[name], time.monotonic() + START_SECONDS
            while not spec.ready():
                if self._running[name].poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{name} did not start: {last_line(spec.log)}")
                time.sleep(POLL_SECONDS)

    def stop(self, *names: str) -> None:
        """Tell these to end, and wait for it."""
        for name in names:
            if self._running[name].poll() is None:
                self._running[name].send_signal(self._specs[name].stop_signal)
        for name in names:
            process = self._running.pop(name)
            try:
                process.wait(self._specs[name].stop_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _end(self) -> None:
        try:
            for stage in sorted({self._specs[name].stage for name in self._running}, reverse=True):
                self.stop(*[name for name in self._running if self._specs[name].stage == stage])
        finally:
            self.server.tidy()
            self._root.cleanup()

    def _altered(self, spec: Spec) -> tuple[Sequence[str], dict[str, str]]:
        command, environment = list(spec.command), dict(spec.environment)
        if spec.name.startswith(("emu-", "pelican-", "frontend")):
            environment |= self._settings
        if spec.name.startswith("emu-") and self._vectors is not None:
            environment["AVIARY_RECORDED_VECTORS"] = str(self._vectors)
            command[-1] = "benchmarks.recorded"
        if spec.name == "sqs":
            command[2:3] = ["benchmarks.counted_sqs", "--calls", str(self._calls)]
        return command, environment

    # ---- what they hold

    def connect(self) -> psycopg.Connection[Any]:
        """A session of the database's owner, in autocommit mode."""
        return psycopg.connect(self.state["postgres_dsn"], autocommit=True)

    def index(self) -> PineconeIndex:
        """The index, as the services reach it."""
        return PineconeIndex(API_KEY, self.state["index_host"])

    @property
    def server(self) -> PostgresServer:
        return self.stack.postgres

    @property
    def index_log(self) -> Path:
        """The file that the stand-in keeps the index in."""
        return self._folder.pinecone / f"{INDEX}.log"

    def log(self, name: str) -> Path:
        """What a process has written."""
        return self._specs[name].log

    # ---- what they use

    def processes(self, name: str) -> list[psutil.Process]:
        """The process of that name with its children (the database's are its sessions)."""
        whole = psutil.Process(self._running[name].pid)
        return [whole, *whole.children(recursive=True)]

    def cpu_seconds(self, name: str) -> float:
        """CPU time so far, user and system, of the process and its children, ended ones included."""
        total = 0.0
        for process in self.processes(name):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += sum(times[:4])
        return total

    def resident_mib(self, name: str) -> float:
        """Resident memory now."""
        return sum(process.memory_info().rss for process in self.processes(name)) / MIB

    def service_stats(self, name: str) -> dict[str, Any]:
        """/stats of a Pelican or an Emu."""
        found: dict[str, Any] = get_json(f"{self.state['health_urls'][name]}/stats")
        return found

    def calls(self) -> list[dict[str, Any]]:
        """Every request to the queue server so far: {"target": "SendMessageBatch", "bytes": of its body}."""
        return [json.loads(line) for line in self._calls.read_text().splitlines()] if self._calls.exists() else []

    def index_counts(self) -> dict[str, dict[str, int]]:
        """Operation → requests, errors and records, as the stand-in has counted."""
        counts: dict[str, dict[str, int]] = get_json(f"{self.stack.control_host}/_stats")["indexes"].get("aviary", {})
        return counts


@contextmanager
def cpu_of(rig: Rig, names: Sequence[str]) -> Iterator[dict[str, float]]:
    """CPU seconds that each of these takes inside the block; filled in at its end."""
    before = {name: rig.cpu_seconds(name) for name in names}
    found: dict[str, float] = {}
    yield found
    found.update({name: rig.cpu_seconds(name) - before[name] for name in names})


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)
