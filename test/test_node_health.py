"""Queue policy, heartbeat, diagnostics and times of a running node, over real DDS."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import time

from diagnostic_msgs.msg import DiagnosticStatus
from node_harness import ABORTED, LOAD_S, Probe, running, SUCCEEDED, wait_for
import pytest
from rclpy.qos import LivelinessPolicy

from quant_llm_msgs.msg import Decision, Heartbeat

pytestmark = [pytest.mark.ros, pytest.mark.bundle]

BUSY = tuple(
    f"bring me the red cup number {n} from the kitchen table next to the old window"
    for n in range(8)
)


@pytest.fixture(scope="module")
def robot(
    scripts: Path, tmp_path_factory: pytest.TempPathFactory, bundle_path: Path
) -> Iterator[Probe]:
    folder = tmp_path_factory.mktemp("node")
    with running(scripts / "understanding_node", folder, dict(os.environ)) as harness:
        harness.start("/health", f"bundle:={bundle_path}", "autostart:=true", "deadline_s:=600.0")
        probe = harness.probe("/health")
        probe.wait_active()
        yield probe


def test_the_latest_command_wins(robot: Probe) -> None:
    robot.decisions.clear()
    assert robot.set_parameter("queue_policy", "latest_wins") == (True, "")
    handle = robot.send_goal(BUSY[0])
    for text in BUSY[1:]:
        robot.send(text)
    decisions = {d.text: d for d in robot.wait_decisions(len(BUSY))}
    assert decisions[BUSY[-1]].status != Decision.STATUS_CANCELLED
    cancelled = [d for d in decisions.values() if d.status == Decision.STATUS_CANCELLED]
    assert len(cancelled) >= len(BUSY) - 4  # the model may have been quick with the first ones
    assert all("replaced by the newer command 'bring me" in d.message for d in cancelled)
    status, decision = robot.result(handle)
    assert status == (ABORTED if decision.status == Decision.STATUS_CANCELLED else SUCCEEDED)
    assert robot.set_parameter("queue_policy", "fifo") == (True, "")


def test_heartbeat(robot: Probe) -> None:
    robot.heartbeats.clear()
    wait_for(lambda: len(robot.heartbeats) >= 3, LOAD_S, "heartbeats")
    assert {h.state for h in robot.heartbeats[:3]} <= {Heartbeat.STATE_IDLE, Heartbeat.STATE_BUSY}
    (publisher,) = robot.publishers("heartbeat")
    assert publisher.qos_profile.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC
    assert publisher.qos_profile.deadline.nanoseconds == 1_000_000_000


def test_diagnostics(robot: Probe, bundle_path: Path) -> None:
    wait_for(lambda: robot.status("Deadlines"), LOAD_S, "the diagnostics")
    names = ("Lifecycle", "Engine", "Bundle", "Queue", "Deadlines", "Memory")
    found = {name: robot.status(name) for name in names}
    assert all(found.values())
    assert found["Lifecycle"].level == DiagnosticStatus.OK
    assert found["Engine"].level == DiagnosticStatus.OK
    values = {v.key: v.value for v in found["Bundle"].values}
    assert values["path"] == str(bundle_path)
    assert values["sha256"] == robot.bundles[-1].sha256
    assert "MB are available" in found["Memory"].message


def test_time_of_a_decision_against_a_stopwatch_outside(robot: Probe) -> None:
    for text in BUSY[:4]:
        start_s = time.monotonic()
        decision = robot.ask(text)
        outside_ms = (time.monotonic() - start_s) * 1e3
        assert 0.0 < decision.total_ms <= outside_ms
        in_stages_ms = sum(s.latency_ms for s in decision.stages)
        assert in_stages_ms == pytest.approx(decision.total_ms, rel=0.02)
