"""Sessions with a real Postgres that stop before each statement of Pelican's that matters."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import psycopg
from psycopg.abc import Params

from tests.model.stepping import Outcome, pause

# What a statement is known by, and what the model calls it. Others (settings, catalogue) are no steps.
STEPS = {
    "WITH RECURSIVE work": "look",
    "pg_try_advisory_lock": "lock and draw the version",
    "WITH taken": "read",
    "UPDATE sync.claim SET version": "announce",
    "DELETE FROM sync.outbox": "delete",
    "UPDATE sync.claim SET messages": "clear",
    "pg_advisory_unlock": "unlock",
    "SELECT source_id, cursor": "page: take",
    "WITH page": "page: enqueue",
    "INSERT INTO sync.outbox": "enqueue again",
    "SET most_chunks": "note the chunks",
    "SET cursor = coalesce": "page: move",
}
GONE_SECONDS = 10.0


class SteppedConnection(psycopg.Connection[Any]):
    """A session of Pelican's. Statements of a pipeline are sent one at a time, in the one transaction that they are."""

    admin: ClassVar[psycopg.Connection[Any]]

    def execute(
        self, query: Any, params: Params | None = None, *, prepare: bool | None = None, binary: bool = False
    ) -> psycopg.Cursor[Any]:
        step = next((name for known, name in STEPS.items() if known in str(query)), None)
        if step is None:
            return super().execute(query, params, prepare=prepare, binary=binary)
        with self._step(step):
            return super().execute(query, params, prepare=prepare, binary=binary)

    @contextmanager
    def pipeline(self) -> Iterator[Any]:
        connection = self

        class Pipeline:
            def sync(self) -> None:
                with connection._step("commit"):
                    connection._plain("COMMIT")
                connection._plain("BEGIN")

        self._plain("BEGIN")
        try:
            yield Pipeline()
        except psycopg.Error:
            if not self.closed:
                self._plain("ROLLBACK")
            raise
        self._plain("COMMIT")

    def close(self) -> None:
        """Returns once Postgres has let go of all that the session held: the model must not depend on how fast that is."""
        if self.closed:
            return
        pid = self.info.backend_pid
        super().close()
        deadline = time.monotonic() + GONE_SECONDS
        while self.admin.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone():
            assert time.monotonic() < deadline, "Postgres does not end a session"

    def _plain(self, statement: str) -> None:
        super().execute(statement)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        outcome = pause(f"postgres: {name}")
        if outcome is Outcome.FAIL:
            self.close()
        yield
        if outcome is not Outcome.GO:
            self.close()
            raise psycopg.OperationalError("the model cut this session")
