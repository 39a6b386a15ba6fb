"""The two ROS 2 packages: their metadata agree, and a robot's colcon builds and installs them."""

from __future__ import annotations

import configparser
import importlib
import importlib.metadata
import os
from pathlib import Path
import shutil
import subprocess
import sys

from catkin_pkg.package import Package, parse_package
import pytest

import quant_llm_ros
from quant_llm_ros import resources
from quant_llm_ros.resources import share_path

MANIFESTS = ("package.xml", "quant_llm_msgs/package.xml")
PROGRAMS = ("demo", "quant_llm", "executor_node", "sim_node", "understanding_node")


def manifest(repository: Path, name: str) -> Package:
    """Read and validate a package.xml; the warnings of the validation are errors here."""
    warnings: list[str] = []
    package = parse_package(str(repository / name), warnings=warnings)
    package.validate()
    assert warnings == []
    return package


def console_scripts() -> list[importlib.metadata.EntryPoint]:
    """Return the programs that the installed package declares."""
    distribution = importlib.metadata.distribution("quant_llm_ros")
    return [entry for entry in distribution.entry_points if entry.group == "console_scripts"]


def shared_files(repository: Path) -> list[Path]:
    """Return all data files that belong into the share folder, relative to the repository."""
    files = [
        path for folder in ("kernels", "launch") for path in (repository / folder).glob("*.py")
    ]
    files += (repository / "config").rglob("*.yaml")
    return [Path("package.xml"), *(path.relative_to(repository) for path in files)]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_valid(repository, name):
    package = manifest(repository, name)
    assert package.package_format == 3
    assert package.licenses == ["Apache-2.0"]


def test_versions_agree(repository):
    versions = {name: manifest(repository, name).version for name in MANIFESTS}
    versions["__init__.py"] = quant_llm_ros.__version__
    versions["setup.py"] = importlib.metadata.version("quant_llm_ros")
    assert len(set(versions.values())) == 1, versions


def test_build_types(repository):
    build_types = [manifest(repository, name).get_build_type() for name in MANIFESTS]
    assert build_types == ["ament_python", "ament_cmake"]


def test_ros_imports_are_declared(repository):
    """Every ROS package that the nodes import is a dependency, so that rosdep installs it."""
    declared = {depend.name for depend in manifest(repository, "package.xml").exec_depends}
    sources = [*(repository / "quant_llm_ros" / "nodes").rglob("*.py")]
    sources += (repository / "launch").glob("*.py")
    imported = {
        line.split()[1].partition(".")[0]
        for source in sources
        for line in source.read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    # Python packages without a rosdep key are listed in setup.py.
    python_only = {
        "llguidance",
        "numpy",
        "onnxruntime",
        "pint",
        "rapidfuzz",
        "rich",
        "snowballstemmer",
        "tokenizers",
        "yaml",
    }
    known = declared | python_only | set(sys.stdlib_module_names) | {"quant_llm_ros", "__future__"}
    assert imported <= known


def test_programs_are_declared_and_importable():
    assert sorted(entry.name for entry in console_scripts()) == sorted(PROGRAMS)
    for entry in console_scripts():
        assert callable(entry.load()), entry


def test_the_robot_does_not_install_the_offline_tools():
    """Torch and the like, and the choice of an ONNX Runtime, are extras."""
    requirements = importlib.metadata.requires("quant_llm_ros")
    needed = {requirement for requirement in requirements if "extra ==" not in requirement}
    assert needed == {
        "llguidance",
        "numpy",
        "pint",
        "pyyaml",
        "rapidfuzz",
        "rich",
        "snowballstemmer",
        "tokenizers",
    }


@pytest.mark.parametrize(
    "relative", ["config", "launch", "package.xml", "config/skills/service_robot.yaml"]
)
def test_share_path_finds_data_files_of_a_checkout(repository, relative):
    assert share_path(relative) == repository / relative


def test_share_path_finds_data_files_of_an_installed_package(monkeypatch, tmp_path):
    """Away from the source tree the ament index leads to them, without ROS 2 the environment."""
    monkeypatch.setattr(resources, "__file__", str(tmp_path / "quant_llm_ros" / "resources.py"))
    workspace = tmp_path / "install"
    marker = workspace / "share/ament_index/resource_index/packages/quant_llm_ros"
    in_workspace = workspace / "share/quant_llm_ros/config/robot.yaml"
    in_environment = tmp_path / "prefix/share/quant_llm_ros/config/robot.yaml"
    for file in (marker, in_workspace, in_environment):
        file.parent.mkdir(parents=True)
        file.touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))

    monkeypatch.setenv("AMENT_PREFIX_PATH", str(workspace))
    assert share_path("config/robot.yaml") == in_workspace
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "empty"))
    assert share_path("config/robot.yaml") == in_environment
    monkeypatch.delenv("AMENT_PREFIX_PATH")
    assert share_path("config/robot.yaml") == in_environment


def test_share_path_names_where_it_looked():
    with pytest.raises(
        FileNotFoundError, match=r"config/nothing\.yaml: .*looked for .*share"
    ) as error:
        share_path("config/nothing.yaml")
    assert str(Path(sys.prefix)) in str(error.value)


def test_setup_shows_the_package_to_ros_tools(repository):
    """In the development environment the ament index and the share folder lead to the tree."""
    share = Path(sys.prefix) / "share"
    if (share / "quant_llm_ros" / "package.xml").resolve() != repository / "package.xml":
        pytest.fail("the package is not installed from this tree; run `make setup`", pytrace=False)
    assert (share / "ament_index/resource_index/packages/quant_llm_ros").is_file()
    for relative in shared_files(repository):
        assert (share / "quant_llm_ros" / relative).resolve() == repository / relative


@pytest.fixture(scope="module")
def workspace(repository, tmp_path_factory):
    """Both packages, built by colcon out of a copy of the tree like in a robot's workspace."""
    root = tmp_path_factory.mktemp("workspace")
    source = root / "src"
    hidden = shutil.ignore_patterns(".*", "bundles", "build", "install", "log", "*.egg-info")
    shutil.copytree(repository, source, ignore=hidden)
    built = subprocess.run(
        [
            "colcon",
            f"--log-base={root / 'log'}",
            "build",
            f"--build-base={root / 'build'}",
            f"--install-base={root / 'install'}",
            "--paths",
            source,
            source / "quant_llm_msgs",
        ],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return root / "install"


def in_workspace(workspace: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command after sourcing a built workspace, as on a robot."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        ["bash", "-c", f"source {workspace}/local_setup.bash && {command}"],
        cwd=workspace,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
@pytest.mark.ros
class TestWorkspace:
    """What `colcon build --paths . quant_llm_msgs` leaves on a robot."""

    def test_programs_are_where_ros2_run_looks(self, workspace):
        for program in PROGRAMS:
            assert os.access(workspace / "quant_llm_ros/lib/quant_llm_ros" / program, os.X_OK)

    def test_data_files_are_installed(self, repository, workspace):
        share = workspace / "quant_llm_ros/share"
        assert (share / "ament_index/resource_index/packages/quant_llm_ros").is_file()
        for relative in shared_files(repository):
            installed = share / "quant_llm_ros" / relative
            assert installed.read_bytes() == (repository / relative).read_bytes()

    def test_python_files_are_installed(self, workspace):
        (module,) = workspace.glob("quant_llm_ros/lib/python*/site-packages/quant_llm_ros")
        source = workspace.parent / "src" / "quant_llm_ros"
        expected = {path.relative_to(source) for path in source.rglob("*.py")}
        assert {path.relative_to(module) for path in module.rglob("*.py")} == expected
        assert (module / "py.typed").is_file()

    def test_entry_points_are_the_same(self, workspace):
        (file,) = workspace.glob("quant_llm_ros/lib/python*/site-packages/*/entry_points.txt")
        entry_points = configparser.ConfigParser()
        entry_points.read(file)
        assert sorted(entry_points["console_scripts"]) == sorted(PROGRAMS)

    def test_built_program_answers(self, workspace):
        program = workspace / "quant_llm_ros/lib/quant_llm_ros/quant_llm"
        answer = in_workspace(workspace, f"{program} --help")
        assert answer.returncode == 0, answer.stderr
        assert "quantize" in answer.stdout

    def test_built_packages_are_used(self, workspace):
        """Data files, Python modules and messages come from the workspace, not from the tree."""
        script = (
            "import quant_llm_msgs.msg, quant_llm_ros.resources as r;"
            "print(r.__file__, r.share_path('config'), quant_llm_msgs.__file__,"
            " quant_llm_msgs.msg.Decision(), sep='\\n')"
        )
        answer = in_workspace(workspace, f'{sys.executable} -c "{script}"')
        assert answer.returncode == 0, answer.stderr
        places = answer.stdout.splitlines()[:3]
        assert all(place.startswith(str(workspace)) for place in places), places
