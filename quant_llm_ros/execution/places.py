"""Known places: names and poses from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
import math
from pathlib import Path
from typing import Any

import yaml

from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.geometry import Pose

_KEYS = ("x", "y", "yaw_deg")


def load_places(path: str | Path) -> dict[str, Pose]:
    """Read the entry ``places`` of a YAML file; a world of the simulation is one too.

    Args:
        path: The file: ``places: {kitchen: {x: 1.0, y: 2.5, yaw_deg: 90}}``, in m and degrees;
            ``yaw_deg`` may be left out.

    Returns:
        The poses by name in lower case.

    Raises:
        QuantLlmError: The file cannot be read or says something else.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise QuantLlmError(f"cannot read the places in {path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise QuantLlmError(f"{path} is not valid YAML: {reason}") from error
    entries = data.get("places") if isinstance(data, dict) else None
    if not isinstance(entries, dict):
        raise QuantLlmError(
            f"{path}: no mapping 'places'; expected places: {{name: {{x: 1, y: 2}}}}"
        )
    return parse_places(entries, str(path))


def parse_places(entries: Mapping[Any, Any], where: str) -> dict[str, Pose]:
    """Check places that were read from YAML.

    Args:
        entries: What stands under ``places``.
        where: Name of the file, for errors.

    Raises:
        QuantLlmError: A place is malformed.
    """
    places = {}
    for name, entry in entries.items():
        problem = f"{where}: place {name!r} is {entry!r}; expected {{x: 1.0, y: 2.0, yaw_deg: 90}}"
        if (
            not isinstance(entry, dict)
            or not set(entry) <= set(_KEYS)
            or not {"x", "y"} <= set(entry)
        ):
            raise QuantLlmError(problem)
        numbers = [entry.get(key, 0.0) for key in _KEYS]
        if any(type(n) not in (int, float) or not math.isfinite(n) for n in numbers):
            raise QuantLlmError(problem)
        places[str(name).strip().lower()] = Pose(
            float(numbers[0]), float(numbers[1]), math.radians(numbers[2])
        )
    return places
