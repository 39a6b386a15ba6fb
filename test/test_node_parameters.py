"""The table of parameters, without a node; test_node.py sets them on a running one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.nodes import environment
from quant_llm_ros.nodes.parameters import Settings, SPECS

pytestmark = pytest.mark.ros

BY_NAME = {spec.name: spec for spec in SPECS}


def test_file_documents_exactly_the_parameters_with_their_defaults(repository: Path) -> None:
    text = (repository / "config" / "understanding.yaml").read_text()
    values = yaml.safe_load(text)["/**"]["understanding"]["ros__parameters"]
    assert values == {spec.name: spec.default for spec in SPECS}
    for spec in SPECS:
        assert type(values[spec.name]) is type(spec.default), spec.name


def test_every_parameter_is_a_setting() -> None:
    assert list(BY_NAME) == [field.name for field in dataclasses.fields(Settings)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
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
        ("deadline_s", 0.01, 0.01),
        ("deadline_s", 3, 3.0),
        ("deadline_s", 0.0, None),
        ("deadline_s", 601, None),
        ("deadline_s", float("nan"), None),
        ("deadline_s", "soon", None),
        ("deadline_s", True, None),
        ("queue_policy", "latest_wins", "latest_wins"),
        ("queue_policy", "newest", None),
        ("stall_timeout_s", 2, 2.0),
        ("stall_timeout_s", 0.0, None),
        ("threads", 1, 1),
        ("threads", 0, None),
        ("threads", 65, None),
        ("threads", 2.0, None),
        ("autostart", True, True),
        ("autostart", "true", None),
        ("autostart", 1, None),
        ("provider", "cuda", "cuda"),
        ("provider", "gpu", None),
        ("provider", "", None),
        ("allow_fallback", True, True),
        ("allow_fallback", "yes", None),
        ("selftest_commands", 0, 0),
        ("selftest_commands", -1, None),
        ("selftest_commands", 1.5, None),
        ("bundle", "", ""),
        ("bundle", "/a/b", "/a/b"),
        ("bundle", 2024, None),
        ("bundle", ["/a"], None),
    ],
)
def test_values_from_files(name: str, value: Any, accepted: Any) -> None:
    if accepted is not None:
        result = BY_NAME[name].accept(value)
        assert result == accepted
        assert type(result) is type(accepted)
        return
    with pytest.raises(QuantLlmError) as caught:
        BY_NAME[name].accept(value)
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


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
