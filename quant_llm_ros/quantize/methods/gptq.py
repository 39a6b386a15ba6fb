"""GPTQ: each column's rounding error is made good by the columns that are not rounded yet.

Frantar et al., «GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers»
(arXiv:2210.17323), algorithm 1: the inverse Hessian's Cholesky factor, columns in blocks of 128
whose updates of the rest are done at once. With ``order: activation`` the columns of the largest
inputs come first (its reference code's «act-order»); the scales of the blocks are then fixed
beforehand, so that the stored weight has its columns in their own order («static groups»).
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import torch
from torch import Tensor

from quant_llm_ros.quantize.methods import grid
from quant_llm_ros.quantize.methods.uniform import UniformQuantizer
from quant_llm_ros.quantize.tensors import finite, InputStatistics, QuantizedTensor

DEFAULTS: Mapping[str, Any] = {
    "bits": 4,
    "block": 32,
    "range": "minmax",
    "order": "activation",
    "damping": 0.01,
}
_COLUMNS = 128  # rounded before their error reaches the columns behind them


@dataclasses.dataclass(frozen=True)
class GptqQuantizer:
    """Symmetric uniform quantizer that rounds for the least error of the layer's output.

    Attributes:
        bits: Width of a code, 2 to 8.
        block: Inputs that share a scale, a power of two from 16 to 256, or ``channel``.
        range: ``minmax`` or ``mse``, of the weights' errors weighted by their inputs.
        order: ``activation``: columns of the largest inputs first; ``given``: from the first on.
        damping: Share of the Hessian's mean diagonal that is added to its diagonal.
    """

    bits: int
    block: int | str
    range: str
    order: str
    damping: float

    needs_calibration = True

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting is outside of what is described above.
        """
        grid.check_bits(self.bits, range(2, 9))
        grid.check_block(self.block, "channel")
        if self.range not in ("minmax", "mse"):
            raise ValueError(f"range must be minmax or mse, not {self.range!r}")
        if self.order not in ("activation", "given"):
            raise ValueError(f"order must be activation or given, not {self.order!r}")
        if not isinstance(self.damping, (int, float)) or not 0 < self.damping <= 1:
            raise ValueError(f"damping must be above 0 and at most 1, not {self.damping!r}")

    def __call__(self, weight: Tensor, inputs: InputStatistics | None = None) -> QuantizedTensor:
        """Quantize a weight ``[out, in]``; without ``inputs`` (the embedding) round to nearest.

        Raises:
            ValueError: The shape does not fit the block, or a weight is not finite.
        """
        if inputs is None:
            return UniformQuantizer(self.bits, self.block, self.range, True)(weight)
        weight = finite(weight).clone()
        width = weight.shape[1]
        block = grid.width(self.block, width)
        hessian = inputs.hessian.clone()
        diagonal = hessian.diagonal()
        unused = diagonal == 0
        diagonal[unused] = 1.0
        weight[:, unused] = 0.0
        diagonal += self.damping * diagonal.mean()
        by_size = self.order == "activation"
        order = torch.argsort(inputs.hessian.diagonal(), descending=True, stable=True)
        order = order if by_size else torch.arange(width, device=weight.device)
        scales = self._scales(weight, hessian.diagonal(), block)  # [out, blocks]
        weight = weight[:, order]
        factor = _inverse_factor(hessian[order][:, order])
        codes = torch.empty_like(weight)
        step = _COLUMNS if by_size else max(block, _COLUMNS)
        for start in range(0, width, step):
            end = min(start + step, width)
            part = weight[:, start:end].clone()
            errors = torch.empty_like(part)
            for i in range(end - start):
                column = start + i
                number = int(order[column]) // block
                if not by_size and column % block == 0:
                    # The block's weights have changed since: its range is that of the new ones.
                    importance = hessian.diagonal()[column : column + block]
                    fresh = self._scales(part[:, i : i + block], importance, block)
                    scales[:, number] = fresh[:, 0]
                scale = scales[:, number]
                rounded = grid.round_to(part[:, i], scale, self.bits)
                codes[:, column] = rounded
                errors[:, i] = (part[:, i] - rounded * scale) / factor[column, column]
                part[:, i + 1 :] -= errors[:, i, None] * factor[column, column + 1 : end]
            weight[:, end:] -= errors @ factor[start:end, end:]
        sorted_codes = torch.empty_like(codes, dtype=torch.int8)
        sorted_codes[:, order] = codes.to(torch.int8)
        return QuantizedTensor(sorted_codes, scales, self.bits, block)

    def _scales(self, weight: Tensor, importance: Tensor, block: int) -> Tensor:
        """Step sizes ``[out, in / block]`` of a weight whose inputs matter differently."""
        blocks = grid.in_blocks(weight, block)
        scale = grid.minmax_scale(blocks, self.bits)
        if self.range == "mse":
            ratios = grid.search_ratios(self.bits)
            weights = importance.view(-1, block)
            scale = grid.best_scale(blocks, scale, self.bits, ratios, weights)
        return scale.squeeze(2)


QUANTIZER = GptqQuantizer


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse, ``[in, in]``.

    Raises:
        ValueError: The damped Hessian is still singular.
    """
    try:
        # In FP64: the Hessian of a few thousand tokens is badly conditioned.
        lower = torch.linalg.cholesky(hessian.double())
        inverse = torch.cholesky_inverse(lower)
        return torch.linalg.cholesky(inverse, upper=True).float()
    except torch.linalg.LinAlgError as error:
        raise ValueError(f"the Hessian is singular; raise damping ({error})") from error
