"""``quant_llm replay``: a recording of a robot's decisions, decided again."""

from __future__ import annotations

import argparse
from collections import Counter
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quant_llm_ros.cli.options import (
    add_model_options,
    add_shortlist_option,
    not_negative_float,
    share,
)
from quant_llm_ros.command.understander import DEFAULT_MIN_CONFIDENCE, Understander
from quant_llm_ros.errors import RecordingError
from quant_llm_ros.recording.bag import read_bag, Recording, Served
from quant_llm_ros.recording.replay import Comparison, replay

EXIT_SAME = 0
EXIT_DIFFERENT = 1


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "replay",
        help="decide again what a rosbag2 recording has, and compare",
        description="Understand the sentences of a rosbag2 recording again, in their order, and "
        "compare the decisions byte for byte, without time stamps, latencies and numbers. The "
        "exit status is 1 when one is not the same.",
    )
    parser.add_argument("bag", metavar="BAG", help="folder of the recording")
    add_model_options(parser)
    add_shortlist_option(parser)
    parser.add_argument(
        "--namespace", help="namespace of the robot, where the bag has several robots"
    )
    parser.add_argument(
        "--min-confidence",
        type=share,
        default=DEFAULT_MIN_CONFIDENCE,
        metavar="P",
        help="the node's parameter min_confidence (default: %(default)s)",
    )
    parser.add_argument(
        "--conversation",
        type=not_negative_float,
        default=30.0,
        metavar="S",
        help="the node's parameter conversation_s, seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--tolerance",
        type=share,
        default=0.0,
        metavar="P",
        help="largest difference of a confidence that does not count, for bags of a robot with "
        "another processor (default: %(default)s, byte for byte)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Replay a bag."""
    recording = read_bag(arguments.bag, arguments.namespace)
    if not recording.decisions:
        raise RecordingError(f"{arguments.bag}: there is no decision on {recording.topic}")
    console = Console(highlight=False)
    understander = Understander.open(
        arguments.bundle,
        arguments.skills,
        threads=arguments.threads,
        min_confidence=arguments.min_confidence,
        shortlist=arguments.shortlist,
    )
    try:
        _warn_of_other_bundles(recording, understander)
        comparisons = list(
            replay(
                recording,
                understander,
                conversation_s=arguments.conversation,
                tolerance=arguments.tolerance,
            )
        )
    finally:
        understander.close()
    return _report(console, recording, comparisons)


def _warn_of_other_bundles(recording: Recording, understander: Understander) -> None:
    bundle = understander.bundle
    assert bundle is not None
    served = list(dict.fromkeys(event for event in recording.events if isinstance(event, Served)))
    for other in served:
        if other.sha256 != bundle.sha256:
            print(
                f"quant_llm: the decisions were made with the bundle '{other.name}' (sha256 "
                f"{other.sha256[:12]}…), and now with '{bundle.name}' in {bundle.path} (sha256 "
                f"{bundle.sha256[:12]}…): differences are to be expected",
                file=sys.stderr,
            )
    if not served:
        print(
            "quant_llm: the topic bundle was not recorded, so that it is not known which bundle "
            "made the decisions",
            file=sys.stderr,
        )


def _report(console: Console, recording: Recording, comparisons: list[Comparison]) -> int:
    compared = [one for one in comparisons if one.is_compared]
    different = [one for one in compared if one.differences]
    if different:
        table = Table(title=f"What {recording.topic} had, and what is decided now")
        for column in ("command", "text", "field", "recorded", "replayed"):
            table.add_column(column, overflow="fold")
        for one in different:
            for row, difference in enumerate(one.differences):
                first = (str(one.recorded.command_id), one.recorded.text) if row == 0 else ("", "")
                # As Text: nothing that was said is markup.
                cells = (*first, difference.field, difference.recorded, difference.replayed)
                table.add_row(*map(Text, cells))
        console.print(table)
    skipped = Counter(one.recorded.status.name for one in comparisons if not one.is_compared)
    left_out = ", ".join(f"{count} {name}" for name, count in sorted(skipped.items()))
    console.print(
        f"{len(compared) - len(different)} of {len(compared)} decisions are the same"
        + (f"; not compared, since they hung on the moment: {left_out}" if left_out else "")
    )
    return EXIT_DIFFERENT if different else EXIT_SAME
