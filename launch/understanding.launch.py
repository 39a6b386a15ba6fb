"""Start the understanding node and bring it up.

``ros2 launch quant_llm_ros understanding.launch.py bundle:=/path/of/a/bundle``; works with
Humble, Jazzy and Kilted.
"""

from __future__ import annotations

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the node."""
    share = get_package_share_directory("quant_llm_ros")
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "namespace", default_value="", description="Namespace of the node and its topics."
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=os.path.join(share, "config", "understanding.yaml"),
                description="Parameters of the node (YAML).",
            ),
            DeclareLaunchArgument(
                "bundle",
                default_value="",
                description="Folder of the model bundle; empty: as the params_file says.",
            ),
            DeclareLaunchArgument(
                "skills",
                default_value="",
                description="Skill registry (YAML); empty: as the params_file says.",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                choices=["true", "false"],
                description="Stamp messages with the time of /clock.",
            ),
            DeclareLaunchArgument(
                "autostart",
                default_value="true",
                choices=["true", "false"],
                description="Configure and activate the node by itself.",
            ),
            DeclareLaunchArgument(
                "use_respawn",
                default_value="false",
                choices=["true", "false"],
                description="Start the node again when its process ends.",
            ),
            DeclareLaunchArgument(
                "log_level", default_value="info", description="Level of the node's log."
            ),
            OpaqueFunction(function=start_node),
        ]
    )


def start_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the node's action once the arguments have their values."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    # An argument that was not given must leave the value of the parameter file alone, so it may
    # not appear among the overrides at all: hence this function instead of substitutions.
    # ParameterValue keeps a folder named "2024" a string.
    given = {
        name: ParameterValue(os.path.abspath(os.path.expanduser(value(name))), value_type=str)
        for name in ("bundle", "skills")
        if value(name)
    }
    return [
        # A plain Node and the node's own parameter "autostart", instead of a LifecycleNode and
        # transitions emitted from here: those happen once, so that a respawned process would stay
        # unconfigured, and LifecycleNode's own autostart option came after Jazzy.
        Node(
            package="quant_llm_ros",
            executable="understanding_node",
            name="understanding",
            namespace=value("namespace"),
            output="screen",
            emulate_tty=True,
            respawn=value("use_respawn") == "true",
            respawn_delay=2.0,
            parameters=[
                value("params_file"),
                {
                    "use_sim_time": value("use_sim_time") == "true",
                    "autostart": value("autostart") == "true",
                    **given,
                },
            ],
            arguments=["--ros-args", "--log-level", value("log_level")],
        )
    ]
