"""What the graphs for TensorRT share: FP16, and a key-value cache of a fixed size.

Inputs: ``input_ids`` int64 ``[1, n]``, ``logit_positions`` int64 ``[k]`` (which of the new tokens'
logits are wanted), ``write_index`` int64 ``[1]`` (number of tokens in the cache: the first new one
goes there), ``past_key_<i>`` and ``past_value_<i>`` FP16 ``[1, kv, context, dim]``.
Outputs: ``logits`` float32 ``[k, vocab]``, ``present_key_<i>`` and ``present_value_<i>`` FP16
``[1, kv, context, dim]``: the cache with the new rows in it.

``n`` and ``k`` are the only sizes that change, so a step of decoding always has the same shapes.
To roll back is to give a smaller ``write_index``: rows from there on are never looked at before
they are written again. They are multiplied by zero though, and zero times NaN is NaN: the caches
must be cleared once, when they are allocated. ``write_index + n`` must not exceed the context.

The token embedding is a table of its own in FP16: TensorRT gathers neither INT4 nor INT8, and its
operators on bits are missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx_ir as ir
import torch

from quant_llm_ros.errors import CheckpointError
from quant_llm_ros.quantize.decoder import DecoderConfig
from quant_llm_ros.quantize.graph import DecoderGraph, value_info, WeightSource
from quant_llm_ros.quantize.graph_weights import as_blocks, Weight
from quant_llm_ros.quantize.tensors import QuantizedTensor
from quant_llm_ros.quantize.weight_file import WeightFile

_SMALLEST = np.float16(2.0**-24)
# Added to the score of a row that must not be seen. e to this is 0 in FP16 and in FP32, and no
# score that is added to it leaves the range of FP16.
_UNSEEN = -30000.0
_LARGEST_BLOCK = 128  # of those that TensorRT promises for INT4


class HalfWeightFile(WeightFile):
    """Writes FP16 where other graphs have FP32."""

    def add(self, name: str, array: NDArray[Any]) -> ir.ExternalTensor:
        """Append an array; float32 is rounded to FP16.

        Raises:
            CheckpointError: A value is beyond the range of FP16.
        """
        if array.dtype != np.float32:
            return super().add(name, array)
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.isfinite(half).all():
            raise CheckpointError(
                f"{name} has a value of {np.abs(array).max():.3g}, beyond the range of FP16; "
                f"use target ort for this checkpoint"
            )
        # TensorRT refuses a scale of zero.
        half[(half == 0) & (array > 0)] = _SMALLEST
        return self._append(name, half, ir.DataType.FLOAT16, half.shape)


class FixedCacheGraph(DecoderGraph):
    """Builds what is the same for every TensorRT; without attention."""

    float_type = ir.DataType.FLOAT16
    weight_file = HalfWeightFile
    integer_products = False  # TensorRT has none, but recognizes those of dequantized numbers

    def __init__(
        self,
        config: DecoderConfig,
        weights: WeightSource,
        file: WeightFile,
        context_length: int,
    ) -> None:
        """Prepare an empty graph; the arguments are those of :class:`DecoderGraph`.

        Raises:
            CheckpointError: The architecture does not fit into FP16.
        """
        if config.architecture == "gemma3":
            # The sums between its layers exceed 65504, as was seen by all who tried.
            raise CheckpointError(
                "targets for TensorRT compute in FP16, whose range is too small for Gemma 3; use "
                "target ort"
            )
        super().__init__(config, weights, file, context_length)
        self.write_index = value_info("write_index", ir.DataType.INT64, [1])
        self.more_inputs = [self.write_index]

    def native(self, weight: QuantizedTensor) -> Weight:
        """Give INT4 and INT8 without zero points as they are, all else as FP16 values."""
        if not weight.is_integer or weight.zero_points is not None:
            return weight.dequantize()
        return as_blocks(weight, _LARGEST_BLOCK) or weight.dequantize()

    def embedding_and_head(
        self,
    ) -> tuple[Callable[[ir.Value], ir.Value], Callable[[ir.Value], ir.Value]]:
        """Make the token embedding, a table in FP16, and the output head."""
        embedding = self.weights("model.embed_tokens.weight")
        tied = self.config.tied_embedding
        head_weight = embedding if tied else self.weights("lm_head.weight")
        head = self.matrix(head_weight, "lm_head.weight")
        values = embedding if isinstance(embedding, torch.Tensor) else embedding.dequantize()
        table = self.initializer("model.embed_tokens.weight", values.numpy())

        def logits(x: ir.Value) -> ir.Value:
            product = self.product(x, head_weight, head)
            return self.op("Cast", product, to=ir.DataType.FLOAT)

        return lambda tokens: self.op("Gather", table, tokens, axis=0), logits

    def positions(self, input_ids: ir.Value, past_key: ir.Value) -> ir.Value:
        """Positions of the new tokens, int64 ``[1, n]``: from ``write_index`` on."""
        zero = self.ints([0])
        count = self.op("Squeeze", self.op("Shape", input_ids, start=1, end=2), zero)
        numbers = self.op("Range", self.ints(0), count, self.ints(1))
        return self.op("Unsqueeze", self.op("Add", numbers, self.write_index), zero)

    def mask(self, positions: ir.Value) -> ir.Value:
        """Make what is added to the scores: a token sees the rows of the cache up to its own.

        Args:
            positions: Int64 ``[…, n]``.

        Returns:
            FP16 ``[…, n, context]``, 0 for seen rows.
        """
        rows = self.constant(np.arange(self.context_length, dtype=np.int64))
        seen = self.op("LessOrEqual", rows, self.op("Unsqueeze", positions, self.ints([-1])))
        zero, unseen = (self.constant(np.array(x, dtype=np.float16)) for x in (0.0, _UNSEEN))
        return self.op("Where", seen, zero, unseen)

    def split_heads(self, x: ir.Value, heads: int) -> ir.Value:
        """Turn ``[1, n, heads * dim]`` into ``[1, heads, n, dim]``."""
        split = self.op("Reshape", x, self.ints([0, 0, heads, self.config.head_dim]))
        return self.op("Transpose", split, perm=[0, 2, 1, 3])

    def join_heads(self, x: ir.Value) -> ir.Value:
        """Turn ``[1, heads, n, dim]`` into ``[1, n, heads * dim]``."""
        return self.op(
            "Reshape", self.op("Transpose", x, perm=[0, 2, 1, 3]), self.ints([0, 0, -1])
        )

    def cache_shape(self, length: str) -> list[int | str]:
        """Shape of a layer's keys or values, always the whole context."""
        return [1, self.config.key_value_heads, self.context_length, self.config.head_dim]
