"""Losses out of what ``quant_llm finetune`` printed, or out of JSON lines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
import re

from quant_llm_ros.errors import DatasetError

_LINE = re.compile(r"step (\d+): loss [\d.]+, held-out loss ([\d.]+)(.*)")


@dataclasses.dataclass(frozen=True)
class TrainingLog:
    """How a training went.

    Attributes:
        name: For people.
        steps: Ascending.
        losses: Held-out loss at each step, nats per token.
        rounding_step: First step whose weights were rounded, or None.
    """

    name: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    rounding_step: int | None


def read_log(argument: str) -> TrainingLog:
    """Read ``NAME=FILE``.

    A line is what ``quant_llm finetune`` prints, or a JSON object with ``step``,
    ``held_out_loss`` and maybe ``rounding``; other lines are passed over. What is not trained is a
    log of a single step.

    Raises:
        DatasetError: The file is missing or holds no step.
    """
    name, separator, file = argument.partition("=")
    if not separator or not name or not file:
        raise DatasetError(f"the training log {argument!r} is not of the form NAME=FILE")
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror}") from error
    found: dict[int, tuple[float, bool]] = {}
    for line in lines:
        read = _read(line)
        if read is not None:
            found[read[0]] = read[1:]
    if not found:
        raise DatasetError(
            f"{file} has no line «step N: loss L, held-out loss L»; give what `quant_llm "
            "finetune` printed"
        )
    steps = sorted(found)
    rounded = [step for step in steps if found[step][1]]
    return TrainingLog(
        name,
        tuple(steps),
        tuple(found[step][0] for step in steps),
        rounded[0] if rounded else None,
    )


def _read(line: str) -> tuple[int, float, bool] | None:
    match = _LINE.search(line)
    if match:
        return int(match[1]), float(match[2]), "rounded" in match[3]
    if not line.startswith("{"):
        return None
    try:
        data = json.loads(line)
        return int(data["step"]), float(data["held_out_loss"]), bool(data.get("rounding"))
    except (ValueError, KeyError, TypeError):
        return None
