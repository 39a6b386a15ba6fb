"""Gazebo's files against the small simulation.

Gazebo is on no package registry; where ``ign`` or ``gz`` is installed it checks the SDF files.
"""

from __future__ import annotations

import math
from pathlib import Path
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest
import yaml

from quant_llm_ros.simulation.world import load_world

TOOL = shutil.which("gz") or shutil.which("ign")
SDF_FILES = ("robot", "world")


def test_bridge_has_the_topics_of_the_simulation(repository: Path) -> None:
    folder = repository / "config/simulation"
    entries = yaml.safe_load((folder / "bridge.yaml").read_text())
    topics = {entry["ros_topic_name"]: entry for entry in entries}
    assert set(topics) == {"/clock", "cmd_vel", "odom", "scan", "true_pose"}
    keys = {"ros_topic_name", "gz_topic_name", "ros_type_name", "gz_type_name", "direction"}
    assert all(set(entry) == keys for entry in entries)
    into_gazebo = [name for name, e in topics.items() if e["direction"] == "ROS_TO_GZ"]
    assert into_gazebo == ["cmd_vel"]
    robot = (folder / "robot.sdf").read_text()
    for name in ("cmd_vel", "odom", "scan"):
        assert f">{topics[name]['gz_topic_name']}<" in robot


def test_walls_in_gazebo_stand_where_the_small_simulation_has_them(repository: Path) -> None:
    world = load_world(repository / "config/simulation/flat.yaml")
    expected = sorted(ends(*map(float, wall)) for wall in world.walls)
    found = []
    root = ET.parse(repository / "config/simulation/world.sdf").getroot()
    for link in root.findall("./world/model[@name='walls']/link"):
        x, y, _, _, _, yaw = map(float, str(link.findtext("pose")).split())
        sizes = {element.text for element in link.iter("size")}
        assert len(sizes) == 1  # what is seen and what is touched
        half = float(str(sizes.pop()).split()[0]) / 2.0
        dx, dy = half * math.cos(yaw), half * math.sin(yaw)
        found.append(ends(x - dx, y - dy, x + dx, y + dy))
    assert sorted(found) == expected


def ends(x1: float, y1: float, x2: float, y2: float) -> tuple[tuple[float, float], ...]:
    """Give the ends of a wall, whichever comes first, in whole millimetres."""
    points = [(round(x, 3) + 0.0, round(y, 3) + 0.0) for x, y in ((x1, y1), (x2, y2))]
    return tuple(sorted(points))


@pytest.mark.parametrize("name", SDF_FILES)
def test_version_of_the_sdf(repository: Path, name: str) -> None:
    path = repository / f"config/simulation/{name}.sdf"
    version = ET.parse(path).getroot().get("version")
    assert tuple(map(int, str(version).split("."))) <= (1, 9)


# No package index that the set-up may use has the tool.
@pytest.mark.skipif(
    TOOL is None,
    reason="neither gz nor ign is installed (apt install ignition-tools sdformat-sdf)",
)
@pytest.mark.parametrize("name", SDF_FILES)
def test_gazebo_takes_the_sdf(repository: Path, name: str) -> None:
    path = repository / f"config/simulation/{name}.sdf"
    checked = subprocess.run(
        [str(TOOL), "sdf", "-k", path], capture_output=True, text=True, timeout=60
    )
    printed = checked.stdout + checked.stderr
    assert "Valid." in printed, printed
    assert "Error:" not in printed, printed
    assert "Warning" not in printed, printed
