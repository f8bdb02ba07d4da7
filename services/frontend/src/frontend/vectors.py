"""The vector index from async code: blocking calls on threads of their own, each with a bound."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pinecone.errors import PineconeError

from aviary.index import Match, Vector, VectorIndex
from frontend.problems import from_index

THREADS = 16
# The SDK retries on its own for up to 8 s; a person who waits for a page gives up sooner.
WAIT_SECONDS = 2.5

Answer = TypeVar("Answer")


class AsyncIndex:
    """Queries of a `VectorIndex`. Trouble becomes a 503 that says so. Owns the index it is given."""

    def __init__(self, index: VectorIndex) -> None:
        self._index = index
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="index")

    async def query(
        self, namespace: str, vector: Vector, top_k: int, filter: Mapping[str, Any] | None = None
    ) -> list[Match]:
        """The nearest records in order of falling score."""
        return await self._run(lambda: self._index.query(namespace, vector, top_k, filter))

    async def find(self, namespace: str, id: str) -> Match | None:
        """The record as queries see it now."""
        return await self._run(lambda: self._index.find(namespace, id))

    async def count(self, namespace: str) -> int:
        """Vectors in the namespace."""
        return await self._run(lambda: self._index.count(namespace))

    async def _run(self, call: Callable[[], Answer]) -> Answer:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except (PineconeError, TimeoutError) as error:
            raise from_index(error) from error

    async def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._index.close()
