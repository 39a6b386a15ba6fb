"""Launch files of robot and simulation, read as text and run with fakes, and Gazebo's files.

``launch`` and Gazebo are on no package registry; where ``ign`` or ``gz`` is installed it checks
the SDF files.
"""

from __future__ import annotations

import ast
import importlib.util
import math
from pathlib import Path
import shutil
import subprocess
import sys
import types
from typing import Any
import xml.etree.ElementTree as ET

import pytest
import yaml

from quant_llm_ros.simulation.world import load_world

COMMON = {
    "namespace",
    "params_file",
    "bundle",
    "skills",
    "places",
    "use_sim_time",
    "autostart",
    "use_respawn",
    "log_level",
}
ARGUMENTS = {
    "robot": COMMON,
    "sim": COMMON | {"world", "speed_factor"},
    "gazebo": COMMON | {"world", "headless"},
}
HAS_LAUNCH_ROS = importlib.util.find_spec("launch_ros") is not None
SDF_FILES = ("robot", "world")


def tree(repository: Path, name: str) -> ast.Module:
    return ast.parse((repository / f"launch/{name}.launch.py").read_text())


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name
    ]


def declared_programs(repository: Path) -> set[str]:
    setup = (repository / "setup.py").read_text()
    lines = [line.strip().strip('",') for line in setup.splitlines() if ":main" in line]
    return {line.split(" = ")[0] for line in lines}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_declares_describes_and_uses_its_arguments(repository: Path, name: str) -> None:
    module = tree(repository, name)
    declared = calls(module, "DeclareLaunchArgument")
    assert {ast.literal_eval(call.args[0]) for call in declared} == ARGUMENTS[name]
    for call in declared:
        assert {"default_value", "description"} <= {keyword.arg for keyword in call.keywords}
    function = next(n for n in module.body if getattr(n, "name", "") == "start_nodes")
    used = {n.value for n in ast.walk(function) if isinstance(n, ast.Constant)}
    assert used >= ARGUMENTS[name]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_starts_programs_and_names_files_that_exist(repository: Path, name: str) -> None:
    module = tree(repository, name)
    for node in calls(module, "Node"):
        keywords = {k.arg: k.value for k in node.keywords}
        if ast.literal_eval(keywords["package"]) == "quant_llm_ros":
            assert ast.literal_eval(keywords["executable"]) in declared_programs(repository)
    for node in ast.walk(module):
        if (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", "") == "join"
            and isinstance(node.args[0], ast.Name)
        ):
            parts = [ast.literal_eval(part) for part in node.args[1:]]
            assert (repository / Path(*parts)).is_file(), parts


class FakeAction:
    """Any action or substitution of launch: keeps what it was made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs


class FakeConfiguration(FakeAction):
    """The value of an argument: the context is simply the arguments by name."""

    def perform(self, context: dict[str, str]) -> str:
        return context[self.args[0]]


class Launched:
    """What a launch file starts with some arguments."""

    def __init__(self, module: types.ModuleType, given: dict[str, str]) -> None:
        entities = module.generate_launch_description().args[0]
        context = {e.args[0]: e.kwargs["default_value"] for e in entities[:-1]} | given
        actions = module.start_nodes(context)
        self.nodes = {
            a.kwargs["executable"]: a.kwargs for a in actions if "executable" in a.kwargs
        }
        self.includes = {
            Path(a.args[0].args[0]).name: dict(a.kwargs["launch_arguments"])
            for a in actions
            if "launch_arguments" in a.kwargs
        }


@pytest.fixture
def launch(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a launch file with fakes in place of launch."""
    if HAS_LAUNCH_ROS:
        # The real actions do not show what they were made of; real runs start the same files.
        pytest.skip("launch_ros is installed: these tests read what fakes of it were given")
    names: dict[str, dict[str, Any]] = {
        "launch": dict.fromkeys(
            ("LaunchContext", "LaunchDescription", "LaunchDescriptionEntity"), FakeAction
        ),
        "launch.actions": dict.fromkeys(
            ("DeclareLaunchArgument", "IncludeLaunchDescription", "OpaqueFunction"), FakeAction
        ),
        "launch.launch_description_sources": {"PythonLaunchDescriptionSource": FakeAction},
        "launch.substitutions": {"LaunchConfiguration": FakeConfiguration},
        "launch_ros": {},
        "launch_ros.actions": {"Node": FakeAction},
        "launch_ros.parameter_descriptions": {"ParameterValue": FakeAction},
        "ament_index_python": {},
        "ament_index_python.packages": {
            "get_package_share_directory": lambda name: (
                str(repository) if name == "quant_llm_ros" else f"/share/{name}"
            )
        },
    }
    for name, members in names.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)

    def run(name: str, **given: str) -> Launched:
        path = repository / f"launch/{name}.launch.py"
        spec = importlib.util.spec_from_file_location(f"{name}_launch", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return Launched(module, given)

    return run


def test_robot_with_defaults(launch: Any, repository: Path) -> None:
    robot = launch("robot")
    executor = robot.nodes["executor_node"]
    assert executor["name"] == "executor"
    assert executor["respawn"] is False
    assert executor["parameters"] == [
        str(repository / "config/executor.yaml"),
        {"use_sim_time": False, "autostart": True},
    ]
    understanding = robot.includes["understanding.launch.py"]
    assert understanding["params_file"] == str(repository / "config/understanding.yaml")
    assert understanding["bundle"] == ""


def test_robot_with_arguments(launch: Any) -> None:
    robot = launch(
        "robot",
        namespace="robot1",
        params_file="/my.yaml",
        bundle="/bundles/2024",
        places="/2024",
        use_sim_time="true",
        use_respawn="true",
        log_level="debug",
    )
    executor, understanding = (
        robot.nodes["executor_node"],
        robot.includes["understanding.launch.py"],
    )
    file, overrides = executor["parameters"]
    assert file == understanding["params_file"] == "/my.yaml"
    assert overrides["places"].args == ("/2024",)
    assert overrides["places"].kwargs == {"value_type": str}
    assert executor["namespace"] == understanding["namespace"] == "robot1"
    assert executor["respawn"] is True
    assert understanding["bundle"] == "/bundles/2024"
    assert overrides["use_sim_time"] is True
    assert understanding["use_sim_time"] == "true"
    assert "debug" in executor["arguments"]


def test_sim_gives_the_robot_its_world_and_clock(launch: Any, repository: Path) -> None:
    sim = launch("sim")
    world = str(repository / "config/simulation/flat.yaml")
    assert sim.nodes["sim_node"]["parameters"][1] == {"world": world, "speed_factor": 1.0}
    robot = sim.includes["robot.launch.py"]
    assert robot["places"] == world
    assert robot["use_sim_time"] == "true"
    assert set(robot) == COMMON


@pytest.mark.parametrize("headless", ["true", "false"])
def test_gazebo(launch: Any, headless: str) -> None:
    gazebo = launch("gazebo", headless=headless, namespace="robot1")
    arguments = gazebo.includes["gz_sim.launch.py"]["gz_args"]
    assert ("-s" in arguments.split()) is (headless == "true")
    assert arguments.endswith("config/simulation/world.sdf")
    assert gazebo.nodes["parameter_bridge"]["namespace"] == "robot1"
    assert gazebo.nodes["create"]["arguments"][-1].endswith("robot.sdf")


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
def test_sdf(repository: Path, name: str) -> None:
    path = repository / f"config/simulation/{name}.sdf"
    version = ET.parse(path).getroot().get("version")
    assert tuple(map(int, str(version).split("."))) <= (1, 9)
    tool = shutil.which("gz") or shutil.which("ign")
    if tool is None:  # no package index that the set-up may use has one
        pytest.skip("neither gz nor ign is installed (apt install ignition-tools sdformat-sdf)")
    checked = subprocess.run([tool, "sdf", "-k", path], capture_output=True, text=True, timeout=60)
    printed = checked.stdout + checked.stderr
    assert "Valid." in printed, printed
    assert "Error:" not in printed, printed
    assert "Warning" not in printed, printed
