"""The running Pelican: worker threads, one that listens, one that keeps house, and the health server."""

import logging
import threading
import time
from typing import Any

import psycopg

from aviary import database
from aviary.dead_letters import DeadLetterQueue
from aviary.health import HealthServer
from aviary.logs import log
from pelican.backoff import Dependency
from pelican.house import House
from pelican.letters import LetterBoard
from pelican.listener import Listener
from pelican.outbox import PostgresOutbox, lift_version
from pelican.settings import PelicanSettings
from pelican.shipper import Shipper
from pelican.sqs import ChangeQueue
from pelican.stats import Stats
from pelican.throttle import Gate
from pelican.worker import Bell, Paused, Worker

# A worker that did not come round for this long is stuck: a send with all its retries takes half of it.
STUCK_SECONDS = 90.0
# How long a stop may take; what a claim holds then stays in the outbox.
DRAIN_SECONDS = 15.0
# A dead network must end a query in seconds, not after the kernel's quarter of an hour.
TCP_TIMEOUT_MILLISECONDS = 20_000

_logger = logging.getLogger("pelican")


class Pelican:
    """Everything in one process. `run` until `stop` is set; or, in tests, `worker().run_until_idle()`."""

    def __init__(
        self, settings: PelicanSettings, queue: ChangeQueue, dead_letters: DeadLetterQueue | None = None
    ) -> None:
        """With `dead_letters`, the table of them is kept like that queue."""
        self._settings = settings
        self._queue = queue
        self._letters = LetterBoard(dead_letters) if dead_letters else None
        self.stop = threading.Event()
        self.bell = Bell()
        self.stats = Stats()
        self.gate = Gate(
            queue,
            live_limit=settings.live_queue_limit,
            backfill_limit=settings.backfill_queue_limit,
            merge_limit=settings.live_merge_limit,
        )
        self._paused = Paused()
        self.database = Dependency("database", _logger)
        self.queue = Dependency("queue", _logger)
        self._workers: list[Worker] = []

    def worker(self) -> Worker:
        """A worker with a session of its own."""
        settings = self._settings
        outbox = PostgresOutbox(self._connect_worker)
        shipper = Shipper(
            outbox,
            self._queue,
            self.gate,
            self.stats,
            chunking=settings.chunking,
            claim_seconds=settings.claim_seconds,
            expiry_seconds=settings.expiry_seconds,
        )
        return Worker(
            outbox,
            shipper,
            self.gate,
            self.bell,
            self.stop,
            paused=self._paused,
            database=self.database,
            queue=self.queue,
            poll_seconds=settings.poll_seconds,
        )

    def run(self) -> None:
        """Work until `stop` is set, then finish what is in hand and return within some seconds."""
        self._workers = [self.worker() for _ in range(self._settings.workers)]
        threads = [
            threading.Thread(target=worker.run, name=f"worker-{number}", daemon=True)
            for number, worker in enumerate(self._workers)
        ]
        house = House(
            PostgresOutbox(self._connect_worker),
            self._queue,
            self.stats,
            self.bell,
            self.stop,
            database=self.database,
            queue_state=self.queue,
            settings=self._settings,
            letters=self._letters,
        )
        listener = Listener(self._connect, self.bell, self.stop, self.database)
        helpers = [
            threading.Thread(target=listener.run, name="listen", daemon=True),
            threading.Thread(target=house.run, name="house", daemon=True),
        ]
        health = HealthServer(
            self._settings.health_host,
            self._settings.health_port,
            alive=self.alive,
            ready=lambda: {"database": self.database.state, "queue": self.queue.state},
            stats=lambda: {**self.stats.read(), **house.behind, "queue_depth": self.gate.depth},
        )
        with health:
            for thread in (*threads, *helpers):
                thread.start()
            log(_logger, logging.INFO, "started", workers=len(threads), health_port=health.port)
            self.stop.wait()
            self.bell.ring()
            deadline = time.monotonic() + DRAIN_SECONDS
            for thread in (*threads, *helpers):
                thread.join(max(0.0, deadline - time.monotonic()))
        log(_logger, logging.INFO, "stopped", drained=not any(t.is_alive() for t in threads), **self.stats.read())

    def alive(self) -> bool:
        """Whether every worker came round lately. Outside trouble does not stop them from it."""
        return all(time.monotonic() - worker.turned_at < STUCK_SECONDS for worker in self._workers)

    def _connect(self) -> psycopg.Connection[Any]:
        return database.connect(self._settings, "pelican", autocommit=True, tcp_user_timeout=TCP_TIMEOUT_MILLISECONDS)

    def _connect_worker(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        silence = f"{self._settings.silence_seconds * 1000:.0f}ms"
        connection.execute(
            "SELECT set_config('idle_session_timeout', %(for)s, false), "
            "set_config('idle_in_transaction_session_timeout', %(for)s, false)",
            {"for": silence},
        )
        lift_version(connection)
        return connection
