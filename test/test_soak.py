"""Endurance: many commands over DDS, none lost or answered twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.bundle]

FULL = bool(os.environ.get("QUANT_LLM_SOAK"))


@pytest.mark.slow
@pytest.mark.timeout(7200 if FULL else 600)
@pytest.mark.parametrize("policy", ["fifo", "latest_wins"])
def test_no_command_is_lost_or_answered_twice(
    bundle_path: Path, tmp_path: Path, policy: str
) -> None:
    """300 commands, 10,000 with QUANT_LLM_SOAK=1; only these tell about the memory."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "quant_llm_ros.nodes.soak", "--bundle", str(bundle_path)]
    command += ["--commands", "10000" if FULL else "300", "--policy", policy]
    command += ["--max-growth", "0.02" if FULL else "1.0", "--report", str(report)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(report.read_text())
    assert (figures["lost"], figures["answered_twice"]) == (0, 0)
    assert figures["commands"] == sum(figures["statuses"].values())
