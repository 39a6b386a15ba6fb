"""SmoothQuant: large inputs are made smaller, and their weights larger, so that both fit 8 bits.

Xiao et al., «SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models» (arXiv:2211.10438), equation 4: the factor of input j is max|x_j|^α / max|w_j|^(1-α). It
goes into the norm or the layer before. Meant together with ``quantize.activations``.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import torch
from torch import Tensor

from quant_llm_ros.quantize.methods import grid
from quant_llm_ros.quantize.methods.uniform import UniformQuantizer
from quant_llm_ros.quantize.tensors import InputStatistics, QuantizedTensor

DEFAULTS: Mapping[str, Any] = {"bits": 8, "block": "channel", "alpha": 0.5}


@dataclasses.dataclass(frozen=True)
class SmoothQuantizer:
    """Symmetric uniform quantizer behind a scaling of the inputs.

    Attributes:
        bits: Width of a code, 4 to 8.
        block: Inputs that share a scale, or ``channel`` or ``tensor``.
        alpha: How much of the difficulty moves from the inputs to the weights, 0 to 1.
    """

    bits: int
    block: int | str
    alpha: float

    needs_calibration = True

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting is outside of what is described above.
        """
        grid.check_bits(self.bits, range(4, 9))
        grid.check_block(self.block, "channel", "tensor")
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)):
            raise ValueError(f"alpha must be a number, not {self.alpha!r}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1, not {self.alpha!r}")

    def __call__(self, weight: Tensor, inputs: InputStatistics | None = None) -> QuantizedTensor:
        """Quantize a weight ``[out, in]`` with min-max ranges.

        Raises:
            ValueError: The shape does not fit the block, or a weight is not finite.
        """
        return UniformQuantizer(self.bits, self.block, "minmax", True)(weight)

    def weight_factors(self, weights: list[Tensor], inputs: InputStatistics) -> Tensor:
        """Choose the factors by the largest values; see :class:`tensors.ScalingQuantizer`."""
        columns = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
        used = (inputs.largest > 0) & (columns > 0)
        factors = inputs.largest**self.alpha / columns ** (1 - self.alpha)
        return torch.where(used, factors, 1.0).clamp(1e-5, 1e5)


QUANTIZER = SmoothQuantizer
