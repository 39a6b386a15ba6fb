"""``quant_llm generate``: training sentences as JSON lines."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
import sys
from typing import Any

from quant_llm_ros.cli.options import positive_int, share
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.training.generator import generate

_GROUP_SIZE = 16


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "generate",
        help="write training sentences with their answers",
        description=(
            "Write training sentences, one JSON object a line: text, answer, kind, registry."
        ),
    )
    parser.add_argument("--seed", type=int, default=1, help="any whole number (default: 1)")
    parser.add_argument(
        "--count", type=positive_int, default=1000, help="sentences (default: %(default)s)"
    )
    parser.add_argument(
        "--skills",
        action="append",
        metavar="R.yaml",
        help="registry in place of the default one; may be given several times",
    )
    parser.add_argument(
        "--default-share",
        type=share,
        default=0.6,
        metavar="SHARE",
        help="share of sentences over the registry as it is, not derived ones (default: 0.6)",
    )
    parser.add_argument("--output", metavar="F.jsonl", help="file (default: standard output)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the sentences."""
    registries = None
    if arguments.skills:
        registries = [SkillRegistry.load(path) for path in arguments.skills]
    groups = generate(
        arguments.seed,
        -(-arguments.count // _GROUP_SIZE),
        _GROUP_SIZE,
        default_share=arguments.default_share,
        registries=registries,
    )
    left = arguments.count
    with contextlib.ExitStack() as stack:
        output = sys.stdout
        if arguments.output:
            output = stack.enter_context(Path(arguments.output).open("w", encoding="utf-8"))
        for group in groups:
            for example in group.examples[:left]:
                row = {
                    "text": example.text,
                    "answer": example.answer,
                    "kind": example.kind,
                    "registry": group.registry.name,
                }
                print(json.dumps(row, ensure_ascii=False), file=output)
            left -= len(group.examples[:left])
    return 0
