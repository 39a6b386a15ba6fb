"""``quant_llm sweep``: a table over recipes."""

from __future__ import annotations

import argparse
import glob
from pathlib import Path
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from quant_llm_ros.cli.options import positive_int
from quant_llm_ros.command.evaluation import load_dataset
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.validator import Validator
from quant_llm_ros.errors import RecipeError
from quant_llm_ros.report.measure import What
from quant_llm_ros.report.perplexity import read_text, WINDOW
from quant_llm_ros.report.sweep import SWEEP, Sweep, TABLE
from quant_llm_ros.report.table import grid, note
from quant_llm_ros.resources import share_path

_WIDTH = 160


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "sweep",
        help="build and measure many recipes, and compare them in a table",
        description=(
            "Build every recipe, measure the bundle, remove it; write sweep.json and table.md. "
            "Started again, it goes on where it was: a recipe whose row was made from the same "
            "files is not measured again. Exit with 1 where a recipe failed; its row says why."
        ),
    )
    parser.add_argument(
        "recipes",
        nargs="+",
        metavar="RECIPE",
        help="recipe file, or the name of one of the package's recipes",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the sweep")
    parser.add_argument(
        "--dataset",
        action="append",
        metavar="F.jsonl",
        help="sentences with known meaning; may be given several times "
        "(default: config/evaluation/service_robot.jsonl)",
    )
    parser.add_argument("--text", metavar="T.txt", help="text for the perplexity (default: none)")
    parser.add_argument(
        "--windows",
        type=positive_int,
        default=40,
        help="most windows of the text (default: %(default)s)",
    )
    parser.add_argument(
        "--window",
        type=positive_int,
        default=WINDOW,
        help="tokens of a window (default: %(default)s)",
    )
    parser.add_argument(
        "--skills", help="skill registry (default: config/skills/service_robot.yaml)"
    )
    parser.add_argument(
        "--threads", type=positive_int, default=2, help="CPU threads (default: %(default)s)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the bundles in DIR/bundles (default: remove)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the table."""
    recipes = [recipe for name in arguments.recipes for recipe in find_recipes(name)]
    what = What(
        tuple(arguments.dataset or [str(share_path("config/evaluation/service_robot.jsonl"))]),
        arguments.text,
        arguments.windows,
        arguments.window,
        arguments.threads,
    )
    skills = Path(arguments.skills or share_path("config/skills/service_robot.yaml"))
    # What is wrong with the input is said now and not after the first bundle.
    Validator(SkillRegistry.load(skills))
    for dataset in what.datasets:
        load_dataset(dataset)
    if what.text:
        read_text(Path(what.text))
    sweep = Sweep(Path(arguments.output), what, skills, arguments.keep)
    rows: list[dict[str, Any]] = []
    columns = (
        MofNCompleteColumn(),
        TextColumn("{task.description:<50}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=len(recipes))
        said: set[tuple[str, str]] = set()

        def progress(recipe: Path, stage: str, part: float) -> None:
            if not bar.console.is_terminal and (recipe.stem, stage) not in said:
                # In a log file a line for each stage tells more than a bar that cannot move.
                said.add((recipe.stem, stage))
                bar.console.print(f"{recipe.stem}: {stage}", highlight=False)
            bar.update(task, description=f"{recipe.stem}: {stage}", completed=len(rows) + part)

        for row in sweep.run(recipes, progress):
            rows.append(row)
            how = "kept from before" if row.get("reused") else f"{row.get('seconds', 0)} s"
            line = f"{row['name']}: {note(row) or 'done'} ({how})"
            bar.console.print(line, markup=False, highlight=False)
            bar.update(task, completed=len(rows))
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(grid(rows))
    print(f"{sweep.folder / SWEEP}, {sweep.folder / TABLE}")
    return 1 if any(row["error"] for row in rows) else 0


def find_recipes(name: str) -> list[Path]:
    """Find the recipes that an argument means: files, or one of the package's own by name.

    Raises:
        RecipeError: It means none.
    """
    if Path(name).is_file():
        return [Path(name)]
    if Path(name).is_dir():
        found = sorted(Path(name).glob("*.yaml"))
    else:
        found = sorted(Path(path) for path in glob.glob(name))
    if found:
        return found
    folder = share_path("config/recipes")
    own = folder / f"{name}.yaml"
    if own.is_file():
        return [own]
    known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise RecipeError(
        f"the recipe {name} does not exist; give a file, or one of the package's: {known}"
    )
