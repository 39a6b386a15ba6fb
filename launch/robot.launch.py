"""Start a robot that understands and acts: the understanding node and the executor.

``ros2 launch quant_llm_ros robot.launch.py bundle:=/path/of/a/bundle places:=/path/of/a/file``;
for Humble, Jazzy and Kilted.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction

from quant_llm_ros.nodes.launching import ARGUMENTS, declare, Given, PLACES


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the nodes."""
    arguments = declare({**ARGUMENTS, **PLACES})
    return LaunchDescription([*arguments, OpaqueFunction(function=start_nodes)])


def start_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the actions once the arguments have their values."""
    given = Given(context)
    return [
        given.include("understanding.launch.py", given.robot()),
        given.managed_node(
            "executor_node", "executor", ("config", "executor.yaml"), paths=("places",)
        ),
    ]
