"""The program ``sim_node``: one process with the simulated robot."""

from __future__ import annotations

from collections.abc import Sequence
import sys

from quant_llm_ros.nodes import program

_USAGE = """\
usage: sim_node [--ros-args -p world:=FILE -p speed_factor:=2.0 ...]

A small kinematic robot in a walled 2D world, with odometry, laser scan, clock and faults on
demand, to try decisions without a robot.
Parameters: `ros2 param list /sim` and `ros2 param describe /sim NAME`, or
config/simulation/sim.yaml of the package quant_llm_ros.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Args:
        argv: Arguments after the program's name; None means those of the process.

    Returns:
        Exit status: 0 after a signal, 1 when the world or a parameter cannot be used or after a
        failure of ROS, 2 for wrong arguments.
    """
    return program.run("sim_node", _USAGE, _make, argv, threads=1)


def _make() -> program.ProgramNode:
    from quant_llm_ros.nodes.sim import SimNode

    return SimNode()


if __name__ == "__main__":
    sys.exit(main())
