"""A BERT sentence encoder, such as all-MiniLM-L6-v2, as an OpenVINO graph, built from the published weights without torch, ONNX or a converter.

The graph holds the whole way from token ids to unit vectors: BERT encoder, mean over each text's tokens, L2 norm.
Several short texts share a row, so that little is computed for padding. Inputs, int32, [rows, width]: `ids`;
`texts`, which text of its row a token belongs to, 1 to `TEXTS_PER_ROW`, 0 for padding; `positions`, the token's
place in its text. Output: float32, [rows, TEXTS_PER_ROW, hidden], zero where a row has no such text.
"""

import json
import mmap
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Importing openvino imports its model converter for convenience, and that asks the network for a telemetry server and
# leaves an id in the home folder, before anyone can say no. We convert nothing; with this entry the import of the
# converter fails, and openvino expects that it may.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type] # None is how an import is made to fail

import openvino as ov  # noqa: E402 - after the line above, on purpose
from openvino import opset13 as op  # noqa: E402 - as above

__all__ = ["TEXTS_PER_ROW", "Weights", "build_graph", "map_weights", "ov"]

TEXTS_PER_ROW = 16
# Added to the scores between different texts before softmax: far below any score, and finite, also in bf16.
MASKED = -1e9


class Weights(NamedTuple):
    """Tensors that lie in a mapped file, not in this process's own memory; they live as long as `file` does."""

    file: mmap.mmap
    tensors: Mapping[str, NDArray[np.float32]]


def map_weights(path: Path) -> Weights:
    """The float32 tensors of a safetensors file (https://huggingface.co/docs/safetensors: length, JSON, data).

    Mapped, because all processes on a machine then share one copy, and because the format's own reader makes two.
    """
    with path.open("rb") as opened:
        # Copy on write: OpenVINO shares only arrays that it could write to, though it never does.
        file = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    data = 8 + int.from_bytes(file[:8], "little")
    tensors = {}
    for name, entry in json.loads(file[8:data]).items():
        if entry.get("dtype") == "F32":
            start, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(file, "<f4", (end - start) // 4, data + start).reshape(entry["shape"])
    return Weights(file, tensors)


def build_graph(config: Mapping[str, Any], weights: Weights) -> ov.Model:
    """The model that a Hugging Face BERT `config` and its `weights` describe; it shares the memory of `weights`."""
    kind = config.get("model_type"), config["hidden_act"], config.get("position_embedding_type", "absolute")
    if kind != ("bert", "gelu", "absolute"):
        raise ValueError(
            f"this graph is a BERT encoder with exact gelu and absolute positions; the config asks for {kind}"
        )
    if "embeddings.word_embeddings.weight" not in weights.tensors:
        raise ValueError("the weights hold no float32 BERT encoder under the names that sentence-transformers gives it")
    return _Encoder(config, weights.tensors).model()


class _Normed(NamedTuple):
    """A layer norm's result is centred * gain + shift. The products that read it have both in their weights, so that the
    activations are gone through once less."""

    centred: ov.Node
    gain: NDArray[np.float32]
    shift: NDArray[np.float32]


class _Encoder:
    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float32]]) -> None:
        self._tensors = tensors
        self._layers: int = config["num_hidden_layers"]
        self._heads: int = config["num_attention_heads"]
        self._hidden: int = config["hidden_size"]
        self._epsilon: float = config["layer_norm_eps"]

    def model(self) -> ov.Model:
        inputs = [op.parameter([-1, -1], np.int32, name=name) for name in ("ids", "texts", "positions")]
        ids, texts, positions = inputs
        # A token attends to the tokens of its own text only.
        together = op.equal(op.unsqueeze(texts, _axes(2)), op.unsqueeze(texts, _axes(1)))
        mask = op.select(op.unsqueeze(together, _axes(1)), _f32(0.0), _f32(MASKED))

        x = self._embeddings(ids, positions)
        for layer in range(self._layers):
            x = self._layer(f"encoder.layer.{layer}", x, mask)

        # The L2 norm cancels the division by the number of tokens: the sum has the direction of the mean.
        numbers = op.constant(np.arange(1, TEXTS_PER_ROW + 1, dtype=np.int32).reshape(1, -1, 1))
        members = op.convert(op.equal(numbers, op.unsqueeze(texts, _axes(1))), "f32")
        states = op.add(_scaled(x), _constant(x.shift))
        unit = op.normalize_l2(op.matmul(members, states, False, False), _axes(2), 1e-24, "max")
        return ov.Model([op.result(unit)], inputs, "sentence_encoder")

    def _embeddings(self, ids: ov.Node, positions: ov.Node) -> _Normed:
        # Token types are always 0 here, so that their one row goes into the positions.
        token_type = self._tensors["embeddings.token_type_embeddings.weight"][0]
        places = op.constant(self._tensors["embeddings.position_embeddings.weight"] + token_type)
        word = op.gather(_constant(self._tensors["embeddings.word_embeddings.weight"]), ids, _i32(0))
        return self._norm("embeddings.LayerNorm", op.add(word, op.gather(places, positions, _i32(0))))

    def _layer(self, name: str, x: _Normed, mask: ov.Node) -> _Normed:
        query, key, value = (self._heads_of(self._dense_of(f"{name}.attention.self.{part}", x)) for part in _PARTS)
        # Spelled out: the plugin takes apart the one operation that there is for it, into a slow transposition of the keys
        # and the rest.
        scale = _f32((self._hidden // self._heads) ** -0.5)
        scores = op.add(op.multiply(op.matmul(query, key, False, True), scale), mask)
        context = op.transpose(op.matmul(op.softmax(scores, -1), value, False, False), _axes(0, 2, 1, 3))
        joined = op.reshape(context, _axes(0, 0, self._hidden), True)
        x = self._added(f"{name}.attention.output", joined, x)
        wide = op.gelu(self._dense_of(f"{name}.intermediate.dense", x), "erf")
        return self._added(f"{name}.output", wide, x)

    def _heads_of(self, x: ov.Node) -> ov.Node:
        """[rows, width, hidden] → [rows, heads, width, hidden / heads]."""
        split = op.reshape(x, _axes(0, 0, self._heads, self._hidden // self._heads), True)
        return op.transpose(split, _axes(0, 2, 1, 3))

    def _dense_of(self, name: str, x: _Normed) -> ov.Node:
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        product = op.matmul(x.centred, _constant(weight * x.gain), False, True)
        return op.add(product, _constant(bias + weight @ x.shift))

    def _added(self, name: str, y: ov.Node, x: _Normed) -> _Normed:
        """The norm of the product of `y` plus `x`."""
        product = op.matmul(y, _constant(self._tensors[f"{name}.dense.weight"]), False, True)
        product = op.add(product, _constant(self._tensors[f"{name}.dense.bias"] + x.shift))
        return self._norm(f"{name}.LayerNorm", op.add(_scaled(x), product))

    def _norm(self, name: str, x: ov.Node) -> _Normed:
        centred = op.mvn(x, _axes(-1), True, self._epsilon, "inside_sqrt")
        return _Normed(centred, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"])


_PARTS = ("query", "key", "value")


def _scaled(x: _Normed) -> ov.Node:
    return op.multiply(x.centred, _constant(x.gain))


def _constant(tensor: NDArray[np.float32]) -> ov.Node:
    return op.constant(tensor, shared_memory=True)


def _axes(*values: int) -> ov.Node:
    return op.constant(np.array(values, dtype=np.int32))


def _i32(value: int) -> ov.Node:
    return op.constant(np.int32(value))


def _f32(value: float) -> ov.Node:
    return op.constant(np.float32(value))
