"""What the launch files share: their arguments, and how a node of this package is started."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import os
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = "quant_llm_ros"
SWITCH = ("true", "false")
RESPAWN_DELAY_S = 2.0

ARGUMENTS: Mapping[str, tuple[str, str]] = {
    "namespace": ("", "Namespace of the nodes and their topics."),
    "params_file": ("", "Parameters of the nodes (YAML); empty: those of the package."),
    "bundle": ("", "Folder of the model bundle; empty: as the params_file says."),
    "skills": ("", "Skill registry (YAML); empty: as the params_file says."),
    "use_sim_time": ("false", "Take the time from /clock."),
    "autostart": ("true", "Configure and activate the nodes by themselves."),
    "use_respawn": ("false", "Start a node again when its process ends."),
    "log_level": ("info", "Level of the nodes' logs."),
}
"""Default and description of the arguments that all launch files have."""

PLACES = {"places": ("", "Known places (YAML); empty: as the params_file says.")}


def declare(
    arguments: Mapping[str, tuple[str, str]], switches: Iterable[str] = ()
) -> list[LaunchDescriptionEntity]:
    """Declare arguments.

    Args:
        arguments: Default and description by name.
        switches: Names, besides the common ones, of those that are true or false.
    """
    either = {"use_sim_time", "autostart", "use_respawn", *switches}
    return [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=description,
            choices=list(SWITCH) if name in either else None,
        )
        for name, (default, description) in arguments.items()
    ]


def share(*parts: str, package: str = PACKAGE) -> str:
    """Give the path of a file that a package has installed."""
    return os.path.join(get_package_share_directory(package), *parts)


def path(text: str) -> str:
    """Make a path that a user gave independent of where the node runs."""
    return os.path.abspath(os.path.expanduser(text))


class Given:
    """The values that the arguments have in the end, and what is started with them."""

    def __init__(self, context: LaunchContext) -> None:
        """Take the context of an ``OpaqueFunction``."""
        self._context = context

    def __getitem__(self, name: str) -> str:
        """Give the value of an argument."""
        return str(LaunchConfiguration(name).perform(self._context))

    def is_on(self, name: str) -> bool:
        """Tell whether a switch is on."""
        return self[name] == "true"

    def robot(self, **changed: str) -> dict[str, str]:
        """Give the values of the common arguments, to be passed on.

        Args:
            **changed: Values that are to be others.
        """
        return {**{name: self[name] for name in ARGUMENTS}, **changed}

    def include(self, file: str, arguments: Mapping[str, str]) -> IncludeLaunchDescription:
        """Include another launch file of this package."""
        source = PythonLaunchDescriptionSource(share("launch", file))
        return IncludeLaunchDescription(source, launch_arguments=list(arguments.items()))

    def node(
        self,
        executable: str,
        name: str,
        parameters: tuple[str, ...],
        *,
        paths: Iterable[str] = (),
        **values: Any,
    ) -> Node:
        """Start a node of this package.

        Args:
            executable: Its program.
            name: Name of the node.
            parameters: Where its parameter file lies below the package's share folder.
            paths: Arguments that are parameters with a path, where they are given at all: what is
                not given must leave the value of the parameter file alone.
            **values: Other parameters.
        """
        # ParameterValue keeps a folder named "2024" a string.
        given = {
            name: ParameterValue(path(self[name]), value_type=str) for name in paths if self[name]
        }
        return Node(
            package=PACKAGE,
            executable=executable,
            name=name,
            namespace=self["namespace"],
            output="screen",
            emulate_tty=True,
            respawn=self.is_on("use_respawn"),
            respawn_delay=RESPAWN_DELAY_S,
            parameters=[self["params_file"] or share(*parameters), {**values, **given}],
            arguments=["--ros-args", "--log-level", self["log_level"]],
        )

    def managed_node(
        self, executable: str, name: str, parameters: tuple[str, ...], paths: Iterable[str]
    ) -> Node:
        """Start a lifecycle node, which brings itself up.

        That is a plain Node and the node's own parameter "autostart", instead of a LifecycleNode
        and transitions emitted from here: those happen once, so that a respawned process would
        stay unconfigured, and LifecycleNode's own autostart option came after Jazzy.
        """
        return self.node(
            executable,
            name,
            parameters,
            paths=paths,
            use_sim_time=self.is_on("use_sim_time"),
            autostart=self.is_on("autostart"),
        )
