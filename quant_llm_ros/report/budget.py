"""Budgets of a search: size from the codes, time and energy measured on the device at hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
import tempfile
from typing import Any, TYPE_CHECKING

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.open import open_engine
from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.engine.selftest import fill_shared
from quant_llm_ros.errors import EngineError, RecipeError
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.report.energy import EnergyMeter, find_sensor
from quant_llm_ros.report.loading import TextSource
from quant_llm_ros.report.measure import reference_prompts, timings

if TYPE_CHECKING:
    from quant_llm_ros.report.worker import Build

SIZE = "size_mb"
LATENCY = "latency_ms"
ENERGY = "energy_j"
NAMES = (SIZE, LATENCY, ENERGY)
_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a found recipe may cost at most.

    Attributes:
        name: ``size_mb``: of all weights as stored, in megabytes; ``latency_ms``: of decoding one
            token; ``energy_j``: of one reference prompt and one token, from the machine's sensor.
        limit: The most.
    """

    name: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``size_mb=80``.

        Raises:
            RecipeError: It is none, with what there is.
        """
        name, _, number = text.partition("=")
        try:
            limit = float(number)
        except ValueError:
            limit = -1.0
        if name not in NAMES or not 0.0 < limit < float("inf"):
            raise RecipeError(
                f"the budget {text!r} is not one of {', '.join(f'{n}=NUMBER' for n in NAMES)}"
            )
        return cls(name, limit)

    def __str__(self) -> str:
        """Write it as it is given."""
        return f"{self.name}={self.limit:g}"


@dataclasses.dataclass(frozen=True)
class Device:
    """How a recipe is tried on the device at hand.

    Attributes:
        build: Makes bundles.
        skills: Skill registry that goes into them.
        threads: CPU threads of the engine.
        texts: Makes the texts on which mixtures are judged; None: sentences that are always there.
    """

    build: Build
    skills: Path
    threads: int
    texts: TextSource | None = None


def measured_cost(budget: Budget, recipe: Recipe, device: Device) -> float:
    """Build a recipe's bundle, run it here, and give what the budget is about.

    Raises:
        EngineError: Energy is asked for, and this machine has no sensor.
    """
    with tempfile.TemporaryDirectory() as folder:
        bundle = device.build(
            recipe, Path(folder) / "bundle", device.skills, lambda stage, part: None
        )
        engine = open_engine(bundle, threads=device.threads)
        try:
            if budget.name == LATENCY:
                return timings(engine, bundle)["decode_ms"]
            return _energy(engine, bundle)
        finally:
            engine.close()


def check_sensor(budget: Budget) -> None:
    """Refuse a budget of energy where nothing measures it.

    Raises:
        EngineError: This machine has no sensor.
    """
    if budget.name == ENERGY and find_sensor() is None:
        raise EngineError(
            "this machine has no energy sensor that can be read (INA3221, NVML, RAPL); "
            f"search on the robot's computer, or give {SIZE} or {LATENCY}"
        )


def _energy(engine: Engine, bundle: Bundle) -> float:
    """Joules of one reference command and one decoded token, the mean over all commands."""
    prompts = reference_prompts(bundle)
    shared = fill_shared(engine, prompts)
    with EnergyMeter(find_sensor()) as used:
        for _ in range(_ROUNDS):
            for prompt in prompts:
                engine.rollback(shared)
                engine.append(prompt[shared:])
                engine.append([prompt[0]])
    if used.joules is None:
        raise EngineError("the energy sensor cannot be read any more")
    return used.joules / (_ROUNDS * len(prompts))


def write_sensitivities(path: Path, data: dict[str, Any]) -> None:
    """Write what :func:`search.search` found out about the groups, for the report."""
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
