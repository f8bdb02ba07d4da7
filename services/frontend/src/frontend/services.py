"""Everything a request needs, put together once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

from aviary.index import VectorIndex
from aviary.source import Source
from frontend.arrival import Watcher
from frontend.assets import Assets
from frontend.embedding import QueryEmbedder, TextEmbedder
from frontend.letters import DeadLetters
from frontend.limits import PRODUCTS
from frontend.problems import ProblemError
from frontend.products import Products
from frontend.queues import QueueDepths
from frontend.search import Searcher
from frontend.settings import FrontendSettings
from frontend.status import StatusBoard
from frontend.store import Database
from frontend.vectors import AsyncIndex

PREPARE_EVERY_SECONDS = 2.0


def unknown(name: str) -> NoReturn:
    raise LookupError(f"{name!r} is not known here")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What is outside: an index, which the services close, and how to load the model of the settings; and how to reach
    further indexes by their addresses and further models by their names, which a source may come to have."""

    index: VectorIndex
    load_embedder: Callable[[], TextEmbedder]
    open_index: Callable[[str], VectorIndex] = unknown
    load_model: Callable[[str], TextEmbedder] = unknown


class Services:
    """The parts of one running application. Use `running()` around its life; made and used in one event loop."""

    def __init__(self, settings: FrontendSettings, parts: Parts) -> None:
        self.settings = settings
        self.assets = Assets()
        self.database = Database(settings)
        self.index = AsyncIndex(parts.index, settings.index_host, parts.open_index)
        self.embedder = QueryEmbedder(
            lambda name: parts.load_embedder() if name == settings.model else parts.load_model(name), settings.model
        )
        self.queues = QueueDepths(settings)
        self.products = Products(self.database)
        self.watcher = Watcher(self.database, self.index, settings.chunking)
        self.searcher = Searcher(self.database, self.index, self.embedder, self.watcher)
        self.board = StatusBoard(self.database, self.index, self.queues, self.watcher)
        self.letters = DeadLetters(self.database, self.index, settings.index_host)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open what must be open. Neither a database nor a model that comes late keeps the service from starting:
        `/readyz` says what is missing."""
        self.embedder.start()
        helpers = [asyncio.create_task(self.board.run()), asyncio.create_task(self._prepare_models())]
        try:
            yield
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self.embedder.close()
            await self.queues.close()
            await self.database.close()
            await self.index.close()

    async def readiness(self) -> dict[str, str]:
        """Each dependency with "ok" or a sentence that says what is wrong."""
        database, places = await asyncio.gather(_verdict(self.database.check()), self._active())
        hosts = {place.index_host for place in places} or {""}
        verdicts = await asyncio.gather(*(_verdict(self.index.count(PRODUCTS, host)) for host in hosts))
        index = next((verdict for verdict in verdicts if verdict != "ok"), "ok")
        return {"database": database, "index": index, "model": self.embedder.status({p.model for p in places})}

    async def _active(self) -> list[Source]:
        """Where every source is searched; of none while the database is away."""
        try:
            return [watched.source for watched in (await self.database.sources()).values()]
        except ProblemError:
            return []

    async def _prepare_models(self) -> None:
        """Have the models of all places loaded before a search needs them: also of one that is being built."""
        while True:
            with contextlib.suppress(ProblemError):
                known = await self.database.sources()
                self.embedder.prepare({model for watched in known.values() for model in watched.models})
            await asyncio.sleep(PREPARE_EVERY_SECONDS)


async def _verdict(check: Awaitable[object]) -> str:
    try:
        await check
    except ProblemError as problem:
        return problem.detail.message
    return "ok"
