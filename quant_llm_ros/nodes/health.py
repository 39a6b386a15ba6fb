"""How the understanding node is, in words and levels; what ``/diagnostics`` says."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import enum
import math
from pathlib import Path
import time

from quant_llm_ros.command.service import Load
from quant_llm_ros.command.statistics import LatencySummary, TOTAL
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.nodes import board
from quant_llm_ros.nodes.parameters import Settings

# How long a deadline miss stays a warning, so that a look at a screen can catch it.
_RECENT_S = 10.0
# Shares of the memory that are left; below them the kernel soon has to end a process.
_LITTLE_MEMORY = 0.10
_NO_MEMORY = 0.03


class Level(enum.IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus. STALE is for who misses a status, not for us."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclasses.dataclass(frozen=True)
class Health:
    """One status.

    Attributes:
        name: What it is about.
        level: How bad it is.
        message: One line for people.
        values: Details by name, with the unit in the name.
    """

    name: str
    level: Level
    message: str
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What the statuses are made of.

    Attributes:
        phase: State of the lifecycle.
        failure: Why the last transition failed, or empty.
        settings: The parameters.
        understander: What is served, or None.
        load: What the model does; None while unconfigured.
        summary: Latency statistics; None while unconfigured.
        stalls: How often the model stalled since the process started.
        hanging: Threads that hang in a model.
    """

    phase: str
    failure: str
    settings: Settings
    understander: Understander | None = None
    load: Load | None = None
    summary: LatencySummary | None = None
    stalls: int = 0
    hanging: int = 0


class Recently:
    """Notices that a counter has grown, and remembers it for a while."""

    def __init__(self) -> None:
        """Begin at any count."""
        self._count: int | None = None
        self._until_s = -math.inf

    def grown(self, count: int, now_s: float) -> bool:
        """Take the count now, and tell whether it grew in the last seconds."""
        if self._count is not None and count > self._count:
            self._until_s = now_s + _RECENT_S
        self._count = count
        return now_s < self._until_s


def statuses(
    now: Snapshot, recently: Recently, *, sys: Path = board.SYS, proc: Path = board.PROC
) -> list[Health]:
    """Give all statuses.

    Args:
        now: What they are made of.
        recently: Remembers deadline misses between the calls.
        sys: Root of the kernel's sysfs.
        proc: Root of the kernel's procfs.
    """
    found = [_lifecycle(now), _engine(now)]
    if now.understander is not None:
        found.append(_bundle(now.understander))
    if now.load is not None and now.summary is not None:
        misses = recently.grown(now.summary.deadline_misses, time.monotonic())
        found += [_queue(now.load, now.settings), _deadlines(now.summary, misses)]
    found.append(_memory(board.memory(proc)))
    return found + _sensors(board.temperatures(sys), board.powers(sys))


def _lifecycle(now: Snapshot) -> Health:
    values = {"state": now.phase, "last failure": now.failure}
    if now.failure and now.phase == "unconfigured":
        return Health("Lifecycle", Level.ERROR, now.failure, values)
    if now.phase == "active":
        return Health("Lifecycle", Level.OK, "active", values)
    return Health("Lifecycle", Level.WARN, f"{now.phase}: takes no commands", values)


def _engine(now: Snapshot) -> Health:
    values = {"stalls": str(now.stalls), "hanging threads": str(now.hanging)}
    if now.understander is not None:
        info = now.understander.engine.info
        values |= {
            "runtime": info.runtime,
            "provider": info.provider,
            "threads": str(now.settings.threads),
            "cpus": now.settings.cpus or "any",
        }
    if now.summary is not None:
        values |= {
            "tokens per s": f"{now.summary.tokens_per_s:.1f}",
            "passes per decision": f"{now.summary.forward_passes_mean:.2f}",
        }
    if now.load is not None:
        values["silent s"] = f"{now.load.silent_s:.2f}"
        if now.load.stalled:
            return Health("Engine", Level.ERROR, now.load.stalled, values)
    if now.hanging:
        message = f"threads that hang in a model and hold its memory: {now.hanging}"
        return Health("Engine", Level.WARN, message, values)
    if now.understander is None:
        return Health("Engine", Level.WARN, "no model is loaded", values)
    busy = now.load is not None and now.load.busy
    return Health("Engine", Level.OK, "busy" if busy else "ready", values)


def _bundle(understander: Understander) -> Health:
    values = {"load time ms": f"{understander.load_ms:.0f}"}
    bundle, report = understander.bundle, understander.self_test
    if bundle is None:
        return Health("Bundle", Level.OK, "not opened from a bundle", values)
    values |= {
        "path": str(bundle.path),
        "sha256": bundle.sha256,
        "model": str(bundle.model.source),
        "recipe": str(bundle.recipe.get("name", "")),
        "skills": str(understander.skills.source),
        "accuracy": f"{bundle.figures['accuracy']:.4f}"
        if "accuracy" in bundle.figures
        else "never evaluated",
    }
    if report is not None:
        values["self-test relative error"] = f"{report.relative_error:.3g}"
        values["self-test limit"] = f"{report.limit:.3g}"
    return Health("Bundle", Level.OK, f"serves '{bundle.name}'", values)


def _queue(load: Load, settings: Settings) -> Health:
    values = {
        "waiting": str(load.waiting),
        "capacity": str(settings.queue_capacity),
        "policy": settings.queue_policy,
    }
    if load.waiting >= settings.queue_capacity:
        return Health("Queue", Level.WARN, "full: new commands are refused", values)
    return Health("Queue", Level.OK, f"{load.waiting} of {settings.queue_capacity} wait", values)


def _deadlines(summary: LatencySummary, recent: bool) -> Health:
    values = {"missed": str(summary.deadline_misses), "decisions": str(summary.decisions)}
    for stage in summary.stages:
        if stage.stage == TOTAL:
            values |= {
                "p50 ms": f"{stage.p50_ms:.1f}",
                "p99 ms": f"{stage.p99_ms:.1f}",
                "max ms": f"{stage.max_ms:.1f}",
            }
    message = f"{summary.deadline_misses} of {summary.decisions} missed since activation"
    if recent:
        message += f", the last within {_RECENT_S:g} s"
    return Health("Deadlines", Level.WARN if recent else Level.OK, message, values)


def _memory(memory: board.Memory) -> Health:
    values = {
        "process MB": f"{memory.process_mb:.0f}",
        "available MB": f"{memory.available_mb:.0f}",
        "total MB": f"{memory.total_mb:.0f}",
    }
    message = f"holds {memory.process_mb:.0f} MB, {memory.available_mb:.0f} MB are available"
    share = memory.available_mb / memory.total_mb if memory.total_mb else 1.0
    level = Level.OK
    if share < _NO_MEMORY:
        level = Level.ERROR
    elif share < _LITTLE_MEMORY:
        level = Level.WARN
    return Health("Memory", level, message, values)


def _sensors(temperatures: list[board.Temperature], powers: list[board.Power]) -> list[Health]:
    """Give temperatures and power, each where the board has sensors for it."""
    found = []
    if temperatures:
        hottest = max(temperatures, key=lambda zone: zone.celsius)
        level, message = Level.OK, f"{hottest.name} {hottest.celsius:.1f} °C"
        for zone in temperatures:
            if zone.celsius >= zone.critical_c:
                level, message = Level.ERROR, f"{zone.name} {zone.celsius:.1f} °C is critical"
                break
            if zone.celsius >= zone.slow_c:
                level = Level.WARN
                message = f"{zone.name} {zone.celsius:.1f} °C: it is being slowed down"
        values = {f"{zone.name} °C": f"{zone.celsius:.1f}" for zone in temperatures}
        found.append(Health("Temperature", level, message, values))
    if powers:
        values = {f"{rail.name} W": f"{rail.watts:.2f}" for rail in powers}
        message = ", ".join(f"{rail.name} {rail.watts:.1f} W" for rail in powers)
        found.append(Health("Power", Level.OK, message, values))
    return found
