"""``quant_llm quantize``: from a checkpoint and a recipe to a bundle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import contextlib
from pathlib import Path
import tempfile
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from quant_llm_ros.cli.options import DEFAULT_BUNDLE
from quant_llm_ros.command import reference_decisions
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.command.validator import Validator
from quant_llm_ros.engine.bundle import Bundle, DRAFTER, SKILLS
from quant_llm_ros.errors import BundleError, QuantLlmError, RecipeError
from quant_llm_ros.resources import share_path


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "quantize",
        help="make a bundle of a checkpoint by a recipe",
        description="Quantize a checkpoint by a recipe and write a bundle that nodes can serve.",
    )
    parser.add_argument(
        "--recipe", help="recipe file (default: config/recipes/default.yaml of this package)"
    )
    parser.add_argument(
        "--output", default=DEFAULT_BUNDLE, help="folder of the bundle (default: %(default)s)"
    )
    parser.add_argument(
        "--skills", help="skill registry (default: config/skills/service_robot.yaml)"
    )
    parser.set_defaults(run=run)


def _opened_here(path: Path) -> Understander:
    """Open a bundle of any target on the CPU, so that what is measured is what will be served."""
    from quant_llm_ros.quantize.graph_run import open_on_cpu

    bundle = Bundle.load(path)
    skills = SkillRegistry.load(bundle.file(SKILLS))
    return Understander.of_bundle(bundle, open_on_cpu(bundle), skills)


def _with_reference_decisions(bundle: Bundle, commands: Sequence[str]) -> Bundle:
    """Let the bundle decide here, on the CPU, what every device must decide."""
    understander = _opened_here(bundle.path)
    try:
        spread = commands[:: max(1, len(commands) // reference_decisions.MOST)]
        tried = reference_decisions.sentences(understander.skills, spread)
        references = reference_decisions.record(understander.understand, tried)
    finally:
        understander.close()
    if not references:
        raise BundleError("the model is not sure of any command that was tried")
    return reference_decisions.write(bundle, references)


def run(arguments: argparse.Namespace) -> int:
    """Make a bundle."""
    try:
        # torch and the quantizers are an extra: a robot that only serves bundles lacks them.
        from quant_llm_ros.quantize.build import build_bundle
        from quant_llm_ros.quantize.recipe import Recipe
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"making bundles needs the package {error.name!r}; install the extra: "
            "pip install 'quant_llm_ros[quantize]'"
        ) from error
    from quant_llm_ros.cli.calibration import command_source, reference_source
    from quant_llm_ros.command.acceptance import accept
    from quant_llm_ros.command.evaluation import load_dataset
    from quant_llm_ros.training.drafting import train_drafter

    recipe = Recipe.load(arguments.recipe or share_path("config/recipes/default.yaml"))
    skills = Path(arguments.skills or share_path("config/skills/service_robot.yaml"))
    registry = SkillRegistry.load(skills)
    Validator(registry)  # a malformed registry fails now and not on the robot
    rows = load_dataset(recipe.accuracy) if recipe.accuracy else []
    examples = recipe.prompt_examples == "always"
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=1.0)
        stages: list[str] = []
        build_share = 0.4 if recipe.accuracy else 0.9

        def progress(stage: str, fraction: float) -> None:
            if not bar.console.is_terminal and stage not in stages:
                # In a log file a line for each stage tells more than a bar that cannot move.
                stages.append(stage)
                bar.console.print(f"{fraction:4.0%}  {stage}")
            bar.update(task, description=stage, completed=fraction)

        with contextlib.ExitStack() as stack:
            unquantized = None
            if recipe.accuracy and recipe.unquantized:
                # Beside the bundle, where there is room for it; a temporary folder may be memory.
                output = Path(arguments.output)
                output.parent.mkdir(parents=True, exist_ok=True)
                unquantized = Path(
                    stack.enter_context(
                        tempfile.TemporaryDirectory(dir=output.parent, prefix=".unquantized-")
                    )
                )
            bundle = build_bundle(
                recipe,
                Path(arguments.output),
                skills=skills,
                progress=lambda stage, part: progress(stage, part * build_share),
                unquantized=unquantized,
                more_files={DRAFTER: lambda path: train_drafter(registry).save(path)},
                commands=command_source(examples=examples),
                texts=reference_source(examples=examples),
            )
            if recipe.accuracy:
                bundle = accept(
                    bundle.path,
                    recipe.accuracy,
                    unquantized=unquantized,
                    opened=_opened_here,
                    progress=lambda part: progress(
                        "evaluating", build_share + part * (0.98 - build_share)
                    ),
                )
            progress("deciding the reference", 0.98)
            try:
                bundle = _with_reference_decisions(bundle, [r.text for r in rows if not r.before])
            except QuantLlmError as error:
                # The bundle is good; only another prompt or other skills can be served with it.
                console.print(f"no reference decisions: {error}", markup=False)
            progress("done", 1.0)
    print(
        f"{bundle.path}: {bundle.size_bytes / 1e6:.1f} MB, "
        + ", ".join(f"{name} {value}" for name, value in bundle.figures.items())
    )
    return 0
