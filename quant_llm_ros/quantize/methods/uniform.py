"""Uniform quantization: an even grid, symmetric or with a zero point, of 2 to 8 bits.

Round-to-nearest on an even grid: Jacob et al., «Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference» (CVPR 2018), section 2.1, and Nagel et al., «A White
Paper on Neural Network Quantization» (arXiv:2106.08295), section 2.2. A scale belongs to the
tensor, to an output channel, or to a block of inputs (their section 2.4, «group» granularity).

The range is min-max, where the largest weight of a block just fits; a percentile, which the rest
of the weights exceeds and is clipped; or the one of least squared error, found on a grid (Nagel et
al., section 3.1): clipping the largest weight a little makes the step, and so the error of all
others, smaller. The smaller error of the weights need not mean a better model: of SmolLM2-135M's
weights, 4 bits in blocks of 32, it takes away a third, but the largest weights matter most, and
the KL divergence from the unquantized model is 0.66 nats against 0.52 with min-max.

``signed`` lets a symmetric step be negative, so that the largest weight of a block gets the lowest
code, -2^(b-1), which is idle otherwise: at 4 bits the step is 1/8 instead of 1/7 of that weight.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import torch
from torch import Tensor

from quant_llm_ros.quantize.methods import grid
from quant_llm_ros.quantize.tensors import finite, InputStatistics, QuantizedTensor

DEFAULTS: Mapping[str, Any] = {
    "bits": 4,
    "block": 32,
    "range": "minmax",
    "symmetric": True,
    "percentile": 99.9,
}

_ROWS_AT_A_TIME = 2048  # bounds the working memory on a large vocabulary


@dataclasses.dataclass(frozen=True)
class UniformQuantizer:
    """Uniform quantizer.

    Attributes:
        bits: Width of a code, 2 to 8. Codes of 2 and 3 bits are stored as INT4 where the runtime
            knows nothing narrower.
        block: Inputs that share a scale, a power of two from 16 to 256, or ``channel`` or
            ``tensor``.
        range: ``minmax``, ``percentile``, ``mse`` or, where symmetric, ``signed``. TensorRT takes
            no negative scales.
        symmetric: Without zero points. TensorRT takes no other 4-bit weights.
        percentile: Share of the weights inside of the range ``percentile``, above 50, in percent.
    """

    bits: int
    block: int | str
    range: str
    symmetric: bool
    percentile: float = 99.9

    needs_calibration = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting is outside of what is described above.
        """
        grid.check_bits(self.bits, range(2, 9))
        grid.check_block(self.block, "channel", "tensor")
        if self.range not in ("minmax", "percentile", "mse", "signed"):
            raise ValueError(
                f"range must be minmax, percentile, mse or signed, not {self.range!r}"
            )
        if not isinstance(self.symmetric, bool):
            raise ValueError(f"symmetric must be true or false, not {self.symmetric!r}")
        if self.range == "signed" and not self.symmetric:
            raise ValueError(
                "range signed is for symmetric grids: one with zero points uses all codes as it is"
            )
        if not isinstance(self.percentile, (int, float)) or not 50 < self.percentile <= 100:
            raise ValueError(
                f"percentile must be above 50 and at most 100, not {self.percentile!r}"
            )

    def __call__(self, weight: Tensor, inputs: InputStatistics | None = None) -> QuantizedTensor:
        """Quantize a weight; what calibration learnt is not needed.

        Args:
            weight: ``[out, in]``, any float type; ``in`` is a multiple of the block.
            inputs: Not used.

        Returns:
            Codes ``[out, in]`` and scales ``[out or 1, in / block]``.

        Raises:
            ValueError: The shape does not fit the block, or a weight is not finite.
        """
        out, width = weight.shape
        rows_at_a_time = out if self.block == "tensor" else _ROWS_AT_A_TIME
        codes = torch.empty(out, width, dtype=torch.int8, device=weight.device)
        scales, zeros = [], []
        for start in range(0, out, rows_at_a_time):
            rows = finite(weight[start : start + rows_at_a_time])
            blocks = grid.in_blocks(rows, self.block)
            scale, zero = self._scale(blocks) if self.symmetric else self._asymmetric(blocks)
            rounded = grid.round_to(blocks, scale, self.bits, zero)
            codes[start : start + len(rows)] = rounded.view(rows.shape)
            scales.append(scale.squeeze(2))
            if not self.symmetric:
                zeros.append(zero.squeeze(2))
        return QuantizedTensor(
            codes,
            torch.cat(scales),
            self.bits,
            grid.width(self.block, width),
            zero_points=torch.cat(zeros).to(torch.int8) if zeros else None,
        )

    def _scale(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Step size of each block, ``[rows, blocks, 1]``, and zero points of 0."""
        zero = blocks.new_zeros(1, 1, 1)
        if self.range == "percentile":
            limit = _quantile(blocks.abs(), self.percentile / 100)
            return (limit / (2 ** (self.bits - 1) - 1)).clamp_min(grid.SMALLEST), zero
        if self.range == "signed":
            return grid.signed_scale(blocks, self.bits), zero
        scale = grid.minmax_scale(blocks, self.bits)
        if self.range == "mse":
            scale = grid.best_scale(blocks, scale, self.bits, grid.search_ratios(self.bits), None)
        return scale, zero

    def _asymmetric(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Step size and zero point of each block, both ``[rows, blocks, 1]``."""
        share = self.percentile / 100 if self.range == "percentile" else 1.0
        # Zero is always inside, so that it is a code: padding and zeros stay exact.
        high = _quantile(blocks, share).clamp_min(0)
        low = -_quantile(-blocks, share).clamp_min(0)
        best = _grid_from(low, high, self.bits)
        if self.range != "mse":
            return best
        least = torch.full_like(low, torch.inf)
        for ratio in grid.search_ratios(self.bits):
            scale, zero = _grid_from(low * ratio, high * ratio, self.bits)
            codes = grid.round_to(blocks, scale, self.bits, zero)
            error = (codes - zero).mul_(scale).sub_(blocks).square_().sum(2, keepdim=True)
            better = error < least
            best = (torch.where(better, scale, best[0]), torch.where(better, zero, best[1]))
            least = torch.where(better, error, least)
        return best


QUANTIZER = UniformQuantizer


def _grid_from(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Step size and zero point of the range from ``low`` to ``high``."""
    limit = 2 ** (bits - 1)
    scale = ((high - low) / (2**bits - 1)).clamp_min(grid.SMALLEST)
    return scale, (-limit - (low / scale).round()).clamp(-limit, limit - 1)


def _quantile(blocks: Tensor, share: float) -> Tensor:
    """Value that a share of each block is not above, ``[rows, blocks, 1]``."""
    if share == 1.0:
        return blocks.amax(2, keepdim=True)
    size = blocks.shape[2]
    # torch.quantile refuses large inputs.
    return blocks.kthvalue(max(1, round(share * size)), dim=2, keepdim=True).values
