"""A process in place of the understanding node: publishes its heartbeat, decides nothing."""

from __future__ import annotations

import rclpy

from quant_llm_msgs.msg import Decision, Heartbeat
from quant_llm_ros.nodes import qos


def main() -> None:
    """Publish until killed."""
    rclpy.init()
    node = rclpy.create_node("understanding")
    node.create_publisher(Decision, "decision", qos.DECISION)
    heartbeat = node.create_publisher(Heartbeat, "heartbeat", qos.HEARTBEAT)

    def beat() -> None:
        heartbeat.publish(Heartbeat())
        if heartbeat.get_subscription_count():
            print("heard", flush=True)

    node.create_timer(0.1, beat)
    rclpy.spin(node)


if __name__ == "__main__":
    main()
