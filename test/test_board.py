"""Sensors of boards, from folders made like theirs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from quant_llm_ros.nodes import board
from quant_llm_ros.nodes.board import Power, Temperature


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


ORIN = {
    "class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "class/thermal/thermal_zone0/temp": "48531\n",
    "class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
    "class/thermal/thermal_zone0/trip_point_0_temp": "104500\n",
    "class/thermal/thermal_zone0/trip_point_1_type": "passive\n",
    "class/thermal/thermal_zone0/trip_point_1_temp": "99000\n",
    "class/thermal/thermal_zone0/trip_point_2_type": "active\n",
    "class/thermal/thermal_zone0/trip_point_2_temp": "35000\n",
    "class/thermal/thermal_zone10/type": "cv0-thermal\n",
    "class/thermal/thermal_zone10/temp": "-256000\n",
    "class/thermal/thermal_zone2/type": "tj-thermal\n",
    "class/thermal/thermal_zone2/temp": "50000\n",
    "class/thermal/cooling_device0/type": "pwm-fan\n",
    "class/hwmon/hwmon0/name": "nct1008\n",
    "class/hwmon/hwmon0/temp1_input": "40000\n",
    "class/hwmon/hwmon3/name": "ina3221\n",
    "class/hwmon/hwmon3/in1_label": "VDD_IN\n",
    "class/hwmon/hwmon3/in1_input": "5056\n",
    "class/hwmon/hwmon3/curr1_input": "1200\n",
    "class/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV\n",
    "class/hwmon/hwmon3/in2_input": "5048\n",
    "class/hwmon/hwmon3/curr2_input": "400\n",
    "class/hwmon/hwmon3/in3_label": "NC\n",
    "class/hwmon/hwmon3/in3_input": "5000\n",
    "class/hwmon/hwmon3/curr3_input": "0\n",
    "class/hwmon/hwmon3/in7_input": "1\n",
    "class/hwmon/hwmon4/name": "ina238\n",
    "class/hwmon/hwmon4/power1_input": "12500000\n",
}
"""As a Jetson Orin Nano has it, with the INA238 of a Thor added."""


def test_jetson(tmp_path: Path) -> None:
    sys = make(tmp_path, ORIN)
    assert board.temperatures(sys) == [
        Temperature("cpu-thermal", pytest.approx(48.531), 99.0, 104.5),
        Temperature("tj-thermal", 50.0, math.inf, math.inf),
    ]
    assert [(p.name, pytest.approx(p.watts)) for p in board.powers(sys)] == [
        ("VDD_IN", 5.056 * 1.2),
        ("VDD_CPU_GPU_CV", 5.048 * 0.4),
        ("ina238 power1", 12.5),
    ]


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"class/thermal/thermal_zone0/temp": "", "class/hwmon/hwmon0/power1_input": "many\n"},
        {"class/thermal/thermal_zone0/temp": "\xff\x00", "class/hwmon/hwmon0/curr1_input": "5\n"},
        {"class/thermal/thermal_zone0/temp/nothing": "", "class/hwmon/hwmonx/name": "ina3221\n"},
    ],
)
def test_what_cannot_be_read_is_left_out(tmp_path: Path, broken: dict[str, str]) -> None:
    sys = make(tmp_path, broken)
    assert board.temperatures(sys) == []
    assert board.powers(sys) == []


def test_sensors_without_names(tmp_path: Path) -> None:
    sys = make(
        tmp_path,
        {
            "class/thermal/thermal_zone3/temp": "30000",
            "class/hwmon/hwmon1/curr2_input": "1000",
            "class/hwmon/hwmon1/in2_input": "3000",
        },
    )
    assert board.temperatures(sys) == [Temperature("thermal_zone3", 30.0)]
    assert board.powers(sys) == [Power("hwmon1 2", 3.0)]


def test_memory_of_this_process() -> None:
    memory = board.memory()
    assert 1.0 < memory.process_mb < memory.total_mb
    assert 0.0 < memory.available_mb <= memory.total_mb


def test_memory_where_nothing_is_known(tmp_path: Path) -> None:
    assert board.memory(tmp_path) == board.Memory(0.0, 0.0, 0.0)
