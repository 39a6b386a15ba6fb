"""Quantized weights: what every method makes and what the exporter writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

FLOATS = {
    torch.float16: 16,
    torch.bfloat16: 16,
    torch.float8_e4m3fn: 8,
    torch.float8_e5m2: 8,
}
"""Number formats that torch has, with their bits."""

E4M3_LIMIT = 448.0
"""The largest E4M3 number."""

_ROWS_AT_A_TIME = 2048  # bounds the working memory of a look-up in a large vocabulary


@dataclasses.dataclass(frozen=True)
class InputQuantizer:
    """How the inputs of a layer are rounded to integers when the model runs.

    Symmetric: Jacob et al. 2018 (arXiv:1712.05877), section 2.1, with the zero point at 0. Static
    ranges come from calibration; dynamic ones are each token's own largest value (Yao et al. 2022,
    «ZeroQuant», arXiv:2206.01861, section 4.1, token-wise).

    Attributes:
        bits: Width of a code, 2 to 8.
        scale: Step size of all tokens (static), or None for one per token (dynamic).
        floating: The codes are E4M3 numbers and no integers.
    """

    bits: int
    scale: float | None
    floating: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Round inputs ``[n, in]`` as the exported graph does; the result is float32."""
        largest = 2 ** (self.bits - 1) - 1
        if self.floating:
            assert self.scale is not None
            limited = (x / self.scale).clamp(-E4M3_LIMIT, E4M3_LIMIT)
            return limited.to(torch.float8_e4m3fn).float() * self.scale
        if self.scale is None:
            step = (x.abs().amax(-1, keepdim=True) / largest).clamp_min(
                torch.finfo(torch.float32).tiny
            )
        else:
            step = torch.tensor(self.scale)
        return (x / step).round().clamp(-largest - 1, largest) * step


@dataclasses.dataclass(frozen=True)
class QuantizedTensor:
    """A linear layer's weight as codes, and what turns them into numbers again.

    The value of ``codes[o, i]`` is ``(v - zero_points[o, b]) * scales[o, b]`` with the block
    ``b = i // block``. ``v`` is the code itself or, with a codebook, the number it stands for. The
    values of ``residual`` are added. Where scales have a single row, all outputs share it.

    Attributes:
        codes: Int8 ``[out, in]``, or numbers of a type of :data:`FLOATS`. Without a codebook
            integers are signed, with one they are indices from 0.
        scales: Step sizes, float32 ``[out or 1, in / block]``, negative ones only with the range
            ``signed``; None: all are 1.
        bits: Width of a code: 1 to 8, or 16.
        block: Number of inputs that share a scale; divides ``in``.
        zero_points: Codes that stand for 0, int8 of the shape of ``scales``; None: all are 0.
        codebook: Float32 ``[books, 2 ** bits]``; each is shared by ``out / books`` rows.
        scale_bits: Bits that a scale takes when stored.
        scale_unit: The scales are E4M3 numbers times this (NVFP4), or None.
        residual: What the codes leave over, quantized by itself (binary planes).
        inputs: How the layer's inputs are rounded, or None.
        low_rank: Matrices A ``[rank, in]`` and B ``[out, rank]`` in FP32, whose product B A is
            added: an adapter that was trained on the quantized weight.
    """

    codes: Tensor
    scales: Tensor | None
    bits: int
    block: int
    zero_points: Tensor | None = None
    codebook: Tensor | None = None
    scale_bits: int = 32
    scale_unit: float | None = None
    residual: QuantizedTensor | None = None
    inputs: InputQuantizer | None = None
    low_rank: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together.

        Raises:
            ValueError: A type, a shape or a code is outside of what the attributes say.
        """
        out, inputs = self.codes.shape
        kind = self.codes.dtype
        if (kind != torch.int8 and kind not in FLOATS) or (
            self.scales is not None and self.scales.dtype != torch.float32
        ):
            raise ValueError(
                f"codes must be int8 or floating-point and scales float32, not {kind} "
                f"and {None if self.scales is None else self.scales.dtype}"
            )
        if self.bits != FLOATS.get(kind, self.bits) or self.bits not in (*range(1, 9), 16):
            raise ValueError(f"bits must be 1 to 8 or those of the number type, not {self.bits}")
        shapes = ((out, inputs // self.block), (1, inputs // self.block))
        if inputs % self.block or (self.scales is not None and self.scales.shape not in shapes):
            raise ValueError(
                f"codes {tuple(self.codes.shape)} in blocks of {self.block} do not fit "
                f"scales {None if self.scales is None else tuple(self.scales.shape)}"
            )
        if self.zero_points is not None and (
            self.scales is None or self.zero_points.shape != self.scales.shape
        ):
            raise ValueError("zero points do not fit the scales")
        if self.codebook is not None and (
            self.codebook.shape[1] != 2**self.bits or out % self.codebook.shape[0]
        ):
            raise ValueError(f"a codebook {tuple(self.codebook.shape)} does not fit the codes")
        if kind == torch.int8:
            low = 0 if self.codebook is not None else -(2 ** (self.bits - 1))
            if int(self.codes.min()) < low or int(self.codes.max()) >= low + 2**self.bits:
                raise ValueError(f"a code does not fit into {self.bits} bits")

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight, ``(out, in)``."""
        out, inputs = self.codes.shape
        return out, inputs

    @property
    def is_integer(self) -> bool:
        """Whether a code is a signed integer on an even grid."""
        return self.codes.dtype == torch.int8 and self.codebook is None and self.residual is None

    @property
    def size_bits(self) -> int:
        """Bits that all parts take when stored, a code in exactly its width."""
        size = self.codes.numel() * self.bits
        if self.scales is not None:
            size += self.scales.numel() * self.scale_bits
        if self.zero_points is not None:
            size += self.zero_points.numel() * self.bits
        if self.codebook is not None:
            size += self.codebook.numel() * 32
        if self.low_rank is not None:
            size += sum(matrix.numel() for matrix in self.low_rank) * 32
        return size + (self.residual.size_bits if self.residual else 0)

    def dequantize(self) -> Tensor:
        """Compute the weight that the codes stand for, float32 ``[out, in]``."""
        out, inputs = self.shape
        blocks = self._values().view(out, -1, self.block)
        if self.zero_points is not None:
            blocks = blocks - self.zero_points[:, :, None]
        if self.scales is not None:
            blocks = blocks * self.scales[:, :, None]
        weight = blocks.view(out, inputs)
        if self.low_rank is not None:
            down, up = self.low_rank
            weight = weight + up @ down
        return weight + self.residual.dequantize() if self.residual else weight

    def _values(self) -> Tensor:
        """Numbers that the codes stand for, float32 ``[out, in]``."""
        if self.codebook is None:
            return self.codes.to(torch.float32)
        out = len(self.codes)
        values = torch.empty(self.shape, device=self.codes.device)
        rows_of_book = out // len(self.codebook)
        for start in range(0, out, _ROWS_AT_A_TIME):
            rows = self.codes[start : start + _ROWS_AT_A_TIME]
            numbers = torch.arange(start, start + len(rows), device=self.codes.device)
            books = numbers // rows_of_book
            values[start : start + len(rows)] = self.codebook[books].gather(1, rows.long())
        return values


@dataclasses.dataclass(frozen=True)
class InputStatistics:
    """What calibration learnt about a layer's inputs.

    Attributes:
        hessian: Mean of ``x xᵀ`` over the tokens, float32 ``[in, in]``. Half the Hessian of the
            layer's squared error with respect to a row of weights, hence the name.
        largest: Largest absolute value of each input, ``[in]``.
        mean_abs: Mean absolute value of each input, ``[in]``.
        token_largest: Largest absolute input of each token, ``[tokens]``.
    """

    hessian: Tensor
    largest: Tensor
    mean_abs: Tensor
    token_largest: Tensor


class Quantizer(Protocol):
    """A method with its settings."""

    @property
    def needs_calibration(self) -> bool:
        """Whether it must be told about the layer's inputs."""

    def __call__(self, weight: Tensor, inputs: InputStatistics | None = None) -> QuantizedTensor:
        """Quantize a weight.

        Args:
            weight: ``[out, in]``, any float type.
            inputs: What calibration learnt, or None.

        Raises:
            ValueError: The shape does not fit, or a weight is not finite.
        """


class ScalingQuantizer(Quantizer, Protocol):
    """A method that first makes some inputs smaller and their weights larger, or the reverse."""

    def weight_factors(self, weights: list[Tensor], inputs: InputStatistics) -> Tensor:
        """Choose what the columns of weights are multiplied by, and their inputs divided by.

        Args:
            weights: Weights ``[out, in]`` that read the same inputs.
            inputs: What calibration learnt about these.

        Returns:
            Positive factors, float32 ``[in]``.
        """


@runtime_checkable
class BoundQuantizer(Protocol):
    """A method that must know which weight of which recipe it is for."""

    def bound(self, folder: Path, weight: str) -> Quantizer:
        """Give the quantizer of one weight, for a recipe in a folder."""


def finite(weight: Tensor) -> Tensor:
    """Give a weight as float32.

    Raises:
        ValueError: A value is not finite.
    """
    weight = weight.to(torch.float32)
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("the weight has values that are not finite")
    return weight


def output_error(change: Tensor, hessian: Tensor) -> float:
    """Mean squared error of a layer's output when its weight changes.

    Args:
        change: Change of the weight, ``[out, in]``.
        hessian: Of the inputs; see :class:`InputStatistics`.
    """
    return float(((change @ hessian) * change).sum())
