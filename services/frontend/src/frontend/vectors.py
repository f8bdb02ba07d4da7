"""The vector indexes from async code: blocking calls on threads of their own, each with a bound."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pinecone.errors import PineconeError

from aviary.index import Match, Record, Vector, VectorIndex, is_index_host, is_missing_namespace
from aviary.source import Source, key_of
from frontend.problems import from_index, unavailable

THREADS = 16
# The SDK retries on its own for up to 8 s; a person who waits for a page gives up sooner.
WAIT_SECONDS = 2.5

Answer = TypeVar("Answer")


class AsyncIndex:
    """Queries of the index that a source is in. Trouble becomes a 503 that says so. Owns the index it is given, which is
    the one at `host`, and those it opens."""

    def __init__(self, index: VectorIndex, host: str, open_index: Callable[[str], VectorIndex]) -> None:
        self._host = host
        self._open = open_index
        self._indexes = {"": index, host: index}
        self._opening = threading.Lock()
        # Host and namespace where ids were seen that do not tell the key.
        self._hashed: set[tuple[str, str]] = set()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="index")

    async def nearest(
        self, source: Source, vector: Vector, top_k: int, filter: Mapping[str, Any] | None = None
    ) -> list[tuple[str | None, float]]:
        """Of the nearest vectors the keys of their rows and their scores, which fall; no key where neither id nor metadata tell."""
        return await self._run(source.index_host, lambda index: self._nearest(index, source, vector, top_k, filter))

    async def find(self, source: Source, id: str) -> Match | None:
        """The record as queries see it now."""
        return await self._run(source.index_host, lambda index: index.find(source.namespace, id))

    async def count(self, namespace: str, host: str) -> int:
        """Vectors in the namespace."""
        return await self._run(host, lambda index: index.count(namespace))

    async def versions(self, namespace: str, ids: Sequence[str], host: str = "") -> dict[str, float]:
        """The `_version` of each record that exists, by id."""
        records = await self._run(host, lambda index: _fetch(index, namespace, ids))
        versions = ((record.id, record.metadata.get("_version")) for record in records.values())
        return {name: version for name, version in versions if isinstance(version, int | float)}

    def _nearest(
        self, index: VectorIndex, source: Source, vector: Vector, top_k: int, filter: Mapping[str, Any] | None
    ) -> list[tuple[str | None, float]]:
        place = (source.index_host, source.namespace)
        if place not in self._hashed:
            # Metadata is most of an answer, and nearly every id is the key itself.
            found = index.query(source.namespace, vector, top_k, filter, metadata=False)
            nearest = [(key_of(match.id), match.score) for match in found]
            if all(key is not None for key, _ in nearest):
                return nearest
            self._hashed.add(place)
        found = index.query(source.namespace, vector, top_k, filter)
        return [(_key(match), match.score) for match in found]

    async def _run(self, host: str, call: Callable[[VectorIndex], Answer]) -> Answer:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                # Opening one blocks too.
                return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(self._at(host)))
        except (PineconeError, TimeoutError) as error:
            raise from_index(error) from error

    def _at(self, host: str) -> VectorIndex:
        with self._opening:
            if host not in self._indexes:
                if not is_index_host(host, self._host):
                    raise unavailable(
                        "index_refused", "the index of this source is at an address that this service does not trust"
                    )
                self._indexes[host] = self._open(host)
            return self._indexes[host]

    async def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        for index in {id(index): index for index in self._indexes.values()}.values():
            index.close()


def _key(match: Match) -> str | None:
    return str(match.metadata["_key"]) if "_key" in match.metadata else None


def _fetch(index: VectorIndex, namespace: str, ids: Sequence[str]) -> dict[str, Record]:
    try:
        return index.fetch(namespace, ids)
    except PineconeError as error:
        if is_missing_namespace(error):
            return {}
        raise
