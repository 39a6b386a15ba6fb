"""Pictures of one model: its weights, its activations, its errors."""

from __future__ import annotations

from typing import Any

import numpy as np

from quant_llm_ros.report.samples import (
    Floats,
    levels_of_most,
    nearest_level,
    relative_error,
    Samples,
    uniform_levels,
)
from quant_llm_ros.report.style import (
    beside_bar,
    BLUE,
    figure,
    FONT_PT,
    GRID,
    INK,
    MUTED,
    ORANGE,
    RAMP,
    styled,
    SURFACE,
)

_BINS = 160


@styled
def staircase(samples: Samples) -> Any:
    """Draw what 16 even levels make of a layer's weights."""
    weights, levels = samples.weights, uniform_levels(samples.weights, 4)
    drawn, (top, bottom) = figure(4.6, 2, 1, sharex=True, height_ratios=(1.1, 1))
    most = np.abs(weights).max()
    for axes in (top, bottom):
        axes.grid(visible=False)
        axes.set_xlim(-most * 1.16, most * 1.16)
    heights, _, _ = top.hist(weights, _BINS, color=GRID)
    top.vlines(levels, 0, heights.max() * 1.02, color=BLUE, linewidth=0.9)
    top.set(yticks=[], ylim=(0, heights.max() * 1.22))
    top.spines["left"].set_visible(False)
    top.text(
        0.0, 1.0, f"99 % of the weights lie on {levels_of_most(weights, levels)} of the 16 levels",
        transform=top.transAxes, va="top", color=INK,
    )  # fmt: skip
    top.text(
        1.0, 1.0, "the 16 levels of 4 bits", transform=top.transAxes, ha="right", va="top",
        color=BLUE,
    )  # fmt: skip
    exact = np.linspace(-most * 1.14, most * 1.14, 1500)
    rounded = nearest_level(exact, levels)
    bottom.plot(exact, exact, color=MUTED, linewidth=0.9)
    bottom.fill_between(exact, exact, rounded, color=ORANGE, alpha=0.28, linewidth=0)
    bottom.plot(exact, rounded, color=BLUE, linewidth=1.6)
    bottom.set(xlabel=f"weight of {samples.layer}", ylabel="after rounding")
    at = levels[3]
    bottom.annotate(
        "what is stored", (at, at), (-4, 10), textcoords="offset points", color=BLUE, ha="right"
    )
    bottom.annotate(
        "rounding error", (levels[11], levels[11]), (14, -14), textcoords="offset points",
        color=ORANGE,
    )  # fmt: skip
    return drawn


@styled
def granularity(samples: Samples) -> Any:
    """Draw the error of 4 bits by how many weights share a scale."""
    rows = samples.granularities
    drawn, axes = figure(0.5 + 0.34 * len(rows))
    errors = [row.error for row in rows]
    places = np.arange(len(rows))[::-1]
    axes.barh(places, errors, 0.62, color=BLUE)
    for place, row in zip(places, rows, strict=True):
        beside_bar(axes, row.error, place, f"{row.error:.1%}")
    axes.set_yticks(places, [f"{row.name} share{_s(row.name)} a scale" for row in rows])
    axes.tick_params(axis="y", labelcolor=INK, length=0)
    axes.set(xticks=[], xlim=(0, max(errors) * 1.12), xlabel="error relative to the weights")
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return drawn


def _s(name: str) -> str:
    return "" if name[0].isdigit() else "s"


@styled
def ranges(samples: Samples) -> Any:
    """Draw the range of a layer's inputs at each token of a command."""
    count = len(samples.tokens)
    drawn, axes = figure(3.5)
    at = np.arange(count)
    widest = samples.ranges.max()
    axes.vlines(at, samples.ranges.min() * 0.6, samples.ranges, color=BLUE, linewidth=2.2)
    axes.plot(at, samples.ranges, "o", color=BLUE, markersize=4.5)
    axes.axhline(widest, color=ORANGE, linewidth=1.2)
    axes.set_yscale("log")
    axes.set_ylim(samples.ranges.min() * 0.6, widest * 2.2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.annotate(
        "one range for all tokens must reach the widest", (count - 0.5, widest), (0, 4),
        textcoords="offset points", color=ORANGE, ha="right",
    )  # fmt: skip
    axes.set_xticks(at, samples.tokens, rotation=90, fontsize=FONT_PT - 1.5)
    axes.set_xlim(-0.8, count - 0.2)
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("largest input of the layer")
    return drawn


@styled
def cluster_levels(samples: Samples) -> Any:
    """Draw where 16 clusters put their levels, beside 16 even ones."""
    weights = samples.weights
    even, centres = uniform_levels(weights, 4), samples.centres
    drawn, (top, even_axes, own_axes) = figure(3.6, 3, 1, sharex=True, height_ratios=(3.2, 1, 1))
    most = np.abs(weights).max()
    _, edges, bars = top.hist(weights, _BINS, color=GRID)
    # Every second cluster in another grey shows its extent without a colour of its own.
    bounds = (centres[1:] + centres[:-1]) / 2
    for edge, bar in zip(edges, bars, strict=False):
        if np.searchsorted(bounds, edge) % 2:
            bar.set_facecolor(RAMP[2])
    top.set(yticks=[], xlim=(-most * 1.04, most * 1.04))
    top.spines["left"].set_visible(False)
    top.grid(visible=False)
    for axes, levels, colour, name in (
        (even_axes, even, MUTED, "16 even levels"),
        (own_axes, centres, BLUE, "16 cluster centres"),
    ):
        axes.vlines(levels, 0, 1, color=colour, linewidth=2.0)
        axes.set(yticks=[], ylim=(0, 1.0))
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        error = relative_error(weights, nearest_level(weights, levels))
        axes.set_title(f"{name}: error {error:.1%}", color=colour)
    own_axes.set_xlabel(f"weight of {samples.layer}")
    return drawn


def cluster_gain(samples: Samples) -> tuple[float, float]:
    """Give the relative errors of 16 even levels and of 16 clusters."""
    weights: Floats = samples.weights
    even = nearest_level(weights, uniform_levels(weights, 4))
    return (
        relative_error(weights, even),
        relative_error(weights, nearest_level(weights, samples.centres)),
    )


@styled
def layer_errors(samples: Samples) -> Any:
    """Draw the error of every matrix of every layer as a map."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    errors = samples.errors.T  # [kinds, layers]
    drawn, axes = figure(0.95 + 0.3 * len(samples.kinds))
    low, high = float(np.nanmin(errors)), float(np.nanmax(errors))
    bounds = np.linspace(low, high if high > low else low + 1e-9, len(RAMP) + 1)
    mesh = axes.pcolormesh(
        errors, cmap=ListedColormap(RAMP), norm=BoundaryNorm(bounds, len(RAMP)),
        edgecolor=SURFACE, linewidth=1.2,
    )  # fmt: skip
    axes.set_yticks(np.arange(len(samples.kinds)) + 0.5, samples.kinds)
    every = max(1, len(samples.rows) // 10)
    axes.set_xticks(np.array(samples.rows[::every]) + 0.5, samples.rows[::every])
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.invert_yaxis()
    axes.set_xlabel("layer")
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    bar = drawn.colorbar(mesh, ax=axes, ticks=[low, high], format="%.3f", pad=0.01, aspect=14)
    bar.outline.set_visible(False)
    bar.minorticks_off()
    bar.ax.tick_params(length=0)
    bar.set_label("relative error", color=MUTED)
    return drawn


@styled
def sensitivities(groups: list[str], effects: list[list[float]], names: list[str]) -> Any:
    """Draw the divergence when a single part of the model is quantized.

    Args:
        groups: Patterns of the parts, in the model's order.
        effects: Divergence in nats of each part and choice.
        names: Of the choices.
    """
    drawn, axes = figure(3.0)
    colours = (BLUE, ORANGE, MUTED)
    at = np.arange(len(groups))
    for number, name in enumerate(names):
        values = [row[number] for row in effects]
        colour = colours[number % len(colours)]
        axes.plot(at, values, "o", color=colour, markersize=4, markerfacecolor=(
            colour if number < len(colours) else SURFACE))  # fmt: skip
        axes.annotate(
            name, (len(groups) - 1, values[-1]), (8, 0), textcoords="offset points",
            color=colour, va="center", annotation_clip=False,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set(ylabel="KL divergence, nats", xlabel="part of the model, from input to output")
    worst = sorted(range(len(groups)), key=lambda g: -effects[g][0])[:3]
    for group in worst:
        short = groups[group].removeprefix("model.").removesuffix(".*").removesuffix(".weight")
        axes.annotate(
            short, (group, effects[group][0]), (0, 7), textcoords="offset points", color=INK,
            fontsize=FONT_PT - 1, ha="left",
        )  # fmt: skip
    axes.set_xticks([])
    return drawn
