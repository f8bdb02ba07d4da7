"""The newest dead letters, as Pelican last saw them: the page must not touch the queue."""

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, cast

from psycopg.rows import DictRow
from pydantic import BaseModel

from aviary.dead_letters import Key, Kind, Letter, is_void
from aviary.logs import log
from aviary.source import vector_id
from frontend.pool import Connection
from frontend.problems import ProblemError
from frontend.store import Database
from frontend.vectors import AsyncIndex

logger = logging.getLogger(__name__)

SHOWN = 50
# Which of them are void takes a question to the index and one to the tables; pages that poll share the answer.
FRESH_SECONDS = 5.0
# A whole message has up to 100 rows: beyond this many it is not told which are void.
KEYS_LOOKED_UP = 500


class DeadLetter(BaseModel):
    """One letter. `key` and `version` are null when it is about several rows (`rows`), or about rows that cannot be
    known (0). `void`: a later state of its rows is in the index, or they are gone from table and index; null when that
    cannot be told."""

    id: str
    kind: Literal["row", "unsent", "message", "moved"]
    reason: str
    source: str
    key: str | None
    version: int | None
    rows: int
    set_aside_at: datetime
    void: bool | None


class DeadLetters:
    """Reads them for pages and for `GET /api/dead-letters`. Belongs to one event loop."""

    def __init__(self, database: Database, index: AsyncIndex, index_host: str) -> None:
        self._database = database
        self._index = index
        self._index_host = index_host
        self._lock = asyncio.Lock()
        self._read_at = float("-inf")
        self._known: list[DeadLetter] = []

    async def newest(self) -> list[DeadLetter]:
        """At most 50, newest first, at most 5 s old. Raises ProblemError when the database does not answer."""
        async with self._lock:
            if time.monotonic() - self._read_at >= FRESH_SECONDS:
                self._known = await self._read()
                self._read_at = time.monotonic()
            return self._known

    def forget(self) -> None:
        """Read them anew at the next question."""
        self._read_at = float("-inf")

    async def _read(self) -> list[DeadLetter]:
        async with self._database.connection() as connection:
            rows = await (await connection.execute(_NEWEST, [SHOWN])).fetchall()
            letters = [_letter(row) for row in rows]
            known = _looked_up(letters, self._index_host)
            stored = await self._stored(known)
            absent = {} if stored is None else await _absent(connection, known, stored)
        void = {
            letter.id: is_void(letter, stored[letter.namespace], absent.get(letter.source, ()))
            for letter in known
            if stored is not None
        }
        return [_shown(letter, row, void.get(letter.id)) for letter, row in zip(letters, rows, strict=True)]

    async def _stored(self, letters: Sequence[Letter]) -> dict[str, dict[str, float]] | None:
        """The versions in the index by namespace and key; None when it does not answer."""
        keys: dict[str, dict[str, str]] = {}
        for letter in letters:
            keys.setdefault(letter.namespace, {}).update((vector_id(key.key), key.key) for key in letter.keys)
        stored: dict[str, dict[str, float]] = {}
        for namespace, by_id in keys.items():
            try:
                versions = await self._index.versions(namespace, list(by_id))
            except ProblemError as problem:
                log(logger, logging.WARNING, "dead_letters_not_judged", error=problem.detail.code)
                return None
            stored[namespace] = {by_id[each]: version for each, version in versions.items()}
        return stored


def _letter(row: DictRow) -> Letter:
    keys = tuple(map(Key, row["keys"], row["versions"]))
    kind = cast("Kind", row["kind"])
    at_ms = int(row["failed_at"].timestamp() * 1000)
    return Letter(row["id"], kind, row["reason"], row["source"], row["namespace"], at_ms, keys, row["index_host"])


def _looked_up(letters: Sequence[Letter], index_host: str) -> list[Letter]:
    """The letters that are judged: in our index, and not too many keys in all."""
    chosen: list[Letter] = []
    left = KEYS_LOOKED_UP
    for letter in letters:
        if letter.keys and len(letter.keys) <= left and letter.index_host in ("", index_host):
            chosen.append(letter)
            left -= len(letter.keys)
    return chosen


async def _absent(
    connection: Connection, letters: Sequence[Letter], stored: dict[str, dict[str, float]]
) -> dict[str, set[str]]:
    """Keys that have no row with text, by source, of those that the index has nothing of."""
    missing: dict[str, set[str]] = {}
    for letter in letters:
        keys = {key.key for key in letter.keys if key.key not in stored[letter.namespace]}
        missing.setdefault(letter.source, set()).update(keys)
    absent: dict[str, set[str]] = {}
    for source, some in missing.items():
        rows = await (await connection.execute(_ABSENT, [source, sorted(some)])).fetchall()
        absent[source] = {row["key"] for row in rows}
    return absent


def _shown(letter: Letter, row: DictRow, void: bool | None) -> DeadLetter:
    only = letter.keys[0] if len(letter.keys) == 1 else None
    return DeadLetter(
        id=letter.id,
        kind=letter.kind,
        reason=letter.reason,
        source=letter.source,
        key=only.key if only else None,
        version=only.version or None if only else None,
        rows=len(letter.keys),
        set_aside_at=row["failed_at"],
        void=void,
    )


_NEWEST = """
SELECT id, kind, reason, source, namespace, index_host, keys, versions, failed_at
  FROM sync.dead_letter ORDER BY failed_at DESC, id LIMIT %s
"""
_ABSENT = "SELECT sync.absent(%s, %s) AS key"
