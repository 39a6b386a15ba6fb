"""What the pictures of a model show, as plain arrays, and the arithmetic of the pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 100

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Granularity:
    """Error of 4 bits with a scale for this many weights.

    Attributes:
        name: For people.
        weights: That share a scale.
        error: Root mean square of the error by that of the weights.
    """

    name: str
    weights: int
    error: float


@dataclasses.dataclass(frozen=True)
class Samples:
    """All that is taken from a model.

    Attributes:
        layer: Name of the matrix that is looked at.
        weights: Its weights, ``[n]``.
        granularities: Errors of 4 bits by how many weights share a scale.
        centres: 16 cluster centres of ``weights``, ascending.
        tokens: Text of each token of a command.
        ranges: Largest absolute input of the matrix at each token.
        rows: Number of each layer.
        kinds: Name of each matrix of a layer.
        errors: Relative error of the recipe, ``[layers, kinds]``; NaN: not quantized.
    """

    layer: str
    weights: Floats
    granularities: tuple[Granularity, ...]
    centres: Floats
    tokens: tuple[str, ...]
    ranges: Floats
    rows: tuple[int, ...]
    kinds: tuple[str, ...]
    errors: Floats


def uniform_levels(values: Floats, bits: int) -> Floats:
    """Give the levels of symmetric min-max quantization, ascending, ``[2 ** bits]``."""
    codes = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    result: Floats = codes * (np.abs(values).max() / (2 ** (bits - 1) - 1))
    return result


def nearest_level(values: Floats, levels: Floats) -> Floats:
    """Round each value to the nearest of ascending levels."""
    result: Floats = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, values)]
    return result


def levels_of_most(values: Floats, levels: Floats, share: float = 0.99) -> int:
    """Count the most frequented levels that hold this share of the values."""
    counts = np.bincount(
        np.searchsorted((levels[1:] + levels[:-1]) / 2, values), minlength=len(levels)
    )
    held = np.cumsum(np.sort(counts)[::-1]) / len(values)
    return int(np.searchsorted(held, share)) + 1


def relative_error(values: Floats, rounded: Floats) -> float:
    """Root mean square of the difference by that of the values."""
    return float(np.sqrt(np.mean((rounded - values) ** 2) / np.mean(values**2)))


def clusters(values: Floats, count: int) -> Floats:
    """Find cluster centres (Lloyd 1982, «Least squares quantization in PCM»).

    Args:
        values: ``[n]``.
        count: Number of clusters.

    Returns:
        Ascending centres, ``[count]``; they start at even quantiles.
    """
    ordered = np.sort(values)
    centres = np.quantile(ordered, (np.arange(count) + 0.5) / count)
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    for _ in range(_ROUNDS):
        edges = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        edges = np.concatenate(([0], edges, [len(ordered)]))
        counts = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(counts, 1)
        centres = np.where(counts > 0, means, centres)
    return centres
