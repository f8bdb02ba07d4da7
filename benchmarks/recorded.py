"""Vectors that were computed before, so that everything but the model can be measured: made once, looked up by Emu.

    .venv/bin/python -m benchmarks.recorded --rows 20000     # make (or find) the file; prints its path

A file holds the vectors of the catalogue's first rows and a hash of each text. `python -m benchmarks.recorded` with
AVIARY_RECORDED_VECTORS set is Emu itself with an embedder that looks texts up in that file; a text that is not in it gets
one of its vectors, chosen by the text's hash.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aviary.chunking import Tokens
from aviary.embedder import Embedder
from aviary.source import DIMENSION, MODEL
from benchmarks.machine import BUILD
from local import catalogue

VARIABLE = "AVIARY_RECORDED_VECTORS"
BLOCK = 1_000
TEMPLATE = "{description} {name}"


def digest(text: str) -> int:
    """64 bits of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def texts(rows: int) -> list[str]:
    """What the catalogue's first rows are indexed by."""
    return [TEMPLATE.format(description=p.description, name=p.name) for p in catalogue.products(rows)]


def recorded(rows: int) -> Path:
    """The file of the first `rows` rows' vectors; computes it unless it is there."""
    path = BUILD / f"vectors-{rows}.npz"
    if not path.exists():
        embedder, found, wanted = Embedder(), [], texts(rows)
        for start in range(0, rows, BLOCK):
            found.append(embedder.embed(wanted[start : start + BLOCK]))
            print(f"recording vectors: {start + len(found[-1]):,} of {rows:,}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half.npz")
        np.savez(half, hashes=np.array([digest(text) for text in wanted], np.uint64), vectors=np.concatenate(found))
        half.replace(path)
    return path


class RecordedEmbedder:
    """What Emu needs of an embedder, without a model."""

    model = MODEL
    dimension = DIMENSION
    precision = "recorded"

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self._vectors: NDArray[np.float32] = file["vectors"]
            self._places = {int(each): place for place, each in enumerate(file["hashes"])}

    def embed(self, texts: Sequence[str], **_: bool) -> NDArray[np.float32]:
        """Shape (len(texts), dimension)."""
        hashes = [digest(text) for text in texts]
        return self._vectors[[self._places.get(each, each % len(self._vectors)) for each in hashes]]

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Words for tokens; the catalogue has no text so long that it matters."""
        found = []
        for text in texts:
            spans, at = [], 0
            for word in text.split():
                at = text.index(word, at)
                spans.append((at, at + len(word)))
                at += len(word)
            found.append(Tokens(spans, list(range(len(spans)))))
        return found


def main() -> None:
    """Make the file, or be Emu."""
    if os.environ.get(VARIABLE):
        from emu import __main__ as emu  # noqa: PLC0415 - who only makes or finds the file loads no Emu

        path = Path(os.environ[VARIABLE])
        # Emu's own main(), with this where it would load the model.
        vars(emu)["Embedder"] = lambda *_, **__: RecordedEmbedder(path)
        emu.main()
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recorded", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the catalogue (20000)")
    print(recorded(parser.parse_args().rows))


if __name__ == "__main__":
    main()
