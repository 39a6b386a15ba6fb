"""One HTML page, and PNGs, from which a person can understand quantization."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import html
import importlib.resources
import math
from pathlib import Path
from typing import Any

import numpy as np

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.report import sweep_pictures, text, time_pictures, weight_pictures
from quant_llm_ros.report.html_parts import (
    absent,
    confusion_tables,
    contents,
    glossary,
    picture,
    rows_table,
    section,
)
from quant_llm_ros.report.mixture import describe
from quant_llm_ros.report.samples import Samples
from quant_llm_ros.report.sampling import take_samples
from quant_llm_ros.report.style import (
    BLUE,
    css,
    GRID,
    INK,
    MUTED,
    ORANGE,
    png,
    SURFACE,
    svg,
    variable,
)
from quant_llm_ros.report.sweep_pictures import Point, points
from quant_llm_ros.report.times import Bench, Curve
from quant_llm_ros.report.training_log import TrainingLog

Progress = Callable[[str, float], None]
"""Told what is being done and the share of the whole that is done."""


class Page:
    """Collects sections, and the pictures in them as PNGs."""

    def __init__(self, pictures: Path) -> None:
        """Take the folder of the PNGs, which is made."""
        self._pictures = pictures
        pictures.mkdir(parents=True, exist_ok=True)
        self.sections: list[text.Section] = []
        self.parts: list[str] = []

    def draw(self, about: text.Section, drawn: Any, **figures: Any) -> None:
        """Add a section with a picture."""
        png(drawn, self._pictures / f"{about.name}.png")
        self.add(about, picture(svg(drawn, about.name, about.title)), **figures)

    def add(self, about: text.Section, content: str, **figures: Any) -> None:
        """Add a section with other content."""
        self.sections.append(about)
        self.parts.append(section(about, content, **figures))


def write_page(
    output: Path,
    bundle: Bundle,
    recipe: Recipe,
    sweep: Mapping[str, Any],
    *,
    logs: Sequence[TrainingLog] = (),
    sensitivities: Mapping[str, Any] | None = None,
    bench: Bench | None = None,
    growth: Sequence[Curve] = (),
    pictures: Path,
    progress: Progress,
) -> None:
    """Write the page and its pictures.

    Args:
        output: HTML file.
        bundle: That the page is about.
        recipe: Which it was made by.
        sweep: What ``quant_llm sweep`` wrote.
        logs: Of trainings.
        sensitivities: What ``quant_llm search --sensitivities`` wrote, or None.
        bench: What ``quant_llm bench`` measured, or None.
        growth: What ``quant_llm growth`` measured, or nothing.
        pictures: Folder of the PNGs.
        progress: Told about stages.

    Raises:
        QuantLlmError: matplotlib is missing, or the recipe is not the bundle's.
    """
    progress("reading the model", 0.0)
    samples = take_samples(
        recipe, bundle.model.source_sha256, lambda part: progress("reading the model", 0.6 * part)
    )
    progress("drawing", 0.6)
    page = Page(pictures)
    _model_sections(page, samples, sensitivities)
    _training_section(page, logs)
    progress("drawing", 0.8)
    _sweep_sections(page, bundle, sweep)
    _time_sections(page, bench, growth)
    found = points(sweep["rows"])
    page.add(text.TABLE, rows_table(sweep["rows"], {point.name for point in found if point.best}))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(_document(page, bundle, sweep), encoding="utf-8")
    progress("done", 1.0)


def _model_sections(page: Page, samples: Samples, sensitivities: Mapping[str, Any] | None) -> None:
    page.draw(text.STAIRCASE, weight_pictures.staircase(samples))
    page.draw(text.GRANULARITY, weight_pictures.granularity(samples))
    widest, typical = samples.ranges.max(), float(np.median(samples.ranges))
    page.draw(
        text.RANGES,
        weight_pictures.ranges(samples),
        spread=widest / samples.ranges.min(),
        levels=max(1.0, 127 * typical / widest),
    )
    even, clustered = weight_pictures.cluster_gain(samples)
    page.draw(
        text.CLUSTERS, weight_pictures.cluster_levels(samples), even=even, clustered=clustered
    )
    if np.isfinite(samples.errors).any():
        page.draw(text.ERRORS, weight_pictures.layer_errors(samples))
    else:
        page.add(
            text.ERRORS,
            absent("The bundle's recipe quantizes no layer, or only by methods shown text."),
        )
    if sensitivities:
        effects = [[e["kl_nats"] for e in row] for row in sensitivities["effects"]]
        names = [describe(choice) for choice in sensitivities["choices"]]
        drawn = weight_pictures.sensitivities(list(sensitivities["groups"]), effects, names)
        page.draw(text.SENSITIVITY, drawn)
    else:
        page.add(
            text.SENSITIVITY,
            absent("Not given. `quant_llm search --sensitivities S.json` measures them."),
        )


def _training_section(page: Page, logs: Sequence[TrainingLog]) -> None:
    if logs:
        page.draw(text.TRAINING, sweep_pictures.losses(logs))
    else:
        page.add(
            text.TRAINING,
            absent("Not given. Give what `quant_llm finetune` printed: --training-log NAME=FILE."),
        )


def _sweep_sections(page: Page, bundle: Bundle, sweep: Mapping[str, Any]) -> None:
    rows = sweep["rows"]
    found = points(rows)
    if found:
        n = max(row["measured"]["decisions"] for row in rows if row["measured"])
        best = max(point.right for point in found)
        noise = 200 * math.sqrt(max(best * (1 - best), 0.25 / n) / n)
        page.draw(text.ACCURACY, sweep_pictures.accuracy_by_bits(found), n=n, noise=noise)
        page.draw(text.FRONT, sweep_pictures.front(found))
    else:
        nothing = absent("The sweep has no measured row.")
        page.add(text.ACCURACY, nothing, n=0, noise=0.0)
        page.add(text.FRONT, nothing)
    _energy_section(page, rows, found)
    measured = [row for row in rows if row["measured"]]
    if measured:
        shown = next((row for row in measured if row["name"] == bundle.name), measured[0])
        page.add(text.CONFUSION, confusion_tables(shown), recipe=shown["name"])
    else:
        page.add(text.CONFUSION, absent("The sweep has no measured row."), recipe=bundle.name)


def _time_sections(page: Page, bench: Bench | None, growth: Sequence[Curve]) -> None:
    """Add what is there; the page is whole without it."""
    if bench is not None:
        page.draw(
            text.LATENCY, time_pictures.latencies(bench), n=bench.sentences, said=bench.said()
        )
        if len(bench.served.passes_ms) > 1:
            page.draw(text.PASSES, time_pictures.passes(bench), said=bench.passes_said())
    if growth:
        said = "; ".join(curve.said() for curve in growth)
        page.draw(text.GROWTH, time_pictures.growth(growth), said=said)


def _energy_section(page: Page, rows: Sequence[Mapping[str, Any]], found: Sequence[Point]) -> None:
    sensors = {row["measured"]["energy_sensor"] for row in rows if row["measured"]}
    sensor = ", ".join(sorted(sensors)) or "nothing was measured"
    if any(point.joules is not None for point in found):
        page.draw(text.ENERGY, sweep_pictures.energy(found), sensor=sensor)
    else:
        page.add(
            text.ENERGY,
            absent(
                "No sensor. The machine of the sweep has no energy sensor that can be read, and "
                "an estimate would not be a measurement. A Jetson's INA3221, an NVIDIA GPU and "
                "x86 processors with readable RAPL counters fill this in."
            ),
            sensor=sensor,
        )


def _document(page: Page, bundle: Bundle, sweep: Mapping[str, Any]) -> str:
    machine, rows = sweep["machine"], sweep["rows"]
    figures = {
        "bundle": html.escape(bundle.name),
        "source": html.escape(bundle.model.source),
        "parameters": max(bundle.model.parameters, 0) / 1e6,
        "layers": bundle.model.layers,
        "rows": "one recipe" if len(rows) == 1 else f"{len(rows)} recipes",
        "machine": html.escape(f"{machine['model']} with {machine['cores']} cores"),
    }
    introduction = "".join(f"<p>{part.format(**figures)}</p>" for part in text.INTRODUCTION)
    names = {"ink": INK, "muted": MUTED, "grid": GRID, "surface": SURFACE, "blue": BLUE}
    names["orange"] = ORANGE
    aliases = "".join(f"--{name}:{variable(colour)};" for name, colour in names.items())
    sheet = importlib.resources.files(__package__).joinpath("page.css").read_text("utf-8")
    title = f"Quantization, on the robot's own task: {html.escape(bundle.name)}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{css()}:root{{{aliases}}}\n{sheet}</style></head>\n"
        f"<body><header><h1>{title}</h1>{introduction}"
        f"{contents(page.sections)}</header>\n<main>\n"
        f"<section><h2>Words</h2>{glossary()}</section>\n{''.join(page.parts)}</main>\n"
        f"<footer>Made by {html.escape(bundle.generator)} from {html.escape(bundle.name)}, built "
        f"{html.escape(bundle.created)}, sha256 {bundle.sha256[:12]}….</footer>"
        "</body></html>\n"
    )
