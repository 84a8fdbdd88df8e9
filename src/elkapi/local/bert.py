"""The graph of a BERT sentence encoder with ONNX Runtime's fused operators; `onnx_wire` writes the bytes.

Embeddings, layers of attention and feed-forward with exact (erf) GELU, then the mean over real tokens, normalised.
The mean's division is omitted: normalising to unit length cancels any positive factor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elkapi.local import onnx_wire as wire
from elkapi.local.models import ModelRow, ModelUnusable
from elkapi.local.safetensors import Tensors

INPUT_IDS, MASK, VECTORS = "input_ids", "mask", "vectors"

# Smaller tensors are inside the message: the session requires the values of shape-like constants.
INLINE_BYTES_MAX = 64


class Graph:
    """The serialised model and the arrays its placeholders stand for; both must outlive the session."""

    def __init__(self, row: ModelRow, tensors: Tensors) -> None:
        """Raises ModelUnusable if a tensor is missing or its shape differs from the row's."""
        self._row = row
        self._tensors = tensors
        self._nodes: list[bytes] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        hidden = self._embeddings()
        for layer in range(self._layer_count()):
            hidden = self._layer(layer, hidden)
        self._pool(hidden)
        self.message = self._message()

    def _get(self, name: str) -> NDArray[np.float32]:
        try:
            return self._tensors[name]
        except KeyError:
            raise ModelUnusable(f"the weights of {self._row.id} have no tensor {name}") from None

    def _layer_count(self) -> int:
        prefix = "encoder.layer."
        return len({name.removeprefix(prefix).split(".")[0] for name in self._tensors if name.startswith(prefix)})

    def _keep(self, name: str, array: NDArray[Any]) -> str:
        self.arrays[name] = np.ascontiguousarray(array)
        return name

    def _fused(self, operator: str, inputs: list[str], outputs: list[str], **attributes: float | int) -> None:
        self._nodes.append(wire.node(operator, inputs, outputs, wire.CONTRIB, attributes))

    def _plain(self, operator: str, inputs: list[str], outputs: list[str], **attributes: float | int) -> None:
        self._nodes.append(wire.node(operator, inputs, outputs, "", attributes))

    def _embeddings(self) -> str:
        words = self._get("embeddings.word_embeddings.weight")
        # Every token has type 0, so that row is added to the positions once.
        positions = self._get("embeddings.position_embeddings.weight")
        positions = positions + self._get("embeddings.token_type_embeddings.weight")[0]
        if words.shape[1] != self._row.dimensions or len(positions) < self._row.window:
            raise ModelUnusable(
                f"the weights of {self._row.id} have {words.shape[1]} dimensions and {len(positions)} positions; "
                f"the row says {self._row.dimensions} and a window of {self._row.window}"
            )
        names = [
            INPUT_IDS,
            "",
            self._keep("words", words),
            self._keep("positions", positions),
            "",
            self._keep("embed_gain", self._get("embeddings.LayerNorm.weight")),
            self._keep("embed_bias", self._get("embeddings.LayerNorm.bias")),
            MASK,
        ]
        self._fused("EmbedLayerNormalization", names, ["hidden_0", "lengths"], epsilon=self._row.layer_norm_epsilon)
        return "hidden_0"

    def _dense(self, node: str, tensor: str) -> str:
        """Keep a linear layer's matrix as (in, out); the file has (out, in)."""
        return self._keep(node, self._get(f"{tensor}.weight").T)

    def _layer(self, number: int, hidden: str) -> str:
        source = f"encoder.layer.{number}."
        self_attention = [f"{source}attention.self.{part}" for part in ("query", "key", "value")]
        projections = np.concatenate([self._get(f"{part}.weight").T for part in self_attention], axis=1)
        biases = np.concatenate([self._get(f"{part}.bias") for part in self_attention])
        names = [hidden, self._keep(f"qkv_{number}", projections), self._keep(f"qkv_bias_{number}", biases), "lengths"]
        self._fused("Attention", names, [f"attended_{number}"], num_heads=self._row.heads)
        attention = f"{source}attention.output"
        weights = self._dense(f"project_{number}", f"{attention}.dense")
        self._plain("MatMul", [f"attended_{number}", weights], [f"projected_{number}"])
        middle = self._add_and_norm(f"attention_{number}", hidden, f"projected_{number}", attention)
        weights = self._dense(f"widen_{number}", f"{source}intermediate.dense")
        self._plain("MatMul", [middle, weights], [f"wide_{number}"])
        bias = self._keep(f"widen_bias_{number}", self._get(f"{source}intermediate.dense.bias"))
        self._fused("BiasGelu", [f"wide_{number}", bias], [f"active_{number}"])
        weights = self._dense(f"narrow_{number}", f"{source}output.dense")
        self._plain("MatMul", [f"active_{number}", weights], [f"narrowed_{number}"])
        return self._add_and_norm(f"hidden_{number + 1}", middle, f"narrowed_{number}", f"{source}output")

    def _add_and_norm(self, result: str, skip: str, value: str, source: str) -> str:
        # Three plain nodes: ONNX Runtime's LayerNormalization is vectorised, its SkipLayerNormalization is not and
        # took five times as long as these, 9 % of the whole run.
        self._plain("Add", [value, skip], [f"{result}_sum"])
        bias = self._keep(f"{result}_bias", self._get(f"{source}.dense.bias"))
        self._plain("Add", [f"{result}_sum", bias], [f"{result}_biased"])
        gain = self._keep(f"{result}_gain", self._get(f"{source}.LayerNorm.weight"))
        beta = self._keep(f"{result}_beta", self._get(f"{source}.LayerNorm.bias"))
        names = [f"{result}_biased", gain, beta]
        self._plain("LayerNormalization", names, [result], epsilon=self._row.layer_norm_epsilon)
        return result

    def _pool(self, hidden: str) -> None:
        self._keep("axis_1", np.array([1], np.int64))
        self._plain("Cast", [MASK], ["mask_float"], to=wire.FLOAT)
        self._plain("Unsqueeze", ["mask_float", "axis_1"], ["mask_row"])
        self._plain("MatMul", ["mask_row", hidden], ["sum_row"])
        self._plain("Squeeze", ["sum_row", "axis_1"], ["sum"])
        self._plain("LpNormalization", ["sum"], [VECTORS], axis=1, p=2)

    def large_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays to pass to the session besides the message."""
        return {name: array for name, array in self.arrays.items() if array.nbytes > INLINE_BYTES_MAX}

    def _message(self) -> bytes:
        large = self.large_arrays()
        fields = list(self._nodes)
        for name, array in self.arrays.items():
            fields.append(wire.placeholder(name, array) if name in large else wire.constant(name, array))
        fields.append(wire.graph_input(INPUT_IDS, wire.INT32, ("batch", "tokens")))
        fields.append(wire.graph_input(MASK, wire.INT32, ("batch", "tokens")))
        fields.append(wire.graph_output(VECTORS, wire.FLOAT, ("batch", self._row.dimensions)))
        return wire.model(b"".join(fields))
