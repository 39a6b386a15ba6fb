"""What the packages depend on is there in Humble, Jazzy and Kilted, or said to come by pip."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
import re
import subprocess
from typing import Any

from catkin_pkg.package import parse_package
import pytest
import yaml

# Of PyPI and of rosdep: the same thing by another name.
KEYS = {"numpy": "python3-numpy", "pyyaml": "python3-yaml"}


@pytest.fixture(scope="module")
def rosdep(repository: Path) -> dict[str, Any]:
    return yaml.safe_load((repository / "test" / "data" / "rosdep.yaml").read_text())


def asked(manifest: Path) -> set[str]:
    package = parse_package(str(manifest))
    kinds = (
        package.build_depends,
        package.buildtool_depends,
        package.exec_depends,
        package.test_depends,
    )
    return {depend.name for kind in kinds for depend in kind}


@pytest.mark.parametrize("manifest", ["package.xml", "quant_llm_msgs/package.xml"])
def test_rosdep_knows_every_dependency(
    repository: Path, rosdep: dict[str, Any], manifest: str
) -> None:
    known = {name for names in rosdep["released"].values() for name in names}
    known |= {*rosdep["system"], "quant_llm_msgs", "quant_llm_ros"}
    assert asked(repository / manifest) <= known


def test_what_python_needs_comes_by_rosdep_or_by_pip(
    repository: Path, rosdep: dict[str, Any]
) -> None:
    needs = {
        re.split(r"[^\w-]", requirement, maxsplit=1)[0].lower()
        for requirement in importlib.metadata.requires("quant_llm_ros") or []
        if "extra ==" not in requirement
    }
    keys = {KEYS[name] for name in needs if name in KEYS}
    assert keys <= asked(repository / "package.xml")
    assert needs - set(KEYS) == set(rosdep["by_pip"])
    readme = (repository / "README.md").read_text()
    manifest = (repository / "package.xml").read_text()
    for name in rosdep["by_pip"]:
        assert name in readme
        assert name in manifest


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    not os.environ.get("QUANT_LLM_JAZZY"),
    reason="makes an environment of Jazzy's wheels, in minutes; set QUANT_LLM_JAZZY to run it",
)
def test_messages_and_nodes_with_jazzys_wheels(repository: Path) -> None:
    """The same tests, with another rclpy."""
    done = subprocess.run(
        [repository / "tools" / "jazzy.sh"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
