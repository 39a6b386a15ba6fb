"""Pictures of how long decisions take, and of how that grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from quant_llm_ros.report.style import (
    BLUE,
    figure,
    FONT_PT,
    INK,
    MUTED,
    ORANGE,
    styled,
    SURFACE,
)
from quant_llm_ros.report.times import Bench, Contender, Curve

_COLUMNS = 3


@styled
def latencies(bench: Bench) -> Any:
    """Draw the median and the ninth tenth of each contender: a bar on a logarithmic axis."""
    rows = bench.contenders
    drawn, axes = figure(0.7 + 0.3 * len(rows))
    places = np.arange(len(rows))[::-1]
    for row, place in zip(rows, places, strict=True):
        colour = _colour(row, bench)
        axes.plot([row.p50_ms, row.p90_ms], [place, place], "-", color=colour, linewidth=1.6)
        axes.plot([row.p50_ms], [place], "o", color=colour, markersize=6.5)
        axes.plot([row.p90_ms], [place], "o", color=SURFACE, markersize=5, markeredgecolor=colour)
        axes.annotate(
            f"{row.p50_ms:.0f} ms", (row.p50_ms, place), (-7, 0), textcoords="offset points",
            va="center", ha="right", color=INK,
        )  # fmt: skip
        if row.same is not None and row.same < 1:
            axes.annotate(
                f"{row.same:.0%} the same decisions", (row.p90_ms, place), (7, 0),
                textcoords="offset points", va="center", color=MUTED, fontsize=FONT_PT - 1,
                annotation_clip=False,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(min(r.p50_ms for r in rows) / 1.8, max(r.p90_ms for r in rows) * 1.15)
    _plain_ticks(axes.xaxis, *axes.get_xlim())
    axes.set_yticks(places, [row.name for row in rows])
    axes.tick_params(axis="y", labelcolor=INK, length=0)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("text to decision, ms (logarithmic): ● half, ○ nine in ten are faster")
    return drawn


@styled
def passes(bench: Bench) -> Any:
    """Draw what a pass costs over its number of new tokens, and what reading the weights does."""
    drawn, axes = figure(3.4)
    served = bench.served
    known = [row for row in bench.contenders if row.passes_ms]
    # Our own steps share an engine: that of the last one is the one that is served.
    shown = [row for row in known if row is served or not row.is_ours]
    highest = max(ms for row in shown for ms in row.passes_ms.values())
    free_ms = 0.0
    # From below, so that of names that would be in each other's way the upper one gives way.
    for row in sorted(shown, key=lambda row: row.passes_ms[max(row.passes_ms)]):
        sizes = sorted(row.passes_ms)
        last_ms = row.passes_ms[sizes[-1]]
        free_ms = max(free_ms, last_ms)
        colour = _colour(row, bench)
        axes.plot(sizes, [row.passes_ms[size] for size in sizes], "-o", color=colour,
                  linewidth=1.8, markersize=4, zorder=3 if row is served else 2)  # fmt: skip
        axes.annotate(
            "as served" if row.is_ours else row.name, (sizes[-1], free_ms), (6, 0),
            textcoords="offset points", color=colour, va="center", annotation_clip=False,
        )  # fmt: skip
        free_ms += 0.065 * highest
    if served.floor_ms is not None:
        axes.axhline(served.floor_ms, color=MUTED, linewidth=1, linestyle=":")
        axes.annotate(
            "reading the weights once", (max(served.passes_ms), served.floor_ms), (0, 7),
            textcoords="offset points", color=MUTED, fontsize=FONT_PT - 1, va="center", ha="right",
        )  # fmt: skip
    sizes = sorted({size for row in shown for size in row.passes_ms})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(0, 1.05 * highest)
    axes.set(xlabel="new tokens of a pass (logarithmic)", ylabel="ms")
    return drawn


@styled
def growth(curves: Sequence[Curve]) -> Any:
    """Draw each curve in a panel of its own; all begin at zero."""
    columns = min(_COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    drawn, grid = figure(2.6 * rows, rows, columns, squeeze=False)
    panels = list(grid.flat)
    names: dict[str, Any] = {}
    for axes, curve in zip(panels, curves, strict=False):
        if curve.p90_ms:
            names["nine in ten are faster"] = axes.plot(
                curve.at, curve.p90_ms, "--", color=MUTED, linewidth=1.2
            )[0]
        names["half are faster"] = axes.plot(
            curve.at, curve.p50_ms, "-o", color=BLUE, linewidth=1.8, markersize=4
        )[0]
        axes.set_xscale("log")
        axes.set_xticks(curve.at, [f"{at:g}" for at in curve.at])
        axes.minorticks_off()
        axes.set_ylim(0, 1.12 * max((*curve.p50_ms, *curve.p90_ms)))
        axes.set_xlabel(curve.label)
    for row in grid:
        row[0].set_ylabel("text to decision, ms")
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    drawn.legend(
        list(names.values()), list(names), loc="outside upper left", ncols=2, frameon=False
    )
    return drawn


def _colour(row: Contender, bench: Bench) -> str:
    if row is bench.served:
        return BLUE
    return MUTED if row.is_ours else ORANGE


def _plain_ticks(axis: Any, low: float, high: float) -> None:
    from matplotlib.ticker import NullLocator

    ticks = [step * 10.0**power for power in range(-2, 6) for step in (1, 2, 5)]
    shown = [tick for tick in ticks if low <= tick <= high]
    axis.set_ticks(shown, [f"{tick:g}" for tick in shown])
    axis.set_minor_locator(NullLocator())
