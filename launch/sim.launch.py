"""Start the robot in the small simulation: understanding node, executor and ``sim_node``.

``ros2 launch quant_llm_ros sim.launch.py bundle:=/path/of/a/bundle``; for Humble, Jazzy and
Kilted.
"""

from __future__ import annotations

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


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
                description="Known places (YAML); empty: those of the world.",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="true",
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
            DeclareLaunchArgument(
                "world", default_value="", description="World (YAML); empty: the flat."
            ),
            DeclareLaunchArgument(
                "speed_factor",
                default_value="1.0",
                description="Seconds of the simulation in a second of the real world.",
            ),
            OpaqueFunction(function=start_nodes),
        ]
    )


def start_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the actions once the arguments have their values."""
    share = get_package_share_directory("quant_llm_ros")

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    robot = {
        name: value(name)
        for name in (
            "namespace",
            "params_file",
            "bundle",
            "skills",
            "use_sim_time",
            "autostart",
            "use_respawn",
            "log_level",
        )
    }
    world = value("world") or os.path.join(share, "config", "simulation", "flat.yaml")
    world = os.path.abspath(os.path.expanduser(world))
    robot["places"] = value("places") or world  # a world has its places in the same file
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(os.path.join(share, "launch", "robot.launch.py")),
            launch_arguments=list(robot.items()),
        ),
        Node(
            package="quant_llm_ros",
            executable="sim_node",
            name="sim",
            namespace=value("namespace"),
            output="screen",
            emulate_tty=True,
            parameters=[
                value("params_file") or os.path.join(share, "config", "simulation", "sim.yaml"),
                {"world": world, "speed_factor": float(value("speed_factor"))},
            ],
            arguments=["--ros-args", "--log-level", value("log_level")],
        ),
    ]
