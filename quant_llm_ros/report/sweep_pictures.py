"""Pictures of a sweep: accuracy against bits, the front, energy; and of training."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from quant_llm_ros.report.style import (
    beside_bar,
    BLUE,
    figure,
    FONT_PT,
    GREEN,
    INK,
    label_points,
    MUTED,
    ORANGE,
    styled,
    SURFACE,
)
from quant_llm_ros.report.table import stored_mb
from quant_llm_ros.report.training_log import TrainingLog

_CURVES = (BLUE, ORANGE, GREEN, MUTED)


@dataclasses.dataclass(frozen=True)
class Point:
    """A measured row of a sweep, as pictures need it.

    Attributes:
        name: Of the recipe.
        bits: Per weight.
        size_mb: Of the weights as stored.
        decision_ms: Mean time of a decision.
        right: Share of sentences with everything right.
        joules: Energy of a decision, or None.
        best: No other row is better in one of size, time and accuracy without being worse in
            another.
    """

    name: str
    bits: float
    size_mb: float
    decision_ms: float
    right: float
    joules: float | None
    best: bool = False


def points(rows: Sequence[dict[str, Any]]) -> list[Point]:
    """Take the measured rows of a sweep and mark its front."""
    found = [
        Point(
            row["name"],
            row["build"]["bits_per_weight"],
            stored_mb(row["build"]) or 0.0,
            row["measured"]["decision_ms"],
            row["measured"]["right"],
            row["measured"]["joules_per_decision"],
        )
        for row in rows
        if row["build"] and row["measured"]
    ]
    return [
        dataclasses.replace(point, best=not any(_beats(other, point) for other in found))
        for point in found
    ]


def _beats(other: Point, point: Point) -> bool:
    """Whether another row is at least as good in everything and better in something."""
    one = (-other.right, other.size_mb, other.decision_ms)
    two = (-point.right, point.size_mb, point.decision_ms)
    return one != two and all(a <= b for a, b in zip(one, two, strict=True))


@styled
def accuracy_by_bits(found: Sequence[Point]) -> Any:
    """Draw accuracy against bits per weight."""
    drawn, axes = figure(4.2)
    _scatter(axes, found, [point.bits for point in found])
    _log_ticks(axes, [point.bits for point in found], (1, 2, 3, 4, 6, 8, 16, 32))
    axes.set(xlabel="bits per weight, scales included (logarithmic)", ylabel="everything right, %")
    _labels(axes, found, [point.bits for point in found])
    return drawn


@styled
def front(found: Sequence[Point]) -> Any:
    """Draw accuracy against size and against time; the front in blue."""
    drawn, pair = figure(4.2, 1, 2, sharey=True)
    for axes, values, unit in (
        (pair[0], [point.size_mb for point in found], "weights as stored, MB (logarithmic)"),
        (pair[1], [point.decision_ms for point in found], "mean time of a decision, ms"),
    ):
        _scatter(axes, found, values)
        axes.set_xlabel(unit)
    sizes = [point.size_mb for point in found]
    _log_ticks(pair[0], sizes, [step * 10**power for power in range(-1, 4) for step in (1, 2, 5)])
    pair[1].set_xlim(0, max(point.decision_ms for point in found) * 1.3)
    pair[0].set_ylabel("everything right, %")
    drawn.draw_without_rendering()
    _labels(pair[0], found, sizes)
    _labels(pair[1], found, [point.decision_ms for point in found])
    return drawn


@styled
def energy(found: Sequence[Point]) -> Any:
    """Draw joules per decision as bars; only rows that a sensor measured."""
    rows = sorted((p for p in found if p.joules is not None), key=lambda p: p.joules or 0.0)
    drawn, axes = figure(0.5 + 0.28 * len(rows))
    places = np.arange(len(rows))[::-1]
    joules = [row.joules or 0.0 for row in rows]
    axes.barh(places, joules, 0.62, color=BLUE)
    for place, value in zip(places, joules, strict=True):
        beside_bar(axes, value, place, f"{value:.3g} J")
    axes.set_yticks(places, [row.name for row in rows])
    axes.tick_params(axis="y", labelcolor=INK, length=0)
    axes.set(xticks=[], xlim=(0, max(joules) * 1.15), xlabel="energy of a decision")
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return drawn


@styled
def losses(logs: Sequence[TrainingLog]) -> Any:
    """Draw held-out losses over the steps; a log of one step is a level line."""
    drawn, axes = figure(3.4)
    last = max(log.steps[-1] for log in logs)
    for number, log in enumerate(logs):
        colour = _CURVES[number % len(_CURVES)]
        style = "-" if number < len(_CURVES) else "--"
        if len(log.steps) == 1:
            axes.hlines(log.losses, 0, last, color=colour, linewidth=1.4, linestyles=style)
        else:
            axes.plot(log.steps, log.losses, style, color=colour, linewidth=1.8)
            rounding = log.rounding_step
            if rounding is not None and rounding > log.steps[0]:
                at = log.losses[log.steps.index(rounding)]
                axes.plot([rounding], [at], "o", color=SURFACE, markeredgecolor=colour)
                axes.annotate(
                    "rounding begins", (rounding, at), (0, 9), textcoords="offset points",
                    color=MUTED, fontsize=FONT_PT - 1, ha="center",
                )  # fmt: skip
    axes.set(xlabel="training step", ylabel="loss on held-out sentences, nats per token")
    axes.set_ylim(bottom=0)
    points = 72 / axes.figure.dpi
    ends = [axes.transData.transform((last, log.losses[-1]))[1] * points for log in logs]
    lowest = -math.inf  # where the next label may stand, from the lowest curve up
    for number in sorted(range(len(logs)), key=ends.__getitem__):
        place = max(ends[number], lowest)
        lowest = place + 1.3 * FONT_PT
        axes.annotate(
            logs[number].name, (last, logs[number].losses[-1]), (6, place - ends[number]),
            textcoords="offset points", color=_CURVES[number % len(_CURVES)], va="center",
            annotation_clip=False,
        )  # fmt: skip
    return drawn


def _scatter(axes: Any, found: Sequence[Point], values: Sequence[float]) -> None:
    for point, value in zip(found, values, strict=True):
        colour = BLUE if point.best else MUTED
        axes.plot([value], [point.right * 100], "o", color=colour, markersize=6.5,
                  markeredgecolor=SURFACE)  # fmt: skip
    right = [point.right * 100 for point in found]
    margin = max(2.0, 0.08 * (max(right) - min(right)))
    axes.set_ylim(max(-2.0, min(right) - margin), min(102.0, max(right) + margin))


def _labels(axes: Any, found: Sequence[Point], values: Sequence[float]) -> None:
    order = sorted(range(len(found)), key=lambda n: (not found[n].best, -found[n].right))
    label_points(
        axes,
        [(values[n], found[n].right * 100) for n in order],
        [found[n].name for n in order],
        [BLUE if found[n].best else MUTED for n in order],
    )


def _log_ticks(axes: Any, values: Sequence[float], ticks: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    low, high = min(values) / 1.35, max(values) * 1.6
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.xaxis.set_minor_locator(NullLocator())
