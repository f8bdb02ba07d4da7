"""all-MiniLM-L6-v2 as an OpenVINO graph, built from the published weights without torch, ONNX or a converter.

The graph holds the whole way from token ids to unit vectors: BERT encoder, mean over the tokens that are not
padding, L2 norm. Input: `ids` (int32, [rows, tokens], padded on the right with any id) and `lengths` (int32, [rows]).
Output: float32, [rows, 384].
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

# Importing openvino imports its model converter for convenience, and that asks the network for a telemetry server and
# leaves an id in the home folder, before anyone can say no. We convert nothing; with this entry the import of the
# converter fails, and openvino expects that it may.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402 - after the line above, on purpose
from openvino import opset13 as op  # noqa: E402

__all__ = ["build_graph", "ov"]

Weights = Mapping[str, NDArray[np.float32]]
# Added to the scores of padding before softmax: far below any score, and finite, also in bf16.
MASKED = -1e9


def build_graph(folder: Path, max_tokens: int) -> ov.Model:
    """The model in `folder` (config.json, model.safetensors) for texts of up to `max_tokens` tokens."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    if config["hidden_act"] != "gelu" or config["position_embedding_type"] != "absolute":
        raise ValueError(f"{folder} is not a BERT encoder with gelu and absolute positions; this graph is no other")
    return _Encoder(config, load_file(folder / "model.safetensors"), max_tokens).model()


class _Encoder:
    def __init__(self, config: Mapping[str, Any], weights: Weights, max_tokens: int) -> None:
        self._weights = weights
        self._layers: int = config["num_hidden_layers"]
        self._heads: int = config["num_attention_heads"]
        self._hidden: int = config["hidden_size"]
        self._epsilon: float = config["layer_norm_eps"]
        self._max_tokens = max_tokens

    def model(self) -> ov.Model:
        ids = op.parameter([-1, -1], np.int32, name="ids")
        lengths = op.parameter([-1], np.int32, name="lengths")
        width = op.gather(op.shape_of(ids, "i32"), _i32(1), _i32(0))
        positions = op.range(_i32(0), width, _i32(1), "i32")
        valid = op.less(op.unsqueeze(positions, _axes(0)), op.unsqueeze(lengths, _axes(1)))
        mask = op.select(op.unsqueeze(valid, _axes(1, 2)), _f32(0.0), _f32(MASKED))

        x = self._embeddings(ids, positions)
        for layer in range(self._layers):
            x = self._layer(f"encoder.layer.{layer}", x, mask)

        # The L2 norm cancels the division by the number of tokens: the sum has the direction of the mean.
        summed = op.squeeze(op.matmul(op.unsqueeze(op.convert(valid, "f32"), _axes(1)), x, False, False), _axes(1))
        return ov.Model(
            [op.result(op.normalize_l2(summed, _axes(1), 1e-24, "max"))], [ids, lengths], "sentence_encoder"
        )

    def _embeddings(self, ids: ov.Node, positions: ov.Node) -> ov.Node:
        words = self._weights["embeddings.word_embeddings.weight"]
        # Token types are always 0 here, so that their one row goes into the positions.
        places = self._weights["embeddings.position_embeddings.weight"][: self._max_tokens]
        places = places + self._weights["embeddings.token_type_embeddings.weight"][0]
        word = op.gather(op.constant(words), ids, _i32(0))
        place = op.gather(op.constant(places), positions, _i32(0))
        return self._norm("embeddings.LayerNorm", op.add(word, place))

    def _layer(self, name: str, x: ov.Node, mask: ov.Node) -> ov.Node:
        query, key, value = (self._split(self._dense(f"{name}.attention.self.{part}", x)) for part in _ATTENTION)
        scores = op.multiply(op.matmul(query, key, False, True), _f32(1 / math.sqrt(self._hidden // self._heads)))
        context = op.matmul(op.softmax(op.add(scores, mask), -1), value, False, False)
        context = op.reshape(op.transpose(context, _axes(0, 2, 1, 3)), _axes(0, 0, self._hidden), True)
        attention = self._dense(f"{name}.attention.output.dense", context)
        x = self._norm(f"{name}.attention.output.LayerNorm", op.add(attention, x))
        wide = op.gelu(self._dense(f"{name}.intermediate.dense", x), "erf")
        return self._norm(f"{name}.output.LayerNorm", op.add(self._dense(f"{name}.output.dense", wide), x))

    def _split(self, x: ov.Node) -> ov.Node:
        """[rows, tokens, hidden] → [rows, heads, tokens, hidden / heads]."""
        heads = op.reshape(x, _axes(0, 0, self._heads, self._hidden // self._heads), True)
        return op.transpose(heads, _axes(0, 2, 1, 3))

    def _dense(self, name: str, x: ov.Node) -> ov.Node:
        product = op.matmul(x, op.constant(self._weights[f"{name}.weight"]), False, True)
        return op.add(product, op.constant(self._weights[f"{name}.bias"]))

    def _norm(self, name: str, x: ov.Node) -> ov.Node:
        centred = op.mvn(x, _axes(-1), True, self._epsilon, "inside_sqrt")
        scaled = op.multiply(centred, op.constant(self._weights[f"{name}.weight"]))
        return op.add(scaled, op.constant(self._weights[f"{name}.bias"]))


_ATTENTION = ("query", "key", "value")


def _axes(*values: int) -> ov.Node:
    return op.constant(np.array(values, dtype=np.int32))


def _i32(value: int) -> ov.Node:
    return op.constant(np.int32(value))


def _f32(value: float) -> ov.Node:
    return op.constant(np.float32(value))
