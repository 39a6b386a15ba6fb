"""Statuses on ``/diagnostics``, as rqt_robot_monitor and diagnostic_aggregator expect them.

diagnostic_updater does the same, but it is on no Python package index, so that the tests could not
run it; and one way to publish is simpler than two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import socket
import traceback

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import Header

from quant_llm_ros.nodes import messages, qos
from quant_llm_ros.nodes.health import Health

TOPIC = "/diagnostics"
_PERIOD_S = 1.0


class Diagnostics:
    """Publishes the statuses of a node once a second, in every state of its lifecycle.

    A status is named after the node with its namespace, for example ``robot1/understanding:
    Engine``: the topic is the same for all robots.
    """

    def __init__(self, node: Node, gather: Callable[[], Sequence[Health]]) -> None:
        """Begin to publish.

        Args:
            node: The node that the statuses are about.
            gather: Gives them; called from the executor.
        """
        self._node = node
        self._gather = gather
        self._prefix = node.get_fully_qualified_name().lstrip("/")
        self._host = socket.gethostname()
        # Not a lifecycle publisher: an unconfigured node has to say why.
        self._publisher = node.create_publisher(DiagnosticArray, TOPIC, qos.DIAGNOSTICS)
        # By the steady clock: a paused simulation is no reason for silence.
        self._timer = node.create_timer(
            _PERIOD_S, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def _publish(self) -> None:
        try:
            found = self._gather()
        except Exception:
            self._node.get_logger().error(f"no diagnostics:\n{traceback.format_exc()}")
            return
        self._publisher.publish(
            DiagnosticArray(
                header=Header(stamp=self._node.get_clock().now().to_msg()),
                status=[self._status(health) for health in found],
            )
        )

    def _status(self, health: Health) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=bytes([health.level]),
            name=f"{self._prefix}: {health.name}",
            message=messages.sendable(health.message),
            hardware_id=self._host,
            values=[
                KeyValue(key=key, value=messages.sendable(value))
                for key, value in health.values.items()
            ],
        )
