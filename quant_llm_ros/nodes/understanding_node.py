"""The program ``understanding_node``: one process with the node that understands commands."""

from __future__ import annotations

from collections.abc import Sequence
import sys

from quant_llm_ros.nodes import program

# Inference and loading run beside the executor, whose callbacks are short: two of these threads
# can be held up by transitions, and stops, cancels and parameter calls still find another.
_THREADS = 4

_USAGE = """\
usage: understanding_node [--ros-args -p bundle:=FOLDER -p autostart:=true ...]

Turns text commands into typed robot decisions with the model of a bundle (ROS 2 lifecycle node).
Parameters: `ros2 param list /understanding` and `ros2 param describe /understanding NAME`, or
config/understanding.yaml of the package quant_llm_ros.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Args:
        argv: Arguments after the program's name; None means those of the process.

    Returns:
        Exit status: 0 after a signal, 1 after a failure of ROS, 2 for wrong arguments.
    """
    return program.run("understanding_node", _USAGE, _make, argv, threads=_THREADS)


def _make() -> program.ProgramNode:
    from quant_llm_ros.nodes.understanding import UnderstandingNode

    return UnderstandingNode()


if __name__ == "__main__":
    sys.exit(main())
