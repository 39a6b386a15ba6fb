"""``quant_llm bench``: how long decisions take, and what makes them fast."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any

from rich.console import Console

from quant_llm_ros.benchmark.llama_cpp import load_library
from quant_llm_ros.benchmark.ours import MODES, PLAIN
from quant_llm_ros.benchmark.peers import gguf_of, PEERS
from quant_llm_ros.benchmark.report import document, draw, table, write_json
from quant_llm_ros.benchmark.runner import run as run_contenders
from quant_llm_ros.benchmark.runner import Settings
from quant_llm_ros.benchmark.sample import load_sentences
from quant_llm_ros.cli.options import add_model_options, positive_int
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.resources import share_path

_WIDTH = 140


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
    parser.add_argument("--drafter", metavar="D.json", help="what the drafter learned before")
    parser.add_argument(
        "--check",
        action="store_true",
        help="only compare the answers of drafted with those of plain decoding",
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


def _gguf(arguments: argparse.Namespace) -> str | None:
    """Give the file that llama.cpp takes, where it is wanted."""
    if "llama_cpp" not in arguments.peers:
        return None
    load_library()  # before a minute is spent on the file
    recipe = Path(arguments.recipe or share_path("config/recipes/default.yaml"))
    return str(gguf_of(Bundle.load(arguments.bundle), recipe))


def run(arguments: argparse.Namespace) -> int:
    """Measure, and report."""
    settings = Settings(
        arguments.bundle,
        arguments.skills,
        arguments.threads,
        arguments.drafter,
        arguments.provider,
        arguments.allow_fallback,
        _gguf(arguments),
    )
    sentences = load_sentences(arguments.dataset, arguments.count)
    modes = list(MODES)
    if arguments.check:
        modes = modes[modes.index(PLAIN) :]
    modes += [mode for peer in arguments.peers for mode in PEERS[peer]]
    console = Console(stderr=True)
    results = []
    for result in run_contenders(settings, modes, sentences):
        console.print(f"{result.contender}: {len(result.samples)} sentences")
        results.append(result)
    figures = document(results)
    # In a file or a pipe no line of the table is broken.
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table(figures))
    different = sorted(
        {text for row in figures["contenders"] for text in row.get("different_answers", ())}
    )
    for text in different:
        console.print(f"another answer: {text}", markup=False)
    if arguments.output:
        write_json(figures, results, Path(arguments.output))
    if arguments.plot:
        draw(results, Path(arguments.plot))
    return 1 if different else 0
