"""Everything a request needs, put together once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aviary.index import VectorIndex
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


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What is outside: an index, which the services close, and how to load the model."""

    index: VectorIndex
    load_embedder: Callable[[], TextEmbedder]


class Services:
    """The parts of one running application. Use `running()` around its life; made and used in one event loop."""

    def __init__(self, settings: FrontendSettings, parts: Parts) -> None:
        self.settings = settings
        self.assets = Assets()
        self.database = Database(settings)
        self.index = AsyncIndex(parts.index)
        self.embedder = QueryEmbedder(parts.load_embedder)
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
        await self.database.open()
        self.embedder.start()
        sampling = asyncio.create_task(self.board.run())
        try:
            yield
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
            await self.embedder.close()
            await self.queues.close()
            await self.database.close()
            await self.index.close()

    async def readiness(self) -> dict[str, str]:
        """Each dependency with "ok" or a sentence that says what is wrong."""
        database, index = await asyncio.gather(_verdict(self.database.check()), _verdict(self.index.count(PRODUCTS)))
        return {"database": database, "index": index, "model": self.embedder.status()}


async def _verdict(check: Awaitable[object]) -> str:
    try:
        await check
    except ProblemError as problem:
        return problem.detail.message
    return "ok"
