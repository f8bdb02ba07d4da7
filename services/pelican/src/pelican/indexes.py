"""The indexes that places name, as commands reach them."""

import json
from contextlib import ExitStack
from typing import Self

from pinecone.errors import PineconeError

from aviary.index import PineconeIndex, is_index_host
from aviary.source import DIMENSION, MODEL, InvalidSourceError, Source
from pelican.comparison import Side
from pelican.settings import ReindexSettings


class Indexes:
    """The indexes that places name, each opened once. A context manager."""

    def __init__(self, settings: ReindexSettings) -> None:
        self._settings = settings
        self._opened: dict[str, PineconeIndex] = {}
        self._exits = ExitStack()

    def at(self, host: str) -> PineconeIndex:
        """ "" is the configured one. InvalidSourceError for an address that gets no API key."""
        if host and not is_index_host(host, self._settings.index_host):
            raise InvalidSourceError(
                f"the index {host!r} is neither Pinecone's (https://….pinecone.io) nor on the host of AVIARY_INDEX_HOST, "
                "and gets no API key; give the address that Pinecone shows for an index"
            )
        if host not in self._opened:
            index = PineconeIndex(self._settings.pinecone_api_key.get_secret_value(), host or self._settings.index_host)
            self._opened[host] = self._exits.enter_context(index)
        return self._opened[host]

    def side(self, source: Source) -> Side:
        return Side(source, self.at(source.index_host), self._settings.chunking)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()


def check_index(settings: ReindexSettings, wanted: Source) -> None:
    """Refuse an index that cannot be reached or has another dimension than the model, and a model nobody knows."""
    known = {MODEL, *settings.models}
    if wanted.model not in known:
        raise InvalidSourceError(
            f"the model {wanted.model!r} is not known here, only {', '.join(sorted(known))}; name it in AVIARY_MODELS "
            "(NAME=FOLDER), here and for every Emu and frontend"
        )
    with Indexes(settings) as indexes:
        try:
            has = indexes.at(wanted.index_host).dimension()
        except PineconeError as error:
            raise InvalidSourceError(
                f"the index {wanted.index_host or settings.index_host} does not answer ({type(error).__name__}); check "
                "its address and PINECONE_API_KEY"
            ) from None
    needs = _dimension(settings, wanted.model)
    if needs is not None and has != needs:
        raise InvalidSourceError(
            f"the model {wanted.model} makes vectors of {needs} numbers, and the index {wanted.index_host or 'in use'} holds "
            f"vectors of {has}; make one with dimension {needs} and give its address with --index"
        )


def _dimension(settings: ReindexSettings, model: str) -> int | None:
    """None where the model's files are not on this machine."""
    if model not in settings.models:
        return DIMENSION
    config = settings.models[model] / "config.json"
    return int(json.loads(config.read_text())["hidden_size"]) if config.exists() else None
