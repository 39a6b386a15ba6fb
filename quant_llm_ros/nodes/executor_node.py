"""The program ``executor_node``: one process with the node that carries decisions out."""

from __future__ import annotations

from collections.abc import Sequence
import sys

from quant_llm_ros.nodes import program

_USAGE = """\
usage: executor_node [--ros-args -p places:=FILE -p autostart:=true ...]

Carries out the decisions of understanding_node: motions, drives to places, and skills of the
robot's own code (ROS 2 lifecycle node).
Parameters: `ros2 param list /executor` and `ros2 param describe /executor NAME`, or
config/executor.yaml of the package quant_llm_ros.
"""

# No callback waits for anything but a deactivation for its acknowledgements, and it stops first.
_THREADS = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Args:
        argv: Arguments after the program's name; None means those of the process.

    Returns:
        Exit status: 0 after a signal, 1 after a failure of ROS, 2 for wrong arguments.
    """
    return program.run("executor_node", _USAGE, _make, argv, threads=_THREADS)


def _make() -> program.ProgramNode:
    from quant_llm_ros.nodes.executor import ExecutorNode

    return ExecutorNode()


if __name__ == "__main__":
    sys.exit(main())
