"""``quant_llm watch``: a running robot in the terminal."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from quant_llm_ros.cli.options import positive_float


def add_parser(subcommands: Any) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "watch",
        help="show what a running robot decides, how fast, and how it is",
        description="Show the last decisions of a running robot, what became of them, latency by "
        "stage and health, until Ctrl-C. It only listens.",
    )
    parser.add_argument(
        "--namespace", default="", help="namespace of the robot's nodes (default: none)"
    )
    parser.add_argument(
        "--once", action="store_true", help="print one frame and end; status 1 without a robot"
    )
    parser.add_argument(
        "--wait",
        type=positive_float,
        default=3.0,
        metavar="S",
        help="seconds that --once listens before it prints (default: %(default)s)",
    )
    parser.add_argument("--svg", metavar="FILE", help="write the last frame to an SVG file too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Watch."""
    # By its name: this one subcommand needs ROS 2, and the others must go without.
    watch = importlib.import_module("quant_llm_ros.nodes.watch")
    return int(
        watch.run(arguments.namespace, arguments.wait if arguments.once else None, arguments.svg)
    )
