"""``quant_llm finetune``: an adapter that teaches a model to answer with calls of skills."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quant_llm_ros.cli.options import positive_int
from quant_llm_ros.errors import RecipeError
from quant_llm_ros.resources import share_path


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "finetune",
        help="train the adapter that `quantize` merges into the model",
        description=(
            "Train a low-rank adapter, or with `train: weights` in the settings all weights of "
            "the layers, on generated sentences, and on human ones where they are given. An "
            "interrupted run goes on when the same command is given again."
        ),
    )
    parser.add_argument(
        "--settings", help="settings file (default: config/finetune/default.yaml of this package)"
    )
    parser.add_argument("--output", required=True, help="folder of the adapter")
    parser.add_argument(
        "--skills",
        help="registry to train for, in place of config/skills/service_robot.yaml",
    )
    parser.add_argument(
        "--data", action="append", default=[], metavar="F.jsonl", help="human sentences to learn"
    )
    parser.add_argument(
        "--measured",
        action="append",
        default=[],
        metavar="F.jsonl",
        help="sentences kept for measuring: the run is refused if one of them would be learnt",
    )
    parser.add_argument(
        "--start",
        metavar="ADAPTER",
        help="folder of an adapter to begin with, for example config/adapters/default for a short "
        "run on your own sentences (default: begin anew)",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=positive_int, default=2, help="(default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train an adapter."""
    try:
        from quant_llm_ros.training.finetune import Finetuner, Report
        from quant_llm_ros.training.reconstruction import LayerReport
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"fine-tuning needs the package {error.name!r}; install the extra: "
            "pip install 'quant_llm_ros[quantize]'"
        ) from error
    from quant_llm_ros.command.skills import SkillRegistry
    from quant_llm_ros.training.human import load_human
    from quant_llm_ros.training.settings import FinetuneSettings

    settings = FinetuneSettings.load(
        arguments.settings or share_path("config/finetune/default.yaml")
    )
    skills = SkillRegistry.load(arguments.skills or share_path("config/skills/service_robot.yaml"))
    human = [example for path in arguments.data for example in load_human(path, skills)]
    if arguments.data:
        print(f"{len(human)} human sentences", file=sys.stderr)
    trainer = Finetuner(
        settings,
        Path(arguments.output),
        skills=skills,
        own_registry=arguments.skills is not None,
        human=human,
        measured=[Path(path) for path in arguments.measured],
        start=Path(arguments.start) if arguments.start else None,
        device=arguments.device,
        threads=arguments.threads,
    )
    if trainer.resume():
        print(f"going on after step {trainer.step}", file=sys.stderr)
    columns = (
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=settings.steps, completed=trainer.step)

        def on_report(report: Report) -> None:
            line = (
                f"step {report.step}: loss {report.loss:.4f}, held-out loss "
                f"{report.held_out_loss:.4f}, held-out exact {report.held_out_exact:.1%}"
                + (", rounded" if report.rounding else "")
            )
            bar.console.print(line, highlight=False)

        def on_layer(report: LayerReport) -> None:
            line = f"layer {report.layer}: error {report.before:.4f}, trained {report.after:.4f}"
            bar.console.print(line, highlight=False)

        trainer.train(lambda step: bar.update(task, completed=step), on_report, on_layer)
    print(f"{arguments.output}: adapter after {trainer.step} steps")
    return 0
