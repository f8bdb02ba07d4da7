"""Embedders without meaning, for tests that do not need any."""

import hashlib
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from aviary.chunking import Tokens
from aviary.source import DIMENSION, MODEL

Vectors = NDArray[np.float32]


class HashEmbedder:
    """Equal texts, equal unit vectors; other texts, other vectors. Keeps what it was asked."""

    dimension = DIMENSION
    precision = "f32"

    def __init__(self, *_: object, name: str = MODEL, **__: object) -> None:
        self.model = name
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str], *, urgent: bool = True) -> Vectors:
        self.calls.append(list(texts))
        return np.stack([vector_of(text) for text in texts])

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """A token for each word and each sign."""
        found = [[match.span() for match in re.finditer(r"\w+|[^\w\s]", text)] for text in texts]
        return [Tokens(spans, range(len(spans))) for spans in found]


class EndlessEmbedder(HashEmbedder):
    """Computes on a thread that nothing waits for, and does not come to an end."""

    def embed(self, texts: Sequence[str], *, urgent: bool = True) -> Vectors:
        ThreadPoolExecutor(1).submit(threading.Event().wait).result()
        return super().embed(texts)


def vector_of(text: str) -> Vectors:
    """HashEmbedder's vector, shape (384,)."""
    seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
    values = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    unit: Vectors = values / np.linalg.norm(values)
    return unit
