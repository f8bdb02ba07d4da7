"""How long after a fault the next change of a user is searchable."""

import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx
import psycopg
from pinecone.errors import PineconeError

from aviary.index import PineconeIndex
from chaos.users import UPSERT

# Rows that no user of the plan touches.
FIRST_ID, LAST_ID = 100_000, 100_400
LIMIT_SECONDS = 90.0
POLL_SECONDS = 0.02
SHARDS = 16


class Recovery(NamedTuple):
    """Seconds from the end of a fault until the page of search results had it: the next change, and a change of each
    of the 16 shards (made in the same moment). None: not within 90 s."""

    next_change: float | None
    every_shard: float | None


class Prober:
    """Makes changes and looks for them, through the frontend as a person would. Not thread-safe."""

    def __init__(self, state: Mapping[str, Any], stopping: threading.Event) -> None:
        self._dsn: str = state["postgres_dsn"]
        self._stopping = stopping
        self._index = PineconeIndex(state["pinecone_api_key"], state["index_host"], 2.0, sdk_retries=False)
        self._frontend = httpx.Client(base_url=state["frontend_url"], timeout=2.0, trust_env=False)
        self._number = 0
        with psycopg.connect(self._dsn) as connection:
            rows = connection.execute(
                "SELECT DISTINCT ON (shard) id, (hashtextextended(id::text, 0) & 15) AS shard "
                "FROM generate_series(%s::bigint, %s) AS id ORDER BY shard, id",
                (FIRST_ID, LAST_ID),
            ).fetchall()
        self._ids = [row[0] for row in rows]

    def close(self) -> None:
        self._index.close()
        self._frontend.close()

    def measure(self, since: float, choice: int) -> Recovery:
        """The recovery of a fault that ended at `since` (time.monotonic()); `choice` says which shard's row is the
        next change."""
        self._number += 1
        text = f"probe number {self._number} of a recovery"
        first = self._ids[choice % len(self._ids)]
        deadline = since + LIMIT_SECONDS
        self._write([first], text, deadline)
        self._write([row for row in self._ids if row != first], text, deadline)
        waiting = set(self._ids)
        found: float | None = None
        while waiting and time.monotonic() < deadline and not self._stopping.is_set():
            waiting -= self._indexed(waiting, text)
            if found is None and first not in waiting and self._is_found(first, text):
                found = time.monotonic() - since
            self._stopping.wait(POLL_SECONDS)
        while found is None and time.monotonic() < deadline and not self._stopping.is_set():
            if self._is_found(first, text):
                found = time.monotonic() - since
            self._stopping.wait(POLL_SECONDS)
        return Recovery(found, None if waiting else time.monotonic() - since)

    def _write(self, ids: list[int], text: str, deadline: float) -> None:
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._dsn, connect_timeout=2) as connection, connection.cursor() as cursor:
                    for row in ids:
                        cursor.execute(UPSERT, (row, f"S{row}", text, f"for row {row}", "probe", 1))
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                self._stopping.wait(POLL_SECONDS)
            else:
                return

    def _indexed(self, ids: set[int], text: str) -> set[int]:
        try:
            records = self._index.fetch("products", [str(row) for row in ids])
        except PineconeError:
            return set()
        return {int(row) for row, record in records.items() if record.metadata.get("name") == text}

    def _is_found(self, id: int, text: str) -> bool:
        try:
            answer = self._frontend.get("/api/search", params={"q": f"{text}. for row {id}", "limit": 5})
        except httpx.HTTPError:
            return False
        if answer.status_code != httpx.codes.OK:
            return False
        return any(result["key"] == str(id) for result in answer.json()["results"])
