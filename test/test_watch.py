"""`quant_llm watch`: what it has heard, drawn as text, and the program beside a running node."""

from __future__ import annotations

import io
import os
from pathlib import Path
import subprocess

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import pytest
from rich.console import Console
from scenarios_harness import bench

from quant_llm_msgs.msg import (
    BundleInfo,
    Decision,
    Execution,
    LatencyStats,
    SkillCall,
    StageStatistics,
)
from quant_llm_ros.nodes import messages
from quant_llm_ros.nodes.watch_view import frame, Heard, SHOWN_DECISIONS

pytestmark = [pytest.mark.ros, pytest.mark.timeout(1800)]


def drawn(heard: Heard, now_s: float = 0.0) -> str:
    """Draw a frame as plain text."""
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(frame(heard, now_s))
    return console.file.getvalue()  # type: ignore[attr-defined]


def decision(number: int, text: str = "drive", **fields: object) -> Decision:
    return Decision(command_id=number, text=text, **fields)


def line_with(text: str, page: str) -> str:
    return next(line for line in page.splitlines() if text in line)


def test_nobody_is_there() -> None:
    page = drawn(Heard(namespace="/robot1", domain="7"))
    assert "/robot1 in ROS domain 7: nobody publishes decisions" in page
    assert "nothing on /diagnostics" in page


def test_a_node_without_a_bundle() -> None:
    assert "serves no bundle yet" in drawn(Heard(publishers=1))


def test_all_of_it() -> None:
    heard = Heard(publishers=1)
    heard.bundle = BundleInfo(
        name="default", sha256="ab" * 32, runtime="onnxruntime 1", skills=["a"]
    )
    call = SkillCall(
        skill="move",
        arguments=[
            messages.argument_to_msg("direction", "forward"),
            messages.argument_to_msg("distance_m", 2.0),
        ],
    )
    heard.on_decision(decision(1, "drive forward two metres", calls=[call], confidence=0.98))
    heard.on_execution(
        Execution(command_id=1, index=0, state=Execution.STATE_RUNNING, progress=0.42)
    )
    heard.on_decision(decision(2, status=Decision.STATUS_CLARIFY, message="How far?"))
    heard.on_decision(
        decision(3, "dock and sing", calls=[SkillCall(skill="dock")], unserved=["sing"],
                 message="no skill serves 'sing'")
    )  # fmt: skip
    heard.latency = LatencyStats(
        decisions=2,
        deadline_misses=1,
        stages=[StageStatistics(stage="total", count=2, p50_ms=12.5)],
    )
    page = drawn(heard)
    assert "bundle 'default' (abababab)" in page
    first = line_with("drive forward two metres", page)
    assert "ACCEPTED" in first
    assert "move(direction=forward, distance_m=2)  RUNNING 42%" in first
    assert "0.98" in first
    assert "How far?" in line_with("CLARIFY", page)
    assert "dock()" in line_with("dock and sing", page)
    assert "no skill serves 'sing'" in page
    assert "12.50" in line_with("total", page)
    assert "2 decisions, 1 deadline misses" in page
    heard.on_execution(
        Execution(command_id=1, index=0, state=Execution.STATE_BLOCKED, message="a wall")
    )
    assert "BLOCKED: a wall" in drawn(heard)


def test_only_the_last_decisions_and_their_calls_are_kept() -> None:
    heard = Heard(publishers=1)
    for number in range(100):
        heard.on_decision(decision(number))
        heard.on_execution(Execution(command_id=number))
    assert [d.command_id for d in heard.decisions] == list(range(100 - SHOWN_DECISIONS, 100))
    assert len(heard.executions) <= SHOWN_DECISIONS + 1
    # A report that comes before its decision is kept.
    heard.on_execution(Execution(command_id=100))
    heard.on_decision(decision(100))
    assert (100, 0) in heard.executions
    # A node that starts again counts from 1 again: what became of an old command is not its own.
    heard.on_decision(decision(99))
    assert (99, 0) not in heard.executions


@pytest.mark.parametrize(
    ("level", "age_s", "word"),
    [
        (DiagnosticStatus.OK, 0.0, "ok"),
        (DiagnosticStatus.WARN, 0.0, "warning"),
        (DiagnosticStatus.ERROR, 0.0, "error"),
        (DiagnosticStatus.OK, 60.0, "stale"),
    ],
)
def test_health(level: bytes, age_s: float, word: str) -> None:
    heard = Heard(publishers=1)
    status = DiagnosticStatus(
        level=level,
        name="understanding: Queue",
        message="3 wait",
        values=[KeyValue(key="depth", value="3")],
    )
    heard.health["understanding: Queue"] = (0.0, status)
    line = line_with("understanding: Queue", drawn(heard, age_s))
    assert word in line
    assert "3 wait" in line
    assert ("depth 3" in line) is (word != "ok")  # details where something is wrong


def test_what_was_said_cannot_steer_the_terminal() -> None:
    heard = Heard(publishers=1)
    heard.on_decision(decision(1, "\x1b[2Jgo [bold]home[/bold]\n\x07"))
    page = drawn(heard)
    assert "\x1b" not in page
    assert "\x07" not in page
    assert "go [bold]home[/bold]" in page


@pytest.mark.bundle
def test_beside_a_running_node(scripts: Path, bundle_path: Path, tmp_path: Path) -> None:
    program = scripts / "quant_llm"
    picture = tmp_path / "frame.svg"

    def watch(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, "watch", "--once", *arguments],
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "COLUMNS": "160"},
        )

    nobody = watch("--namespace", "nobody", "--wait", "0.5")
    assert nobody.returncode == 1, nobody.stderr
    assert "nobody publishes decisions" in nobody.stdout
    wrong = watch("--namespace", "not a name", "--wait", "0.5")
    assert wrong.returncode == 1
    assert "is not a namespace of ROS" in wrong.stderr
    assert "Traceback" not in wrong.stderr

    with bench("/watched", scripts, tmp_path) as robot:
        robot.start("understanding_node", f"bundle:='{bundle_path}'", "autostart:=true")
        robot.wait_understanding()
        health = robot.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        status = DiagnosticStatus(name="battery: Charge", message="enough")
        timer = robot.node.create_timer(
            0.1, lambda: health.publish(DiagnosticArray(status=[status]))
        )
        seen = watch("--namespace", "/watched", "--wait", "6", "--svg", str(picture))
        robot.node.destroy_timer(timer)
    assert seen.returncode == 0, seen.stderr
    assert "/watched in ROS domain" in seen.stdout
    assert "bundle '" in seen.stdout
    assert "prefill" in seen.stdout
    assert "enough" in line_with("battery: Charge", seen.stdout)
    assert picture.read_text().startswith("<svg")
