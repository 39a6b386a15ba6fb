"""The figures of a whole robot: that there are some, not how large they are."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys

import pytest


@pytest.mark.ros
@pytest.mark.bundle
@pytest.mark.timeout(1800)
def test_a_robot_is_told_to_drive_and_to_stop(bundle_path: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "quant_llm_ros.nodes.reaction", "--bundle", str(bundle_path)]
    command += ["--rounds", "2", "--idle", "1", "--report", str(report)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(report.read_text())
    for name in ("sentence_to_velocity", "stop_to_zero_velocity", "odometry_to_velocity"):
        times = figures["milliseconds"][name]
        assert 0.0 < times["p50"] <= times["p90"] <= times["max"], name
    assert set(figures["cpu_of_one_core_driving"]) == {"understanding", "executor", "sim"}
    assert all(share > 0.0 for share in figures["cpu_of_one_core_driving"].values())
