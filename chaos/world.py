"""The laptop stack under our own supervisor, with what chaos needs to reach into it."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil

from local.folder import Folder
from local.ports import free_port
from local.stack import Plan, Stack
from local.supervisor import Reporter, Service, Spec, Supervisor

PELICANS = 2
EMUS = 2
READY_SECONDS = 60.0
POLL_SECONDS = 0.02
# A Pelican that is stopped keeps its shard for three times this; at 20 s the suite would mostly wait for it.
CLAIM_SECONDS = 5
# How long a user's session may take to find out that its Postgres is another one now.
RECONNECT_SECONDS = 2.0
STOCK = """
CREATE TABLE stock (warehouse text, sku text, label text, amount integer, PRIMARY KEY (warehouse, sku))"""


class Loss(NamedTuple):
    """A process that ended by itself: no fault of ours was meant to end it."""

    name: str
    why: str


class World(Reporter):
    """A running stack. `run` starts it, calls `work` beside it and stops it; the other methods are for `work`."""

    def __init__(self, folder: Path) -> None:
        self.folder = Folder(folder)
        self.unexpected: list[Loss] = []
        self.ending = threading.Event()
        self.lose_queue = False
        self._killed: dict[str, float] = {}
        self._stopped: set[int] = set()
        self._lock = threading.Lock()
        self._postgres_until = 0.0
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    # ---- life

    def run(self, work: Callable[[], None]) -> None:
        """Raises what the stack or `work` raise. SIGINT and SIGTERM set `ending`, which `work` is to heed."""
        self.folder.make()
        with self.folder.locked():
            asyncio.run(self._run(work))

    async def _run(self, work: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.ending.set)
        self.stack = Stack(self.folder, Plan(PELICANS, EMUS, free_port()))
        self._supervisor = Supervisor([self._adapted(spec) for spec in self.stack.specs()], self.stack.steps(), self)
        try:
            await self._supervisor.start()
            await asyncio.to_thread(work)
        finally:
            self.ending.set()
            self.resume_all()
            await self._supervisor.stop()

    def _adapted(self, spec: Spec) -> Spec:
        """With the doors for faults open, and the services on a clock that can be stepped."""
        if spec.name in {"sqs", "pinecone"}:
            spec = dataclasses.replace(spec, command=[*spec.command, "--allow-faults"])
            if spec.name == "sqs":
                spec = dataclasses.replace(spec, prepare=self._prepare_queue)
        elif spec.name != "postgres":
            module = spec.command[-1]
            clocked = [sys.executable, "-m", "chaos.clocked", str(self.clock(spec.name)), module]
            claims = {"AVIARY_CLAIM_SECONDS": str(CLAIM_SECONDS)}
            spec = dataclasses.replace(spec, command=clocked, environment={**spec.environment, **claims})
        return spec

    def _prepare_queue(self) -> None:
        if self.lose_queue:
            self.lose_queue = False
            journal = self.folder.queue_journal
            for name in ("", "-wal", "-shm"):
                journal.with_name(journal.name + name).unlink(missing_ok=True)

    # ---- what the supervisor tells

    def changed(self, service: Service) -> None:
        if service.spec.name == "postgres" and service.state == "ready":
            self._postgres_until = time.monotonic() + RECONNECT_SECONDS

    def lost(self, service: Service, why: str, pause_seconds: float) -> None:  # noqa: ARG002 - a Reporter is called with it
        with self._lock:
            killed_at = self._killed.pop(service.spec.name, None)
            if killed_at is None and not self.ending.is_set():
                self.unexpected.append(Loss(service.spec.name, why))

    # ---- looking

    @property
    def state(self) -> dict[str, Any]:
        """Endpoints, as in state.json."""
        return self.stack.state()

    @property
    def services(self) -> Sequence[Service]:
        return self._supervisor.services

    @property
    def postgres_is_faulty(self) -> bool:
        """Whether errors of a user's session are the doing of a fault that we injected into Postgres."""
        return time.monotonic() < self._postgres_until

    def clock(self, name: str) -> Path:
        """The file that says by how many seconds a service's wall clock is wrong."""
        return self.folder.path / f"{name}.clock"

    def await_ready(self, names: Sequence[str] = ()) -> None:
        """Return once these (all) are ready; RuntimeError when they are not within a minute."""
        deadline = time.monotonic() + READY_SECONDS
        while waiting := [s.spec.name for s in self.services if (not names or s.spec.name in names) and not _ready(s)]:
            if self.ending.is_set():
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"not ready after {READY_SECONDS:.0f} s: {', '.join(waiting)}")
            time.sleep(POLL_SECONDS)

    # ---- doing harm

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End a process; the supervisor starts it again."""
        self.await_ready([name])
        with self._lock:
            self._killed[name] = time.monotonic()
        if name == "postgres":
            self._postgres_until = float("inf")
        self.signal(name, how)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal. A process that is stopped is remembered, and continued in the end whatever happens."""
        pid = next(service.pid for service in self.services if service.spec.name == name)
        with self._lock:
            (self._stopped.add if number == signal.SIGSTOP else self._stopped.discard)(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def resume_all(self) -> None:
        with self._lock:
            for pid in self._stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self._stopped.clear()

    def pinecone(self, method: str, path: str, body: object = None) -> None:
        """One request to the stand-in's own doors (/_faults, /_visibility/…)."""
        self._request(method, self.state["pinecone_host"] + path, body)

    def queue(self, method: str, path: str, body: object = None) -> None:
        """One request to the queue server's own doors (/_faults, /_leases/end)."""
        self._request(method, self.state["sqs_endpoint"] + path, body)

    def _request(self, method: str, url: str, body: object) -> None:
        data = None if body is None else msgspec.json.encode(body)
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310 - the stack's own doors
        self._opener.open(request, timeout=10).close()

    def clear_faults(self) -> None:
        """Take back every fault that is still in force."""
        self.resume_all()
        self.await_ready()
        self.pinecone("DELETE", "/_faults")
        self.pinecone("PUT", f"/_visibility/{self.state['index']}", {"delay_ms": 0})
        self.queue("DELETE", "/_faults")
        for service in self.services:
            self.clock(service.spec.name).unlink(missing_ok=True)

    def pelican(self, *arguments: str) -> None:
        """Run one of Pelican's commands as the database's owner; its output is in logs/pelican-<command>.log."""
        self.stack.pelican_command(*arguments)


def _ready(service: Service) -> bool:
    """What it says, and that its process has not ended in the meantime."""
    if service.state != "ready":
        return False
    try:
        return bool(psutil.Process(service.pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
