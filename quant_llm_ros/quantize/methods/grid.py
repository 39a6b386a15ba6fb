"""What the methods on even grids share: blocks of weights, ranges, rounding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCKS = (16, 32, 64, 128, 256)
"""Inputs that may share a scale: what ONNX Runtime and TensorRT have kernels for."""

SMALLEST = torch.finfo(torch.float32).tiny
"""Scale of a block of zeros: the smallest normal number, so that nothing divides by zero."""


def check_bits(bits: object, allowed: Sequence[int]) -> None:
    """Check a width.

    Raises:
        ValueError: It is not among ``allowed``.
    """
    if bits not in allowed or not isinstance(bits, int) or isinstance(bits, bool):
        names = [str(number) for number in allowed]
        raise ValueError(f"bits must be {', '.join(names[:-1])} or {names[-1]}, not {bits!r}")


def check_block(block: object, *words: str) -> None:
    """Check a granularity.

    Raises:
        ValueError: It is neither one of :data:`BLOCKS` nor one of the words.
    """
    if block not in (*BLOCKS, *words) or isinstance(block, bool):
        *others, last = (*BLOCKS, *words)
        raise ValueError(f"block must be {', '.join(map(str, others))} or {last}, not {block!r}")


def in_blocks(weight: Tensor, block: int | str) -> Tensor:
    """Divide a weight ``[out, in]`` into what shares a scale, ``[rows, blocks, size]``.

    Raises:
        ValueError: The inputs are not a multiple of the block.
    """
    out, inputs = weight.shape
    if block == "tensor":
        return weight.reshape(1, 1, -1)
    if block == "channel":
        return weight.reshape(out, 1, inputs)
    assert isinstance(block, int)
    if inputs % block:
        fitting = [str(size) for size in BLOCKS if not inputs % size]
        raise ValueError(
            f"{inputs} inputs are not a multiple of the block, {block}; "
            f"{', '.join(fitting) or 'no block'} would do, or channel"
        )
    return weight.reshape(out, -1, block)


def width(block: int | str, inputs: int) -> int:
    """Inputs that share a scale."""
    return block if isinstance(block, int) else inputs


def round_to(blocks: Tensor, scale: Tensor, bits: int, zero: Tensor | float = 0.0) -> Tensor:
    """Nearest code of each weight, as float32 of the shape of ``blocks``."""
    limit = 2 ** (bits - 1)
    return (blocks / scale).round_().add_(zero).clamp_(-limit, limit - 1)


def minmax_scale(blocks: Tensor, bits: int) -> Tensor:
    """Symmetric step size with which the largest weight of a block just fits."""
    largest_code = 2 ** (bits - 1) - 1
    return (blocks.abs().amax(2, keepdim=True) / largest_code).clamp_min(SMALLEST)


def signed_scale(blocks: Tensor, bits: int) -> Tensor:
    """Symmetric step size of either sign that gives the largest weight of a block code -2^(b-1).

    So all codes are of use, where a positive step leaves that one idle. ONNX Runtime's own
    quantizer (MatMulNBits) and llama.cpp's Q4_0 (ggml-quants.c) choose it so.
    """
    place = blocks.abs().argmax(2, keepdim=True)
    return away_from_zero(blocks.gather(2, place) / -(2 ** (bits - 1)))


def away_from_zero(scale: Tensor) -> Tensor:
    """Step sizes of either sign, none nearer to zero than :data:`SMALLEST`."""
    return torch.where(scale.abs() < SMALLEST, SMALLEST, scale)


def best_scale(
    blocks: Tensor, start: Tensor, bits: int, ratios: Sequence[float], weights: Tensor | None
) -> Tensor:
    """Symmetric step size of the least squared error among multiples of another one.

    Args:
        blocks: ``[rows, blocks, size]``.
        start: Step sizes ``[rows, blocks, 1]``.
        bits: Width of a code.
        ratios: Multiples of ``start`` to try.
        weights: Weights of the errors, ``[blocks, size]``; None: all are 1.
    """
    best, least = start.clone(), torch.full_like(start, torch.inf)
    for ratio in ratios:
        scale = (start * ratio).clamp_min(SMALLEST)
        error = round_to(blocks, scale, bits).mul_(scale).sub_(blocks).square_()
        if weights is not None:
            error *= weights
        total = error.sum(2, keepdim=True)
        better = total < least
        best, least = torch.where(better, scale, best), torch.where(better, total, least)
    return best


def search_ratios(bits: int) -> tuple[float, ...]:
    """Ratios to the min-max scale that a search tries.

    Above 1 the codes use -2^(b-1) as well. Below 0.7 the clipped weights always cost more than the
    finer step gains, at 4 bits and more; the few levels of 2 and 3 bits want to stand closer.
    """
    lowest = {2: 0.30, 3: 0.50}.get(bits, 0.70)
    return tuple(lowest + 0.02 * i for i in range(round((1.04 - lowest) / 0.02) + 1))
