"""``quant_llm search``: mixed precision within a budget."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quant_llm_ros.cli.building import Builder, reference_texts
from quant_llm_ros.cli.options import positive_int
from quant_llm_ros.cli.sweep import find_recipes
from quant_llm_ros.errors import RecipeError
from quant_llm_ros.resources import share_path


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "search",
        help="find the best method for each part of a model within a budget",
        description=(
            "Measure how sensitive each layer is, then try mixtures of methods, and write the one "
            "of least divergence from the unquantized model as a recipe. With a storage many "
            "machines search one study, and a search that was interrupted goes on."
        ),
    )
    parser.add_argument("--recipe", default="default", help="recipe (default: %(default)s)")
    parser.add_argument(
        "--budget",
        required=True,
        metavar="NAME=NUMBER",
        help="size_mb=80 (all weights), latency_ms=5 (decoding one token on this machine) or "
        "energy_j=0.2 (one prompt and one token, by this machine's sensor)",
    )
    parser.add_argument(
        "--trials", type=positive_int, default=50, help="mixtures to try (default: %(default)s)"
    )
    parser.add_argument("--output", required=True, metavar="FOUND.yaml", help="recipe to write")
    parser.add_argument(
        "--choices",
        metavar="C.yaml",
        help="list of methods with their settings (default: uniform with 4 and with 8 bits)",
    )
    parser.add_argument(
        "--storage", metavar="URL", help="for example sqlite:///study.db (default: in memory)"
    )
    parser.add_argument(
        "--study", default="mixed-precision", help="its name in the storage (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="of the sampler (default: another one each time)")
    parser.add_argument(
        "--sensitivities", metavar="S.json", help="write the sensitivities, for the report"
    )
    parser.add_argument(
        "--skills", help="skill registry (default: config/skills/service_robot.yaml)"
    )
    parser.add_argument(
        "--threads", type=positive_int, default=2, help="CPU threads (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Search, and write the recipe."""
    try:
        from quant_llm_ros.quantize.recipe import Recipe
        from quant_llm_ros.report.budget import Budget, Device, write_sensitivities
        from quant_llm_ros.report.mixture import DEFAULT_CHOICES, read_choices
        from quant_llm_ros.report.search import search, Storage, write_found
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"the search needs the package {error.name!r}; install the extras: "
            "pip install 'quant_llm_ros[quantize,search]'"
        ) from error
    budget = Budget.parse(arguments.budget)
    recipe = Recipe.load(find_recipes(arguments.recipe)[0])
    choices = read_choices(Path(arguments.choices)) if arguments.choices else DEFAULT_CHOICES
    skills = Path(arguments.skills or share_path("config/skills/service_robot.yaml"))
    columns = (
        TextColumn("{task.description:<24}"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("loading the model", total=None)
        found = search(
            recipe,
            choices,
            budget,
            trials=arguments.trials,
            storage=Storage(arguments.storage, arguments.study, arguments.seed),
            device=Device(
                Builder(),
                skills,
                arguments.threads,
                lambda recipe, checkpoint: reference_texts(recipe, checkpoint, skills),
            ),
            progress=lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            ),
        )
    write_found(found, recipe, choices, budget, Path(arguments.output))
    if arguments.sensitivities:
        write_sensitivities(Path(arguments.sensitivities), found.sensitivities)
    print(
        f"{arguments.output}: weights {found.size_mb:.2f} MB, KL divergence {found.kl_nats:.4f} "
        f"nats, {budget.name} {found.cost:.4g} of {budget.limit:g}, {found.trials} trials"
    )
    return 0
