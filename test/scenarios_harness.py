"""An executor and a simulated robot as processes, and a bench that talks to them over DDS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import itertools
import math
import os
from pathlib import Path
import signal
import sys
import time
from typing import Any

from geometry_msgs.msg import PoseStamped, Twist
from node_harness import NodeProcess, wait_for
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import SetBool

from quant_llm_msgs.action import Understand
from quant_llm_msgs.msg import Decision, Execution
from quant_llm_ros.command.decision import Safety, SkillCall
from quant_llm_ros.execution.report import State
from quant_llm_ros.geometry import Pose, wrap, yaw_of
from quant_llm_ros.nodes import messages, qos
from quant_llm_ros.nodes.spinning import Spinner

# Far more than an idle machine needs: nothing is asserted about real time.
START_S = 600.0
REPLY_S = 300.0
# The first decisions are lost while the processes find each other. Twice as long each time, so
# that on a busy machine too the robot gets to the end before it is told anew.
FIRST_TRY_S = 5.0

# The simulation waits for the executor's answer to every odometry, so a busy machine makes it slow
# and changes nothing else: what is measured in its time holds on any machine. Only while nothing
# drives does it run on alone, and then a pause of a process must not be taken for a loss. Odometry
# comes no more often than an accurate drive needs it: each costs an executor milliseconds.
LOCKSTEP = (
    "speed_factor:=5.0",
    "lockstep_s:=10.0",
    "odometry_noise:=0.003",
    "odometry_rate_hz:=10.0",
    "scan_rate_hz:=5.0",
    "scan_beams:=60",
)
PATIENT = (
    "use_sim_time:=true",
    "odometry_timeout_s:=60.0",
    "scan_timeout_s:=60.0",
    "clock_timeout_s:=60.0",
    "understanding_timeout_s:=60.0",
    "stall_time_s:=20.0",
    "server_wait_s:=1.0",
)

Call = tuple[str, dict[str, Any]]


class Bench:
    """Processes in one namespace, and what they publish."""

    def __init__(self, namespace: str, scripts: Path, folder: Path) -> None:
        self.namespace = namespace
        self._scripts = scripts
        self._folder = folder
        self._processes: list[NodeProcess] = []
        self._launched: dict[NodeProcess, tuple[Path, list[str]]] = {}
        # Far from those of an understanding node beside it.
        self._numbers = itertools.count(1_000_000)
        self._clients: dict[str, Any] = {}
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self.node = rclpy.create_node("bench", namespace=namespace, context=self._context)
        self.reports: list[Execution] = []
        self.decisions: list[Decision] = []
        self.commands: list[tuple[float, Twist]] = []
        self.poses: list[Pose] = []
        self._publisher: Any = None
        self._speaker: Any = None
        self._action: Any = None
        node = self.node
        node.create_subscription(Execution, "execution", self.reports.append, qos.EXECUTION)
        node.create_subscription(Decision, "decision", self.decisions.append, qos.DECISION)
        node.create_subscription(
            Twist, "cmd_vel", lambda m: self.commands.append((time.monotonic(), m)), 1000
        )
        node.create_subscription(PoseStamped, "true_pose", self._on_pose, qos.VELOCITY)
        self._spinner = Spinner(SingleThreadedExecutor(context=self._context))
        self._spinner.add(node)

    # Processes.

    def start(self, program: str | Path, *parameters: str) -> NodeProcess:
        """Start an installed program, or a script of the tests."""
        arguments = [part for parameter in parameters for part in ("-p", parameter)]
        return self.start_with(self._scripts / program, arguments)

    def kill(self, process: NodeProcess) -> None:
        """End a process as `kill -9` does."""
        process.kill()

    def end(self, process: NodeProcess, number: signal.Signals) -> None:
        """End a process by a signal and check that it did so in order."""
        process.process.send_signal(number)
        assert process.process.wait(REPLY_S) == 0, process.log
        assert "Traceback" not in process.log, process.log

    def respawn(self, process: NodeProcess) -> NodeProcess:
        """Start a process that has ended again, as launch does with ``use_respawn``."""
        assert process.process.poll() is not None
        return self.start_with(*self._launched[process])

    def start_module(self, name: str) -> NodeProcess:
        """Start a module of the package or of the tests with ``python -m``."""
        launcher = self._folder / name
        launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {name} "$@"\n')
        launcher.chmod(0o755)
        return self.start_with(launcher, [])

    def start_with(self, program: Path, arguments: list[str]) -> NodeProcess:
        """Start a program with ROS arguments."""
        log = self._folder / f"{len(self._processes)}_{program.name}.log"
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        # A clock of its own too, since another bench may have another time.
        remaps = ["-r", f"__ns:={self.namespace}", "-r", f"/clock:={self.namespace}/clock"]
        environment = {**os.environ, "PYTHONPATH": path}
        process = NodeProcess(program, log, environment, [*remaps, *arguments])
        self._processes.append(process)
        self._launched[process] = (program, arguments)
        return process

    def log(self) -> str:
        """Give all that the processes printed."""
        return "\n".join(process.log for process in self._processes)

    def start_robot(
        self,
        *executor: str,
        sim: Sequence[str] = LOCKSTEP,
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
        """Wait until the robot turns a little when told so: all have found each other then."""
        self.advertise()
        to_and_fro = [("turn", {"direction": d, "angle_deg": 3.0}) for d in ("left", "right")]
        wait_for(self._publisher.get_subscription_count, START_S, "the executor")
        end_s, try_s = time.monotonic() + START_S, FIRST_TRY_S
        while time.monotonic() < end_s:
            number = self.decide(*to_and_fro)
            try:
                if self.outcomes(number, 2, try_s) == ["SUCCEEDED", "SUCCEEDED"]:
                    return
            except AssertionError:
                try_s *= 2.0
            time.sleep(0.5)
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

    def wait_understanding(self) -> None:
        """Wait until the understanding node takes sentences and its answers arrive here."""
        if self._speaker is None:
            self._speaker = self.node.create_publisher(String, "command", qos.COMMAND)
        end_s = time.monotonic() + START_S
        known = len(self.decisions)
        while len(self.decisions) == known:
            assert time.monotonic() < end_s, f"no answer to a sentence\n{self.log()}"
            self._speaker.publish(String(data="stop"))
            time.sleep(0.5)
        # All of the answers, so that the next one is the one to the next sentence.
        self.say("nice weather today")

    def say(self, text: str) -> Decision:
        """Send a sentence to the understanding node and return its decision."""
        known = len(self.decisions)
        self._speaker.publish(String(data=text))
        return wait_for(
            lambda: next((d for d in self.decisions[known:] if d.text == text), None),
            REPLY_S,
            f"a decision about {text!r}",
        )

    def command(self, text: str) -> int:
        """Send a sentence that has to be accepted and return its number."""
        decision = self.say(text)
        assert decision.status == Decision.STATUS_ACCEPTED, f"{text!r}: {decision}"
        return decision.command_id

    def ask(self, text: str, deadline_s: float = 0.0, *, cancel: bool = False) -> Decision:
        """Send a sentence by the action ``understand`` and return its decision."""
        if self._action is None:
            self._action = ActionClient(self.node, Understand, "understand")
        wait_for(self._action.server_is_ready, START_S, "the action")
        goal = Understand.Goal(text=text, deadline=messages.duration_msg(deadline_s))
        sent = self._action.send_goal_async(goal)
        wait_for(sent.done, REPLY_S, "the goal's acceptance")
        handle = sent.result()
        if cancel:
            handle.cancel_goal_async()
        result = handle.get_result_async()
        wait_for(result.done, REPLY_S, "the goal's result")
        return result.result().result.decision

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
            f"{count} outcomes of command {number}",
        )
        for report in self.finals(number):
            print(
                f"{report.command_id} {report.skill} {State(report.state).name} {report.message}"
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
        """Wait until the robot is driving, from now on."""
        known = len(self.commands)
        wait_for(
            lambda: any(twist.linear.x > 0.2 for _, twist in self.commands[known:]),
            REPLY_S,
            f"a drive; the last reports are {self.reports[-2:]}",
        )

    def wait_zero(self, since_s: float) -> float:
        """Wait for zero velocity after a (steady) time; return the time of its arrival, s."""
        return wait_for(
            lambda: next((t for t, twist in self.commands if t > since_s and is_zero(twist)), 0.0),
            REPLY_S,
            "zero velocity",
        )

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
        self._spinner.close()
        self._context.try_shutdown()

    def _on_pose(self, message: PoseStamped) -> None:
        position, q = message.pose.position, message.pose.orientation
        self.poses.append(Pose(position.x, position.y, yaw_of(q.x, q.y, q.z, q.w)))


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
