"""Start the robot in the small simulation: understanding node, executor and ``sim_node``.

``ros2 launch quant_llm_ros sim.launch.py bundle:=/path/of/a/bundle``; for Humble, Jazzy and
Kilted.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction

from quant_llm_ros.nodes.launching import ARGUMENTS, declare, Given, path, share

OWN = {
    "use_sim_time": ("true", ARGUMENTS["use_sim_time"][1]),
    "places": ("", "Known places (YAML); empty: those of the world."),
    "world": ("", "World (YAML); empty: the flat."),
    "speed_factor": ("1.0", "Seconds of the simulation in a second of the real world."),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the nodes."""
    arguments = declare({**ARGUMENTS, **OWN})
    return LaunchDescription([*arguments, OpaqueFunction(function=start_nodes)])


def start_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the actions once the arguments have their values."""
    given = Given(context)
    world = path(given["world"] or share("config", "simulation", "flat.yaml"))
    return [
        # A world has its places in the same file.
        given.include("robot.launch.py", given.robot(places=given["places"] or world)),
        given.node(
            "sim_node",
            "sim",
            ("config", "simulation", "sim.yaml"),
            world=world,
            speed_factor=float(given["speed_factor"]),
        ),
    ]
