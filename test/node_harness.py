"""A running understanding_node, and a probe that talks to it over DDS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_msgs.msg import String

from quant_llm_msgs.action import Understand
from quant_llm_msgs.msg import BundleInfo, Decision, Heartbeat, KnownNames, LatencyStats
from quant_llm_msgs.srv import LoadBundle
from quant_llm_ros.nodes import messages, qos
from quant_llm_ros.nodes.spinning import Spinner

DISCOVERY_S = 10.0
REPLY_S = 20.0
RETRY_S = 2.0
LOAD_S = 60.0
END_S = 300.0  # a node gives itself 3.5 s; what hangs would do so for ever


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Wait until a condition holds and return its value."""
    end_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end_s, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.01)
    return value


class NodeProcess:
    """The installed program, in a namespace of its own, with its log in a file."""

    def __init__(self, program: Path, log: Path, env: dict[str, str], arguments: Sequence[str]):
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [program, "--ros-args", *arguments], stdout=file, stderr=file, env=env
            )

    @property
    def log(self) -> str:
        """What it printed so far."""
        return self._log.read_text(errors="replace")

    def wait_log(self, text: str, timeout_s: float) -> None:
        """Wait until it has printed a text."""
        wait_for(
            lambda: text in self.log or self.process.poll() is not None,
            timeout_s,
            f"{text!r} in the log:\n{self.log}",
        )
        assert text in self.log

    def memory_mb(self) -> float:
        """Return its resident memory, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1000 for line in status.splitlines() if "VmRSS" in line)

    def end(self, number: signal.Signals) -> float:
        """Send a signal, check that the node ends in order, and return the seconds it took."""
        assert self.process.poll() is None, self.log
        start_s = time.monotonic()
        self.process.send_signal(number)
        status = self.process.wait(END_S)
        took_s = time.monotonic() - start_s
        assert status == 0, self.log
        assert "Traceback" not in self.log, self.log
        assert "never retrieved" not in self.log, self.log
        assert "callback failed" not in self.log, self.log
        return took_s

    def kill(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Probe:
    """Clients and subscriptions for one node under test."""

    def __init__(self, node: Any, namespace: str) -> None:
        self._node = node
        self._namespace = namespace
        self._clients: dict[str, Any] = {}
        self.decisions: list[Decision] = []
        self.latency: list[LatencyStats] = []
        self.bundles: list[BundleInfo] = []
        self.heartbeats: list[Heartbeat] = []
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        node.create_subscription(
            Decision, f"{namespace}/decision", self.decisions.append, qos.DECISION
        )
        node.create_subscription(
            LatencyStats, f"{namespace}/latency", self.latency.append, qos.LATENCY
        )
        node.create_subscription(
            BundleInfo, f"{namespace}/bundle", self.bundles.append, qos.BUNDLE
        )
        node.create_subscription(
            Heartbeat, f"{namespace}/heartbeat", self.heartbeats.append, qos.HEARTBEAT
        )
        node.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.DIAGNOSTICS
        )
        self.command = node.create_publisher(String, f"{namespace}/command", qos.COMMAND)
        self.known_names = node.create_publisher(
            KnownNames, f"{namespace}/known_names", qos.KNOWN_NAMES
        )
        self.action = ActionClient(node, Understand, f"{namespace}/understand")

    def wait_active(self) -> None:
        """Wait until the node takes commands and its decisions arrive here."""
        wait_for(lambda: self.command.get_subscription_count(), LOAD_S, "the topic command")
        # The node answers to the subscriptions in the order in which they were made here: once
        # "bundle" has come, it knows that of "decision" too.
        wait_for(lambda: self.bundles, DISCOVERY_S, "the bundle")
        self.wait_publishers("decision")
        wait_for(self.action.server_is_ready, DISCOVERY_S, "the action")

    def greet(self) -> None:
        """Say stop until it is answered: then the node knows this publisher for sure."""
        end_s = time.monotonic() + DISCOVERY_S
        while not self.decisions:
            assert time.monotonic() < end_s, "no answer"
            self.send("stop")
            time.sleep(0.2)

    def wait_publishers(self, topic: str) -> None:
        """Wait until the node's publisher of a topic is known here."""
        wait_for(
            lambda: self._node.count_publishers(f"{self._namespace}/{topic}"), DISCOVERY_S, topic
        )

    def publishers(self, topic: str) -> Any:
        """Give what is known about the publishers of a topic."""
        return self._node.get_publishers_info_by_topic(f"{self._namespace}/{topic}")

    def send(self, text: str | bytes) -> None:
        """Publish a command; bytes as they are, whether UTF-8 or not."""
        if isinstance(text, str):
            self.command.publish(String(data=text))
            return
        # CDR, little endian: the length with the final zero, the bytes, the zero.
        length = len(text) + 1
        self.command.publish(b"\0\1\0\0" + length.to_bytes(4, "little") + text + b"\0")

    def ask(self, text: str | bytes) -> Decision:
        """Publish a command and return its decision, the next one to come."""
        seen = len(self.decisions)
        self.send(text)
        return self.wait_decisions(seen + 1)[seen]

    def wait_decisions(self, count: int) -> list[Decision]:
        """Wait until that many decisions have come in all."""
        wait_for(lambda: len(self.decisions) >= count, REPLY_S, f"{count} decisions")
        return self.decisions

    def call(self, kind: Any, name: str, request: Any, timeout_s: float = REPLY_S) -> Any:
        """Call a service of the node and return the response.

        While the two processes get to know each other, DDS loses some requests or responses, so a
        call without a response is repeated, except for a change of state or bundle.
        """
        if name not in self._clients:
            self._clients[name] = self._node.create_client(
                kind, f"{self._namespace}/understanding/{name}"
            )
        client = self._clients[name]
        assert client.wait_for_service(DISCOVERY_S), name
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            future = client.call_async(request)
            patience_s = timeout_s if kind in (ChangeState, LoadBundle) else RETRY_S
            again_s = min(end_s, time.monotonic() + patience_s)
            while time.monotonic() < again_s:
                if future.done():
                    return future.result()
                time.sleep(0.002)
        raise AssertionError(f"no response from {name} within {timeout_s:g} s")

    def set_parameter(self, name: str, value: Any) -> tuple[bool, str]:
        """Set one parameter; return whether it was accepted, and the reason if not."""
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        (result,) = self.call(SetParameters, "set_parameters", request).results
        return result.successful, result.reason

    def get_parameter(self, name: str) -> Any:
        """Return the value of one parameter."""
        request = GetParameters.Request(names=[name])
        (value,) = self.call(GetParameters, "get_parameters", request).values
        return rclpy.parameter.parameter_value_to_python(value)

    def describe_parameter(self, name: str) -> Any:
        """Return the descriptor of one parameter."""
        request = DescribeParameters.Request(names=[name])
        return self.call(DescribeParameters, "describe_parameters", request).descriptors[0]

    def load_bundle(self, bundle: str, skills: str = "") -> LoadBundle.Response:
        """Ask for another bundle and return the answer."""
        request = LoadBundle.Request(bundle=bundle, skills=skills)
        return self.call(LoadBundle, "load_bundle", request, LOAD_S)

    def status(self, name: str) -> DiagnosticStatus | None:
        """Return the latest status of that name of this node, if any has come."""
        return self.diagnostics.get(f"{self._namespace.lstrip('/')}/understanding: {name}")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics.update({status.name: status for status in message.status})

    def state(self) -> str:
        """Return the lifecycle state."""
        return str(self.call(GetState, "get_state", GetState.Request()).current_state.label)

    def change_state(self, transition: int) -> bool:
        """Ask for a transition; return whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(ChangeState, "change_state", request, LOAD_S).success)

    def send_goal(
        self,
        text: str,
        deadline_s: float = 0.0,
        on_stage: Callable[[str], None] = lambda stage: None,
    ) -> Any:
        """Send a goal; return the handle of the accepted goal, or None."""
        goal = Understand.Goal(text=text, deadline=messages.duration_msg(deadline_s))
        future = self.action.send_goal_async(goal, lambda f: on_stage(f.feedback.stage))
        wait_for(future.done, REPLY_S, "the goal's acceptance")
        handle = future.result()
        return handle if handle.accepted else None

    def result(self, handle: Any) -> tuple[int, Decision]:
        """Wait for a goal; return its GoalStatus and decision."""
        future = handle.get_result_async()
        wait_for(future.done, REPLY_S, "the goal's result")
        return future.result().status, future.result().result.decision


class Harness:
    """Starts nodes and makes probes; everything ends with it."""

    def __init__(self, program: Path, folder: Path, env: dict[str, str]) -> None:
        self._program = program
        self._folder = folder
        self._env = env
        self._processes: list[NodeProcess] = []
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._spinner = Spinner(SingleThreadedExecutor(context=self._context))
        self._nodes: list[Any] = []

    def start(
        self,
        namespace: str,
        *parameters: str,
        params_file: Path | None = None,
        module: str = "",
    ) -> NodeProcess:
        """Start a node; each parameter is ``name:=value``.

        Args:
            namespace: Its namespace.
            *parameters: Its parameters.
            params_file: File with more of them.
            module: Module of the tests to run in place of the installed program.
        """
        program = self._program
        if module:
            program = self._folder / module
            program.write_text(
                f'#!/bin/sh\nPYTHONPATH="{Path(__file__).parent}:$PYTHONPATH" '
                f'exec "{sys.executable}" -m {module} "$@"\n'
            )
            program.chmod(0o755)
        arguments = ["-r", f"__ns:={namespace}"]
        if params_file is not None:
            arguments += ["--params-file", str(params_file)]
        for parameter in parameters:
            arguments += ["-p", parameter]
        log = self._folder / f"{len(self._processes)}.log"
        process = NodeProcess(program, log, self._env, arguments)
        self._processes.append(process)
        return process

    def probe(self, namespace: str) -> Probe:
        """Make a probe for the node in a namespace."""
        node = rclpy.create_node(f"probe{len(self._nodes)}", context=self._context)
        probe = Probe(node, namespace)
        self._nodes.append(node)
        self._spinner.add(node)
        return probe

    def close(self) -> None:
        """End everything."""
        for process in self._processes:
            process.kill()
        self._spinner.close()
        self._context.try_shutdown()


@contextlib.contextmanager
def running(program: Path, folder: Path, env: dict[str, str]) -> Iterator[Harness]:
    """Give a harness and close it in the end."""
    harness = Harness(program, folder, env)
    try:
        yield harness
    finally:
        harness.close()


SUCCEEDED = GoalStatus.STATUS_SUCCEEDED
CANCELED = GoalStatus.STATUS_CANCELED
ABORTED = GoalStatus.STATUS_ABORTED
CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP
