"""Energy, from the machine's own sensors: Jetson INA3221, NVIDIA GPUs, Intel and AMD RAPL.

What no sensor measured stays empty. There is no estimate from times and a rated power.

- Jetson: an INA3221 on the module measures the voltage and current of up to three rails (NVIDIA,
  Jetson Linux Developer Guide, «Platform Power and Performance», section «Software-Based Power
  Consumption Modeling»; Linux, Documentation/hwmon/ina3221.rst). Power is sampled and integrated.
- NVIDIA GPUs since Volta count millijoules themselves (NVML, nvmlDeviceGetTotalEnergyConsumption).
- x86 processors count microjoules of the package (Linux, Documentation/power/powercap).

A sensor measures everything that the machine does meanwhile, the idle power included: close other
programs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from pathlib import Path
import threading
import time
from types import TracebackType
from typing import Protocol

SYSFS = Path("/sys")
_SAMPLE_S = 0.02
# A module that measures its own input needs no sum over what is behind it.
_INPUT_RAILS = ("VDD_IN", "VIN", "POM_5V_IN")
# Fed from VIN_SYS_5V0, which is measured too.
_PART_RAILS = ("VDDQ_VDD2_1V8AO", "VDD2_1V8AO")


class EnergySensor(Protocol):
    """Something that counts the energy the machine used.

    Attributes:
        name: What it is, for people.
    """

    name: str

    def start(self) -> None:
        """Begin to count."""

    def stop(self) -> float:
        """Give the joules since :meth:`start`."""


@dataclasses.dataclass
class Measured:
    """What a block of work used.

    Attributes:
        sensor: Name of the sensor, or ``no sensor``.
        joules: Energy, or None without a sensor.
        seconds: How long it took.
    """

    sensor: str
    joules: float | None = None
    seconds: float = 0.0


class EnergyMeter:
    """Measures the energy of a ``with`` block.

    Entering gives a :class:`Measured` whose figures are there after the block.
    """

    def __init__(self, sensor: EnergySensor | None) -> None:
        """Take a sensor, or None for a machine that has none."""
        self._sensor = sensor
        self._measured = Measured(sensor.name if sensor else NO_SENSOR)
        self._begin = 0.0

    def __enter__(self) -> Measured:
        """Begin to measure."""
        self._begin = time.perf_counter()
        if self._sensor:
            self._sensor.start()
        return self._measured

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop measuring."""
        if self._sensor:
            self._measured.joules = self._sensor.stop()
        self._measured.seconds = time.perf_counter() - self._begin


NO_SENSOR = "no sensor"


@dataclasses.dataclass(frozen=True)
class _Rail:
    """A rail of an INA3221: where its millivolts and milliamperes are read."""

    label: str
    voltage: Path
    current: Path

    def watts(self) -> float:
        return int(self.voltage.read_text()) * int(self.current.read_text()) / 1e6


class JetsonSensor:
    """Integrates the power of a Jetson's rails; a thread takes a sample every 20 ms."""

    def __init__(self, rails: Sequence[_Rail], sample_s: float = _SAMPLE_S) -> None:
        """Take the rails; use :func:`find_jetson`."""
        self.name = "INA3221 " + " + ".join(rail.label for rail in rails)
        self._rails = rails
        self._sample_s = sample_s
        self._thread: threading.Thread | None = None
        self._done = threading.Event()
        self._joules = 0.0

    def start(self) -> None:
        """Begin to sample."""
        self._done.clear()
        self._joules = 0.0
        self._thread = threading.Thread(target=self._integrate, name="energy", daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """End sampling and give the joules."""
        self._done.set()
        if self._thread:
            self._thread.join()
        return self._joules

    def watts(self) -> float:
        """Power of all rails now."""
        return sum(rail.watts() for rail in self._rails)

    def _integrate(self) -> None:
        before, power = time.perf_counter(), self.watts()
        last = False
        while not last:
            last = self._done.wait(self._sample_s)
            now, present = time.perf_counter(), self.watts()
            self._joules += (now - before) * (power + present) / 2  # trapezoids
            before, power = now, present


class RaplSensor:
    """Counts the microjoules of all processor packages."""

    def __init__(self, zones: Sequence[Path]) -> None:
        """Take the packages' folders; use :func:`find_rapl`."""
        self.name = f"RAPL {' + '.join((zone / 'name').read_text().strip() for zone in zones)}"
        self._zones = zones
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        self._begin: list[int] = []

    def start(self) -> None:
        """Remember the counters."""
        self._begin = self._read()

    def stop(self) -> float:
        """Give the difference; a counter that ran over once is put right."""
        differences = zip(self._read(), self._begin, self._ranges, strict=True)
        return sum(((now - begin) % (most + 1)) for now, begin, most in differences) / 1e6

    def _read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone in self._zones]


class NvmlSensor:
    """Counts the millijoules of the GPUs."""

    def __init__(self, read_mj: Callable[[], int], name: str) -> None:
        """Take a function that reads the counter; use :func:`find_nvml`."""
        self.name = f"NVML {name}"
        self._read_mj = read_mj
        self._begin = 0

    def start(self) -> None:
        """Remember the counter."""
        self._begin = self._read_mj()

    def stop(self) -> float:
        """Give the difference."""
        return (self._read_mj() - self._begin) / 1e3


def find_sensor(sysfs: Path = SYSFS) -> EnergySensor | None:
    """Find the sensor that says most about this machine: the module's, the GPU's, the CPU's.

    Args:
        sysfs: Where the kernel's files are.

    Returns:
        A sensor that could be read just now, or None.
    """
    for find in (lambda: find_jetson(sysfs), find_nvml, lambda: find_rapl(sysfs)):
        sensor: EnergySensor | None = find()
        if sensor is not None:
            return sensor
    return None


def find_jetson(sysfs: Path = SYSFS) -> JetsonSensor | None:
    """Find a Jetson's power monitors.

    Returns:
        A sensor of the module's input rail, or, where there is none, of all rails that no other
        contains; None on other machines.
    """
    rails = []
    for monitor in sorted(sysfs.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*")):
        for label in sorted(monitor.glob("in*_label")):
            number = label.name.removeprefix("in").removesuffix("_label")
            rail = _Rail(
                label.read_text().strip(),
                monitor / f"in{number}_input",
                monitor / f"curr{number}_input",
            )
            # Besides its rails the chip reports a sum of shunt voltages, and unused inputs as NC.
            if rail.label != "NC" and _readable(rail.voltage) and _readable(rail.current):
                rails.append(rail)
    whole = [rail for rail in rails if rail.label in _INPUT_RAILS]
    parts = [rail for rail in rails if rail.label not in _PART_RAILS]
    return JetsonSensor(whole or parts) if rails else None


def find_rapl(sysfs: Path = SYSFS) -> RaplSensor | None:
    """Find the processor's energy counters; since Linux 5.10 only root may read them."""
    zones = [
        zone
        for zone in sorted(sysfs.glob("class/powercap/intel-rapl:*"))
        # One colon: a package; two: a part of it, already counted.
        if zone.name.count(":") == 1
        and all(_readable(zone / name) for name in ("energy_uj", "max_energy_range_uj"))
        and (zone / "name").read_text().startswith("package")
    ]
    return RaplSensor(zones) if zones else None


def find_nvml() -> NvmlSensor | None:
    """Find NVIDIA GPUs that count their energy, by nvidia-ml-py where it is installed."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]

        def read_mj() -> int:
            return sum(int(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) for gpu in gpus)

        if not gpus:
            return None
        read_mj()
        names = {str(pynvml.nvmlDeviceGetName(gpu)) for gpu in gpus}
        return NvmlSensor(read_mj, f"{count} × {' / '.join(sorted(names))}")
    except pynvml.NVMLError:  # no driver, no GPU, or one that does not count (before Volta)
        return None


def _readable(path: Path) -> bool:
    """Tell whether a counter can be read and is a whole number."""
    try:
        int(path.read_text())
    except (OSError, ValueError):
        return False
    return True
