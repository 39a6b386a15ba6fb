"""Every node as a program: how it ends on a signal, and what it says to a new user's mistakes."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import signal
import subprocess
import sys

from node_harness import NodeProcess, wait_for
import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from quant_llm_ros.nodes.executor import ExecutorNode

pytestmark = [pytest.mark.ros, pytest.mark.timeout(1800)]

LIMIT_S = 300.0
PROGRAMS = {
    "understanding_node": ([], ""),
    "executor_node": (["-p", "autostart:=true"], "ready for decisions"),
    "sim_node": ([], "times as fast as the real world"),
    "skill_say": ([], ""),
}


@pytest.fixture
def start(scripts: Path, tmp_path: Path) -> Iterator[object]:
    """Give what starts a program with its ROS arguments."""
    started: list[NodeProcess] = []

    def start(program: str, *arguments: str) -> NodeProcess:
        path = scripts / program
        if not path.is_file():
            path = tmp_path / program
            module = f"quant_llm_ros.nodes.{program}"
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
            path.chmod(0o755)
        log = tmp_path / f"{len(started)}.log"
        started.append(NodeProcess(path, log, dict(os.environ), arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def takes_signals(process: NodeProcess) -> bool:
    """Tell whether a program has come as far as to take signals in order."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    blocked = next(int(line.split()[1], 16) for line in status.splitlines() if "SigBlk" in line)
    # These two and no others: all are blocked for moments in which a thread or process is made.
    return blocked == sum(1 << (number - 1) for number in (signal.SIGINT, signal.SIGTERM))


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(
    start: type[NodeProcess], program: str, number: signal.Signals
) -> None:
    """Amid its start, and when it runs."""
    arguments, running = PROGRAMS[program]
    processes = [start(program, *arguments)]
    wait_for(lambda: takes_signals(processes[0]), LIMIT_S, "its start")
    processes[0].end(number)
    if running:
        processes.append(start(program, *arguments))
        processes[1].wait_log(running, LIMIT_S)
        processes[1].end(number)
        assert f"ending after {number.name}" in processes[1].log


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "world:=/nowhere.yaml"], "the world /nowhere.yaml: No such file or directory"),
        (["-p", "world:={folder}/broken.yaml"], "broken.yaml is not valid YAML: while parsing"),
        (["-p", "speed_factor:=0.0"], "'speed_factor' is 0.0; expected a double from 0.01 to 20"),
        # It could not be corrected later, so it is no less wrong.
        (["-p", "seed:=1.5"], "'seed' is 1.5; expected an integer from 0 to 2147483647"),
    ],
)
def test_a_simulation_that_cannot_be_says_why(
    scripts: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "broken.yaml").write_text("walls: [1, 2")
    given = [argument.format(folder=tmp_path) for argument in arguments]
    done = subprocess.run(
        [scripts / "sim_node", "--ros-args", *given],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("sim_node: "))
    assert says in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("parameter", "value", "says"),
    [
        ("places", "/nowhere.yaml", "the places in /nowhere.yaml: No such file or directory"),
        ("places", "{folder}/broken.yaml", "broken.yaml is not valid YAML: while parsing"),
        ("places", "{folder}/wrong.yaml", "place 'kitchen' is {'x': 'one'}; expected {x: 1.0"),
        ("navigation", "nav2", "'navigation' is 'nav2', but nav2_msgs is not installed"),
        ("navigation", "nav3", "'navigation' is 'nav3'; expected one of auto, "),
        ("max_speed_mps", -1.0, "'max_speed_mps' is -1.0; expected a double from 0.01 to 5"),
    ],
)
def test_an_executor_that_cannot_be_configured_says_why_and_can_be_corrected(
    tmp_path: Path, parameter: str, value: object, says: str
) -> None:
    (tmp_path / "broken.yaml").write_text("places: [1, 2")
    (tmp_path / "wrong.yaml").write_text("places: {kitchen: {x: one}}")
    given = value.format(folder=tmp_path) if isinstance(value, str) else value
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = ExecutorNode(context=context, parameter_overrides=[Parameter(parameter, value=given)])
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert says in node.failure
        assert "\n" not in node.failure
        right = {"places": "", "navigation": "auto", "max_speed_mps": 0.4}[parameter]
        (result,) = node.set_parameters([Parameter(parameter, value=right)])
        assert result.successful, result.reason
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        node.trigger_shutdown()
    finally:
        node.destroy_node()
        context.try_shutdown()
