"""``quant_llm bench``: how long decisions take, and what makes them fast."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any

from rich.console import Console

from quant_llm_ros.benchmark.ours import MODES, PLAIN, SERVED
from quant_llm_ros.benchmark.peers import model_of, PEERS
from quant_llm_ros.benchmark.picture import draw
from quant_llm_ros.benchmark.profile import profile
from quant_llm_ros.benchmark.report import document, tables, write_json
from quant_llm_ros.benchmark.runner import in_own_process, Settings
from quant_llm_ros.benchmark.runner import run as run_contenders
from quant_llm_ros.benchmark.sample import load_sentences
from quant_llm_ros.benchmark.start import first_decision
from quant_llm_ros.cli.options import add_model_options, positive_int
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.stop_guard import StopGuard
from quant_llm_ros.engine.bundle import Bundle, SKILLS
from quant_llm_ros.engine.providers import CPU, resolve
from quant_llm_ros.resources import share_path

_WIDTH = 150
_PROFILED = (1, 16, 32)
"""New tokens of the passes that are profiled: a decode step, a command, one with its draft."""


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "bench",
        help="measure the time from text to decision",
        description=(
            "Answer the same sentences with everything that makes decisions fast switched on one "
            "by one, each time in a new process. Print a table; exit with 1 where drafts changed "
            "an answer."
        ),
    )
    add_model_options(parser)
    parser.add_argument(
        "--dataset",
        action="append",
        required=True,
        metavar="F.jsonl",
        help='sentences: JSON lines with "text"; may be given several times',
    )
    parser.add_argument(
        "--count", type=positive_int, default=200, help="sentences (default: %(default)s)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only compare the answers as served with those of plain decoding",
    )
    parser.add_argument(
        "--peers",
        type=_peers,
        default=[],
        metavar="P,P",
        help=f"other runtimes with the same model: {', '.join(PEERS)} (requirements/peers.txt)",
    )
    parser.add_argument(
        "--recipe", help="recipe that the bundle was made by, for peers (default: the package's)"
    )
    parser.add_argument("--output", metavar="B.json", help="write all figures to a file")
    parser.add_argument("--plot", metavar="B.png", help="draw the times (needs matplotlib)")
    parser.set_defaults(run=run)


def _peers(text: str) -> list[str]:
    """Read a list of names."""
    names = text.split(",")
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(PEERS)}")
    return names


def run(arguments: argparse.Namespace) -> int:
    """Measure, and report."""
    bundle = Bundle.load(arguments.bundle)
    recipe = Path(arguments.recipe or share_path("config/recipes/default.yaml"))
    settings = Settings(
        arguments.bundle,
        arguments.skills,
        arguments.threads,
        arguments.provider,
        arguments.allow_fallback,
        {
            peer: model_of(peer, bundle, recipe, threads=arguments.threads)
            for peer in arguments.peers
        },
    )
    registry = SkillRegistry.load(arguments.skills or bundle.file(SKILLS))
    # A stop phrase is answered without any model.
    sentences = load_sentences(arguments.dataset, arguments.count, StopGuard(registry))
    modes = [PLAIN, SERVED] if arguments.check else list(MODES)
    modes += [mode for peer in arguments.peers for mode in PEERS[peer]]
    console = Console(stderr=True)
    results = []
    for result in run_contenders(settings, modes, sentences):
        seconds = sum(sample.total_ms for sample in result.samples) / 1e3
        console.print(f"{result.contender}: {len(result.samples)} sentences, {seconds:.1f} s")
        results.append(result)
        if arguments.output:  # what is known so far, should the run be interrupted
            write_json(document(results), results, Path(arguments.output))
    start = None if arguments.check else first_decision(settings, sentences[0])
    profiles = {}
    if start is not None and bundle.target == "ort" and resolve(arguments.provider) == CPU:
        profiles = {
            size: in_own_process("the profile", profile, settings, size) for size in _PROFILED
        }
    figures = document(results, start, profiles)
    # In a file or a pipe no line of the tables is broken.
    printer = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for table in tables(figures):
        printer.print(table)
    rows = figures["contenders"]
    ties = sorted({text for row in rows for text in row.get("ties", ())})
    different = sorted({text for row in rows for text in row.get("different_answers", ())})
    for text in ties:
        console.print(f"another answer, where rounding decides: {text}", markup=False)
    for text in different:
        console.print(f"another answer: {text}", markup=False)
    if arguments.output:
        write_json(figures, results, Path(arguments.output))
    if arguments.plot:
        draw(results, Path(arguments.plot))
    return 1 if different else 0
