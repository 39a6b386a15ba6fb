"""Binary quantization: a sign per weight and a scale per block, with residual planes.

Sign and mean magnitude, which is the scale of least squared error: Rastegari et al., «XNOR-Net»
(arXiv:1603.05279), section 3.1. Each further plane binarizes what the planes before it left over:
Guo et al., «Network Sketching» (arXiv:1706.02021), section 3.1, and Lin et al., «Towards Accurate
Binary Convolutional Neural Network» (arXiv:1711.11294).
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import torch
from torch import Tensor

from quant_llm_ros.quantize.methods import grid
from quant_llm_ros.quantize.tensors import finite, InputStatistics, QuantizedTensor

DEFAULTS: Mapping[str, Any] = {"planes": 1, "block": 32}
_SIGNS = torch.tensor([[-1.0, 1.0]])


@dataclasses.dataclass(frozen=True)
class BinaryQuantizer:
    """Sum of planes of signs.

    Attributes:
        planes: 1 to 3.
        block: Inputs that share a scale in each plane, or ``channel`` or ``tensor``.
    """

    planes: int
    block: int | str

    needs_calibration = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting is outside of what is described above.
        """
        if self.planes not in (1, 2, 3) or isinstance(self.planes, bool):
            raise ValueError(f"planes must be 1, 2 or 3, not {self.planes!r}")
        grid.check_block(self.block, "channel", "tensor")

    def __call__(self, weight: Tensor, inputs: InputStatistics | None = None) -> QuantizedTensor:
        """Quantize a weight ``[out, in]``.

        Raises:
            ValueError: The shape does not fit the block, or a weight is not finite.
        """
        left = finite(weight)
        width = grid.width(self.block, left.shape[1])
        parts = []
        for _ in range(self.planes):
            blocks = grid.in_blocks(left, self.block)
            scale = blocks.abs().mean(2).clamp_min(grid.SMALLEST)
            codes = (left >= 0).to(torch.int8)
            parts.append(QuantizedTensor(codes, scale, 1, width, codebook=_SIGNS.to(left.device)))
            left = left - parts[-1].dequantize()
        whole = parts.pop()
        while parts:
            whole = dataclasses.replace(parts.pop(), residual=whole)
        return whole


QUANTIZER = BinaryQuantizer
