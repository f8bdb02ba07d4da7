"""Keeps a set of processes running: starts them as soon as what they need is there, restarts those that die with
growing pauses, and stops them in order. It knows nothing of what the processes are.

Two kinds of things have names and can be needed by others: a `Spec`, a process that stays (its name is reached when
it is ready for the first time), and a `Step`, a function that runs once (reached when it returns).
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import psutil

TETHER = Path(__file__).with_name("tether.py")
START_ATTEMPTS = 3
START_SECONDS = 60.0
READY_POLL_SECONDS = 0.05
# A process that was killed once should be back at once; one that keeps dying is soon asked more and more rarely.
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 15.0
# Who stayed up this long starts again without a memory of earlier losses.
STEADY_SECONDS = 30.0
ALIVE_EVERY_SECONDS = 10.0
ALIVE_FAILURES = 3
CHECK_THREADS = 32

State = Literal["waiting", "starting", "ready", "pausing", "stopped"]
Result = TypeVar("Result")


class StartError(RuntimeError):
    """Something did not come up at first start; the message says what, and where to read more."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One process. `ready` and `alive` are blocking checks that answer within a few seconds and do not raise.

    `stage`: higher stages are stopped first, equal ones together. `prepare` runs before every start, `tidy` when all has
    been stopped.
    `death_signal` is what the process gets when the supervisor itself is killed. `folder`: its working directory.
    """

    name: str
    command: Sequence[str]
    log: Path
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    stage: int = 0
    prepare: Callable[[], None] | None = None
    tidy: Callable[[], None] | None = None
    alive: Callable[[], bool] | None = None
    user: str = ""
    folder: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    stop_seconds: float = 20.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """A blocking function that runs once, when all its `needs` are reached."""

    name: str
    run: Callable[[], None]
    needs: tuple[str, ...] = ()


@dataclass
class Service:
    """A `Spec` and how it is doing. Times are Unix seconds; `created` tells a process from a later one of its pid."""

    spec: Spec
    state: State = "waiting"
    pid: int = 0
    created: float = 0.0
    ready_since: float = 0.0
    restarts: int = 0
    process: asyncio.subprocess.Process | None = None


class Reporter:
    """Where the supervisor says what happens; override what you care for. Called on its event loop."""

    def changed(self, service: Service) -> None:
        """A process was started, became ready, ended or was stopped."""

    def lost(self, service: Service, why: str, pause_seconds: float) -> None:
        """A process ended by itself (`why`: "exit status 1", "killed by SIGKILL") and starts again after the pause."""

    def stopping(self, services: Sequence[Service]) -> None:
        """These are now told to stop."""


class Supervisor:
    """Runs the specs and steps. `await start()`, then `await stop()`; `failed` ends with the first fatal error."""

    def __init__(self, specs: Sequence[Spec], steps: Sequence[Step], reporter: Reporter) -> None:
        self.services = [Service(spec) for spec in specs]
        self._steps = steps
        self._reporter = reporter
        self._reached = {name: asyncio.Event() for name in [s.name for s in specs] + [s.name for s in steps]}
        self._tasks: list[asyncio.Task[None]] = []
        self._threads = ThreadPoolExecutor(CHECK_THREADS, "check")
        self._stopping = False

    async def start(self) -> None:
        """Return when everything is ready and every step has run; StartError, or a step's own error, when not."""
        self._tasks = [asyncio.create_task(self._keep(service), name=service.spec.name) for service in self.services]
        self._tasks += [asyncio.create_task(self._run(step), name=step.name) for step in self._steps]
        everything = asyncio.create_task(self.reached(*self._reached))
        pending = {everything, *self._tasks}
        try:
            while not everything.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            everything.cancel()

    async def reached(self, *names: str) -> None:
        """Return when all of these are reached."""
        for name in names:
            await self._reached[name].wait()

    async def in_thread(self, call: Callable[[], Result]) -> Result:
        """Run a blocking function beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def stop(self) -> None:
        """End everything: by stage, gently at first, with SIGKILL after each process's limit."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stage in sorted({service.spec.stage for service in self.services}, reverse=True):
            running = [s for s in self.services if s.spec.stage == stage and _runs(s)]
            if running:
                self._reporter.stopping(running)
                await asyncio.gather(*(self._end(service) for service in running))
        for service in self.services:
            if service.spec.tidy is not None:
                service.spec.tidy()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, step: Step) -> None:
        await self.reached(*step.needs)
        await self.in_thread(step.run)
        self._reached[step.name].set()

    async def _keep(self, service: Service) -> None:
        await self.reached(*service.spec.needs)
        first = self._reached[service.spec.name]
        losses = 0
        while True:
            began = time.monotonic()
            try:
                why = await self._one_life(service)
            except (OSError, RuntimeError) as error:
                if not first.is_set():
                    raise
                why = str(error)
            losses = 1 if time.monotonic() - began > STEADY_SECONDS else losses + 1
            if not first.is_set() and losses >= START_ATTEMPTS:
                raise StartError(
                    f"{service.spec.name} did not start ({why}): {last_line(service.spec.log)} (log: {service.spec.log})"
                )
            pause = min(FIRST_PAUSE_SECONDS * 2 ** (losses - 1), LONGEST_PAUSE_SECONDS)
            service.restarts += 1
            self._set(service, "pausing")
            self._reporter.lost(service, why, pause)
            await asyncio.sleep(pause)

    async def _one_life(self, service: Service) -> str:
        """Start the process and stay with it to its end; why it ended."""
        await self._launch(service)
        process = service.process
        assert process is not None  # noqa: S101 - _launch set it
        ended = asyncio.ensure_future(process.wait())
        deadline = time.monotonic() + START_SECONDS
        while not ended.done() and not await self.in_thread(service.spec.ready):
            if time.monotonic() > deadline:
                if not await self._waits_for_others(service):
                    process.kill()
                    await ended
                    return f"not ready after {START_SECONDS:.0f} s"
                deadline = time.monotonic() + ALIVE_EVERY_SECONDS
            await asyncio.wait([ended], timeout=READY_POLL_SECONDS)
        if not ended.done():
            service.ready_since = time.time()
            self._set(service, "ready")
            self._reached[service.spec.name].set()
            stuck = await self._watch(service, ended)
            if stuck:
                process.kill()
                await ended
                return stuck
        return _how_it_ended(ended.result())

    async def _waits_for_others(self, service: Service) -> bool:
        """Whether a process that is not ready in time is in order: it started again in an outage of what it needs."""
        alive, first = service.spec.alive, self._reached[service.spec.name]
        return alive is not None and first.is_set() and await self.in_thread(alive)

    async def _watch(self, service: Service, ended: "asyncio.Future[int]") -> str:
        """Return when the process ended, or with a reason when it no longer answers that it is alive."""
        failures = 0
        while not ended.done():
            await asyncio.wait([ended], timeout=ALIVE_EVERY_SECONDS)
            if service.spec.alive is not None and not ended.done():
                failures = 0 if await self.in_thread(service.spec.alive) else failures + 1
                if failures >= ALIVE_FAILURES:
                    return f"stuck: no sign of life {failures} times in a row"
        return ""

    async def _launch(self, service: Service) -> None:
        spec = service.spec
        if spec.prepare is not None:
            await self.in_thread(spec.prepare)
        tether = [sys.executable, "-I", "-S", str(TETHER), str(int(spec.death_signal)), str(os.getpid()), spec.user]
        with spec.log.open("ab") as log:
            service.process = await asyncio.create_subprocess_exec(
                *tether,
                *spec.command,
                env=dict(spec.environment),
                cwd=spec.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its own session: Ctrl-C in the terminal is for the supervisor, which then stops things in order.
                start_new_session=True,
            )
        service.pid = service.process.pid
        with contextlib.suppress(psutil.NoSuchProcess):
            service.created = psutil.Process(service.pid).create_time()
        self._set(service, "starting")

    async def _end(self, service: Service) -> None:
        process = service.process
        assert process is not None  # noqa: S101 - only called for what runs
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(service.spec.stop_signal)
        try:
            await asyncio.wait_for(process.wait(), service.spec.stop_seconds)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self._set(service, "stopped")

    def _set(self, service: Service, state: State) -> None:
        service.state = state
        self._reporter.changed(service)


def end_leftovers(processes: Sequence[Mapping[str, object]], limit_seconds: float = 10.0) -> list[str]:
    """Stop processes that an earlier supervisor left behind; the names of those that still ran.

    Each is `{"name", "pid", "created"}`. A pid that now belongs to another process (other start time) is left alone.
    """
    running: list[psutil.Process] = []
    names: list[str] = []
    for entry in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(str(entry["pid"])))
            if abs(process.create_time() - float(str(entry["created"]))) < 0.1:
                process.terminate()
                running.append(process)
                names.append(str(entry["name"]))
    _, alive = psutil.wait_procs(running, timeout=limit_seconds)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=limit_seconds)
    return names


def _runs(service: Service) -> bool:
    return service.process is not None and service.process.returncode is None


def _how_it_ended(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def last_line(log: Path) -> str:
    """What a process said last, for a sentence about it."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:300] if lines else "it wrote nothing"
