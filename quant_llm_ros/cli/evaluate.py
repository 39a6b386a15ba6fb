"""``quant_llm evaluate``: figures over sentences whose meaning is known."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import Any, TextIO

from rich.progress import Progress

from quant_llm_ros.cli.options import add_model_options, add_understanding_options
from quant_llm_ros.command.evaluation import (
    decide_alone,
    decide_in_conversation,
    evaluate,
    load_dataset,
    Verdict,
)
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.errors import DatasetError


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "evaluate",
        help="measure decisions on sentences with known meaning",
        description=(
            "Decide about every sentence of a dataset and print the figures as one JSON object: "
            "shares from 0 to 1, latency from the text to the decision in milliseconds."
        ),
    )
    add_model_options(parser)
    parser.add_argument("--dataset", required=True, metavar="F.jsonl", help="the sentences")
    parser.add_argument(
        "--predictions", metavar="OUT.jsonl", help="write every decision to a file"
    )
    add_understanding_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate a bundle on a dataset."""
    rows = load_dataset(arguments.dataset)
    with contextlib.ExitStack() as stack:
        out: TextIO | None = None
        if arguments.predictions:
            try:
                out = stack.enter_context(open(arguments.predictions, "w", encoding="utf-8"))
            except OSError as error:
                raise DatasetError(f"{arguments.predictions}: {error.strerror}") from error
        understander = Understander.open(
            arguments.bundle,
            arguments.skills,
            threads=arguments.threads,
            provider=arguments.provider,
            allow_fallback=arguments.allow_fallback,
            min_confidence=arguments.min_confidence,
            shortlist=arguments.shortlist,
        )
        stack.callback(understander.close)
        progress = stack.enter_context(_progress())
        task = progress.add_task("evaluating", total=len(rows))

        def note(verdict: Verdict) -> None:
            progress.advance(task)
            if out is not None:
                print(json.dumps(_prediction(verdict), ensure_ascii=False), file=out)

        decide = (
            decide_in_conversation(understander)
            if arguments.conversation
            else decide_alone(understander)
        )
        figures = evaluate(rows, decide, understander.skills, on_verdict=note)
    print(json.dumps({"dataset": arguments.dataset, "bundle": arguments.bundle, **figures}))
    return 0


def _progress() -> Progress:
    # On standard error, so that standard output is the JSON object alone.
    from rich.console import Console

    return Progress(console=Console(stderr=True), transient=True)


def _prediction(verdict: Verdict) -> dict[str, Any]:
    return {
        "id": verdict.row.id,
        **verdict.decision.to_dict(),
        "skills_exact": verdict.skills_exact,
        "all_exact": verdict.all_exact,
        "status_exact": verdict.status_exact,
    }
