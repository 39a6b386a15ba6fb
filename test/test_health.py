"""What /diagnostics says, as tables: situations, levels and messages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from scripted import make_tokenizer, ScriptedEngine, SKILLS_PATH
from test_board import make, ORIN
import yaml

from quant_llm_ros.command.service import Load
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.statistics import LatencyWindow
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.nodes.health import Health, Level, Recently, Snapshot, statuses
from quant_llm_ros.nodes.parameters import Settings, SPECS

pytestmark = pytest.mark.ros

SETTINGS = Settings(**{spec.name: spec.default for spec in SPECS})
EMPTY = dataclasses.replace(LatencyWindow().summary())


@pytest.fixture(scope="module")
def understander(tmp_path_factory: pytest.TempPathFactory) -> Understander:
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return Understander(
        ScriptedEngine(tokenizer), tokenizer, SkillRegistry.load(SKILLS_PATH), drafts=False
    )


def of(name: str, snapshot: Snapshot, **roots: Path) -> Health:
    (found,) = [h for h in statuses(snapshot, Recently(), **roots) if h.name == name]
    return found


@pytest.mark.parametrize(
    ("name", "state", "level", "says"),
    [
        ("Lifecycle", {"phase": "active"}, Level.OK, "active"),
        ("Lifecycle", {"phase": "inactive"}, Level.WARN, "inactive: takes no commands"),
        ("Lifecycle", {"phase": "unconfigured"}, Level.WARN, "takes no commands"),
        ("Lifecycle", {"failure": "cannot configure: X"}, Level.ERROR, "cannot configure: X"),
        ("Lifecycle", {"failure": "X", "phase": "configuring"}, Level.WARN, "configuring"),
        ("Engine", {"model": False}, Level.WARN, "no model is loaded"),
        ("Engine", {"load": Load()}, Level.OK, "ready"),
        ("Engine", {"load": Load(busy=True, silent_s=0.1)}, Level.OK, "busy"),
        ("Engine", {"load": Load(stalled="it stalled")}, Level.ERROR, "it stalled"),
        (
            "Engine",
            {"hanging": 2},
            Level.WARN,
            "hold its memory: 2",
        ),
        ("Queue", {"load": Load(waiting=3)}, Level.OK, "3 of 16 wait"),
        ("Queue", {"load": Load(waiting=16)}, Level.WARN, "full"),
        ("Deadlines", {}, Level.OK, "0 of 0 missed"),
        ("Memory", {}, Level.OK, "are available"),
    ],
)
def test_levels(
    understander: Understander, name: str, state: dict[str, Any], level: Level, says: str
) -> None:
    snapshot = Snapshot(
        phase=state.get("phase", "unconfigured"),
        failure=state.get("failure", ""),
        settings=SETTINGS,
        understander=understander if state.get("model", True) else None,
        load=state.get("load", Load()),
        summary=EMPTY,
        hanging=state.get("hanging", 0),
    )
    health = of(name, snapshot)
    assert (health.level, says in health.message) == (level, True), health
    assert all(isinstance(value, str) for value in health.values.values())


@pytest.mark.parametrize(
    ("available_kb", "level"),
    [(500_000, Level.OK), (90_000, Level.WARN), (20_000, Level.ERROR)],
)
def test_little_memory(tmp_path: Path, available_kb: int, level: Level) -> None:
    meminfo = f"MemTotal: 1000000 kB\nMemAvailable: {available_kb} kB\nHugePages_Total: 0\n"
    proc = make(tmp_path, {"meminfo": meminfo, "self/statm": "9 5 1 1 0 1 0\n"})
    assert of("Memory", Snapshot("active", "", SETTINGS), proc=proc).level == level


@pytest.mark.parametrize(
    ("millidegrees", "level", "says"),
    [
        (48_500, Level.OK, "tj-thermal 50.0 °C"),
        (99_000, Level.WARN, "cpu-thermal 99.0 °C: it is being slowed down"),
        (105_000, Level.ERROR, "cpu-thermal 105.0 °C is critical"),
    ],
)
def test_temperatures(tmp_path: Path, millidegrees: int, level: Level, says: str) -> None:
    sys = make(tmp_path, {**ORIN, "class/thermal/thermal_zone0/temp": str(millidegrees)})
    snapshot = Snapshot("active", "", SETTINGS)
    health = of("Temperature", snapshot, sys=sys)
    assert (health.level, health.message) == (level, says)
    assert of("Power", snapshot, sys=sys).message.startswith("VDD_IN 6.1 W, VDD_CPU_GPU_CV 2.0 W")


def test_a_board_without_sensors_has_no_status_for_them(tmp_path: Path) -> None:
    names = [h.name for h in statuses(Snapshot("active", "", SETTINGS), Recently(), sys=tmp_path)]
    assert names == ["Lifecycle", "Engine", "Memory"]


def test_a_miss_is_a_warning_for_some_seconds() -> None:
    recently = Recently()
    times = [(5, 0.0), (5, 1.0), (6, 2.0), (6, 11.9), (6, 12.1), (0, 13.0), (1, 14.0)]
    assert [recently.grown(count, now_s) for count, now_s in times] == [
        False,
        False,
        True,
        True,
        False,
        False,
        True,
    ]


def test_the_aggregator_example_catches_every_status(
    repository: Path, understander: Understander, tmp_path: Path
) -> None:
    """Each status of a node in a namespace is under one analyzer of the example, and only one."""
    text = (repository / "config" / "diagnostics.yaml").read_text()
    parameters = yaml.safe_load(text)["analyzers"]["ros__parameters"]
    group = parameters["understanding"]["analyzers"]
    snapshot = Snapshot("active", "", SETTINGS, understander, Load(), EMPTY)
    for health in statuses(snapshot, Recently(), sys=make(tmp_path, ORIN)):
        name = f"robot1/understanding: {health.name}"
        matching = [
            key for key, analyzer in group.items() if any(c in name for c in analyzer["contains"])
        ]
        assert len(matching) == 1, (name, matching)
