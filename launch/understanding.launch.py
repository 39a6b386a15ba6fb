"""Start the understanding node and bring it up.

``ros2 launch quant_llm_ros understanding.launch.py bundle:=/path/of/a/bundle``; for Humble, Jazzy
and Kilted.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction

from quant_llm_ros.nodes.launching import ARGUMENTS, declare, Given


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the node."""
    return LaunchDescription([*declare(ARGUMENTS), OpaqueFunction(function=start_nodes)])


def start_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the node's action once the arguments have their values."""
    return [
        Given(context).managed_node(
            "understanding_node",
            "understanding",
            ("config", "understanding.yaml"),
            paths=("bundle", "skills"),
        )
    ]
