"""The target ``tensorrt``: TensorRT 10.15 and later (JetPack 7.2), opset 24.

TensorScatter becomes TensorRT's KV cache update, which writes into the cache in place: the buffer
of ``present_…`` must be that of ``past_…``. Attention gets the whole cache and a mask, because
TensorRT takes neither ``nonpad_kv_seqlen`` nor past and present, and because the meaning of
``is_causal`` with a cache outside of the operator changed within opset 24 (errata in ONNX 1.23).
The mask is FP16 and added: with a boolean one that several layers share, TensorRT for RTX 1.7
fails inside of its compiler («more than one op named …») for passes of 2 to 8 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch

from quant_llm_ros.quantize.graph_fixed_cache import FixedCacheGraph
from quant_llm_ros.quantize.graph_weights import Weight
from quant_llm_ros.quantize.tensors import QuantizedTensor


class TensorRtGraph(FixedCacheGraph):
    """Builds the graph of a decoder for TensorRT with its operators for transformers."""

    ir_version = 12
    _mask: ir.Value | None = None

    @property
    def opset(self) -> int:
        """24, which brought TensorScatter."""
        return 24

    def native(self, weight: QuantizedTensor) -> Weight:
        """Give E4M3 with one scale per output, and NVFP4, as they are too."""
        if weight.low_rank is None and _is_fp8(weight):
            return weight
        if weight.low_rank is None and weight.scale_unit is not None:
            return weight
        return super().native(weight)

    def has_kernel(self, weight: Weight) -> bool:
        """Whether TensorRT multiplies with the codes."""
        if isinstance(weight, QuantizedTensor) and not weight.is_integer:
            return _is_fp8(weight) or weight.scale_unit is not None
        return super().has_kernel(weight)

    def matrix(self, weight: Weight, name: str) -> list[ir.Value]:
        """Write a weight; of NVFP4 the codes, the E4M3 scales and the scale of those."""
        if isinstance(weight, torch.Tensor) or weight.scale_unit is None:
            return super().matrix(weight, name)
        assert weight.scales is not None
        codes = weight.codes.T.contiguous().numpy()
        scales = (weight.scales / weight.scale_unit).to(torch.float8_e4m3fn).T.contiguous()
        raw = scales.view(torch.uint8).numpy()
        unit = self.constant(np.array(weight.scale_unit, dtype=np.float16))
        return [
            self.tape.initializer(self.file.add_int4(name, codes, ir.DataType.FLOAT4E2M1)),
            self.tape.initializer(
                self.file.add_as(f"{name}.scales", raw, ir.DataType.FLOAT8E4M3FN)
            ),
            unit,
        ]

    def dequantized(self, weight: Weight, matrix: list[ir.Value]) -> ir.Value:
        """Values of a weight; of NVFP4 by way of its scales."""
        if isinstance(weight, torch.Tensor) or weight.scale_unit is None:
            return super().dequantized(weight, matrix)
        scales = self.op("DequantizeLinear", matrix[1], matrix[2])
        return self.op("DequantizeLinear", matrix[0], scales, axis=0, block_size=weight.block)

    def rotary(self, x: ir.Value, positions: ir.Value, heads: int) -> ir.Value:
        """Rotary embedding of ``[1, n, heads * dim]``, as ``[1, heads, n, dim]``."""
        split = self.split_heads(x, heads)
        return self.op("RotaryEmbedding", split, self.cosines, self.sines, positions)

    def attention(
        self,
        x: ir.Value,
        positions: ir.Value,
        past_key: ir.Value,
        past_value: ir.Value,
        prefix: str,
    ) -> tuple[ir.Value, Sequence[ir.Value]]:
        """Grouped-query attention over the whole cache, masked; see :class:`DecoderGraph`."""
        heads, kv_heads = self.config.attention_heads, self.config.key_value_heads
        q, k, v = self.projections(x, prefix)
        keys, values = (
            self.op("TensorScatter", past, new, self.write_index, axis=-2, mode="linear")
            for past, new in (
                (past_key, self.rotary(k, positions, kv_heads)),
                (past_value, self.split_heads(v, kv_heads)),
            )
        )
        if self._mask is None:  # one for all layers
            self._mask = self.op("Unsqueeze", self.mask(positions), self.ints([0]))
        attended = self.op("Attention", self.rotary(q, positions, heads), keys, values, self._mask)
        return self.linear(self.join_heads(attended), f"{prefix}o_proj"), (keys, values)


def _is_fp8(weight: QuantizedTensor) -> bool:
    """Whether a weight is E4M3 with scales that TensorRT takes: none of blocks."""
    return weight.codes.dtype == torch.float8_e4m3fn and weight.block == weight.shape[1]
