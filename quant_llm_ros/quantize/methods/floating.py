"""Floating-point quantization: FP16, BF16, FP8 (E4M3, E5M2) and NVFP4 (E2M1 with block scales).

FP8: Micikevicius et al., «FP8 Formats for Deep Learning» (arXiv:2209.05433), section 3. E2M1 and
the block formats: Rouhani et al., «Microscaling Data Formats for Deep Learning»
(arXiv:2310.10537), section 3, and the Open Compute Project's MX specification 1.0. NVFP4 has
blocks of 16, whose scales are E4M3 numbers, and one FP32 scale for the tensor, which brings the
largest block scale to the largest E4M3 number (NVIDIA, «Pretraining Large Language Models with
NVFP4», arXiv:2509.25149, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import torch
from torch import Tensor

from quant_llm_ros.quantize.methods import grid
from quant_llm_ros.quantize.tensors import E4M3_LIMIT, finite, InputStatistics, QuantizedTensor

DEFAULTS: Mapping[str, Any] = {"type": "fp8_e4m3", "block": "channel"}

_TYPES: Mapping[str, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
"""Magnitudes of the 16 numbers of FP4; bit 3 of a code is the sign."""
_E2M1_LIMIT = 6.0
_FP4_BLOCK = 16
_ROWS_AT_A_TIME = 2048


@dataclasses.dataclass(frozen=True)
class FloatingQuantizer:
    """Rounds weights to a narrower floating-point type.

    Attributes:
        type: ``fp16``, ``bf16``, ``fp8_e4m3``, ``fp8_e5m2`` or ``nvfp4``.
        block: For FP8: inputs that share a scale, or ``channel`` or ``tensor``. The others have no
            choice: none for 16 bits, 16 for NVFP4.
    """

    type: str
    block: int | str

    needs_calibration = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting is outside of what is described above.
        """
        if self.type not in (*_TYPES, "nvfp4"):
            raise ValueError(f"type must be {', '.join(_TYPES)} or nvfp4, not {self.type!r}")
        grid.check_block(self.block, "channel", "tensor")

    def __call__(self, weight: Tensor, inputs: InputStatistics | None = None) -> QuantizedTensor:
        """Quantize a weight ``[out, in]``.

        Raises:
            ValueError: The shape does not fit the block, a weight is not finite, or it is beyond
                the range of FP16.
        """
        weight = finite(weight)
        if self.type == "nvfp4":
            return _nvfp4(weight)
        kind = _TYPES[self.type]
        largest = torch.finfo(kind).max
        if self.type in ("fp16", "bf16"):
            if float(weight.abs().max()) > largest:
                raise ValueError(f"a weight is beyond the range of {self.type}")
            return QuantizedTensor(weight.to(kind), None, 16, weight.shape[1])
        blocks = grid.in_blocks(weight, self.block)
        scale = (blocks.abs().amax(2, keepdim=True) / largest).clamp_min(grid.SMALLEST)
        # The division may round up past the largest number, which E4M3 would turn into NaN.
        codes = (blocks / scale).clamp_(-largest, largest).view(weight.shape).to(kind)
        return QuantizedTensor(codes, scale.squeeze(2), 8, grid.width(self.block, weight.shape[1]))


QUANTIZER = FloatingQuantizer


def _nvfp4(weight: Tensor) -> QuantizedTensor:
    out, inputs = weight.shape
    if inputs % _FP4_BLOCK:
        raise ValueError(f"{inputs} inputs are not a multiple of the block, {_FP4_BLOCK}")
    unit = max(float(weight.abs().max()) / (_E2M1_LIMIT * E4M3_LIMIT), grid.SMALLEST)
    codes = torch.empty_like(weight, dtype=torch.int8)
    scales = weight.new_empty(out, inputs // _FP4_BLOCK)
    for start in range(0, out, _ROWS_AT_A_TIME):
        blocks = weight[start : start + _ROWS_AT_A_TIME].reshape(-1, inputs // 16, _FP4_BLOCK)
        wanted = blocks.abs().amax(2) / _E2M1_LIMIT / unit
        rounded = wanted.clamp_max(E4M3_LIMIT).to(torch.float8_e4m3fn).float()
        # Not zero: TensorRT refuses such scales. 2^-9 is the smallest E4M3 number.
        scale = rounded.clamp_min(2.0**-9) * unit
        rows = slice(start, start + len(blocks))
        scales[rows] = scale
        codes[rows] = to_e2m1(blocks / scale[:, :, None]).view(-1, inputs)
    book = torch.cat((E2M1, -E2M1))[None].to(weight.device)
    return QuantizedTensor(
        codes, scales, 4, _FP4_BLOCK, codebook=book, scale_bits=8, scale_unit=unit
    )


def to_e2m1(x: Tensor) -> Tensor:
    """Round to FP4, ties to the even code, saturating: int8 codes from 0 to 15."""
    middles = ((E2M1[1:] + E2M1[:-1]) / 2).to(x.device)
    below, above = (torch.bucketize(x.abs(), middles, right=side) for side in (False, True))
    nearest = torch.where(below % 2 == 0, below, above)
    return (nearest + 8 * torch.signbit(x)).to(torch.int8)
