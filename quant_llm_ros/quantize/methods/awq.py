"""AWQ: weights of large inputs are made larger before rounding, and so keep more of their bits.

Lin et al., «AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration»
(arXiv:2306.00978), section 3.2: the factor of an input is its mean magnitude to a power between 0
and 1, the power being the one of the least error of the layer's output. The inputs are divided by
it in the norm or the layer before. Then ranges are clipped where that makes the error smaller
(its reference code); here the error of a weight counts as much as its input is large.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import torch
from torch import Tensor

from quant_llm_ros.quantize.methods import grid
from quant_llm_ros.quantize.methods.uniform import UniformQuantizer
from quant_llm_ros.quantize.tensors import finite, InputStatistics, output_error, QuantizedTensor

DEFAULTS: Mapping[str, Any] = {"bits": 4, "block": 32, "clip": True}
_STEPS = 20  # powers tried, as in the reference code


@dataclasses.dataclass(frozen=True)
class AwqQuantizer:
    """Symmetric uniform quantizer behind a scaling of the inputs.

    Attributes:
        bits: Width of a code, 2 to 8.
        block: Inputs that share a scale, a power of two from 16 to 256, or ``channel``.
        clip: Whether ranges are clipped for the least weighted error.
    """

    bits: int
    block: int | str
    clip: bool

    needs_calibration = True

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting is outside of what is described above.
        """
        grid.check_bits(self.bits, range(2, 9))
        grid.check_block(self.block, "channel")
        if not isinstance(self.clip, bool):
            raise ValueError(f"clip must be true or false, not {self.clip!r}")

    def __call__(self, weight: Tensor, inputs: InputStatistics | None = None) -> QuantizedTensor:
        """Quantize a weight ``[out, in]``; without ``inputs`` (the embedding) with min-max.

        Raises:
            ValueError: The shape does not fit the block, or a weight is not finite.
        """
        plain = UniformQuantizer(self.bits, self.block, "minmax", True)
        if inputs is None or not self.clip:
            return plain(weight)
        weight = finite(weight)
        blocks = grid.in_blocks(weight, self.block)
        importance = inputs.hessian.diagonal().reshape(-1, blocks.shape[2])
        start = grid.minmax_scale(blocks, self.bits)
        scale = grid.best_scale(
            blocks, start, self.bits, grid.search_ratios(self.bits), importance
        )
        codes = grid.round_to(blocks, scale, self.bits).view(weight.shape).to(torch.int8)
        return QuantizedTensor(codes, scale.squeeze(2), self.bits, blocks.shape[2])

    def weight_factors(self, weights: list[Tensor], inputs: InputStatistics) -> Tensor:
        """Choose the factors of the least error; see :class:`tensors.ScalingQuantizer`."""
        magnitude = inputs.mean_abs.clamp_min(1e-4 * float(inputs.mean_abs.mean()) + 1e-30)
        plain = UniformQuantizer(self.bits, self.block, "minmax", True)
        best, least = torch.ones_like(magnitude), float("inf")
        for step in range(_STEPS):
            factors = magnitude ** (step / _STEPS)
            factors = factors / (factors.max() * factors.min()).sqrt()
            error = sum(
                output_error(
                    plain(weight * factors).dequantize() / factors - weight, inputs.hessian
                )
                for weight in weights
            )
            if error < least:
                best, least = factors, error
        return best


QUANTIZER = AwqQuantizer
