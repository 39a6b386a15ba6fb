"""A small client of the understanding node over DDS, and nodes as processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
from pathlib import Path
import queue
import shutil
import signal
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, IO

import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String

from quant_llm_msgs.msg import BundleInfo, Decision, LatencyStats
from quant_llm_ros.nodes import qos
from quant_llm_ros.nodes.spinning import Spinner

PROGRAM = "understanding_node"


class NodeProcess:
    """A program of this package, started as a user starts it."""

    def __init__(self, parameters: Sequence[str], log: IO[bytes], program: str = PROGRAM) -> None:
        """Start it.

        Args:
            parameters: Its parameters, each ``name:=value``.
            log: File that takes what it prints.
            program: Its name.
        """
        self._process = subprocess.Popen(
            [_find(program), "--ros-args", *(part for p in parameters for part in ("-p", p))],
            stdout=log,
            stderr=log,
            # A Ctrl-C in the terminal is for the caller, which ends the node in order.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def memory_mb(self) -> float:
        """Give the memory that it holds (VmRSS), in MB of 10^6 bytes; 0 where unknown."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return 0.0
        kib = next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
        return kib * 1024 / 1e6

    def cpu_s(self) -> float:
        """Give the time of a processor that it has used so far, in s; 0 where unknown."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return 0.0
        # Counted from behind the name in parentheses, which may hold anything: see proc(5).
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def stop(self, timeout_s: float = 10.0) -> int | None:
        """End it with SIGINT.

        Returns:
            Its exit status; None if it had to be killed after ``timeout_s``.
        """
        if not self.ended:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None


class Client:
    """Sends commands and collects what the node publishes; use it as a context.

    Attributes:
        node: Its node, for whoever wants to hear more; its callbacks run in a thread of their own.
        bundle: What is being served, once that has come.
        latency: The latest statistics.
    """

    def __init__(self) -> None:
        """Join the ROS domain of the environment."""
        # Signals are the caller's: rclpy would end the context on Ctrl-C, mid-conversation.
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self.node = rclpy.create_node("understanding_client", context=self._context)
        self._decisions: queue.SimpleQueue[Decision] = queue.SimpleQueue()
        self.bundle: BundleInfo | None = None
        self.latency: LatencyStats | None = None
        # In this order: once "bundle" has come, the node knows the subscription before it too.
        self.node.create_subscription(Decision, "decision", self._decisions.put, qos.DECISION)
        self.node.create_subscription(BundleInfo, "bundle", self._on_bundle, qos.BUNDLE)
        self.node.create_subscription(LatencyStats, "latency", self._on_latency, qos.LATENCY)
        self._publisher = self.node.create_publisher(String, "command", qos.COMMAND)
        self._spinner = Spinner(SingleThreadedExecutor(context=self._context))
        self._spinner.add(self.node)

    def __enter__(self) -> Client:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the ROS domain."""
        self._spinner.close()
        self._context.try_shutdown()

    def wait_ready(self, timeout_s: float, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the node takes commands and its decisions will arrive here.

        Args:
            timeout_s: How long to wait.
            give_up: Asked meanwhile; true ends the waiting.
        """
        return _wait_for(
            lambda: (
                self._publisher.get_subscription_count() > 0
                and self.node.count_publishers("decision") > 0
                and self.bundle is not None
            ),
            timeout_s,
            give_up,
        )

    def send(self, text: str) -> None:
        """Send one command without waiting for its decision; ``receive`` gives it."""
        self._publisher.publish(String(data=text))

    def receive(self, timeout_s: float) -> Decision | None:
        """Give the next decision that came or comes; None when none comes in time."""
        try:
            return self._decisions.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None

    def ask(self, text: str, timeout_s: float = 30.0) -> Decision | None:
        """Send one command and wait for its decision; None when none comes in time."""
        self.send(text)
        end_s = time.monotonic() + timeout_s
        while (left_s := end_s - time.monotonic()) > 0.0:
            decision = self.receive(left_s)
            if decision is not None and decision.text == text:
                return decision
        return None

    def wait_latency(self, decisions: int, timeout_s: float = 5.0) -> LatencyStats | None:
        """Wait for statistics that cover so many decisions; give the latest there are."""
        _wait_for(
            lambda: self.latency is not None and self.latency.decisions >= decisions, timeout_s
        )
        return self.latency

    def _on_bundle(self, message: BundleInfo) -> None:
        self.bundle = message

    def _on_latency(self, message: LatencyStats) -> None:
        self.latency = message


def _wait_for(
    condition: Callable[[], Any], timeout_s: float, give_up: Callable[[], bool] = lambda: False
) -> bool:
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s or give_up():
            return False
        time.sleep(0.02)
    return True


def _find(program: str) -> str:
    """Find an installed program: beside this Python, as `ros2 run` does, or on the path."""
    folders = [Path(sys.executable).parent]
    folders += [
        Path(prefix) / "lib" / "quant_llm_ros"
        for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    ]
    found = shutil.which(program, path=os.pathsep.join(map(str, folders))) or shutil.which(program)
    if found is None:
        raise FileNotFoundError(f"{program} is not installed; run `make setup` or colcon build")
    return found
