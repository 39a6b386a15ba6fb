"""Learned step sizes: the grid that quantization-aware training left behind.

Esser et al., «Learned Step Size Quantization» (arXiv:1902.08153), section 2.1. ``quant_llm
finetune`` with ``method: lsq`` writes the step sizes beside the adapter. Rounding on them gives
the weights that were trained: exactly where these were trained whole, nearly where an adapter in
bfloat16 is merged first.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from quant_llm_ros.quantize.methods import grid
from quant_llm_ros.quantize.methods.uniform import UniformQuantizer
from quant_llm_ros.quantize.tensors import finite, InputStatistics, QuantizedTensor

STEPS = "steps.safetensors"
DEFAULTS: Mapping[str, Any] = {"bits": 4, "block": 32, "range": "minmax", "steps": ""}


@dataclasses.dataclass(frozen=True)
class LearnedQuantizer:
    """Symmetric uniform quantizer whose scales come from a file.

    Attributes:
        bits: Width of a code, 2 to 8.
        block: Inputs that share a scale, a power of two from 16 to 256, or ``channel``.
        range: Of weights that the file does not name, such as the embedding, and where training
            begins: ``minmax``, ``mse`` or ``signed``; with the last, steps may be negative.
        steps: The file, relative to the recipe; empty for a recipe that is being trained.
        weight: Name of the weight, which the recipe fills in.
    """

    bits: int
    block: int | str
    range: str
    steps: str
    weight: str = ""

    needs_calibration = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting is outside of what is described above.
        """
        grid.check_bits(self.bits, range(2, 9))
        grid.check_block(self.block, "channel")
        if self.range not in ("minmax", "mse", "signed"):
            raise ValueError(f"range must be minmax, mse or signed, not {self.range!r}")
        if not isinstance(self.steps, str):
            raise ValueError(f"steps must be a path, not {self.steps!r}")

    def bound(self, folder: Path, weight: str) -> LearnedQuantizer:
        """Give the quantizer of one weight, for a recipe in a folder."""
        steps = str(folder / self.steps) if self.steps else ""
        return dataclasses.replace(self, steps=steps, weight=weight)

    def __call__(self, weight: Tensor, inputs: InputStatistics | None = None) -> QuantizedTensor:
        """Quantize a weight ``[out, in]``.

        Raises:
            ValueError: The file is missing or damaged or of another shape, the shape does not fit
                the block, or a weight is not finite.
        """
        steps = self._read(weight.device)
        if steps is None:
            return UniformQuantizer(self.bits, self.block, self.range, True)(weight)
        weight = finite(weight)
        blocks = grid.in_blocks(weight, self.block)
        if steps.shape != blocks.shape[:2]:
            raise ValueError(
                f"{self.steps} has steps {tuple(steps.shape)}, expected "
                f"{tuple(blocks.shape[:2])}; it was trained with another block or for another "
                "model"
            )
        codes = grid.round_to(blocks, steps[:, :, None], self.bits)
        return QuantizedTensor(
            codes.view(weight.shape).to(torch.int8), steps, self.bits, blocks.shape[2]
        )

    def _read(self, device: torch.device) -> Tensor | None:
        """Read the steps of the weight; None where the file has none for it."""
        if not self.steps:
            return None
        try:
            with safetensors.safe_open(self.steps, framework="pt") as file:
                if self.weight not in file.keys():  # noqa: SIM118 - it is no mapping
                    return None
                steps: Tensor = file.get_tensor(self.weight)
        except (OSError, safetensors.SafetensorError) as error:
            raise ValueError(f"the learned steps {self.steps} cannot be read: {error}") from error
        return grid.away_from_zero(steps.float()).to(device)


QUANTIZER = LearnedQuantizer
