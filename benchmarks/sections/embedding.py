"""Rows a second of the model by length of text, against what others would use and what the machine can do; how exact."""

import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aviary.embedder import Embedder, has_bf16
from aviary.embedder_graph import ov
from aviary.embedder_packing import Batch, batches, inputs
from benchmarks.embedding import text
from benchmarks.peer_process import PeerProcess, PeersMissingError, Spent
from benchmarks.recorded import texts as catalogue_texts
from benchmarks.sections import ROUNDS, Row, Section, ratios
from local import catalogue

THREADS = 2


class Size(NamedTuple):
    """Texts of 20 tokens in a round (fewer of longer ones), and rows whose vectors are compared."""

    texts: int
    exact: int


SIZE, QUICK_SIZE = Size(1_000, 2_000), Size(60, 300)
LIBRARY_BARS = {20: 4.0, 250: 2.0}
LENGTHS = {20: 4, 80: 16, 250: 8}  # tokens: spread
# That make up a round: in one of them an engine is busy for half a second, which one hiccup spoils.
TURNS = 4
BARE = ("onnxruntime f32", "onnxruntime int8", "openvino f32", "openvino bf16")
TOP = 10
COSINE_BAR, RECALL_BAR = 0.999, 0.99
# Of all-MiniLM-L6-v2: layers, hidden size, width of the feed-forward part.
LAYERS, HIDDEN, INNER = 6, 384, 1536
# The model's products, as one batch of 512 tokens has them: rows, inner, columns.
SHAPES = ((512, HIDDEN, HIDDEN), (512, HIDDEN, INNER), (512, INNER, HIDDEN))


class Packed(NamedTuple):
    """Texts as the engines get them. `order`: which text each vector of the batches' answers is of."""

    batches: list[list[NDArray[np.int32]]]
    order: list[int]


def packed(embedder: Embedder, texts: Sequence[str]) -> Packed:
    """The batches that the embedder itself makes of these texts."""
    tokens = [embedder._cut(encoding.ids) for encoding in embedder._encode(texts)]  # noqa: SLF001 - peers must get what embed() makes, and nobody else asks
    plan: list[Batch] = batches([len(ids) for ids in tokens])
    order = [text for batch in plan for row in batch.rows for text in row]
    return Packed([inputs(batch, tokens) for batch in plan], order)


def flops_a_text(tokens: int) -> float:
    """Of the matrix products for one text of so many tokens."""
    linear = 2 * tokens * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)
    attention = 4 * tokens * tokens * HIDDEN
    return LAYERS * float(linear + attention)


def ours(embedder: Embedder, texts: Sequence[str]) -> Spent:
    """Whole: tokens are made too."""
    began, used = time.perf_counter(), time.process_time()
    vectors = embedder.embed(texts)
    return Spent(time.perf_counter() - began, time.process_time() - used, vectors)


def exactness(reference: NDArray[np.float32], found: NDArray[np.float32], queries: int) -> dict[str, float]:
    """Mean cosine over all, and the share of each query's ten nearest that stay. The first `queries` vectors ask the rest."""

    def nearest(vectors: NDArray[np.float32]) -> NDArray[np.intp]:
        return np.argsort(-(vectors[:queries] @ vectors[queries:].T), axis=1, kind="stable")[:, :TOP]

    same = [len(set(a) & set(b)) / TOP for a, b in zip(nearest(reference), nearest(found), strict=True)]
    cosine = np.einsum("ij,ij->i", reference, found)
    return {
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
        "recall_at_10": float(np.mean(same)),
    }


def unordered(found: NDArray[np.float32], order: Sequence[int]) -> NDArray[np.float32]:
    placed = np.empty_like(found)
    placed[list(order)] = found
    return placed


def measure(quick: bool) -> Iterator[Section]:
    """Everything in turns; the environment of the peers is made when it is not there."""
    rounds, size = (2, QUICK_SIZE) if quick else (ROUNDS, SIZE)
    precisions: list[Literal["bf16", "f32"]] = ["bf16", "f32"] if has_bf16(ov.Core()) else ["f32"]
    models: dict[str, Embedder] = {name: Embedder(name, THREADS) for name in precisions}
    try:
        peers = PeerProcess(THREADS)
    except PeersMissingError as error:
        yield from _measure(models, None, rounds, size, str(error))
        return
    with peers:
        yield from _measure(models, peers, rounds, size, "")


def _measure(
    models: dict[str, Embedder], peers: PeerProcess | None, rounds: int, size: Size, missing: str
) -> Iterator[Section]:
    default = next(iter(models))
    bare = [name for name in BARE if peers is not None and peers.runs(name)]
    exact = _exactness(models, peers, bare, size.exact)
    data: dict[str, Any] = {"engines": peers.engines if peers else {}, "missing": missing, "rates": {}, "exact": exact}
    data["peak_gflops"] = {}
    passing = [name for name in bare if _passes(exact[name])]
    for tokens, spread in LENGTHS.items():
        random.seed(tokens)
        texts = [text(tokens, spread) for _ in range(max(16, size.texts * 20 // tokens))]
        rates, peak = _rates(models, peers, texts, rounds)
        data["rates"][str(tokens)] = rates
        data["peak_gflops"][str(tokens)] = [round(value / 1e9, 1) for value in peak]
        yield Section([*_rows(tokens, default, passing, data)], data)
    rows: list[Row] = []
    for name, found in exact.items():
        is_bar = name == f"ours {default}"
        rows += [
            Row(f"cosine to fp32, {name}", [found["cosine_mean"]], "", COSINE_BAR if is_bar else None),
            Row(f"recall@10 against fp32, {name}", [found["recall_at_10"]], "", RECALL_BAR if is_bar else None),
        ]
    yield Section(rows, data)


def _rows(tokens: int, default: str, passing: Sequence[str], data: dict[str, Any]) -> Iterator[Row]:
    rates, missing = data["rates"][str(tokens)], data["missing"]
    peak = [1e9 * gflops for gflops in data["peak_gflops"][str(tokens)]]
    mine = rates[f"ours {default}"]
    yield Row(f"embedding, {tokens} tokens, ours ({default})", mine, "rows/s")
    if "sentence-transformers" not in rates:
        yield Row(f"ours / the peers, {tokens} tokens", [], "times", 1.0, note=missing)
        return
    theirs = rates["sentence-transformers"]
    yield Row(f"ours / sentence-transformers, {tokens} tokens", ratios(mine, theirs), "times", LIBRARY_BARS.get(tokens))
    if passing:
        best = max(passing, key=lambda name: statistics.median(rates[name]))
        found = ratios(rates[f"ours {default} bare"], rates[best])
        yield Row(f"ours / {best}, both bare, {tokens} tokens", found, "times", 1.0)
    used = ratios([rate * flops_a_text(tokens) for rate in mine], peak)
    yield Row(f"ours / peak, share of the {default} matrix-product peak, {tokens} tokens", used, "")


def _passes(found: dict[str, float]) -> bool:
    return found["cosine_mean"] >= COSINE_BAR and found["recall_at_10"] >= RECALL_BAR


def _rates(
    models: dict[str, Embedder], peers: PeerProcess | None, texts: list[str], rounds: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Texts a second of each engine, and what the machine does at best of the model's products, in floating point operations
    a second: a number a round."""
    default = next(iter(models))
    cut = packed(models[default], texts)
    found: dict[str, list[float]] = {}
    peak: list[float] = []
    for number in range(rounds + 1):
        taken = [_turn(models, peers, texts, cut) for _ in range(TURNS)]
        # The first round prepares kernels for these shapes.
        if number:
            for name in taken[0]:
                seconds = sum(turn[name] for turn in taken)
                found.setdefault(name, []).append(round(TURNS * len(texts) / seconds, 1))
            if peers is not None:
                peak.append(max(peers.flops(*shape, default) for shape in SHAPES))
        print(f"embedding: {TURNS} x {len(texts)} texts, round {number} of {rounds}", file=sys.stderr)
    return found, peak


def _turn(models: dict[str, Embedder], peers: PeerProcess | None, texts: list[str], cut: Packed) -> dict[str, float]:
    """Seconds of each engine for all texts."""
    found: dict[str, float] = {}
    for name, model in models.items():
        whole = ours(model, texts).seconds
        began = time.perf_counter()
        model.count_tokens(texts)
        found[f"ours {name}"] = whole
        # Without making tokens, which the bare engines are spared too.
        found[f"ours {name} bare"] = whole - (time.perf_counter() - began)
    if peers is not None:
        found["sentence-transformers"] = peers.encode(texts).seconds
        found |= {name: peers.run(name, cut.batches).seconds for name in BARE if peers.runs(name)}
    return found


def _exactness(
    models: dict[str, Embedder], peers: PeerProcess | None, bare: list[str], rows: int
) -> dict[str, dict[str, float]]:
    """Of every precision against our f32, on the catalogue's queries and first rows."""
    queries = [query.text for query in catalogue.queries()]
    texts = [*queries, *catalogue_texts(rows)]
    print(f"embedding: exactness on {len(queries)} queries and {rows:,} rows", file=sys.stderr)
    reference = models["f32"].embed(texts)
    found = {f"ours {name}": exactness(reference, model.embed(texts), len(queries)) for name, model in models.items()}
    if peers is not None:
        cut = packed(models["f32"], texts)
        for name in bare:
            vectors = unordered(peers.run(name, cut.batches).vectors, cut.order)
            found[name] = exactness(reference, vectors, len(queries))
    return found
