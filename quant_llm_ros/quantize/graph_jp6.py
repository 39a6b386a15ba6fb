"""The target ``tensorrt-jp6``: TensorRT 10.3 (JetPack 6), whose parser ends at opset 20.

INT4 DequantizeLinear is its one exception, and the reason why the file says opset 21. Norm, rotary
embedding and attention are decomposed into operators that the parser has long had.

The cache is written with ScatterND: a layer of TensorRT's own since 8.2, while ScatterElements can
end in a plugin, and a cache that grows by Concat would give every step of decoding other shapes,
which rules out CUDA graphs. The node has no ``reduction``: TensorRT 10 refuses the attribute as
such. The update is not in place, so past and present need two buffers that change roles.

8-bit weights are written as their FP16 values: before TensorRT 10.8 only INT4 may have blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from quant_llm_ros.quantize.decoder import DecoderConfig
from quant_llm_ros.quantize.graph import WeightSource
from quant_llm_ros.quantize.graph_fixed_cache import FixedCacheGraph
from quant_llm_ros.quantize.graph_weights import Weight
from quant_llm_ros.quantize.tensors import QuantizedTensor
from quant_llm_ros.quantize.weight_file import WeightFile


class JetPack6Graph(FixedCacheGraph):
    """Builds the graph of a decoder for TensorRT 10.3."""

    ir_version = 10

    def __init__(
        self,
        config: DecoderConfig,
        weights: WeightSource,
        file: WeightFile,
        context_length: int,
    ) -> None:
        """Prepare an empty graph; the arguments are those of :class:`DecoderGraph`."""
        super().__init__(config, weights, file, context_length)
        # Made with the positions, used in all layers.
        self._turns: tuple[ir.Value, ir.Value]
        self._rows: ir.Value
        self._mask: ir.Value

    def native(self, weight: QuantizedTensor) -> Weight:
        """Give INT4 without zero points as it is, all else as FP16 values."""
        form = super().native(weight)
        if isinstance(form, QuantizedTensor) and form.bits == 8:
            return form.dequantize()
        return form

    @property
    def opset(self) -> int:
        """21 with INT4 weights, else 20."""
        quantized = any(node.op_type == "DequantizeLinear" for node in self.tape.nodes)
        return 21 if quantized else 20

    def positions(self, input_ids: ir.Value, past_key: ir.Value) -> ir.Value:
        """Positions of the new tokens, and what follows from them for every layer."""
        positions = super().positions(input_ids, past_key)
        flat = self.op("Squeeze", positions, self.ints([0]))  # [n]
        cosines, sines = (
            self.op("Gather", table, flat, axis=0) for table in (self.cosines, self.sines)
        )
        self._turns = (
            self.op("Concat", cosines, cosines, axis=-1),
            self.op("Concat", self.op("Neg", sines), sines, axis=-1),
        )
        self._rows = self._cache_rows(flat)
        # The query heads of a group stand one below the other: [group * n, context].
        group = self.config.attention_heads // self.config.key_value_heads
        self._mask = self.mask(self.op("Tile", flat, self.ints([group])))
        return positions

    def _cache_rows(self, positions: ir.Value) -> ir.Value:
        """Where the new rows go in a cache: batch, head and position, int64 ``[1, kv, n, 3]``."""
        kv_heads = self.config.key_value_heads
        count = self.op("Shape", positions)
        shape = self.op("Concat", self.ints([1, kv_heads]), count, self.ints([1]), axis=0)
        head = np.arange(kv_heads, dtype=np.int64).reshape(1, kv_heads, 1, 1)
        parts = (
            self.constant(np.zeros((1, 1, 1, 1), dtype=np.int64)),
            self.constant(head),
            self.op("Unsqueeze", positions, self.ints([0, 1, 3])),
        )
        return self.op("Concat", *(self.op("Expand", part, shape) for part in parts), axis=-1)

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        """RMS norm over the last dimension, the mean square in FP32."""
        wide = self.op("Cast", x, to=ir.DataType.FLOAT)
        square = self.op("ReduceMean", self.op("Mul", wide, wide), self.ints([-1]), keepdims=1)
        epsilon = self.constant(np.array(self.config.norm_epsilon, dtype=np.float32))
        root = self.op("Sqrt", self.op("Add", square, epsilon))
        normed = self.op("Cast", self.op("Div", wide, root), to=ir.DataType.FLOAT16)
        return self.op("Mul", normed, self.float_vector(f"{name}.weight"))

    def rotary(self, x: ir.Value, positions: ir.Value, heads: int) -> ir.Value:
        """Rotary embedding of ``[1, n, heads * dim]``, as ``[1, heads, n, dim]``."""
        cosines, sines = self._turns
        split = self.split_heads(x, heads)
        half, dim = self.config.head_dim // 2, self.config.head_dim
        first, second = (
            self.op("Slice", split, self.ints([start]), self.ints([start + half]), self.ints([3]))
            for start in (0, dim - half)
        )
        swapped = self.op("Concat", second, first, axis=-1)
        return self.op("Add", self.op("Mul", split, cosines), self.op("Mul", swapped, sines))

    def attention(
        self,
        x: ir.Value,
        positions: ir.Value,
        past_key: ir.Value,
        past_value: ir.Value,
        prefix: str,
    ) -> tuple[ir.Value, Sequence[ir.Value]]:
        """Grouped-query attention over the whole cache, masked; see :class:`DecoderGraph`."""
        config = self.config
        heads, kv_heads = config.attention_heads, config.key_value_heads
        q, k, v = self.projections(x, prefix)
        keys, values = (
            self.op("ScatterND", past, self._rows, new)
            for past, new in (
                (past_key, self.rotary(k, positions, kv_heads)),
                (past_value, self.split_heads(v, kv_heads)),
            )
        )
        scale = self.constant(np.array(config.head_dim**-0.5, dtype=np.float16))
        # Before the product, which then stays far from the end of FP16.
        q = self.op("Mul", self.rotary(q, positions, heads), scale)
        # One product per key-value head, with its group of query heads as rows.
        q = self.op("Reshape", q, self.ints([1, kv_heads, -1, config.head_dim]))
        scores = self.op("MatMul", q, self.op("Transpose", keys, perm=[0, 1, 3, 2]))
        weights = self.op("Softmax", self.op("Add", scores, self._mask), axis=-1)
        attended = self.op("MatMul", weights, values)  # [1, kv, group * n, dim]
        attended = self.op("Reshape", attended, self.ints([1, heads, -1, config.head_dim]))
        return self.linear(self.join_heads(attended), f"{prefix}o_proj"), (keys, values)
