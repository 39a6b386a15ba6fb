"""What both packages ask rosdep for exists in Humble, Jazzy and Kilted."""

from __future__ import annotations

from pathlib import Path

from catkin_pkg.package import parse_package
import pytest

# Packages of the repositories that ros/rosdistro lists in humble/, jazzy/ and
# kilted/distribution.yaml; the same in all three.
RELEASED = {
    "ament_cmake": {"ament_cmake"},
    "ament_index": {"ament_index_python"},
    "ament_lint": {"ament_flake8", "ament_pep257"},
    "common_interfaces": {
        "diagnostic_msgs",
        "geometry_msgs",
        "nav_msgs",
        "sensor_msgs",
        "std_msgs",
        "std_srvs",
    },
    "launch": {"launch"},
    "launch_ros": {"launch_ros"},
    "rcl_interfaces": {
        "action_msgs",
        "builtin_interfaces",
        "lifecycle_msgs",
        "rcl_interfaces",
        "rosgraph_msgs",
    },
    "rclpy": {"rclpy"},
    "rosidl_defaults": {"rosidl_default_generators", "rosidl_default_runtime"},
}
# Keys of rosdep/python.yaml in ros/rosdistro (commit 000730dc).
SYSTEM = {"python3-numpy", "python3-pytest", "python3-yaml"}
OWN = {"quant_llm_msgs", "quant_llm_ros"}


@pytest.mark.parametrize("manifest", ["package.xml", "quant_llm_msgs/package.xml"])
def test_rosdep_knows_every_dependency(repository: Path, manifest: str) -> None:
    package = parse_package(str(repository / manifest))
    asked = {
        depend.name
        for kind in (
            package.build_depends,
            package.buildtool_depends,
            package.exec_depends,
            package.test_depends,
        )
        for depend in kind
    }
    assert asked <= SYSTEM | OWN | set().union(*RELEASED.values())
