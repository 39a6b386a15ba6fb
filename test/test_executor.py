"""Parameters, constants and configuration files of the executor and the simulation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from quant_llm_msgs.msg import Execution
from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.execution.report import State
from quant_llm_ros.execution.settings import Settings
from quant_llm_ros.nodes import executor_parameters, sim_parameters
from quant_llm_ros.nodes.sim_parameters import SimSettings

pytestmark = pytest.mark.ros

TABLES = {
    "executor": (executor_parameters.SPECS, Settings, "config/executor.yaml"),
    "sim": (sim_parameters.SPECS, SimSettings, "config/simulation/sim.yaml"),
}
BY_NAME = {spec.name: spec for specs, _, _ in TABLES.values() for spec in specs}


def test_constants_of_the_message_are_those_of_the_enum() -> None:
    constants = {
        name.removeprefix("STATE_"): getattr(Execution, name)
        for name in dir(Execution)
        if name.startswith("STATE_")
    }
    assert constants == {state.name: state.value for state in State}


@pytest.mark.parametrize("node", TABLES)
def test_file_documents_exactly_the_parameters_with_their_defaults(
    repository: Path, node: str
) -> None:
    specs, settings, file = TABLES[node]
    values = yaml.safe_load((repository / file).read_text())["/**"][node]["ros__parameters"]
    assert values == {spec.name: spec.default for spec in specs}
    for spec in specs:
        assert type(values[spec.name]) is type(spec.default), spec.name
    assert set(values) == {field.name for field in dataclasses.fields(settings)}


@pytest.mark.parametrize("spec", BY_NAME.values(), ids=lambda spec: spec.name)
def test_description_range_and_default(spec: Any) -> None:
    descriptor = spec.descriptor()
    assert descriptor.description.endswith(".")
    assert spec.accept(spec.default) == spec.default
    ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
    assert len(ranges) == int(spec.is_number)
    for limits in ranges:
        assert limits.from_value <= spec.default <= limits.to_value


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("on_new_decision", "queue", "queue"),
        ("on_new_decision", "ignore", None),
        ("navigation", "nav2", "nav2"),
        ("navigation", 2, None),
        ("max_speed_mps", 1, 1.0),
        ("max_speed_mps", 0.0, None),
        ("max_speed_mps", float("nan"), None),
        ("fault_slip", 1.5, None),
        ("holonomic", "yes", None),
    ],
)
def test_values_from_files(name: str, value: Any, accepted: Any) -> None:
    if accepted is not None:
        assert BY_NAME[name].accept(value) == accepted
        return
    with pytest.raises(QuantLlmError) as caught:
        BY_NAME[name].accept(value)
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


def test_choices_are_described() -> None:
    descriptor = BY_NAME["navigation"].descriptor()
    assert "auto" in descriptor.additional_constraints
    assert "unconfigured" in descriptor.additional_constraints
