"""What others would use for the same vectors, in an environment of their own (requirements/bench.in): a child process
that takes one JSON object a line and answers with one. benchmarks.peer_process talks to it.

    {"op": "load", "folder": …, "threads": 2}                      → {"engines": {name: version or what is wrong}}
    {"op": "encode", "texts": […]}                                 → sentence-transformers, batches of 32
    {"op": "run", "engine": …, "batches": [[ids, texts, positions], …]}   → the same tokens, packed as ours, nothing else
    {"op": "matmul", "rows": …, "inner": …, "columns": …, "precision": "f32" or "bf16"}   → {"flops": …}

Encode and run answer {"seconds", "cpu_seconds", "vectors"}: float32, base64, in the order of the texts or of the batches.
"""

import base64
import importlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

TEXTS_PER_ROW = 16
MATMUL_SECONDS = 0.3
Batches = list[list[Any]]


def sentence_encoder(folder: str, threads: int) -> Any:
    """all-MiniLM-L6-v2 as most people would run it."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    library: Any = importlib.import_module("sentence_transformers")
    return library.SentenceTransformer(folder, device="cpu")


def packed(transformer: Any, texts_per_row: int) -> Any:
    """A torch module with our graph's inputs: several texts stand in one row and do not see each other."""
    torch: Any = importlib.import_module("torch")

    class Packed(torch.nn.Module):  # type: ignore[misc] # a base of type Any: types are checked without torch
        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, ids: Any, texts: Any, positions: Any) -> Any:
            # Padding sees padding, so that no row of the mask is empty.
            mask = torch.where(texts[:, :, None] == texts[:, None, :], 0.0, -1e9)[:, None]
            layer = self.transformer.embeddings
            words = layer.word_embeddings(ids) + layer.position_embeddings(positions)
            states = layer.LayerNorm(words + layer.token_type_embeddings.weight[0])
            for block in self.transformer.encoder.layer:
                own = block.attention.self
                heads, size = own.num_attention_heads, own.attention_head_size

                def split(states: Any, heads: int = heads, size: int = size) -> Any:
                    return states.reshape(states.shape[0], states.shape[1], heads, size).transpose(1, 2)

                query, key, value = split(own.query(states)), split(own.key(states)), split(own.value(states))
                weights = torch.softmax(query @ key.transpose(2, 3) / size**0.5 + mask, dim=-1)
                context = (weights @ value).transpose(1, 2).reshape(states.shape)
                states = block.attention.output(context, states)
                states = block.output(block.intermediate(states), states)
            places = torch.arange(1, texts_per_row + 1)
            members = (texts[:, None, :] == places[None, :, None]).to(states.dtype)
            means = (members @ states) / members.sum(2, keepdim=True).clamp(min=1)
            return torch.nn.functional.normalize(means, dim=2)

    made: Any = Packed
    return made().eval()


def export(encoder: Any, path: Path) -> None:
    """The packed model as ONNX."""
    torch: Any = importlib.import_module("torch")
    ids = torch.ones((2, 16), dtype=torch.int32)
    module = packed(encoder[0].auto_model, TEXTS_PER_ROW)
    axes = {name: {0: "rows", 1: "width"} for name in ("ids", "texts", "positions")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (ids, ids, ids),
            str(path),
            input_names=list(axes),
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


class Peers:
    """The engines that could be loaded."""

    def __init__(self, folder: str, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self._home = tempfile.TemporaryDirectory()
        self._runs: dict[str, Callable[[list[Any]], Any]] = {}
        self.engines: dict[str, str] = {}
        self.encoder = sentence_encoder(folder, threads)
        self.engines["sentence-transformers"] = str(importlib.import_module("sentence_transformers").__version__)
        model = Path(self._home.name) / "model.onnx"
        export(self.encoder, model)
        for name, load in (
            ("onnxruntime f32", lambda: self._onnxruntime(model)),
            ("onnxruntime int8", lambda: self._onnxruntime(self._quantised(model))),
            ("openvino f32", lambda: self._openvino(model, "f32")),
            ("openvino bf16", lambda: self._openvino(model, "bf16")),
        ):
            call: Callable[[], Callable[[list[Any]], Any]] = load
            try:
                self._runs[name] = call()
                self.engines[name] = str(importlib.import_module(name.split()[0]).__version__)
            except Exception as error:  # noqa: BLE001 - engines raise types of their own; the report shows which
                self.engines[name] = f"not loaded: {type(error).__name__}: {error}"[:300]

    def _onnxruntime(self, model: Path) -> Callable[[list[Any]], Any]:
        library: Any = importlib.import_module("onnxruntime")
        options = library.SessionOptions()
        # Batches in parallel, one core each, as ours: more than one core to a batch was slower.
        options.intra_op_num_threads = 1
        session = library.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        names = ("ids", "texts", "positions")
        return lambda batch: session.run(None, dict(zip(names, batch, strict=True)))[0]

    def _quantised(self, model: Path) -> Path:
        tools: Any = importlib.import_module("onnxruntime.quantization")
        small = model.with_suffix(".int8.onnx")
        tools.quantize_dynamic(str(model), str(small), per_channel=True)
        return small

    def _openvino(self, model: Path, precision: str) -> Callable[[list[Any]], Any]:
        library: Any = importlib.import_module("openvino")
        core = library.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeError("this CPU does not compute in bf16")
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": str(self._threads),
            "INFERENCE_NUM_THREADS": str(self._threads),
            "ENABLE_CPU_PINNING": "NO",
        }
        compiled = core.compile_model(core.read_model(str(model)), "CPU", options)
        free = [compiled.create_infer_request() for _ in range(self._threads)]

        def run(batch: list[Any]) -> Any:
            request = free.pop()
            try:
                return request.infer(batch, share_outputs=True)[0].copy()
            finally:
                free.append(request)

        return run

    def run(self, engine: str, given: Batches) -> dict[str, Any]:
        """Time the batches."""
        batches = [[np.array(each, np.int32) for each in batch] for batch in given]
        began, used = time.perf_counter(), time.process_time()
        found = list(self._pool.map(self._runs[engine], batches))
        spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
        rows = [
            result[row, : int(texts[row].max())]
            for (_, texts, _), result in zip(batches, found, strict=True)
            for row in range(len(texts))
        ]
        return spent | {"vectors": encoded(np.concatenate(rows))}

    def encode(self, texts: list[str]) -> dict[str, Any]:
        """Time sentence-transformers."""
        began, used = time.perf_counter(), time.process_time()
        found = self.encoder.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
        return spent | {"vectors": encoded(found)}

    def matmul(self, rows: int, inner: int, columns: int, precision: str) -> dict[str, Any]:
        """Floating point operations a second of one matrix product, repeated."""
        torch: Any = importlib.import_module("torch")
        kind = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
        one, other = torch.randn(rows, inner).to(kind), torch.randn(inner, columns).to(kind)
        best = float("inf")
        end = time.perf_counter() + MATMUL_SECONDS
        while time.perf_counter() < end:
            began = time.perf_counter()
            torch.mm(one, other)
            best = min(best, time.perf_counter() - began)
        return {"flops": 2 * rows * inner * columns / best}


def encoded(vectors: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(vectors, np.float32).tobytes()).decode()


def main() -> None:
    """Answer until stdin ends. What libraries print must not come between the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peers: Peers | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        operation = asked.pop("op")
        try:
            if operation == "load":
                peers = Peers(**asked)
                answer: dict[str, Any] = {"engines": peers.engines}
            elif peers is None:
                answer = {"error": "load comes first"}
            elif operation == "run":
                answer = peers.run(asked["engine"], asked["batches"])
            elif operation == "encode":
                answer = peers.encode(asked["texts"])
            else:
                answer = peers.matmul(**asked)
        except Exception as error:  # noqa: BLE001 - told to the parent, which would wait for ever
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
