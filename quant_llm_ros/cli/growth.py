"""``quant_llm growth``: how the time of a decision grows."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
import sys
import tempfile
from typing import Any

from rich.console import Console
from rich.table import Table

from quant_llm_ros.benchmark import growth
from quant_llm_ros.benchmark.growth import AXES, LONG_CONTEXT, Point
from quant_llm_ros.benchmark.picture import draw_growth
from quant_llm_ros.benchmark.runner import Settings
from quant_llm_ros.cli.options import add_model_options, add_shortlist_option, positive_int
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.errors import EngineError

MODELS = "models"
_WIDTH = 150


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "growth",
        help="measure how the time of a decision grows",
        description=(
            "Measure the time from text to decision with more and more skills, known places, "
            "words of a sentence and clients, and the passes of larger models with random weights."
        ),
    )
    add_model_options(parser)
    add_shortlist_option(parser)
    axes = (*AXES, MODELS)
    parser.add_argument(
        "--over",
        type=_axes,
        default=list(axes),
        metavar="A,A",
        help=f"what grows: {', '.join(axes)} (default: all)",
    )
    parser.add_argument(
        "--rounds",
        type=positive_int,
        default=5,
        help="how often each sentence is decided (default: %(default)s)",
    )
    parser.add_argument("--output", metavar="G.json", help="write all figures to a file")
    parser.add_argument("--plot", metavar="G.png", help="draw the curves (needs matplotlib)")
    parser.set_defaults(run=run)


def _axes(text: str) -> list[str]:
    """Read a list of axes."""
    names = text.split(",")
    for name in names:
        if name not in (*AXES, MODELS):
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(AXES)}, {MODELS}")
    return names


def run(arguments: argparse.Namespace) -> int:
    """Measure, and report."""
    settings = Settings(
        arguments.bundle,
        arguments.skills,
        arguments.threads,
        arguments.provider,
        arguments.allow_fallback,
        shortlist=arguments.shortlist,
    )
    bundle = Bundle.load(arguments.bundle)
    console = Console(stderr=True)
    curves: dict[str, list[Point]] = {}
    with tempfile.TemporaryDirectory(prefix="quant_llm_growth_") as folder:
        for axis in arguments.over:
            console.print(f"measuring {axis} ...")
            if axis == MODELS:
                curves[axis] = _models(settings, bundle, Path(folder))
                continue
            measure, counts, _ = AXES[axis]
            chosen = settings
            if axis in ("skills", "words"):
                long = _variants().with_context(bundle, Path(folder) / "long", LONG_CONTEXT)
                chosen = dataclasses.replace(settings, bundle=str(long.path))
            curves[axis] = measure(chosen, counts, arguments.rounds)
    printer = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for axis, points in curves.items():
        printer.print(_table(axis, points))
    if arguments.output:
        text = json.dumps(
            {axis: [dataclasses.asdict(p) for p in points] for axis, points in curves.items()},
            indent=1,
        )
        Path(arguments.output).write_text(text + "\n", encoding="utf-8")
    if arguments.plot:
        draw_growth(curves, Path(arguments.plot))
    return 0


def _models(settings: Settings, bundle: Bundle, folder: Path) -> list[Point]:
    variants = _variants()
    points = []
    for name, shape in variants.SHAPES.items():
        made = variants.of_shape(bundle, folder / name, shape)
        # At 4 bits and a scale of 4 bytes for 32 weights.
        millions = round(made.files["model.onnx.data"].bytes / (0.5 + 4 / 32) / 1e6)
        points.append(growth.model(dataclasses.replace(settings, bundle=str(made.path)), millions))
    return points


def _variants() -> Any:
    """Import what makes bundles to measure; it needs torch and onnx."""
    try:
        from quant_llm_ros.quantize import variants
    except ModuleNotFoundError as error:
        raise EngineError(
            f"making bundles to measure needs the package {error.name!r}; install the extra: pip "
            "install 'quant_llm_ros[quantize]', or measure with --over places,clients"
        ) from error
    return variants


def _table(axis: str, points: list[Point]) -> Table:
    label = AXES[axis][2] if axis in AXES else "million weights"
    grid = Table(title=f"text to decision over {label}, ms")
    for column in (label, "p50", "p90", "p50 over the first", "passes", "stages, p50", ""):
        grid.add_column(column, justify="left" if column in ("stages, p50", "") else "right")
    first = points[0].total_ms["p50"]
    for point in points:
        total = point.total_ms
        stages = ", ".join(f"{name} {ms:.1f}" for name, ms in point.stages_ms.items() if ms >= 0.1)
        grid.add_row(
            f"{point.at:g}",
            f"{total['p50']:.1f}",
            f"{total['p90']:.1f}" if "p90" in total else "–",
            f"{total['p50'] / first:.2f}",
            f"{point.passes:g}",
            stages,
            point.note,
        )
    return grid
