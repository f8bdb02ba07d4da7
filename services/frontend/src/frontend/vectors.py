"""The vector index from async code: blocking calls on threads of their own, each with a bound."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pinecone.errors import PineconeError

from aviary.index import Match, Record, Vector, VectorIndex, is_missing_namespace
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

    async def versions(self, namespace: str, ids: Sequence[str]) -> dict[str, float]:
        """The `_version` of each record that exists, by id."""
        records = await self._run(lambda: self._fetch(namespace, ids))
        versions = ((record.id, record.metadata.get("_version")) for record in records.values())
        return {name: version for name, version in versions if isinstance(version, int | float)}

    def _fetch(self, namespace: str, ids: Sequence[str]) -> dict[str, Record]:
        try:
            return self._index.fetch(namespace, ids)
        except PineconeError as error:
            # A namespace exists from its first vector on.
            if is_missing_namespace(error):
                return {}
            raise

    async def _run(self, call: Callable[[], Answer]) -> Answer:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except (PineconeError, TimeoutError) as error:
            raise from_index(error) from error

    async def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._index.close()
