"""An executor and a simulated robot as processes, and a bench that talks to them over DDS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import itertools
import math
import os
from pathlib import Path
import sys
import threading
import time
from typing import Any

from geometry_msgs.msg import PoseStamped, Twist
from node_harness import NodeProcess, wait_for
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import SetBool

from quant_llm_msgs.msg import Decision, Execution
from quant_llm_ros.command.decision import Safety, SkillCall
from quant_llm_ros.execution.report import State
from quant_llm_ros.geometry import Pose, wrap, yaw_of
from quant_llm_ros.nodes import messages, qos

START_S = 120.0
REPLY_S = 60.0
RETRY_S = 5.0

# So that a busy machine's pauses are not taken for failures.
PATIENT = (
    "odometry_timeout_s:=5.0",
    "scan_timeout_s:=5.0",
    "stall_time_s:=10.0",
    "server_wait_s:=1.0",
)
FAST = ("clock:=false", "speed_factor:=4.0", "command_timeout_s:=2.0", "odometry_noise:=0.003")

Call = tuple[str, dict[str, Any]]


class Bench:
    """Processes in one namespace, and what they publish."""

    def __init__(self, namespace: str, scripts: Path, folder: Path) -> None:
        self.namespace = namespace
        self._scripts = scripts
        self._folder = folder
        self._processes: list[NodeProcess] = []
        # Far from those of an understanding node beside it.
        self._numbers = itertools.count(1_000_000)
        self._clients: dict[str, Any] = {}
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self.node = rclpy.create_node("bench", namespace=namespace, context=self._context)
        self.reports: list[Execution] = []
        self.commands: list[tuple[float, Twist]] = []
        self.poses: list[Pose] = []
        self.texts: list[Any] = []
        self._publisher: Any = None
        self._speaker: Any = None
        node = self.node
        node.create_subscription(Execution, "execution", self.reports.append, qos.EXECUTION)
        node.create_subscription(
            Twist, "cmd_vel", lambda m: self.commands.append((time.monotonic(), m)), 1000
        )
        node.create_subscription(PoseStamped, "true_pose", self._on_pose, qos.VELOCITY)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._spinner = threading.Thread(target=self._spin, daemon=True)
        self._spinner.start()

    # Processes.

    def start(self, program: str | Path, *parameters: str) -> NodeProcess:
        """Start an installed program, or a script of the tests."""
        arguments = ["-r", f"__ns:={self.namespace}"]
        arguments += [part for parameter in parameters for part in ("-p", parameter)]
        return self._start(self._scripts / program, arguments)

    def start_module(self, name: str) -> NodeProcess:
        """Start a module of the package or of the tests with ``python -m``."""
        launcher = self._folder / name
        launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {name} "$@"\n')
        launcher.chmod(0o755)
        return self._start(launcher, ["-r", f"__ns:={self.namespace}"])

    def _start(self, program: Path, arguments: Sequence[str]) -> NodeProcess:
        log = self._folder / f"{len(self._processes)}_{program.name}.log"
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        process = NodeProcess(program, log, {**os.environ, "PYTHONPATH": path}, arguments)
        self._processes.append(process)
        return process

    def log(self) -> str:
        """Give all that the processes printed."""
        return "\n".join(process.log for process in self._processes)

    def start_robot(
        self,
        *executor: str,
        sim: Sequence[str] = FAST,
        world: str = "hall",
        ready: bool = True,
    ) -> tuple[NodeProcess, NodeProcess]:
        """Start executor and simulation; the executor's parameters are ``name:=value``."""
        folder = Path(__file__).resolve().parents[1] / "config" / "simulation"
        file = folder / f"{world}.yaml"
        executor_process = self.start(
            "executor_node", "autostart:=true", f"places:={file}", *PATIENT, *executor
        )
        sim_process = self.start("sim_node", f"world:={file}", *sim)
        if ready:
            self.wait_ready()
        return executor_process, sim_process

    def wait_ready(self) -> None:
        """Wait until the executor takes decisions and has odometry, and all arrives here."""
        self.advertise()
        wait_for(lambda: self.poses, START_S, "the simulation")
        wait_for(lambda: self.node.count_publishers("execution"), START_S, "the executor")
        wait_for(self._publisher.get_subscription_count, START_S, "the executor's subscription")
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s:
            number = self.decide(("stop", {}))
            with contextlib.suppress(AssertionError):
                if self.outcomes(number, 1, RETRY_S) == ["SUCCEEDED"]:
                    return
            time.sleep(0.1)
        raise AssertionError(f"not ready: {self.reports[-3:]}\n{self.log()}")

    # Decisions and what becomes of them.

    def advertise(self) -> None:
        """Become a publisher of decisions."""
        if self._publisher is None:
            self._publisher = self.node.create_publisher(Decision, "decision", qos.DECISION)

    def decide(
        self, *calls: Call, safety: Safety = Safety.SAFE, status: int = Decision.STATUS_ACCEPTED
    ) -> int:
        """Publish a decision and return its number."""
        number = next(self._numbers)
        self._publisher.publish(
            Decision(
                command_id=number,
                status=status,
                calls=[
                    messages.call_to_msg(SkillCall(skill, arguments, safety))
                    for skill, arguments in calls
                ],
            )
        )
        return number

    def say(self, text: str) -> None:
        """Send a sentence to the understanding node."""
        if self._speaker is None:
            self._speaker = self.node.create_publisher(String, "command", qos.COMMAND)
            wait_for(self._speaker.get_subscription_count, START_S, "the understanding node")
        self._speaker.publish(String(data=text))

    def stop(self) -> int:
        """Publish a stop."""
        return self.decide(("stop", {}), status=Decision.STATUS_STOP)

    def reports_of(self, number: int) -> list[Execution]:
        """Give the reports about a command until now."""
        return [report for report in self.reports if report.command_id == number]

    def finals(self, number: int) -> list[Execution]:
        """Give the outcomes of a command's calls until now."""
        return [r for r in self.reports_of(number) if State(r.state).is_final]

    def outcomes(self, number: int, count: int, timeout_s: float = 0.0) -> list[str]:
        """Wait for that many outcomes of a command and return their names."""
        wait_for(
            lambda: len(self.finals(number)) >= count,
            timeout_s or REPLY_S,
            f"{count} outcomes of command {number}, there are {self.reports_of(number)[-2:]}",
        )
        return [State(report.state).name for report in self.finals(number)]

    def wait_state(self, number: int, state: State) -> Execution:
        """Wait for a report with a state."""
        return wait_for(
            lambda: next((r for r in self.reports_of(number) if r.state == state), None),
            REPLY_S,
            f"{state.name} of command {number}",
        )

    def wait_driving(self) -> None:
        """Wait until the robot is driving."""
        wait_for(lambda: self.commands and self.commands[-1][1].linear.x > 0.2, REPLY_S, "a drive")

    def wait_standing(self) -> None:
        """Wait until the simulated robot has not moved for a while."""

        def stands() -> bool:
            last = self.poses[-5:]
            return len(last) == 5 and all(_gap(last[0], pose) < 1e-4 for pose in last)

        self.poses.clear()
        wait_for(stands, REPLY_S, "standstill")

    # Services.

    def confirm(self, yes: bool) -> SetBool.Response:
        """Answer the executor's question."""
        return self._call(SetBool, "confirm", SetBool.Request(data=yes))

    def set_parameter(self, node: str, name: str, value: Any) -> None:
        """Set a parameter of a node."""
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        (result,) = self._call(SetParameters, f"{node}/set_parameters", request).results
        assert result.successful, result.reason

    def _call(self, kind: Any, name: str, request: Any) -> Any:
        client = self._clients.setdefault(name, self.node.create_client(kind, name))
        assert client.wait_for_service(START_S), name
        future = client.call_async(request)
        wait_for(future.done, REPLY_S, name)
        return future.result()

    def close(self) -> None:
        """End everything."""
        for process in self._processes:
            process.kill()
        self._context.try_shutdown()
        self._spinner.join(REPLY_S)

    def _on_pose(self, message: PoseStamped) -> None:
        position, q = message.pose.position, message.pose.orientation
        self.poses.append(Pose(position.x, position.y, yaw_of(q.x, q.y, q.z, q.w)))

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()


@contextlib.contextmanager
def bench(namespace: str, scripts: Path, folder: Path) -> Iterator[Bench]:
    """Give a bench and close it in the end."""
    made = Bench(namespace, scripts, folder)
    try:
        yield made
    finally:
        made.close()


def moved(start: Pose, end: Pose) -> Pose:
    """Give a pose as seen from another one."""
    dx, dy = end.x - start.x, end.y - start.y
    cos, sin = math.cos(start.yaw), math.sin(start.yaw)
    return Pose(dx * cos + dy * sin, dy * cos - dx * sin, wrap(end.yaw - start.yaw))


def is_zero(twist: Twist) -> bool:
    """Tell whether a velocity command is zero."""
    return not (twist.linear.x or twist.linear.y or twist.angular.z)


def _gap(a: Pose, b: Pose) -> float:
    return math.dist((a.x, a.y, a.yaw), (b.x, b.y, b.yaw))
