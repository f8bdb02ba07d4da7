"""The query's vector: the model on its own threads, and the vectors of recent queries kept."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aviary.index import Vector
from aviary.logs import log
from frontend.problems import unavailable

logger = logging.getLogger(__name__)

# 1.5 KB each.
CACHED_QUERIES = 2_048
LOAD_WAIT_SECONDS = 10.0
EMBED_WAIT_SECONDS = 5.0


class TextEmbedder(Protocol):
    """What the frontend needs of `aviary.embedder.Embedder`."""

    @property
    def model(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimension), normalised, in input order. Blocking and thread-safe."""


class QueryEmbedder:
    """Loads the model in the background and embeds queries. Belongs to one event loop."""

    def __init__(self, load: Callable[[], TextEmbedder], cached: int = CACHED_QUERIES) -> None:
        self._load = load
        self._limit = cached
        self._vectors: OrderedDict[str, Vector] = OrderedDict()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="queries")
        self._model: asyncio.Task[TextEmbedder] | None = None

    def start(self) -> None:
        """Begin to load the model; returns at once."""
        self._model = asyncio.create_task(self._warm())

    async def _warm(self) -> TextEmbedder:
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        model = await loop.run_in_executor(self._threads, self._load)
        # The first inference compiles; no person should wait for it.
        await loop.run_in_executor(self._threads, model.embed, ["warm-up"])
        log(logger, logging.INFO, "model_loaded", model=model.model, seconds=round(time.perf_counter() - began, 2))
        return model

    def status(self) -> str:
        """ "ok", or one sentence that says what is wrong."""
        if self._model is None or not self._model.done():
            return "the model is loading"
        error = self._model.exception()
        return "ok" if error is None else f"the model could not be loaded ({type(error).__name__})"

    async def embed(self, text: str) -> Vector:
        """The vector of shape (dimension,). White space does not count, the model splits words at it anyway."""
        text = " ".join(text.split())
        if (known := self._vectors.get(text)) is not None:
            self._vectors.move_to_end(text)
            return known
        model = await self._ready()
        try:
            async with asyncio.timeout(EMBED_WAIT_SECONDS):
                made = await asyncio.get_running_loop().run_in_executor(self._threads, model.embed, [text])
        except TimeoutError:
            raise unavailable("model_busy", "the model is busy; try again in a moment") from None
        except Exception as error:
            log(logger, logging.ERROR, "embedding_failed", error=type(error).__name__)
            raise unavailable("model_failed", "the model could not read this query; try again in a moment") from error
        vector: Vector = made[0]
        self._vectors[text] = vector
        if len(self._vectors) > self._limit:
            self._vectors.popitem(last=False)
        return vector

    async def _ready(self) -> TextEmbedder:
        if self._model is None:
            raise RuntimeError("start() comes first")
        try:
            async with asyncio.timeout(LOAD_WAIT_SECONDS):
                return await asyncio.shield(self._model)
        except TimeoutError:
            raise unavailable("model_loading", "the model is still loading; try again in a moment") from None
        except Exception as error:
            log(logger, logging.ERROR, "model_unavailable", error=type(error).__name__)
            raise unavailable("model_unavailable", "the model could not be loaded; see the service's log") from error

    async def close(self) -> None:
        if self._model is not None:
            self._model.cancel()
            await asyncio.gather(self._model, return_exceptions=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
