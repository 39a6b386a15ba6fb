"""Energy comes from a sensor that is there, or not at all."""

from __future__ import annotations

from pathlib import Path
import time

import pytest

from quant_llm_ros.report import energy
from quant_llm_ros.report.energy import (
    EnergyMeter,
    find_jetson,
    find_rapl,
    find_sensor,
    JetsonSensor,
    NO_SENSOR,
    NvmlSensor,
    RaplSensor,
)


def write(folder: Path, **files: object) -> Path:
    """Write small files, as the kernel shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def monitor(sysfs: Path, address: str, rails: dict[str, tuple[int, int]]) -> Path:
    """Make an INA3221 with rails ``{label: (millivolts, milliamperes)}``."""
    folder = sysfs / "bus/i2c/drivers/ina3221" / address / "hwmon/hwmon3"
    for number, (label, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
        files = {
            f"in{number}_label": label,
            f"in{number}_input": millivolts,
            f"curr{number}_input": milliamperes,
        }
        write(folder, **files)
    # What the driver reports besides the rails.
    return write(folder, in7_label="sum of shunt voltages", in7_input=12)


def package(sysfs: Path, name: str, label: str, microjoules: int, most: int = 999_999) -> Path:
    folder = sysfs / "class/powercap" / name
    return write(folder, name=label, energy_uj=microjoules, max_energy_range_uj=most)


@pytest.mark.parametrize(
    ("monitors", "name", "watts"),
    [
        pytest.param(
            {"1-0040": {"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 400), "NC": (0, 0)}},
            "INA3221 VDD_IN",
            6.0,
            id="Orin Nano and NX: the input is measured, its parts do not count twice",
        ),
        pytest.param(
            {
                "1-0040": {
                    "VDD_GPU_SOC": (19000, 500),
                    "VDD_CPU_CV": (19000, 100),
                    "VIN_SYS_5V0": (5000, 1000),
                },
                "1-0041": {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (5000, 100)},
            },
            "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0",
            16.4,
            id="AGX Orin: the sum, without what VIN_SYS_5V0 feeds",
        ),
    ],
)
def test_jetson_rails(tmp_path, monitors, name, watts):
    for address, rails in monitors.items():
        monitor(tmp_path, address, rails)
    sensor = find_sensor(tmp_path)
    assert isinstance(sensor, JetsonSensor)
    assert sensor.name == name
    assert sensor.watts() == pytest.approx(watts)


def test_jetson_energy_is_power_times_time(tmp_path):
    monitor(tmp_path, "1-0040", {"VDD_IN": (5000, 2000)})
    with EnergyMeter(find_jetson(tmp_path)) as measured:
        time.sleep(0.1)
    assert measured.joules is not None
    # The sampling thread starts a little after the meter and ends a little before it.
    assert 0 < measured.joules <= 10.0 * measured.seconds + 1e-6
    assert measured.joules == pytest.approx(10.0 * measured.seconds, rel=0.5)


def test_rapl_counts_packages_and_their_overflow(tmp_path):
    first = package(tmp_path, "intel-rapl:0", "package-0", 100_000)
    second = package(tmp_path, "intel-rapl:1", "package-1", 999_000)
    part = package(tmp_path, "intel-rapl:0:0", "core", 5)
    platform = package(tmp_path, "intel-rapl:2", "psys", 5)
    with EnergyMeter(find_sensor(tmp_path)) as measured:
        write(first, energy_uj=400_000)
        write(second, energy_uj=1_000)  # it ran over: 2,000 µJ more
        write(part, energy_uj=99_999)
        write(platform, energy_uj=99_999)
    assert measured.sensor == "RAPL package-0 + package-1"
    assert measured.joules == pytest.approx(0.302)


def test_rapl_that_may_not_be_read_is_no_sensor(tmp_path):
    folder = package(tmp_path, "intel-rapl:0", "package-0", 1)
    (folder / "energy_uj").unlink()
    assert find_rapl(tmp_path) is None


def test_nvml_counts_millijoules():
    counter = iter((5_000, 7_500))
    sensor = NvmlSensor(lambda: next(counter), "1 × GPU")
    with EnergyMeter(sensor) as measured:
        pass
    assert (measured.sensor, measured.joules) == ("NVML 1 × GPU", 2.5)


def test_no_sensor_gives_no_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "find_nvml", lambda: None)  # this machine may have a GPU
    with EnergyMeter(find_sensor(tmp_path)) as measured:
        pass
    assert (measured.sensor, measured.joules) == (NO_SENSOR, None)


def test_the_module_is_preferred_to_the_processor(tmp_path):
    monitor(tmp_path, "1-0040", {"VDD_IN": (5000, 1)})
    package(tmp_path, "intel-rapl:0", "package-0", 1)
    assert isinstance(find_sensor(tmp_path), JetsonSensor)
    assert isinstance(find_rapl(tmp_path), RaplSensor)
