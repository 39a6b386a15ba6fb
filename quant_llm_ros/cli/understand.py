"""``quant_llm understand``: sentences in, decisions out."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from quant_llm_ros.cli.options import add_model_options, add_understanding_options, positive_float
from quant_llm_ros.command.conversation import Conversation
from quant_llm_ros.command.decision import Decision
from quant_llm_ros.command.understander import Understander


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "understand",
        help="read one sentence a line, write one decision a line",
        description="Read one sentence a line from standard input and write one decision a line.",
    )
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="write each decision as a JSON object")
    parser.add_argument(
        "--deadline", type=positive_float, metavar="S", help="seconds allowed for each sentence"
    )
    add_understanding_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Decide about every line of standard input."""
    understander = Understander.open(
        arguments.bundle,
        arguments.skills,
        threads=arguments.threads,
        provider=arguments.provider,
        allow_fallback=arguments.allow_fallback,
        min_confidence=arguments.min_confidence,
        shortlist=arguments.shortlist,
    )
    conversation = Conversation(float("inf") if arguments.conversation else 0.0)
    try:
        if sys.stdin.isatty():
            print("One sentence a line; Ctrl-D ends.", file=sys.stderr)
        for line in sys.stdin.buffer:
            # Bytes that are not UTF-8 become marks that the reading of the command refuses.
            text = line.rstrip(b"\r\n").decode("utf-8", errors="surrogateescape")
            decision = understander.understand(
                text, before=conversation.before(), deadline_s=arguments.deadline
            )
            conversation.note(decision)
            output = decision.to_dict()
            # Such marks cannot be printed, though.
            output["text"] = text.encode("utf-8", errors="surrogateescape").decode(
                "utf-8", errors="replace"
            )
            print(
                json.dumps(output, ensure_ascii=False) if arguments.json else one_line(decision),
                flush=True,
            )
            understander.learn()
    finally:
        understander.close()
    return 0


def one_line(decision: Decision) -> str:
    """Write a decision for a person."""
    return (
        f"{decision.status.name:<9} {decision.outline}  "
        f"[confidence {decision.confidence:.2f}, {decision.total_ms:.0f} ms]"
    )
