"""Fixed-point quantization: step sizes are powers of two (Q formats), so scaling is a shift.

The Q notation: ARM, «Introduction to Fixed-Point Arithmetic» (Application note 33, 1996); scales
restricted to powers of two: Jain et al., «Trained Quantization Thresholds» (arXiv:1903.08066),
section 3. A weight of ``bits`` bits with the step 2^-f has the format Q(bits - 1 - f).f.

:func:`integer_linear` is what a machine without a floating-point unit computes: products and sums
of integers, then one rounding shift.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import torch
from torch import Tensor

from quant_llm_ros.quantize.methods import grid
from quant_llm_ros.quantize.tensors import finite, InputStatistics, QuantizedTensor

DEFAULTS: Mapping[str, Any] = {"bits": 8, "block": 32, "range": "mse"}
_LOWEST_EXPONENT = -100  # a block of zeros; 2^-100 is a normal float32


@dataclasses.dataclass(frozen=True)
class FixedPointQuantizer:
    """Symmetric uniform quantizer whose scales are powers of two.

    Attributes:
        bits: Width of a code, 2 to 8.
        block: Inputs that share a scale, or ``channel`` or ``tensor``.
        range: ``minmax``: the smallest step with which the largest weight fits; ``mse``: that step
            or half or a quarter of it, whichever has the least squared error.
    """

    bits: int
    block: int | str
    range: str

    needs_calibration = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting is outside of what is described above.
        """
        grid.check_bits(self.bits, range(2, 9))
        grid.check_block(self.block, "channel", "tensor")
        if self.range not in ("minmax", "mse"):
            raise ValueError(f"range must be minmax or mse, not {self.range!r}")

    def __call__(self, weight: Tensor, inputs: InputStatistics | None = None) -> QuantizedTensor:
        """Quantize a weight ``[out, in]``; a scale is stored as an exponent of 8 bits.

        Raises:
            ValueError: The shape does not fit the block, or a weight is not finite.
        """
        weight = finite(weight)
        blocks = grid.in_blocks(weight, self.block)
        # frexp gives m * 2^e with m in [0.5, 1): exact, where a logarithm would round.
        mantissa, exponent = torch.frexp(grid.minmax_scale(blocks, self.bits))
        exponent = (exponent - (mantissa == 0.5).int()).clamp_min(_LOWEST_EXPONENT)
        scale = torch.ldexp(torch.ones_like(mantissa), exponent)
        if self.range == "mse":
            scale = grid.best_scale(blocks, scale, self.bits, (1.0, 0.5, 0.25), None)
        return QuantizedTensor(
            grid.round_to(blocks, scale, self.bits).view(weight.shape).to(torch.int8),
            scale.squeeze(2),
            self.bits,
            grid.width(self.block, weight.shape[1]),
            scale_bits=8,
        )


QUANTIZER = FixedPointQuantizer


def exponents(tensor: QuantizedTensor) -> Tensor:
    """Exponents of power-of-two scales, int32 of their shape.

    Raises:
        ValueError: A scale is not a power of two.
    """
    assert tensor.scales is not None
    mantissa, exponent = torch.frexp(tensor.scales)
    if not bool((mantissa == 0.5).all()):
        raise ValueError("a scale is not a power of two")
    return exponent - 1


def integer_linear(
    x: Tensor, x_exponent: int, weight: QuantizedTensor, out_exponent: int, out_bits: int = 16
) -> Tensor:
    """Linear layer in integers only.

    Args:
        x: Codes of the inputs, integers ``[n, in]``; their values are ``x * 2 ** x_exponent``.
        x_exponent: Exponent of the inputs' step.
        weight: What :class:`FixedPointQuantizer` made, ``[out, in]``.
        out_exponent: Exponent of the outputs' step.
        out_bits: Width of the outputs, at which they saturate.

    Returns:
        Codes of the outputs, int64 ``[n, out]``: rounded half up, as a shift with a rounding
        constant does.
    """
    powers = exponents(weight).long()
    lowest = int(powers.min())
    out, _ = weight.shape
    products = x.long()[:, None, :] * weight.codes.long()  # [n, out, in]
    sums = products.view(len(x), out, -1, weight.block).sum(3)  # [n, out, blocks]
    total = (sums << (powers - lowest)).sum(2)
    shift = out_exponent - (x_exponent + lowest)
    if shift > 0:
        total = (total + (1 << (shift - 1))) >> shift
    else:
        total = total << -shift
    limit = 1 << (out_bits - 1)
    return total.clamp(-limit, limit - 1)
