"""The parameters of all nodes and their files, without a node; test_node.py sets them on one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.execution.settings import Settings as ExecutorSettings
from quant_llm_ros.nodes import environment, executor_parameters, parameters, sim_parameters
from quant_llm_ros.nodes.sim_parameters import SimSettings

pytestmark = pytest.mark.ros

TABLES = {
    "understanding": (parameters.SPECS, parameters.Settings, "config/understanding.yaml"),
    "executor": (executor_parameters.SPECS, ExecutorSettings, "config/executor.yaml"),
    "sim": (sim_parameters.SPECS, SimSettings, "config/simulation/sim.yaml"),
}
SPECS = {f"{node}.{spec.name}": spec for node, (specs, _, _) in TABLES.items() for spec in specs}


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


def test_the_table_in_the_docs_has_every_parameter(repository: Path) -> None:
    text = (repository / "docs" / "ros_interface.md").read_text()
    table = text.split("\n## Parameters\n\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    documented = {row[0].strip("`"): (row[1].strip("`"), row[3]) for row in rows}
    assert documented == {
        spec.name: (
            json.dumps(spec.default) if not isinstance(spec.default, float) else str(spec.default),
            "start" if spec.read_only else "unconfigured" if spec.loading else "always",
        )
        for spec in parameters.SPECS
    }
    ranges = {
        spec.name: f"{spec.low:g} – {spec.high:g}".replace("1e+05", "100000")
        for spec in parameters.SPECS
        if spec.is_number
    }
    assert {row[0].strip("`"): row[2] for row in rows if "–" in row[2]} == ranges


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
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
        ("understanding.deadline_s", 0.01, 0.01),
        ("understanding.deadline_s", 3, 3.0),
        ("understanding.deadline_s", 0.0, None),
        ("understanding.deadline_s", 601, None),
        ("understanding.deadline_s", float("nan"), None),
        ("understanding.deadline_s", "soon", None),
        ("understanding.deadline_s", True, None),
        ("understanding.queue_policy", "latest_wins", "latest_wins"),
        ("understanding.queue_policy", "newest", None),
        ("understanding.stall_timeout_s", 2, 2.0),
        ("understanding.stall_timeout_s", 0.0, None),
        ("understanding.shortlist", 0, 0),
        ("understanding.shortlist", -1, None),
        ("understanding.shortlist", 1001, None),
        ("understanding.threads", 1, 1),
        ("understanding.threads", 0, None),
        ("understanding.threads", 65, None),
        ("understanding.threads", 2.0, None),
        ("understanding.cpus", "", ""),
        ("understanding.cpus", "0,2-3", "0,2-3"),
        ("understanding.cpus", 3, "3"),
        ("understanding.cpus", "two", None),
        ("understanding.cpus", -1, None),
        ("understanding.cpus", [2, 3], None),
        ("understanding.cpus", True, None),
        ("understanding.autostart", True, True),
        ("understanding.autostart", "true", None),
        ("understanding.autostart", 1, None),
        ("understanding.provider", "cuda", "cuda"),
        ("understanding.provider", "gpu", None),
        ("understanding.provider", "", None),
        ("understanding.allow_fallback", True, True),
        ("understanding.allow_fallback", "yes", None),
        ("understanding.selftest_commands", 0, 0),
        ("understanding.selftest_commands", -1, None),
        ("understanding.selftest_commands", 1.5, None),
        ("understanding.bundle", "", ""),
        ("understanding.bundle", "/a/b", "/a/b"),
        ("understanding.bundle", 2024, None),
        ("understanding.bundle", ["/a"], None),
        ("executor.on_new_decision", "queue", "queue"),
        ("executor.on_new_decision", "ignore", None),
        ("executor.navigation", "nav2", "nav2"),
        ("executor.navigation", 2, None),
        ("executor.max_speed_mps", 1, 1.0),
        ("executor.max_speed_mps", 0.0, None),
        ("executor.max_speed_mps", float("nan"), None),
        ("executor.holonomic", "yes", None),
        ("sim.fault_slip", 1.5, None),
    ],
)
def test_values_from_files(name: str, value: Any, accepted: Any) -> None:
    if accepted is not None:
        result = SPECS[name].accept(value)
        assert result == accepted
        assert type(result) is type(accepted)
        return
    with pytest.raises(QuantLlmError) as caught:
        SPECS[name].accept(value)
    assert f"'{SPECS[name].name}'" in str(caught.value)
    assert repr(value) in str(caught.value)


def test_choices_are_described() -> None:
    descriptor = SPECS["executor.navigation"].descriptor()
    assert "auto" in descriptor.additional_constraints
    assert "unconfigured" in descriptor.additional_constraints


def test_environment_of_a_virtual_environment_with_ros(tmp_path: Path) -> None:
    variables: dict[str, str] = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    assert not environment.prepare(variables, tmp_path)  # no ROS in there
    (tmp_path / "share/ament_index/resource_index/rmw_typesupport").mkdir(parents=True)
    assert environment.prepare(variables, tmp_path)
    assert variables["AMENT_PREFIX_PATH"] == str(tmp_path)
    assert variables["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"  # the user's own choice stays
    before = dict(variables)
    assert not environment.prepare(variables, tmp_path)  # a ROS is set up already
    assert variables == before
