"""Start the robot in Gazebo Harmonic (not run in Gazebo): understanding node, executor, ros_gz.

``ros2 launch quant_llm_ros gazebo.launch.py bundle:=/path/of/a/bundle headless:=true``; needs the
packages ros_gz_sim and ros_gz_bridge.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from quant_llm_ros.nodes.launching import ARGUMENTS, declare, Given, path, share

OWN = {
    "use_sim_time": ("true", ARGUMENTS["use_sim_time"][1]),
    "places": ("", "Known places (YAML); empty: those of the flat."),
    "world": ("", "World (SDF); empty: the flat."),
    "headless": ("false", "Run Gazebo without its window."),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the nodes."""
    arguments = declare({**ARGUMENTS, **OWN}, switches=["headless"])
    return LaunchDescription([*arguments, OpaqueFunction(function=start_nodes)])


def start_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the actions once the arguments have their values."""
    given = Given(context)
    world = path(given["world"] or share("config", "simulation", "world.sdf"))
    places = given["places"] or share("config", "simulation", "flat.yaml")
    # -r runs at once; -s is the server alone, which then renders for the laser scanner itself.
    options = "-r -s --headless-rendering" if given.is_on("headless") else "-r"
    return [
        given.include("robot.launch.py", given.robot(places=places)),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(
                share("launch", "gz_sim.launch.py", package="ros_gz_sim")
            ),
            launch_arguments=[("gz_args", f"{options} {world}"), ("on_exit_shutdown", "true")],
        ),
        Node(
            package="ros_gz_sim",
            executable="create",
            output="screen",
            arguments=["-name", "robot", "-file", share("config", "simulation", "robot.sdf")],
        ),
        Node(
            package="ros_gz_bridge",
            executable="parameter_bridge",
            name="bridge",
            namespace=given["namespace"],
            output="screen",
            parameters=[
                {
                    "config_file": share("config", "simulation", "bridge.yaml"),
                    "use_sim_time": given.is_on("use_sim_time"),
                }
            ],
        ),
    ]
