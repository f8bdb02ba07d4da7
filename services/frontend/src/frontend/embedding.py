"""The query's vector: models on their own threads, and the vectors of recent queries kept."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
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
    """Loads models in the background and embeds queries. Belongs to one event loop."""

    def __init__(self, load: Callable[[str], TextEmbedder], model: str, cached: int = CACHED_QUERIES) -> None:
        """`model` is loaded at the start, others by `load` when a source comes to have them."""
        self._load = load
        self._first = model
        self._limit = cached
        self._vectors: OrderedDict[tuple[str, str], Vector] = OrderedDict()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="queries")
        self._models: dict[str, asyncio.Task[TextEmbedder]] = {}

    def start(self) -> None:
        """Begin to load the first model; returns at once."""
        self.prepare([self._first])

    def prepare(self, models: Iterable[str]) -> None:
        """Begin to load those that are not there yet, so that no search waits for them; returns at once."""
        for model in models:
            if model not in self._models:
                self._models[model] = asyncio.create_task(self._warm(model))

    async def _warm(self, name: str) -> TextEmbedder:
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        try:
            model = await loop.run_in_executor(self._threads, self._load, name)
            # The first inference compiles; no person should wait for it.
            await loop.run_in_executor(self._threads, model.embed, ["warm-up"])
        except Exception as error:
            log(logger, logging.ERROR, "model_unavailable", model=name, error=type(error).__name__)
            raise
        log(logger, logging.INFO, "model_loaded", model=model.model, seconds=round(time.perf_counter() - began, 2))
        return model

    def status(self, models: Collection[str] = ()) -> str:
        """ "ok", or one sentence that says what is wrong with one of the models (with the first one, without names)."""
        for name in models or (self._first,):
            model = self._models.get(name)
            if model is None or not model.done():
                return "the model is loading"
            if error := model.exception():
                return f"the model could not be loaded ({type(error).__name__})"
        return "ok"

    async def embed(self, text: str, model: str) -> Vector:
        """The vector of shape (dimension,) that `model` makes. White space does not count, it splits words at it anyway."""
        text = " ".join(text.split())
        if (known := self._vectors.get((model, text))) is not None:
            self._vectors.move_to_end((model, text))
            return known
        embedder = await self._ready(model)
        try:
            async with asyncio.timeout(EMBED_WAIT_SECONDS):
                made = await asyncio.get_running_loop().run_in_executor(self._threads, embedder.embed, [text])
        except TimeoutError:
            raise unavailable("model_busy", "the model is busy; try again in a moment") from None
        except Exception as error:
            log(logger, logging.ERROR, "embedding_failed", error=type(error).__name__)
            raise unavailable("model_failed", "the model could not read this query; try again in a moment") from error
        vector: Vector = made[0]
        self._vectors[model, text] = vector
        if len(self._vectors) > self._limit:
            self._vectors.popitem(last=False)
        return vector

    async def _ready(self, model: str) -> TextEmbedder:
        self.prepare([model])
        try:
            async with asyncio.timeout(LOAD_WAIT_SECONDS):
                return await asyncio.shield(self._models[model])
        except TimeoutError:
            raise unavailable("model_loading", "the model is still loading; try again in a moment") from None
        except Exception as error:
            raise unavailable("model_unavailable", "the model could not be loaded; see the service's log") from error

    async def close(self) -> None:
        for model in self._models.values():
            model.cancel()
        await asyncio.gather(*self._models.values(), return_exceptions=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
