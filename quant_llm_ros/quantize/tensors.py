"""Quantized weights: what every method makes and what the exporter writes."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class QuantizedTensor:
    """A linear layer's weight as integer codes, with one scale per block of inputs.

    The value of ``codes[o, i]`` is ``codes[o, i] * scales[o, i // block]``. The zero point is 0:
    it is the one form that ONNX Runtime, TensorRT and TensorRT-RTX all take (symmetric,
    blocks along the input dimension).

    Attributes:
        codes: Signed integers of ``bits`` bits, int8 ``[out, in]``.
        scales: Positive step sizes, float32 ``[out, in / block]``.
        bits: Width of a code: 4 or 8.
        block: Number of inputs that share a scale; divides ``in``.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    bits: int
    block: int

    def __post_init__(self) -> None:
        """Refuse codes and scales that do not belong together.

        Raises:
            ValueError: A type, a shape or a code is outside of what the attributes say.
        """
        out, inputs = self.codes.shape
        if self.codes.dtype != torch.int8 or self.scales.dtype != torch.float32:
            raise ValueError(
                f"codes must be int8 and scales float32, not {self.codes.dtype} "
                f"and {self.scales.dtype}"
            )
        if self.bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, not {self.bits}")
        if inputs % self.block or self.scales.shape != (out, inputs // self.block):
            raise ValueError(
                f"codes {tuple(self.codes.shape)} in blocks of {self.block} do not fit "
                f"scales {tuple(self.scales.shape)}"
            )
        limit = 2 ** (self.bits - 1)
        if int(self.codes.min()) < -limit or int(self.codes.max()) >= limit:
            raise ValueError(f"a code does not fit into {self.bits} bits")

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight, ``(out, in)``."""
        out, inputs = self.codes.shape
        return out, inputs

    @property
    def size_bits(self) -> int:
        """Bits that codes and scales take in a file."""
        return self.codes.numel() * self.bits + self.scales.numel() * 32

    def dequantize(self) -> torch.Tensor:
        """Compute the weight that the codes stand for, float32 ``[out, in]``."""
        out, inputs = self.shape
        blocks = self.codes.view(out, -1, self.block).to(torch.float32)
        return (blocks * self.scales[:, :, None]).view(out, inputs)


Quantizer = Callable[[torch.Tensor], QuantizedTensor]
"""A method with its settings: from a weight ``[out, in]`` to its quantized form."""
