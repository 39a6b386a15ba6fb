"""Listens to a robot for `quant_llm watch`."""

from __future__ import annotations

import os
import time

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from quant_llm_msgs.msg import BundleInfo, Decision, Execution, LatencyStats
from quant_llm_ros.nodes import qos
from quant_llm_ros.nodes.watch_view import Heard

# Whoever reports about health may do so either way; best effort hears both.
_DIAGNOSTICS = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
)


class Watcher:
    """A node that subscribes and nothing else; its callbacks run in ``listen``."""

    def __init__(self, namespace: str = "") -> None:
        """Join the ROS domain of the environment.

        Args:
            namespace: Namespace of the robot's nodes.
        """
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node("watch", namespace=namespace, context=self._context)
        self.heard = Heard(namespace, os.environ.get("ROS_DOMAIN_ID", "0"))
        subscribe, heard = self._node.create_subscription, self.heard
        subscribe(Decision, "decision", heard.on_decision, qos.DECISION)
        subscribe(Execution, "execution", heard.on_execution, qos.EXECUTION)
        subscribe(LatencyStats, "latency", self._on_latency, qos.LATENCY)
        subscribe(BundleInfo, "bundle", self._on_bundle, qos.BUNDLE)
        subscribe(DiagnosticArray, "/diagnostics", self._on_health, _DIAGNOSTICS)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def listen(self, seconds: float) -> None:
        """Take what comes within a time."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left_s)
        self.heard.publishers = self._node.count_publishers("decision")

    def close(self) -> None:
        """Leave the ROS domain."""
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _on_latency(self, message: LatencyStats) -> None:
        self.heard.latency = message

    def _on_bundle(self, message: BundleInfo) -> None:
        self.heard.bundle = message

    def _on_health(self, message: DiagnosticArray) -> None:
        now_s = time.monotonic()
        self.heard.health.update({status.name: (now_s, status) for status in message.status})
