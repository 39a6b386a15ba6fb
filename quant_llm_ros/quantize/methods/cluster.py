"""Weight clustering: each weight becomes an index into a small codebook.

Codebooks shared by many weights: Han et al., «Deep Compression» (arXiv:1510.00149), section 3.
The centres are those of optimal one-dimensional k-means, found by dynamic programming over the
sorted weights: Wang and Song, «Ckmeans.1d.dp» (The R Journal 3/2, 2011), with the divide and
conquer of Grønlund et al., «Fast Exact k-Means, k-Medians and Bregman Divergence Clustering in 1D»
(arXiv:1701.07204), section 3. More than 2,048 different weights are first put into that many bins
of equally many weights; Lloyd's iterations over all weights then polish the centres.

With ``sensitivity`` a weight counts as much as its input is large on calibration text, the
diagonal of the layer's Hessian: Kim et al., «SqueezeLLM» (arXiv:2306.07629), section 4.1, with the
Hessian of the layer's output in place of the Fisher information.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from quant_llm_ros.quantize.methods import grid
from quant_llm_ros.quantize.tensors import finite, InputStatistics, QuantizedTensor

DEFAULTS: Mapping[str, Any] = {"bits": 4, "rows": 0, "sensitivity": False}
_BINS = 2048
_POLISHING = 3
Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ClusterQuantizer:
    """Clusters the weights of a layer.

    Attributes:
        bits: Width of an index: 2, 3 or 4.
        rows: Output rows that share a codebook; 0 for one codebook per layer.
        sensitivity: Whether a weight counts as much as its input is large.
    """

    bits: int
    rows: int
    sensitivity: bool

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting is outside of what is described above.
        """
        grid.check_bits(self.bits, (2, 3, 4))
        if not isinstance(self.rows, int) or isinstance(self.rows, bool) or self.rows < 0:
            raise ValueError(f"rows must be 0 or a number of rows, not {self.rows!r}")
        if not isinstance(self.sensitivity, bool):
            raise ValueError(f"sensitivity must be true or false, not {self.sensitivity!r}")

    @property
    def needs_calibration(self) -> bool:
        """Only the sensitivity of weights comes from calibration."""
        return self.sensitivity

    def __call__(self, weight: Tensor, inputs: InputStatistics | None = None) -> QuantizedTensor:
        """Quantize a weight ``[out, in]``; without ``inputs`` all weights count the same.

        Raises:
            ValueError: The rows are not a multiple of ``rows``, or a weight is not finite.
        """
        values = finite(weight).cpu().numpy()
        out, width = values.shape
        rows = self.rows or out
        if out % rows:
            raise ValueError(
                f"its {out} rows are not a multiple of {rows}, the setting rows; 0 is for a "
                "codebook per layer"
            )
        counts = np.ones(width)
        if self.sensitivity and inputs is not None:
            diagonal = inputs.hessian.diagonal().cpu().numpy().astype(np.float64)
            # An input that was always zero would make its weights free.
            counts = diagonal + 1e-3 * diagonal.mean()
        books, codes = [], np.empty(values.shape, dtype=np.int8)
        for start in range(0, out, rows):
            part = values[start : start + rows]
            book = _centres(part, counts, 2**self.bits)
            codes[start : start + rows] = np.searchsorted((book[1:] + book[:-1]) / 2, part)
            books.append(book)
        codebook = torch.from_numpy(np.array(books)).to(weight.device)
        return QuantizedTensor(
            torch.from_numpy(codes).to(weight.device), None, self.bits, width, codebook=codebook
        )


QUANTIZER = ClusterQuantizer


def _centres(values: NDArray[np.float32], counts: Floats, k: int) -> NDArray[np.float32]:
    """Centres of the weights of some rows, ascending, ``[k]``."""
    x = values.astype(np.float64).ravel()
    w = np.broadcast_to(counts, values.shape).ravel()
    order = np.argsort(x, kind="stable")
    x, w = x[order], w[order]
    points, places = np.unique(x, return_inverse=True)
    if len(points) > _BINS:
        places = np.arange(len(x)) * _BINS // len(x)
    weights: Floats = np.bincount(places, w).astype(np.float64)
    means: Floats = np.bincount(places, w * x) / weights
    centres = kmeans(means, weights, k)
    if len(points) > _BINS:
        sums, weighted = (np.concatenate(([0.0], np.cumsum(v))) for v in (w, w * x))
        for _ in range(_POLISHING):
            edges = np.searchsorted(x, (centres[1:] + centres[:-1]) / 2)
            edges = np.concatenate(([0], edges, [len(x)]))
            mass = np.diff(sums[edges])
            filled = mass > 0
            centres[filled] = (np.diff(weighted[edges]) / np.where(filled, mass, 1))[filled]
    return centres.astype(np.float32)


def kmeans(points: Floats, weights: Floats, k: int) -> Floats:
    """Optimal one-dimensional k-means.

    Args:
        points: Ascending, ``[m]``.
        weights: Positive, ``[m]``.
        k: Number of centres; where there are fewer points, the last centre is repeated.

    Returns:
        Ascending centres ``[k]`` of the least weighted sum of squared distances.
    """
    m = len(points)
    if m <= k:
        return np.concatenate((points, np.full(k - m, points[-1])))
    points = points - (shift := float(np.average(points, weights=weights)))
    w, wx, wxx = (
        np.concatenate(([0.0], np.cumsum(v)))
        for v in (weights, weights * points, weights * points**2)
    )

    def cost(first: NDArray[np.int64], end: NDArray[np.int64]) -> Floats:
        """Squared distances of points ``[first, end)`` from their mean."""
        mass = np.maximum(w[end] - w[first], 1e-300)
        return np.asarray(wxx[end] - wxx[first] - (wx[end] - wx[first]) ** 2 / mass)

    # best[e]: least cost of the first e points with the centres so far.
    ends = np.arange(m + 1)
    best = cost(np.zeros_like(ends), ends)
    starts = []
    for _ in range(k - 1):
        best, start = _one_more(best, cost)
        starts.append(start)
    edges = [m]
    for start in reversed(starts):
        edges.append(int(start[edges[-1]]))
    edges.append(0)
    limits = np.array(edges[::-1])
    mass = np.diff(w[limits])
    # A cluster may be empty only where points repeat; it stays beside its neighbour.
    centres = np.diff(wx[limits]) / np.where(mass > 0, mass, 1)
    return np.sort(np.where(mass > 0, centres, points[np.minimum(limits[:-1], m - 1)])) + shift


def _one_more(best: Floats, cost: Any) -> tuple[Floats, NDArray[np.int64]]:
    """Least costs with one more centre, and where its points begin.

    The beginning never moves back as the end moves on, so the ends are taken halving by halving:
    each looks only between the beginnings of its neighbours.
    """
    m = len(best) - 1
    better, start = np.full(m + 1, 0.0), np.zeros(m + 1, dtype=np.int64)
    low, high = np.zeros(m + 1, dtype=np.int64), np.arange(m + 1)
    pending = [(1, m, 0, m)]
    while pending:  # one level of the recursion at a time, all its ends at once
        ends = np.array([(a + b) // 2 for a, b, _, _ in pending])
        low = np.array([low for _, _, low, _ in pending])
        high = np.minimum(np.array([high for *_, high in pending]), ends)
        sizes = high - low + 1
        owner = np.repeat(np.arange(len(ends)), sizes)
        begin = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        begin += low[owner]
        totals = best[begin] + cost(begin, ends[owner])
        least = np.minimum.reduceat(totals, np.cumsum(sizes) - sizes)
        first = np.flatnonzero(totals == least[owner])
        _, index = np.unique(owner[first], return_index=True)
        chosen = begin[first[index]]
        better[ends], start[ends] = least, chosen
        following = []
        for (a, b, lowest, highest), end, middle in zip(
            pending, ends.tolist(), chosen.tolist(), strict=True
        ):
            if a < end:
                following.append((a, end - 1, lowest, middle))
            if end < b:
                following.append((end + 1, b, middle, highest))
        pending = following
    return better, start
