"""The whole pipeline in one thread: real Postgres and the services' own code, with a queue and an index in memory."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from botocore.exceptions import BotoCoreError
from pydantic import SecretStr

import emu.lease
import emu.worker
import pelican.outbox
import pelican.packing
import pelican.shipper
import pelican.worker
from aviary.chunking import FEWEST_TOKENS, split
from aviary.index import Record
from aviary.source import chunk_id, index_metadata, render, vector_id
from emu.settings import EmuSettings
from emu.worker import Emu
from pelican.backfill import turn_page
from pelican.outbox import PostgresOutbox, SourceError
from pelican.service import Pelican
from pelican.sqs import QueueError
from pelican.watch import sources
from tests.model.pinecone import IndexModel
from tests.model.postgres import SteppedConnection
from tests.model.sqs import QueueModel
from tests.model.stepping import Clock, Task, Turnstile, pause
from tests.model.users import User
from tests.services.emu.embedders import HashEmbedder, vector_of
from tests.services.pelican.harness import Store, settings_for

# Small, so that few keys make several messages, calls and pages.
SMALL = {"MAX_CHANGES": 2, "MAX_CALL_MESSAGES": 2}
PAGE_KEYS = 3
# More rounds than this to drain what some keys can leave behind would be a livelock.
ROUNDS = 60
# Few keys, so that changes of one key meet; two shards, so that claims of one shard do.
KEYS = """
(SELECT i FROM generate_series(1, 500) i WHERE hashtextextended(i::text, 0) & 15 = 3 ORDER BY i LIMIT 2)
UNION ALL
(SELECT i FROM generate_series(1, 500) i WHERE hashtextextended(i::text, 0) & 15 = 8 ORDER BY i LIMIT 1)"""
WAITING = "SELECT EXISTS (SELECT FROM sync.outbox) OR EXISTS (SELECT FROM sync.backfill WHERE finished_at IS NULL)"
USERS, PELICANS, EMUS = 2, 2, 2
# Clocks of hosts differ; a quarter of a claim's time is left for that.
SKEW_MS = (-1_500, 1_500)
RESET = """
SET session_replication_role = replica;
DELETE FROM products;
INSERT INTO products (id, sku, name, price) SELECT i, 's' || i, 'old chair', 0 FROM unnest('{%s}'::int[]) i;
SET session_replication_role = origin;
DELETE FROM sync.outbox;
DELETE FROM sync.backfill;
UPDATE sync.claim SET messages = 0;
UPDATE sync.source SET most_chunks = 1"""


class DriftError(AssertionError):
    """The promise does not hold."""


class Process:
    """A process of a service: what it has under way, and how it dies."""

    def __init__(self, name: str, skew_ms: int = 0) -> None:
        self.name = name
        self._skew_ms = skew_ms
        self.tasks: dict[str, Task] = {}

    def task(self, kind: str, work: Callable[[], object]) -> Task:
        """What it has under way of that kind, begun now if there is nothing."""
        task = self.tasks.get(kind)
        if task is None or task.done:
            task = self.tasks[kind] = Task(f"{self.name}.{kind}", work)
            task.skew_ms = self._skew_ms
        return task

    def busy(self) -> list[Task]:
        return [task for task in self.tasks.values() if not task.done]

    def __repr__(self) -> str:
        return self.name

    def finish(self) -> None:
        """All that it has under way goes well to its end."""
        while busy := self.busy():
            for task in busy:
                task.finish()

    def crash(self) -> None:
        for task in self.busy():
            task.crash()


class PelicanProcess(Process):
    """A Pelican: one worker, and a housekeeper that pages through backfills."""

    def __init__(self, world: "World", name: str, skew_ms: int) -> None:
        super().__init__(name, skew_ms)
        self.connections: list[SteppedConnection] = []
        made = self

        class Stepped(Pelican):
            def _connect(self) -> psycopg.Connection[Any]:
                connection = SteppedConnection.connect(world.store.dsn("aviary_pelican"), autocommit=True)
                made.connections = [each for each in made.connections if not each.closed] + [connection]
                return connection

        service = Stepped(world.pelican_settings, world.queue)
        service.gate._clock = world.clock.monotonic
        self._worker = service.worker()
        self._worker._shipper._clock = world.clock.monotonic
        self._worker._shipper._queue_clock._monotonic = world.clock.monotonic
        self._house = PostgresOutbox(service._connect_worker)

    def turn(self) -> None:
        try:
            self._worker.turn()
        except QueueError:
            pass
        except psycopg.Error:
            self._worker._outbox.drop()

    def page(self) -> None:
        try:
            turn_page(self._house.connection, 100, page_keys=PAGE_KEYS)
        except (psycopg.Error, SourceError):
            self._house.drop()

    def cut(self) -> None:
        """Its sessions end, and it goes on."""
        for connection in self.connections:
            connection.close()

    def crash(self) -> None:
        super().crash()
        self.cut()


class EmuProcess(Process):
    """An Emu: units in work, and the keeper of their leases."""

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(name)
        self.emu = Emu(world.emu_settings, queue=world.queue, index=world.index, embedder=world.embedder)
        stopping = self.emu._stopping

        def wait(seconds: float | None = None) -> bool:
            pause("wait")
            if not stopping.is_set():
                world.pass_time(seconds or 0.0)
            return stopping.is_set()

        setattr(stopping, "wait", wait)  # noqa: B010 - a method, and mypy knows
        self.emu._limiter._clock = world.clock.monotonic
        self.emu._keeper._asking = Turnstile()  # type: ignore[assignment] # in place of a thread's

    @property
    def stopping(self) -> bool:
        return self.emu._stopping.is_set()

    def unit(self) -> None:
        """Receive once, unless it is stopping, and work on what came."""
        if self.stopping:
            return
        try:
            jobs = self.emu._receive(0)
        except BotoCoreError:
            return
        for job in jobs:
            try:
                self.emu._work(job)
            finally:
                self.emu._keeper.drop(job.lease)

    def tick(self) -> None:
        self.emu._keeper.tick()

    def terminate(self) -> None:
        """SIGTERM, and the end of the time to drain."""
        self.emu._stopping.set()
        for lease in self.emu._keeper.held():
            self.emu._keeper.release(lease, lease.messages)


class SteppedEmbedder(HashEmbedder):
    """Takes time: others may go on while it embeds."""

    def embed(self, texts: Any, *, urgent: bool = True) -> Any:
        pause("embed")
        self.calls.clear()
        return super().embed(texts)


class World:
    """One store for many runs; `reset` begins a new one."""

    def __init__(self, store: Store, patch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.clock = Clock()
        self._closing = ExitStack()
        self._numbers = itertools.count(1)
        self.admin = self._closing.enter_context(store.connect())
        # A crash of Postgres is no part of the model, and flushes to disk are most of its time.
        self.admin.execute(f"ALTER DATABASE {store.name} SET synchronous_commit = off")
        self.admin.execute("SET lock_timeout = '20ms'; SET timezone = 'UTC'")
        SteppedConnection.admin = self.admin
        self.users = [
            User(f"user-{n}", self._closing.enter_context(psycopg.connect(store.dsn()))) for n in range(USERS)
        ]
        self.pelican_settings = settings_for(store, chunk_tokens=FEWEST_TOKENS, chunk_overlap_tokens=4)
        self.emu_settings = EmuSettings(
            queue_url="model", dlq_url="model", pinecone_api_key=SecretStr("model"), index_host="model"
        )
        self.embedder = SteppedEmbedder()
        self.defects: list[str] = []
        # All that were ever started in this run: also those in whose place there are others.
        self._processes: list[Process] = []
        self._patch(patch)
        self.source_id = int(store.value("SELECT id FROM sync.source"))
        self.keys = [int(row[0]) for row in self.admin.execute(KEYS)]
        self.reset()

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        time = SimpleNamespace(monotonic=self.clock.monotonic, time_ns=self.clock.time_ns)
        for module in (pelican.outbox, pelican.shipper, pelican.worker):
            patch.setattr(module, "time", time)
        patch.setattr(emu.lease, "now", self.clock.monotonic)
        patch.setattr(emu.worker, "now", self.clock.monotonic)
        for name, value in SMALL.items():
            patch.setattr(pelican.packing, name, value)
        # A Pelican that waits for a lock would wait for ever: who holds it is suspended by the same thread.
        patch.setattr(pelican.outbox, "_SETTINGS", pelican.outbox._SETTINGS.replace("'2s'", "'10ms'"))
        patch.setattr(emu.worker.LOGGER, "exception", self._note)

    def _note(self, event: str, *_: object) -> None:
        if event == "unit_failed":
            self.defects.append(event)

    def reset(self) -> None:
        """Some rows, all of them in the index; nothing under way."""
        self.abandon()
        self.admin.execute(RESET % ", ".join(map(str, self.keys)))
        self.clock.seconds = 1_000.0
        self.queue = QueueModel(self.clock)
        self.index = IndexModel(self.clock)
        version = self.admin.execute("SELECT nextval('sync.version')").fetchone()
        assert version is not None
        self.index.places["products"] = {
            place: record._replace(metadata={**record.metadata, "_version": version[0]})
            for place, record in self.expected().items()
        }
        self.defects.clear()
        self.pelicans = [self._start_pelican(number) for number in range(PELICANS)]
        self.emus = [self._start_emu() for _ in range(EMUS)]

    def close(self) -> None:
        self.abandon()
        self._closing.close()

    def abandon(self) -> None:
        """End all that is under way."""
        for process in self._processes:
            process.crash()
        self._processes.clear()
        for user in self.users:
            user.rollback()

    # ---- what happens

    def number(self) -> int:
        return next(self._numbers)

    def pass_time(self, seconds: float) -> None:
        self.index.arrive(until=self.clock.seconds + seconds)
        self.clock.seconds += seconds

    def kill(self, process: Process) -> None:
        """SIGKILL; another takes its place."""
        process.crash()
        self._replace([process])

    def backfill(self) -> None:
        # Whoever asks while a page is being turned is told to ask again.
        with suppress(psycopg.errors.LockNotAvailable):
            self.admin.execute("SELECT sync.request_backfill(%s)", (self.source_id,))

    def drain(self, *, late: bool) -> None:
        """No more faults, no more writers: everything that is left is done. What was held up on its way goes on first,
        or, if it is `late`, when others have done its work."""
        for user in self.users:
            user.commit()
        self._replace([each for each in self.emus if each.stopping and not each.busy()])
        held = [process for process in (*self.pelicans, *self.emus) if process.busy()]
        if late:
            self._replace(held)
            self._settle()
        while self.queue.travelling:
            self.queue.arrive()
        for process in held:
            process.finish()
        self._replace([each for each in self.emus if each.stopping])
        self._settle()

    def _replace(self, processes: Sequence[Process]) -> None:
        """Others take their place, and Postgres ends the sessions of those that are stopped."""
        for number, one in enumerate(self.pelicans):
            if one in processes:
                one.cut()
                self.pelicans[number] = self._start_pelican(number)
        for number, each in enumerate(self.emus):
            if each in processes:
                self.emus[number] = self._start_emu()

    def _start_pelican(self, number: int) -> PelicanProcess:
        process = PelicanProcess(self, f"pelican-{self.number()}", SKEW_MS[number])
        self._processes.append(process)
        return process

    def _start_emu(self) -> EmuProcess:
        process = EmuProcess(self, f"emu-{self.number()}")
        self._processes.append(process)
        return process

    def _settle(self) -> None:
        """Until nothing waits, in as little time as it takes: what is late by now may not be too late to do harm."""
        left = -1
        for _ in range(ROUNDS):
            for one in self.pelicans:
                one.task("house", one.page)
                one.task("worker", one.turn)
                one.finish()
            for each in self.emus:
                each.task("unit-0", each.unit)
                each.finish()
            if not self.queue.messages and not self.waiting():
                return
            # Somebody who was stopped holds the rest until a lease ends.
            self.pass_time(61 if len(self.queue.messages) == left else 1)
            left = len(self.queue.messages)
        raise AssertionError(f"{ROUNDS} rounds did not drain {len(self.queue.messages)} messages")

    def waiting(self) -> bool:
        """Whether Pelican has anything to do."""
        row = self.admin.execute(WAITING).fetchone()
        return bool(row and row[0])

    # ---- what must be

    def expected(self) -> dict[str, Record]:
        """f(table), by vector id, in version 0."""
        (source,) = sources(self.admin)
        chunking = self.pelican_settings.chunking
        cursor = self.admin.execute("SELECT * FROM products")
        names = [column.name for column in cursor.description or ()]
        records: dict[str, Record] = {}
        for values in cursor:
            row = dict(zip(names, values, strict=True))
            document = render(source, str(row["id"]), row, chunking)
            if document is None:
                continue
            text, main = document.text, vector_id(document.key)
            spans = [(0, len(text))]
            if chunking.most_of(text) > 1:
                spans = split(text, self.embedder.tokens([text])[0], chunking)
            for number, (start, end) in enumerate(spans):
                metadata = index_metadata(document, 0, number, len(spans))
                records[chunk_id(main, number)] = Record(chunk_id(main, number), vector_of(text[start:end]), metadata)
        return records

    def check(self) -> None:
        """index = f(table): the same ids, the metadata of each row as it is, and the vectors of its text."""
        expected, found = self.expected(), self.index.places.get("products", {})
        wrong = {
            place: (found.get(place), expected.get(place))
            for place in expected.keys() | found.keys()
            if place not in found or place not in expected or not _same(found[place], expected[place])
        }
        if wrong or self.queue.dead or set(self.index.places) > {"products"}:
            raise DriftError(f"the index is not f(table): {wrong}, dead letters: {self.queue.dead}")
        self.check_nobody_harmed()

    def check_nobody_harmed(self) -> None:
        assert not [harm for user in self.users for harm in user.harmed]
        assert self.defects == []


def _same(found: Record, expected: Record) -> bool:
    metadata = {name: value for name, value in found.metadata.items() if name != "_version"}
    expected_metadata = {name: value for name, value in expected.metadata.items() if name != "_version"}
    return metadata == expected_metadata and bool((found.values == expected.values).all())
