"""Start the robot in Gazebo Harmonic (not run in Gazebo): understanding node, executor, ros_gz.

``ros2 launch quant_llm_ros gazebo.launch.py bundle:=/path/of/a/bundle headless:=true``; needs the
packages ros_gz_sim and ros_gz_bridge.
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
                description="Known places (YAML); empty: those of the flat.",
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
                "world", default_value="", description="World (SDF); empty: the flat."
            ),
            DeclareLaunchArgument(
                "headless",
                default_value="false",
                choices=["true", "false"],
                description="Run Gazebo without its window.",
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
    robot["places"] = value("places") or os.path.join(share, "config", "simulation", "flat.yaml")
    world = value("world") or os.path.join(share, "config", "simulation", "world.sdf")
    world = os.path.abspath(os.path.expanduser(world))
    # -r runs at once; -s is the server alone, which then renders for the laser scanner itself.
    options = "-r -s --headless-rendering" if value("headless") == "true" else "-r"
    gazebo = os.path.join(get_package_share_directory("ros_gz_sim"), "launch", "gz_sim.launch.py")
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(os.path.join(share, "launch", "robot.launch.py")),
            launch_arguments=list(robot.items()),
        ),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(gazebo),
            launch_arguments=[("gz_args", f"{options} {world}"), ("on_exit_shutdown", "true")],
        ),
        Node(
            package="ros_gz_sim",
            executable="create",
            output="screen",
            arguments=[
                "-name",
                "robot",
                "-file",
                os.path.join(share, "config", "simulation", "robot.sdf"),
            ],
        ),
        Node(
            package="ros_gz_bridge",
            executable="parameter_bridge",
            name="bridge",
            namespace=value("namespace"),
            output="screen",
            parameters=[
                {
                    "config_file": os.path.join(share, "config", "simulation", "bridge.yaml"),
                    "use_sim_time": value("use_sim_time") == "true",
                }
            ],
        ),
    ]
