"""Runs of the benchmark as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quant_llm_ros.benchmark.growth import AXES, Point
from quant_llm_ros.benchmark.ours import PASS_SIZES, SERVED
from quant_llm_ros.benchmark.sample import Result
from quant_llm_ros.errors import EngineError


def new_figure(path: Path, width: float, height: float) -> Any:
    """Make a figure of matplotlib.

    Args:
        path: Where it will go, for the message.
        width: In inches.
        height: In inches.

    Raises:
        EngineError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EngineError(
            f"{path} needs matplotlib; run `pip install -r requirements/bench.txt`"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw how times are distributed and what passes cost, as a PNG.

    Raises:
        EngineError: matplotlib is not installed.
    """
    figure = new_figure(path, 11, 4.8)
    times, passes = figure.subplots(1, 2, width_ratios=(3, 2))
    for result in results:
        taken = np.sort([sample.total_ms for sample in result.samples])
        style = "-" if result.contender.startswith("ours") else "--"
        width = 2.5 if result.contender == SERVED else 1.2
        times.step(taken, np.arange(1, len(taken) + 1) / len(taken), style,
                   linewidth=width, label=result.contender)  # fmt: skip
    times.set(xscale="log", xlabel="text to decision, ms", ylabel="share of sentences",
              ylim=(0, 1))  # fmt: skip
    times.legend(fontsize="small")
    for result in results:
        costs = [result.extra.get(f"pass_ms_{size}") for size in PASS_SIZES]
        known = [(s, c) for s, c in zip(PASS_SIZES, costs, strict=True) if c is not None]
        # Our own steps share an engine; that of the last one is the one that is served.
        if known and (result.contender == SERVED or not result.contender.startswith("ours")):
            passes.plot(*zip(*known, strict=True), "o-", label=result.contender)
        if result.contender == SERVED and "floor_ms" in result.extra:
            passes.axhline(result.extra["floor_ms"], color="black", linestyle=":",
                           label="reading the weights once")  # fmt: skip
    passes.set(xscale="log", xlabel="new tokens of a pass", ylabel="ms")
    passes.set_ylim(bottom=0)
    passes.set_xticks(PASS_SIZES, labels=[str(size) for size in PASS_SIZES])
    if passes.get_legend_handles_labels()[0]:
        passes.legend(fontsize="small")
    for axes in (times, passes):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def draw_growth(curves: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Draw how times grow, a panel for each curve, as a PNG.

    Args:
        curves: Points by axis.
        path: The file.

    Raises:
        EngineError: matplotlib is not installed.
    """
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = new_figure(path, 4 * columns, 3.4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for (axis, points), axes in zip(curves.items(), panels, strict=False):
        at = [point.at for point in points]
        axes.plot(at, [point.total_ms["p50"] for point in points], "o-", label="p50")
        if all("p90" in point.total_ms for point in points):
            axes.plot(at, [point.total_ms["p90"] for point in points], "o--", label="p90")
        label = AXES[axis][2] if axis in AXES else "million weights (a pass of 32 tokens)"
        axes.set(xscale="log", xlabel=label, ylabel="text to decision, ms")
        axes.set_ylim(bottom=0)
        axes.set_xticks(at, labels=[f"{value:g}" for value in at])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    for axes in list(panels):
        axes.set_visible(False)
    figure.savefig(path, dpi=150)
