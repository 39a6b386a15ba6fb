"""Who may import whom: the rules of pyproject.toml hold, and breaking one is noticed."""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

PACKAGE = "quant_llm_ros"
ROOMS = "rooms: nodes and cli over command and quantize over engine"


def lint_imports(repository: Path, source_root: Path) -> subprocess.CompletedProcess[str]:
    """Check the import rules on the package that lies in a folder."""
    rules = repository / "pyproject.toml"
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache", "--config", rules],
        cwd=source_root,
        env={**os.environ, "PYTHONPATH": str(source_root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_import_rules_hold(repository):
    checked = lint_imports(repository, repository)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("module", "statement", "broken_rule"),
    [
        ("command/decision.py", "import rclpy", "rclpy and ROS messages are used in nodes only"),
        ("engine/protocol.py", "import quant_llm_msgs.msg", "rclpy and ROS messages are used in"),
        ("engine/protocol.py", "import torch", "serving never reaches torch"),
        ("cli/__init__.py", "import transformers", "cli leaves torch"),
        ("command/decision.py", "import onnxruntime", "only engine runs a model"),
        ("command/decision.py", "from quant_llm_ros import nodes", ROOMS),
        ("engine/protocol.py", "from quant_llm_ros import command", ROOMS),
        ("quantize/__init__.py", "from quant_llm_ros import command", ROOMS),
        (
            "nodes/__init__.py",
            "from quant_llm_ros import quantize",
            "nodes never need the offline",
        ),
        ("gadgets.py", "import math", ROOMS),
    ],
)
def test_a_broken_import_rule_is_noticed(repository, tmp_path, module, statement, broken_rule):
    """A copy of the package with one wrong import, or with a room that has no place, fails."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repository / PACKAGE, tmp_path / PACKAGE, ignore=ignored)
    with (tmp_path / PACKAGE / module).open("a") as source:
        source.write(f"\n{statement}\n")
    checked = lint_imports(repository, tmp_path)
    assert checked.returncode != 0
    summary = " ".join(checked.stdout.split())
    assert "0 broken" not in summary
    assert broken_rule in summary.split("Broken contracts")[-1]


def test_serving_needs_neither_torch_nor_rclpy():
    """What a robot's understander really imports brings in none of the offline tools."""
    script = (
        "import sys, quant_llm_ros.command.service, quant_llm_ros.command.understander\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120
    ).stdout.split()
    assert PACKAGE in printed
    assert not {"torch", "transformers", "gguf", "onnx", "rclpy"} & set(printed)
