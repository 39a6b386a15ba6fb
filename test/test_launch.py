"""The launch file, read as text and, since ``launch`` is on no package registry, run with fakes.

``launch_ros`` and not ``launch`` tells whether the real ones are there: what PyPI calls "launch"
is an unrelated package.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
import importlib.metadata
import importlib.util
from pathlib import Path
import sys
import types
from typing import Any

import pytest

LAUNCH_FILE = "launch/understanding.launch.py"
ARGUMENTS = {
    "namespace",
    "params_file",
    "bundle",
    "skills",
    "use_sim_time",
    "autostart",
    "use_respawn",
    "log_level",
}
HAS_LAUNCH_ROS = importlib.util.find_spec("launch_ros") is not None


@pytest.fixture(scope="module")
def tree(repository: Path) -> ast.Module:
    return ast.parse((repository / LAUNCH_FILE).read_text())


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
            yield node


def strings(tree: ast.AST) -> set[str]:
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_declares_the_arguments_of_nav2_and_describes_each(tree: ast.Module) -> None:
    declared = list(calls(tree, "DeclareLaunchArgument"))
    assert {ast.literal_eval(call.args[0]) for call in declared} == ARGUMENTS
    for call in declared:
        assert {"default_value", "description"} <= {keyword.arg for keyword in call.keywords}


def test_uses_every_argument(tree: ast.Module) -> None:
    function = next(n for n in tree.body if getattr(n, "name", "") == "start_node")
    assert strings(function) >= ARGUMENTS


def test_starts_installed_programs(tree: ast.Module) -> None:
    installed = {
        entry.name
        for entry in importlib.metadata.distribution("quant_llm_ros").entry_points
        if entry.group == "console_scripts"
    }
    nodes = list(calls(tree, "Node"))
    assert nodes
    for node in nodes:
        keywords = {k.arg: k.value for k in node.keywords}
        assert ast.literal_eval(keywords["package"]) == "quant_llm_ros"
        assert ast.literal_eval(keywords["executable"]) in installed


def test_refers_to_files_that_exist(tree: ast.Module, repository: Path) -> None:
    joined = [
        Path(*[ast.literal_eval(part) for part in node.args[1:]])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "join"
    ]
    assert joined == [Path("config/understanding.yaml")]
    for path in joined:
        assert (repository / path).is_file()


class FakeAction:
    """Any action or substitution of launch: keeps what it was made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs


class FakeConfiguration(FakeAction):
    """The value of an argument: the context is simply the arguments by name."""

    def perform(self, context: dict[str, str]) -> str:
        return context[self.args[0]]


@pytest.fixture
def launch_module(repository: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return the imported launch file."""
    if not HAS_LAUNCH_ROS:
        names: dict[str, dict[str, Any]] = {
            "launch": dict.fromkeys(
                ("LaunchContext", "LaunchDescription", "LaunchDescriptionEntity"), FakeAction
            ),
            "launch.actions": dict.fromkeys(
                ("DeclareLaunchArgument", "OpaqueFunction"), FakeAction
            ),
            "launch.substitutions": {"LaunchConfiguration": FakeConfiguration},
            "launch_ros": {},
            "launch_ros.actions": {"Node": FakeAction},
            "launch_ros.parameter_descriptions": {"ParameterValue": FakeAction},
            "ament_index_python": {},
            "ament_index_python.packages": {
                "get_package_share_directory": lambda name: str(repository)
            },
        }
        for name, members in names.items():
            module = types.ModuleType(name)
            vars(module).update(members)
            monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("launch_file", repository / LAUNCH_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def defaults(description: Any) -> dict[str, str]:
    return {
        entity.args[0]: entity.kwargs["default_value"]
        for entity in description.args[0]
        if "default_value" in entity.kwargs
    }


def test_describes_itself(launch_module: types.ModuleType) -> None:
    description = launch_module.generate_launch_description()
    entities = description.entities if HAS_LAUNCH_ROS else description.args[0]
    assert len(entities) == len(ARGUMENTS) + 1


@pytest.mark.skipif(HAS_LAUNCH_ROS, reason="looks into the fakes")
def test_arguments_that_are_not_given_leave_the_parameter_file_alone(
    launch_module: types.ModuleType, repository: Path
) -> None:
    context = defaults(launch_module.generate_launch_description())
    (node,) = launch_module.start_node(context)
    file, overrides = node.kwargs["parameters"]
    assert file == str(repository / "config" / "understanding.yaml")
    assert overrides == {"use_sim_time": False, "autostart": True}
    assert node.kwargs["respawn"] is False
    assert node.kwargs["name"] == "understanding"


@pytest.mark.skipif(HAS_LAUNCH_ROS, reason="looks into the fakes")
def test_arguments_that_are_given_win(launch_module: types.ModuleType) -> None:
    context = {
        **defaults(launch_module.generate_launch_description()),
        "namespace": "robot1",
        "bundle": "/bundles/2024",
        "autostart": "false",
        "use_respawn": "true",
        "log_level": "debug",
    }
    (node,) = launch_module.start_node(context)
    overrides = node.kwargs["parameters"][1]
    assert set(overrides) == {"use_sim_time", "autostart", "bundle"}
    assert overrides["autostart"] is False
    assert overrides["bundle"].args == ("/bundles/2024",)
    assert overrides["bundle"].kwargs == {"value_type": str}
    assert node.kwargs["respawn"] is True
    assert node.kwargs["namespace"] == "robot1"
    assert "debug" in node.kwargs["arguments"]
