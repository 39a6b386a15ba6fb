"""``quant_llm report``: a page from which a person can understand quantization."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from quant_llm_ros.cli.options import DEFAULT_BUNDLE
from quant_llm_ros.cli.sweep import find_recipes
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.errors import DatasetError, RecipeError
from quant_llm_ros.report.sweep import load
from quant_llm_ros.report.times import read_bench, read_growth
from quant_llm_ros.report.training_log import read_log


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "report",
        help="draw a sweep and a model as one HTML page",
        description=(
            "Write one self-contained HTML page, and its pictures as PNGs, about a sweep and the "
            "model of a bundle."
        ),
    )
    parser.add_argument("sweep", metavar="SWEEP_DIR", help="what `quant_llm sweep` wrote")
    parser.add_argument(
        "--bundle", default=DEFAULT_BUNDLE, help="folder of the bundle (default: %(default)s)"
    )
    parser.add_argument(
        "--recipe", help="recipe of the bundle (default: the package's of the bundle's name)"
    )
    parser.add_argument(
        "--output",
        type=_page,
        default="report.html",
        metavar="R.html",
        help="page (default: %(default)s)",
    )
    parser.add_argument(
        "--pictures", metavar="DIR", help="folder of the PNGs (default: beside the page)"
    )
    parser.add_argument(
        "--training-log",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="what `quant_llm finetune` printed; may be given several times",
    )
    parser.add_argument(
        "--sensitivities", metavar="S.json", help="what `quant_llm search` wrote (default: none)"
    )
    parser.add_argument(
        "--bench", metavar="B.json", help="what `quant_llm bench` wrote (default: none)"
    )
    parser.add_argument(
        "--growth", metavar="G.json", help="what `quant_llm growth` wrote (default: none)"
    )
    parser.set_defaults(run=run)


def _page(text: str) -> str:
    """Take the name of the page's file, and no folder: its pictures get one beside it."""
    if Path(text).is_dir() or not Path(text).suffix:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a page; say R.html")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Write the page."""
    try:
        from quant_llm_ros.quantize.recipe import Recipe
        from quant_llm_ros.report.page import write_page
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"the report needs the package {error.name!r}; install the extras: "
            "pip install 'quant_llm_ros[quantize,bench]'"
        ) from error
    sweep = load(Path(arguments.sweep))
    bundle = Bundle.load(arguments.bundle, verify=False)
    recipe = Recipe.load(find_recipes(arguments.recipe or bundle.name)[0])
    logs = [read_log(given) for given in arguments.training_log]
    sensitivities = _sensitivities(arguments.sensitivities)
    bench = read_bench(arguments.bench) if arguments.bench else None
    growth = read_growth(arguments.growth) if arguments.growth else ()
    output = Path(arguments.output)
    pictures = Path(arguments.pictures) if arguments.pictures else output.with_suffix("")
    columns = (TextColumn("{task.description:<20}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=1.0)
        write_page(
            output,
            bundle,
            recipe,
            sweep,
            logs=logs,
            sensitivities=sensitivities,
            bench=bench,
            growth=growth,
            pictures=pictures,
            progress=lambda what, part: bar.update(task, description=what, completed=part),
        )
    print(f"{output}, pictures in {pictures}")
    return 0


def _sensitivities(name: str | None) -> dict[str, Any] | None:
    if name is None:
        return None
    try:
        data = json.loads(Path(name).read_text(encoding="utf-8"))
        if not all(isinstance(data[key], list) for key in ("groups", "choices", "effects")):
            raise ValueError("groups, choices and effects must be lists")
    except OSError as error:
        raise DatasetError(f"{name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{name} is not what `quant_llm search --sensitivities` writes: {error!r}"
        ) from error
    return data
