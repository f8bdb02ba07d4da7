"""Where a message's changes go: the index and the model that it names, each opened or loaded when first needed.

A message names its index by an address, and the API key is sent there. So only an address of Pinecone's own is
followed, or one on the host of the configured index.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from aviary.index import VectorIndex, is_index_host
from aviary.messages import Batch
from aviary.source import MODEL
from emu.lease import LeaseKeeper
from emu.planning import by_index_and_model
from emu.processor import Processor, TextEmbedder, Unit
from emu.retrying import Caller
from emu.setaside import SetAside
from emu.settings import EmuSettings
from emu.stats import Stats


@dataclass(frozen=True, kw_only=True)
class Means:
    """What every processor works with: the configured index and model, and how to get to others."""

    index: VectorIndex
    embedder: TextEmbedder
    open_index: Callable[[str], VectorIndex]
    load_embedder: Callable[[str], TextEmbedder]


class Places:
    """Works on units, each task at its place. Thread-safe."""

    def __init__(
        self,
        settings: EmuSettings,
        means: Means,
        *,
        caller: Callable[[str], Caller],
        keeper: LeaseKeeper,
        aside: SetAside,
        stats: Stats,
    ) -> None:
        """`caller` makes the caller of the index at a host."""
        self._host = settings.index_host
        self._abandoned = {host.strip() for host in settings.abandoned_indexes.split(",") if host.strip()}
        self._models = {means.embedder.model, MODEL, *settings.models}
        self._means = means
        self._caller = caller
        self._keeper = keeper
        self._aside = aside
        self._stats = stats
        self._opening = threading.Lock()
        self._indexes = {"": means.index, settings.index_host: means.index}
        self._embedders = {means.embedder.model: means.embedder}
        self._processors: dict[tuple[str, str], Processor] = {}

    def refusal(self, batch: Batch) -> tuple[str, str] | None:
        """Why the batch cannot be worked on here: a word for counters, and a sentence; None when it can."""
        if batch.model not in self._models:
            return "other_model", (
                f"text was prepared for model {batch.model!r} and this Emu has {', '.join(sorted(self._models))}; "
                "add it to AVIARY_MODELS of every Emu"
            )
        if batch.index_host in self._abandoned:
            return (
                "abandoned_index",
                f"AVIARY_ABANDONED_INDEXES says that the index {batch.index_host} is gone for good",
            )
        if batch.index_host not in self._indexes and not is_index_host(batch.index_host, self._host):
            return "other_index", (
                f"the index {batch.index_host!r} is neither Pinecone's nor on the host of AVIARY_INDEX_HOST, and gets no "
                "API key; reindex into one that is"
            )
        return None

    def process(self, unit: Unit) -> None:
        """Do all of it. Raises LeaseLostError, StoppingError, or AwsError when stopping."""
        for refused in unit.plan.refused:
            self._aside.message(unit.messages[refused.message], refused)
            unit.settle_message(refused.message)
        self._stats.count("void", len(unit.plan.void))
        for (host, model), tasks in by_index_and_model(unit.plan.tasks).items():
            self._processor(host, model).process(unit, tasks)

    def _processor(self, host: str, model: str) -> Processor:
        # Loading a model takes seconds, which is no more than the first unit for it has to wait anyway.
        with self._opening:
            if (host, model) not in self._processors:
                if host not in self._indexes:
                    self._indexes[host] = self._means.open_index(host)
                if model not in self._embedders:
                    self._embedders[model] = self._means.load_embedder(model)
                self._processors[host, model] = Processor(
                    index=self._indexes[host],
                    embedder=self._embedders[model],
                    caller=self._caller(host),
                    keeper=self._keeper,
                    aside=self._aside,
                    stats=self._stats,
                )
            return self._processors[host, model]
