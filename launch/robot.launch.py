"""Start a robot that understands and acts: the understanding node and the executor.

``ros2 launch quant_llm_ros robot.launch.py bundle:=/path/of/a/bundle places:=/path/of/a/file``;
for Humble, Jazzy and Kilted.
"""

from __future__ import annotations

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the nodes."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "namespace", default_value="", description="Namespace of the nodes and topics."
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value="",
                description="Parameters of both nodes (YAML); empty: those of the package.",
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
                "places",
                default_value="",
                description="Known places (YAML); empty: as the params_file says.",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                choices=["true", "false"],
                description="Take the time from /clock.",
            ),
            DeclareLaunchArgument(
                "autostart",
                default_value="true",
                choices=["true", "false"],
                description="Configure and activate the nodes by themselves.",
            ),
            DeclareLaunchArgument(
                "use_respawn",
                default_value="false",
                choices=["true", "false"],
                description="Start a node again when its process ends.",
            ),
            DeclareLaunchArgument(
                "log_level", default_value="info", description="Level of the nodes' logs."
            ),
            OpaqueFunction(function=start_nodes),
        ]
    )


def start_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the actions once the arguments have their values."""
    share = get_package_share_directory("quant_llm_ros")

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    understanding = {
        name: value(name)
        for name in (
            "namespace",
            "bundle",
            "skills",
            "use_sim_time",
            "autostart",
            "use_respawn",
            "log_level",
        )
    }
    understanding["params_file"] = value("params_file") or os.path.join(
        share, "config", "understanding.yaml"
    )
    # As in understanding.launch.py: what was not given must not override the parameter file.
    given = {}
    if value("places"):
        path = os.path.abspath(os.path.expanduser(value("places")))
        given["places"] = ParameterValue(path, value_type=str)
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(
                os.path.join(share, "launch", "understanding.launch.py")
            ),
            launch_arguments=list(understanding.items()),
        ),
        Node(
            package="quant_llm_ros",
            executable="executor_node",
            name="executor",
            namespace=value("namespace"),
            output="screen",
            emulate_tty=True,
            respawn=value("use_respawn") == "true",
            respawn_delay=2.0,
            parameters=[
                value("params_file") or os.path.join(share, "config", "executor.yaml"),
                {
                    "use_sim_time": value("use_sim_time") == "true",
                    "autostart": value("autostart") == "true",
                    **given,
                },
            ],
            arguments=["--ros-args", "--log-level", value("log_level")],
        ),
    ]
