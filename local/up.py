"""Runs a stack until it is told to stop, fills it at its first start, and says what happens."""

import asyncio
import importlib
import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local import ports
from local.events import Event, Kind, Stream
from local.folder import Folder, FolderError
from local.postgres import PostgresError
from local.stack import Plan, Stack
from local.supervisor import Reporter, Service, StartError, Step, Supervisor, end_leftovers

if TYPE_CHECKING:
    from local.gauges import Reading

POLL_SECONDS = 0.3
LAST_POLL_SECONDS = 0.1
STALLED_SECONDS = 30.0
LOAD_CHUNK_ROWS = 1_000
KNOWN = (FolderError, StartError, PostgresError)
ENDPOINTS = {
    "frontend": "frontend_url",
    "postgres": "postgres_dsn",
    "queue": "queue_url",
    "dead letters": "dlq_url",
    "pinecone": "index_host",
}

Sink = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person asked for. `began`: Unix seconds at which the command was given."""

    folder: Folder
    plan: Plan
    rows: int
    catalogue: bool
    began: float


class Run(Reporter):
    """One life of a stack, from `up` to `down`. Use it inside the folder's lock."""

    def __init__(self, options: Options, sinks: Sequence[Sink]) -> None:
        self._options = options
        self._folder = options.folder
        self._stream = Stream(self._folder.events, sinks)
        self._healthy = False
        self._loaded_rows = 0
        self._loaded_at = 0.0

    async def main(self) -> int:
        """The exit status: 0 after a stop that was asked for, 1 when the stack did not come up."""
        self._loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(number, stop.set)
        self._recover()
        self._stack = Stack(self._folder, self._options.plan)
        for note in self._stack.notes:
            self._send("note", note)
        steps = self._stack.steps()
        if self._options.catalogue and "catalogue" not in self._folder.choices():
            steps.append(Step(name="catalogue", run=self._load_catalogue, needs=("migrate",)))
        self._supervisor = Supervisor(self._stack.specs(), steps, self)
        work = asyncio.create_task(self._work([step.name for step in steps]))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
        failure = work.exception() if work.done() else None
        if failure is not None:
            self._send("failed", self._explained(failure))
        else:
            await stopped
        for task in (work, stopped):
            task.cancel()
        await asyncio.gather(work, stopped, return_exceptions=True)
        await self._supervisor.stop()
        self._folder.clear_state()
        self._folder.write_processes([])
        self._send("down", f"stopped; the data stays in {self._folder.path}")
        return 0 if failure is None else 1

    # ---- what the supervisor tells

    def changed(self, service: Service) -> None:
        self._folder.write_processes(
            [{"name": s.spec.name, "pid": s.pid, "created": s.created} for s in self._supervisor.services if s.pid]
        )
        self._send("service", f"{service.spec.name} {service.state} (pid {service.pid})", service.spec.name)
        if self._healthy:
            self._write_state()
        elif service.state == "ready":
            ready = sum(s.state == "ready" for s in self._supervisor.services)
            self._send("progress", "", "start", ready, len(self._supervisor.services))

    def lost(self, service: Service, why: str, pause_seconds: float) -> None:
        name, log = service.spec.name, service.spec.log
        self._send("lost", f"{name} ended ({why}); it starts again in {pause_seconds:.2g} s (log: {log})", name)

    def stopping(self, services: Sequence[Service]) -> None:
        self._send("stopping", "stopping " + ", ".join(service.spec.name for service in services))

    # ---- the way up

    def _recover(self) -> None:
        """Clear away what a supervisor that was killed left behind."""
        self._folder.clear_state()
        left = end_leftovers(self._folder.processes())
        if left:
            self._send("note", f"ended what an earlier run had left: {', '.join(left)}")
        port = self._options.plan.port
        if not ports.is_free(port):
            raise FolderError(f"port {port} is used by {ports.holder(port)}; stop that, or choose another with --port")

    async def _work(self, steps: Sequence[str]) -> None:
        start = asyncio.create_task(self._supervisor.start())
        watch = asyncio.create_task(self._until_searchable(steps))
        try:
            await asyncio.wait([start, watch], return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()
            await start
            self._healthy = True
            self._write_state()
            took = time.time() - self._options.began
            state = self._stack.state()
            endpoints = {label: state[key] for label, key in ENDPOINTS.items()}
            self._send("up", f"all is up after {took:.1f} s", **endpoints, logs=str(self._folder.logs))
            text = await watch
            self._send("searchable", f"{text}; {time.time() - self._options.began:.1f} s since the start")
        finally:
            for task in (start, watch):
                task.cancel()

    async def _until_searchable(self, steps: Sequence[str]) -> str:
        """Return, with a sentence, once every captured change has been processed."""
        # The SDKs take a second to import: meanwhile everything else starts.
        gauges_module = await self._supervisor.in_thread(lambda: importlib.import_module("local.gauges"))
        await self._supervisor.reached("postgres", "sqs", "pinecone", *steps)
        lost = self._stack.what_was_lost()
        if lost:
            self._send("note", f"{lost}: every row is sent again")
            await self._supervisor.in_thread(self._stack.request_backfill)
        moved_at = time.monotonic()
        with gauges_module.Gauges(self._stack.state()) as gauges:
            reading: Reading | None = None
            while reading is None or not reading.settled:
                before, reading = reading, await self._supervisor.in_thread(gauges.try_read)
                if reading is not None:
                    self._send("progress", "", "index", reading.searchable, reading.rows)
                if reading != before:
                    moved_at = time.monotonic()
                elif time.monotonic() - moved_at > STALLED_SECONDS:
                    self._send(
                        "note", f"nothing has moved for {STALLED_SECONDS:.0f} s; {self._folder.logs} may say why"
                    )
                    moved_at = time.monotonic()
                nearly = reading is not None and reading.searchable >= reading.rows
                await asyncio.sleep(LAST_POLL_SECONDS if nearly else POLL_SECONDS)
        return self._summary(reading, time.time())

    def _summary(self, reading: "Reading", now: float) -> str:
        text = f"{reading.searchable:,} of {reading.rows:,} rows are searchable"
        if reading.vectors > reading.rows:
            text += f" ({reading.vectors:,} vectors: long texts have several)"
        if self._loaded_rows:
            seconds = now - self._loaded_at
            text += (
                f"; {self._loaded_rows:,} were indexed in {seconds:.1f} s ({self._loaded_rows / seconds:,.0f} rows/s)"
            )
        if reading.dead_letters:
            text += f"; {reading.dead_letters:,} messages are in the dead letter queue"
        return text

    def _load_catalogue(self) -> None:
        """Fill the products table, once in the life of a folder and only while it is empty."""
        # Here and not at the top: by now Postgres has been started, which takes longer than to import them.
        import psycopg  # noqa: PLC0415

        from local.catalogue import products  # noqa: PLC0415

        with psycopg.connect(self._stack.postgres.dsn()) as connection:
            found = connection.execute("SELECT EXISTS (SELECT FROM products)").fetchone()
            if found == (False,):
                columns = "sku, name, description, category, price, attributes"
                rows = 0
                with connection.cursor().copy(f"COPY products ({columns}) FROM STDIN") as copy:
                    for product in products(self._options.rows):
                        copy.write_row(
                            (
                                product.sku,
                                product.name,
                                product.description,
                                product.category,
                                product.price,
                                json.dumps(product.attributes),
                            )
                        )
                        rows += 1
                        if rows % LOAD_CHUNK_ROWS == 0 or rows == self._options.rows:
                            progress = Event(kind="progress", name="load", done=rows, total=self._options.rows)
                            self._loop.call_soon_threadsafe(self._stream.send, progress)
                connection.commit()
                self._loaded_rows, self._loaded_at = rows, time.time()
        self._folder.keep(catalogue={"rows": self._loaded_rows})

    # ---- saying it

    def _write_state(self) -> None:
        processes = [
            {
                "name": service.spec.name,
                "pid": service.pid,
                "log": str(service.spec.log),
                "state": service.state,
                "since": service.ready_since,
                "restarts": service.restarts,
            }
            for service in self._supervisor.services
        ]
        supervisor = {"pid": os.getpid(), "since": self._options.began}
        self._folder.write_state({**self._stack.state(), "processes": processes, "supervisor": supervisor})

    def _send(self, kind: Kind, text: str, name: str = "", done: int = 0, total: int = 0, **data: str) -> None:
        self._stream.send(Event(kind=kind, text=text, name=name, done=done, total=total, data=data))

    def _explained(self, failure: BaseException) -> str:
        if isinstance(failure, KNOWN):
            return str(failure)
        log = self._folder.log("supervisor")
        with log.open("a") as file:
            traceback.print_exception(failure, file=file)
        return f"the stack did not come up, by a fault of its own ({type(failure).__name__}; details: {log})"


def run(options: Options, sinks: Sequence[Sink], prepare: Callable[[], None] = lambda: None) -> int:
    """Run a stack in this process until it is told to stop. `prepare` is called once the folder is there."""
    try:
        options.folder.make()
        prepare()
        with options.folder.locked():
            return asyncio.run(Run(options, sinks).main())
    except KNOWN as error:
        for sink in sinks:
            sink(Event(kind="failed", text=str(error)))
        return 1
