"""What the computer says about itself: memory, temperatures, power. Linux; nothing is required.

Sensors come and go with the board, the kernel and the power mode, and some refuse to be read while
their part is switched off: what cannot be read is left out.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
import re

SYS = Path("/sys")
PROC = Path("/proc")

# A Jetson reports -256 °C for a part that is switched off.
_POSSIBLE_C = (-55.0, 200.0)


@dataclasses.dataclass(frozen=True)
class Temperature:
    """A thermal zone of the kernel.

    Attributes:
        name: Its type, for example ``cpu-thermal``.
        celsius: Temperature, in °C.
        slow_c: From here on the kernel slows the part down, in °C; infinite if it does not say.
        critical_c: From here on the kernel switches the computer off, in °C; infinite likewise.
    """

    name: str
    celsius: float
    slow_c: float = math.inf
    critical_c: float = math.inf


@dataclasses.dataclass(frozen=True)
class Power:
    """A power rail, for example ``VDD_IN`` of a Jetson, in watts."""

    name: str
    watts: float


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of the process and of the computer, in MB of 10^6 bytes; 0 where unknown."""

    process_mb: float
    available_mb: float
    total_mb: float


def temperatures(sys: Path = SYS) -> list[Temperature]:
    """Read all thermal zones, see «Generic Thermal Sysfs driver How To» of the Linux kernel."""
    found = []
    for zone in _numbered(sys / "class" / "thermal", "thermal_zone"):
        celsius = _number(zone / "temp", 1e-3)
        if celsius is None or not _POSSIBLE_C[0] < celsius < _POSSIBLE_C[1]:
            continue
        limits = {"passive": math.inf, "hot": math.inf, "critical": math.inf}
        for kind in zone.glob("trip_point_*_type"):
            trip = _text(kind)
            limit = _number(kind.with_name(kind.name.replace("_type", "_temp")), 1e-3)
            if trip in limits and limit is not None and limit > 0.0:
                limits[trip] = min(limits[trip], limit)
        found.append(
            Temperature(
                _text(zone / "type") or zone.name,
                celsius,
                min(limits["passive"], limits["hot"]),
                limits["critical"],
            )
        )
    return found


def powers(sys: Path = SYS) -> list[Power]:
    """Read the power sensors, see «Naming and data format standards for sysfs files».

    The INA3221 of the Jetson Orin boards measures voltage and current of three rails; others, such
    as the INA238, give power themselves.
    """
    found = []
    for monitor in _numbered(sys / "class" / "hwmon", "hwmon"):
        chip = _text(monitor / "name") or monitor.name
        for file in _numbered(monitor, "power", "_input"):
            watts = _number(file, 1e-6)
            if watts is not None:
                label = _text(file.with_name(file.name.replace("_input", "_label")))
                found.append(Power(label or f"{chip} {file.name.removesuffix('_input')}", watts))
        for file in _numbered(monitor, "curr", "_input"):
            channel = file.name.removeprefix("curr").removesuffix("_input")
            amperes = _number(file, 1e-3)
            volts = _number(monitor / f"in{channel}_input", 1e-3)
            label = _text(monitor / f"in{channel}_label")
            if amperes is not None and volts is not None and label != "NC":
                found.append(Power(label or f"{chip} {channel}", amperes * volts))
    return found


def memory(proc: Path = PROC) -> Memory:
    """Read the memory that this process holds, and what the computer has left."""
    pages = (_text(proc / "self" / "statm") or "").split()
    resident = int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0
    lines = dict(
        line.split(":", 1)
        for line in (_text(proc / "meminfo") or "").splitlines()
        if line.endswith(" kB")
    )
    available, total = (
        int(lines.get(name, "0 kB").split()[0]) * 1024 for name in ("MemAvailable", "MemTotal")
    )
    return Memory(resident / 1e6, available / 1e6, total / 1e6)


def _numbered(folder: Path, prefix: str, suffix: str = "") -> list[Path]:
    """List what is named with a number between prefix and suffix, in the order of the numbers."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)" + re.escape(suffix))
    found = {}
    try:
        for path in folder.iterdir():
            match = pattern.fullmatch(path.name)
            if match:
                found[int(match[1])] = path
    except OSError:
        return []
    return [found[number] for number in sorted(found)]


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _number(file: Path, unit: float) -> float | None:
    try:
        return int(_text(file) or "") * unit
    except ValueError:
        return None
