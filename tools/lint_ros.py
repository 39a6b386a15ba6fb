"""Run the linters of ROS 2 on the given Python files and folders, and on both package.xml.

Prints one line for each linter when all is well, and a linter's whole output when it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
import io
from pathlib import Path
import sys

from ament_flake8.main import main as ament_flake8
from ament_pep257.main import main as ament_pep257
from catkin_pkg.package import InvalidPackage, parse_package

ROOT = Path(__file__).resolve().parents[1]
MANIFESTS = (ROOT / "package.xml", ROOT / "quant_llm_msgs" / "package.xml")
# Like ruff's: magic methods need no docstring, and a test's name says what it is about.
PEP257 = ["--convention", "google", "--add-ignore", "D105", "D107"]
PEP257_TESTS = [*PEP257, "D100", "D102", "D103"]


def main(paths: Sequence[str]) -> int:
    """Lint and return the exit status: 0 when no linter found anything."""
    tests = [path for path in paths if Path(path).name == "test"]
    others = [path for path in paths if path not in tests]
    linters: dict[str, Callable[[], int]] = {
        "ament_flake8": lambda: ament_flake8(["--config", str(ROOT / "setup.cfg"), *paths]),
        "ament_pep257": lambda: ament_pep257([*PEP257, "--", *others]),
        "ament_pep257 on tests": lambda: ament_pep257([*PEP257_TESTS, "--", *tests]),
        "catkin_pkg": check_manifests,
    }
    passed = [report(name, linter) for name, linter in linters.items()]
    return 0 if all(passed) else 1


def report(name: str, linter: Callable[[], int]) -> bool:
    """Run a linter, print what it found, and return whether that is nothing."""
    # flake8 writes bytes too, so plain text in memory will not do.
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = linter()
    output.seek(0)
    print(f"{name}: {'no problems found' if status == 0 else output.read()}")
    return status == 0


def check_manifests() -> int:
    """Validate both package.xml against the package format; return 0 or the number of bad ones."""
    bad = 0
    for path in MANIFESTS:
        warnings: list[str] = []
        try:
            parse_package(str(path), warnings=warnings)
        except InvalidPackage as error:
            warnings.append(str(error))
        for warning in warnings:
            print(f"{path.relative_to(ROOT)}: {warning}")
        bad += bool(warnings)
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
