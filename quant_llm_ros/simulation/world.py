"""The world of the simulation: walls as segments, from a YAML file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import yaml

from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.geometry import Pose

_KEYS = {"name", "start", "places", "rectangles", "walls"}
_FOUR = "four numbers [x1, y1, x2, y2] in m, not a single point"


@dataclasses.dataclass(frozen=True)
class World:
    """Walls and where the robot starts.

    Attributes:
        name: Its name.
        walls: Segments, m, shape (walls, 4): x1, y1, x2, y2.
        start: Pose of the robot at the beginning.
    """

    name: str
    walls: NDArray[np.float64]
    start: Pose

    def distance(self, x: float, y: float) -> float:
        """Give the distance from a point to the nearest wall, m; infinite without walls."""
        if not len(self.walls):
            return math.inf
        start, along = self.walls[:, :2], self.walls[:, 2:] - self.walls[:, :2]
        offset = np.array([x, y]) - start
        share = np.clip(np.sum(offset * along, 1) / np.sum(along * along, 1), 0.0, 1.0)
        return float(np.hypot(*(offset - share[:, None] * along).T).min())


def load_world(path: str | Path) -> World:
    """Read a world.

    Args:
        path: A YAML file as ``config/simulation/flat.yaml``, whose head explains it.

    Raises:
        QuantLlmError: The file cannot be read or describes no world.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise QuantLlmError(f"cannot read the world {path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise QuantLlmError(f"{path} is not valid YAML: {reason}") from error
    if not isinstance(data, dict):
        raise QuantLlmError(f"{path}: expected a mapping with the keys {', '.join(sorted(_KEYS))}")
    if unknown := set(map(str, data)) - _KEYS:
        raise QuantLlmError(
            f"{path}: unknown key {', '.join(sorted(unknown))}; "
            f"there are {', '.join(sorted(_KEYS))}"
        )
    walls = [
        _segment(entry, f"{path}: walls[{i}]") for i, entry in enumerate(_list(data, "walls"))
    ]
    for i, entry in enumerate(_list(data, "rectangles")):
        x1, y1, x2, y2 = _segment(entry, f"{path}: rectangles[{i}]")
        walls += [(x1, y1, x2, y1), (x2, y1, x2, y2), (x2, y2, x1, y2), (x1, y2, x1, y1)]
    start = data.get("start", {})
    numbers = [start.get(key, 0.0) for key in ("x", "y", "yaw_deg")] if _is_pose(start) else []
    if not _are_numbers(numbers, 3):
        raise QuantLlmError(
            f"{path}: start is {start!r}; expected {{x: 1.0, y: 2.0, yaw_deg: 90}}"
        )
    return World(
        str(data.get("name", Path(path).stem)),
        np.array(walls, dtype=np.float64).reshape(-1, 4),
        Pose(float(numbers[0]), float(numbers[1]), math.radians(numbers[2])),
    )


def _list(data: dict[str, Any], key: str) -> list[Any]:
    value = data.get(key) or []
    return value if isinstance(value, list) else [value]


def _segment(entry: Any, where: str) -> tuple[float, float, float, float]:
    if not _are_numbers(entry, 4) or entry[:2] == entry[2:]:
        raise QuantLlmError(f"{where} is {entry!r}; expected {_FOUR}")
    x1, y1, x2, y2 = map(float, entry)
    return x1, y1, x2, y2


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )


def _is_pose(value: Any) -> bool:
    return isinstance(value, dict) and set(value) <= {"x", "y", "yaw_deg"}
