"""What machine this is: for verdicts that are compared, and sent to others.

Everything is read defensively: what a machine does not tell is left out. Nothing here names the
machine's owner, network or serial number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import platform
import shutil
import subprocess

_PROGRAM_LIMIT_S = 5.0
_ASK_GPU = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


def device_name(root: Path = Path("/")) -> str:
    """Name the machine: a board by its own name, any other by its processor.

    Args:
        root: Where ``/proc`` is; for tests.
    """
    # Device trees end strings with a zero byte.
    board = _text(root / "proc/device-tree/model").strip("\0 \n")
    if board:
        return board
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return " ".join(value.split())
    return platform.machine() or "unknown"


def describe_device(root: Path = Path("/")) -> dict[str, str]:
    """Describe the machine: name, architecture, system, GPU and power mode as far as it tells.

    Args:
        root: Where ``/proc`` and ``/etc`` are; for tests.
    """
    found = {
        "name": device_name(root),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "jetson_linux": _text(root / "etc/nv_tegra_release").partition("\n")[0].lstrip("# "),
        "gpu": _printed(_ASK_GPU),
        "power_mode": _printed(("nvpmodel", "-q")),
    }
    return {name: value for name, value in found.items() if value}


def process_memory_mb(root: Path = Path("/")) -> dict[str, float]:
    """Give the memory that this process holds (``resident``) and held at most (``peak``), in MB.

    On a Jetson the memory of the GPU is the machine's own, but no part of these: compare
    :func:`available_memory_mb` before and after.
    """
    names = {"VmRSS": "resident", "VmHWM": "peak"}
    found = _kilobytes(_text(root / "proc/self/status"))
    return {name: found[key] for key, name in names.items() if key in found}


def available_memory_mb(root: Path = Path("/")) -> float | None:
    """Give the memory that programs could still have, in MB; None where the system does not tell.

    This counts what other programs take meanwhile, too.
    """
    return _kilobytes(_text(root / "proc/meminfo")).get("MemAvailable")


def _kilobytes(text: str) -> dict[str, float]:
    """Read lines of ``name: number kB``, in MB."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        parts = value.split()
        if len(parts) == 2 and parts[1] == "kB" and parts[0].isdigit():
            found[name] = int(parts[0]) * 1024 / 1e6
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _printed(command: Sequence[str]) -> str:
    """Run a program that may not exist, and give what it printed in one line."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROGRAM_LIMIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip())
