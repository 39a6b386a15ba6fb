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

import onnx_ir as ir

from quant_llm_ros.quantize.graph_fixed_cache import FixedCacheGraph


class TensorRtGraph(FixedCacheGraph):
    """Builds the graph of a decoder for TensorRT with its operators for transformers."""

    ir_version = 12
    _mask: ir.Value | None = None

    @property
    def opset(self) -> int:
        """24, which brought TensorScatter."""
        return 24

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
