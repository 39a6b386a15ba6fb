"""Lets the installed programs run from a virtual environment that carries its own ROS 2.

Whoever sourced a ROS 2 has its environment variables set, and nothing happens here. A development
environment of ROS wheels has no ``setup.bash``; without help, rclpy would not find its middleware.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
import os
import pathlib
import sys

_DEFAULTS: Mapping[str, str] = {
    "ROS_VERSION": "2",
    "ROS_PYTHON_VERSION": "3",
    "ROS_DISTRO": "kilted",
    "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
    # A machine without a ROS installation is nobody's robot: keep its traffic off the network.
    # (ROS_LOCALHOST_ONLY has no effect any more since Kilted.)
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    # Segments in /dev/shm outlive killed processes and collide between containers.
    "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4",
}


def prepare(
    environment: MutableMapping[str, str] = os.environ,
    prefix: str | os.PathLike[str] = sys.prefix,
) -> bool:
    """Set the ROS variables if none are set and the interpreter's prefix carries a ROS 2.

    Must be called before rclpy is imported: the middleware reads the variables when it is loaded.

    Args:
        environment: The variables to complete; those that are set already stay as they are.
        prefix: Prefix of the Python environment.

    Returns:
        Whether anything was set.
    """
    if environment.get("AMENT_PREFIX_PATH"):
        return False
    prefix = pathlib.Path(prefix)
    index = prefix / "share" / "ament_index" / "resource_index"
    if not (index / "rmw_typesupport").is_dir():
        return False
    environment["AMENT_PREFIX_PATH"] = str(prefix)
    for name, value in _DEFAULTS.items():
        environment.setdefault(name, value)
    return True
