"""Whether a row's present state has arrived in the index: learned by looking, not by guessing."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import Literal, NamedTuple

from aviary.chunking import Chunking
from aviary.index import Match
from aviary.source import RESERVED_METADATA, Document, render, vector_id
from frontend.store import Database, Watched
from frontend.vectors import AsyncIndex

FIRST_LOOK_AFTER_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.25
PAUSE_GROWTH = 1.25
# Pinecone allows 100 queries a second in a namespace; more watchers than this look once and come back.
WATCHERS = 24
KEPT_MEASUREMENTS = 60


class Arrival(NamedTuple):
    """What a look found. `row`: the row has text, has none, or does not exist. `settled`: the index shows exactly
    that (the text and metadata of the row, or nothing where there is nothing to show)."""

    row: Literal["present", "blank", "absent"]
    settled: bool


class Measurement(NamedTuple):
    """One edit made through this frontend: when it was seen in the index (Unix seconds), and how long that took."""

    at: float
    milliseconds: float


def matches(document: Document | None, match: Match | None) -> bool:
    """Whether what queries see (`match`) is exactly what the row should be (`document`, None for nothing)."""
    if document is None or match is None:
        return document is None and match is None
    stored = {name: value for name, value in match.metadata.items() if name not in RESERVED_METADATA}
    return match.metadata.get("_text_hash") == document.text_hash and stored == _plain(document.metadata)


def _plain(metadata: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in metadata.items() if value is not None}


class Watcher:
    """Looks at rows and their vectors until they agree. Belongs to one event loop."""

    def __init__(self, database: Database, index: AsyncIndex, chunking: Chunking) -> None:
        self._database = database
        self._index = index
        self._chunking = chunking
        self._places = asyncio.Semaphore(WATCHERS)
        self.stopping = asyncio.Event()
        self.looks = 0
        self.measurements: deque[Measurement] = deque(maxlen=KEPT_MEASUREMENTS)
        self._measured: deque[tuple[str, int]] = deque(maxlen=KEPT_MEASUREMENTS)

    async def look(self, watched: Watched, key: str) -> Arrival:
        """One look."""
        self.looks += 1
        row = await self._database.row(watched, key)
        document = None if row is None else render(watched.source, key, row, self._chunking)
        match = await self._index.find(watched.source, vector_id(key))
        state: Literal["present", "blank", "absent"] = (
            "absent" if row is None else "blank" if document is None else "present"
        )
        return Arrival(state, matches(document, match))

    async def wait(self, watched: Watched, key: str, wait_ms: int) -> Arrival:
        """Look again and again until the state has settled, `wait_ms` have passed, or the service is stopping."""
        arrival = await self.look(watched, key)
        if arrival.settled or wait_ms <= 0 or self._places.locked():
            return arrival
        deadline = time.monotonic() + wait_ms / 1000
        pause = FIRST_LOOK_AFTER_SECONDS
        async with self._places:
            while (left := deadline - time.monotonic()) > 0 and not self.stopping.is_set():
                await asyncio.sleep(min(pause, left))
                pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_SECONDS)
                arrival = await self.look(watched, key)
                if arrival.settled:
                    break
        return arrival

    def measured(self, key: str, since_ms: int, milliseconds: float) -> None:
        """Keep how long an edit took from its commit, for the status page; the first answer about an edit counts."""
        if (key, since_ms) not in self._measured:
            self._measured.append((key, since_ms))
            self.measurements.append(Measurement(time.time(), milliseconds))
