"""Stand-ins for ``launch`` and ``launch_ros``, which are on no package registry.

They keep what the launch files make of them, so that tests can look at it and start the same.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import importlib.util
from pathlib import Path
import sys
import types
from typing import Any

SHARED = "quant_llm_ros.nodes.launching"
# `launch_ros` and not `launch`: what PyPI calls "launch" is an unrelated package.
HAS_LAUNCH_ROS = importlib.util.find_spec("launch_ros") is not None


class Fake:
    """Any action or substitution."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs


class Configuration(Fake):
    """The value of an argument: the context is simply the arguments by name."""

    def perform(self, context: dict[str, str]) -> str:
        return context[self.args[0]]


MEMBERS: dict[str, dict[str, Any]] = {
    "launch": dict.fromkeys(
        ("LaunchContext", "LaunchDescription", "LaunchDescriptionEntity"), Fake
    ),
    "launch.actions": dict.fromkeys(
        ("DeclareLaunchArgument", "IncludeLaunchDescription", "OpaqueFunction"), Fake
    ),
    "launch.launch_description_sources": {"PythonLaunchDescriptionSource": Fake},
    "launch.substitutions": {"LaunchConfiguration": Configuration},
    "launch_ros": {},
    "launch_ros.actions": {"Node": Fake},
    "launch_ros.parameter_descriptions": {"ParameterValue": Fake},
}


class Launched:
    """What one launch file declares and starts.

    Attributes:
        arguments: What was declared, by name: the keywords of each declaration.
        nodes: Keywords of the nodes, by executable; those of included files of this package too.
        includes: Arguments of the included files, by file name.
    """

    def __init__(self, repository: Path, file: Path, given: dict[str, str]) -> None:
        module = _load(file)
        *declared, start = module.generate_launch_description().args[0]
        self.arguments = {one.args[0]: one.kwargs for one in declared}
        defaults = {name: one["default_value"] for name, one in self.arguments.items()}
        actions = start.kwargs["function"](defaults | given)
        self.nodes = {
            a.kwargs["executable"]: a.kwargs for a in actions if "executable" in a.kwargs
        }
        self.includes: dict[str, dict[str, str]] = {}
        for action in actions:
            if "launch_arguments" in action.kwargs:
                path = Path(action.args[0].args[0])
                self.includes[path.name] = arguments = dict(action.kwargs["launch_arguments"])
                if path.is_relative_to(repository):
                    self.nodes |= Launched(repository, path, arguments).nodes


@contextlib.contextmanager
def faked(repository: Path) -> Iterator[None]:
    """Put the stand-ins in place, for as long as the context lasts."""
    modules = {name: types.ModuleType(name) for name in (*MEMBERS, *_INDEX)}
    for name, module in modules.items():
        vars(module).update(MEMBERS.get(name, {}))

    def share_of(package: str) -> str:
        return str(repository) if package == "quant_llm_ros" else f"/share/{package}"

    vars(modules[_INDEX[1]])["get_package_share_directory"] = share_of
    before = {name: sys.modules.pop(name, None) for name in (*modules, SHARED)}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


_INDEX = ("ament_index_python", "ament_index_python.packages")


def _load(file: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(file.name.replace(".", "_"), file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
