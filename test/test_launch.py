"""The launch files, run with stand-ins for ``launch``, and what they start, run for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import importlib.metadata
from pathlib import Path
from typing import Any

from fake_launch import Fake, faked, HAS_LAUNCH_ROS, Launched
import pytest
from scenarios_harness import bench
import yaml

pytestmark = pytest.mark.skipif(
    HAS_LAUNCH_ROS, reason="the real actions of launch do not show what they were made of"
)

COMMON = {
    "namespace",
    "params_file",
    "bundle",
    "skills",
    "use_sim_time",
    "autostart",
    "use_respawn",
    "log_level",
}
ARGUMENTS = {
    "understanding": COMMON,
    "robot": COMMON | {"places"},
    "sim": COMMON | {"places", "world", "speed_factor"},
    "gazebo": COMMON | {"places", "world", "headless"},
}
SWITCHES = {"use_sim_time", "autostart", "use_respawn", "headless"}
STARTED = {
    "understanding": {"understanding_node"},
    "robot": {"understanding_node", "executor_node"},
    "sim": {"understanding_node", "executor_node", "sim_node"},
    "gazebo": {"understanding_node", "executor_node", "create", "parameter_bridge"},
}
# Of other packages, which only Gazebo needs.
FOREIGN = {"create": "ros_gz_sim", "parameter_bridge": "ros_gz_bridge"}

Launch = Callable[..., Launched]


@pytest.fixture
def launch(repository: Path) -> Iterator[Launch]:
    """Give what runs a launch file by name with arguments."""
    with faked(repository):
        yield lambda name, **given: Launched(
            repository, repository / f"launch/{name}.launch.py", given
        )


def test_every_launch_file_is_here(repository: Path) -> None:
    files = {path.name.partition(".")[0] for path in (repository / "launch").glob("*.py")}
    assert files == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_declares_and_describes_its_arguments(launch: Launch, name: str) -> None:
    arguments = launch(name).arguments
    assert set(arguments) == ARGUMENTS[name]
    for argument, declared in arguments.items():
        assert declared["description"].endswith(".")
        choices = ["true", "false"] if argument in SWITCHES else None
        assert declared["choices"] == choices
        assert choices is None or declared["default_value"] in choices


@pytest.mark.parametrize("name", ARGUMENTS)
def test_starts_installed_programs_with_files_that_exist(launch: Launch, name: str) -> None:
    scripts = importlib.metadata.distribution("quant_llm_ros").entry_points
    installed = {entry.name for entry in scripts if entry.group == "console_scripts"}
    nodes = launch(name).nodes
    assert set(nodes) == STARTED[name]
    for program, node in nodes.items():
        assert node["package"] == FOREIGN.get(program, "quant_llm_ros")
        assert program in FOREIGN or program in installed
        for file in node.get("parameters", ()):
            assert isinstance(file, dict) or Path(file).is_file()


# An argument that is not the default, and what it changes, in all nodes that run from here.
CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], Any], Any]] = {
    "namespace": ("robot1", lambda node: node["namespace"], "robot1"),
    "params_file": ("/my.yaml", lambda node: node["parameters"][0], "/my.yaml"),
    "use_respawn": ("true", lambda node: node["respawn"], True),
    "log_level": ("debug", lambda node: node["arguments"][-1], "debug"),
}
# The same for single nodes: node, and name of the parameter.
PARAMETERS = {
    "bundle": ("/bundles/2024", "understanding_node", "/bundles/2024"),
    "skills": ("/2025", "understanding_node", "/2025"),
    "autostart": ("false", "understanding_node", False),
    "use_sim_time": ("true", "understanding_node", True),
    "places": ("/2026", "executor_node", "/2026"),
    "world": ("/2027", "sim_node", "/2027"),
    "speed_factor": ("2.5", "sim_node", 2.5),
}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("argument", CHANGES)
def test_an_argument_reaches_every_node(launch: Launch, name: str, argument: str) -> None:
    given, read, expected = CHANGES[argument]
    for program, node in launch(name, **{argument: given}).nodes.items():
        if program not in FOREIGN:
            assert read(node) == expected
    # And what is given to one robot's files reaches no other value.
    for program, node in launch(name).nodes.items():
        assert program in FOREIGN or read(node) != expected


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        (name, argument)
        for name in ARGUMENTS
        for argument, (_, program, _) in PARAMETERS.items()
        if argument in ARGUMENTS[name] and program in STARTED[name]
    ],
)
def test_an_argument_becomes_a_parameter(launch: Launch, name: str, argument: str) -> None:
    given, program, expected = PARAMETERS[argument]
    value = launch(name, **{argument: given}).nodes[program]["parameters"][1][argument]
    if isinstance(value, Fake):
        # So that a folder named 2024 stays a string.
        assert value.kwargs == {"value_type": str}
        (value,) = value.args
    assert value == expected


@pytest.mark.parametrize("program", ["understanding_node", "executor_node"])
def test_what_is_not_given_leaves_the_parameter_file_alone(launch: Launch, program: str) -> None:
    file, values = launch("robot").nodes[program]["parameters"]
    assert Path(file).name == f"{program.removesuffix('_node')}.yaml"
    assert values == {"use_sim_time": False, "autostart": True}


def test_the_simulation_gives_the_robot_its_world_and_clock(
    launch: Launch, repository: Path
) -> None:
    nodes = launch("sim").nodes
    world = str(repository / "config/simulation/flat.yaml")
    assert nodes["sim_node"]["parameters"][1] == {"world": world, "speed_factor": 1.0}
    for program in ("understanding_node", "executor_node"):
        assert nodes[program]["parameters"][1]["use_sim_time"] is True
    assert nodes["executor_node"]["parameters"][1]["places"].args == (world,)
    other = launch("sim", world="/hall.yaml").nodes["executor_node"]["parameters"][1]["places"]
    assert other.args == ("/hall.yaml",)


@pytest.mark.parametrize("headless", ["true", "false"])
def test_gazebo(launch: Launch, headless: str) -> None:
    gazebo = launch("gazebo", headless=headless, namespace="robot1")
    arguments = gazebo.includes["gz_sim.launch.py"]["gz_args"]
    assert ("-s" in arguments.split()) is (headless == "true")
    assert arguments.endswith("config/simulation/world.sdf")
    assert gazebo.nodes["parameter_bridge"]["namespace"] == "robot1"
    assert gazebo.nodes["create"]["arguments"][-1].endswith("robot.sdf")


@pytest.mark.ros
@pytest.mark.bundle
@pytest.mark.timeout(1800)
def test_what_sim_starts_understands_and_drives(
    launch: Launch, scripts: Path, bundle_path: Path, tmp_path: Path
) -> None:
    """The processes of sim.launch.py with the same files and parameters, as launch_ros does it."""
    nodes = launch("sim", namespace="robot1", bundle=str(bundle_path), speed_factor="2").nodes
    with bench("/robot1", scripts, tmp_path) as robot:
        for program, node in nodes.items():
            values = {
                name: value.args[0] if isinstance(value, Fake) else value
                for name, value in node["parameters"][1].items()
            }
            file = tmp_path / f"{program}.yaml"
            file.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
            arguments = [*node["arguments"][1:], "-r", f"__node:={node['name']}"]
            for parameters in (node["parameters"][0], str(file)):
                arguments += ["--params-file", parameters]
            robot.start_with(scripts / program, arguments)
        robot.wait_ready()
        robot.wait_understanding()
        decision = robot.say("turn left")
        assert robot.outcomes(decision.command_id, 1) == ["SUCCEEDED"]
