"""Tracepoints: what a command goes through, for LTTng where its Python agent is installed.

The tracepoints of ROS 2 lie in the C libraries below rclpy (``ros2_tracing``); those of this
package come through LTTng's agent for Python's ``logging`` (module ``lttngust``, on Ubuntu in
``python3-lttngust``). A record of the logger ``quant_llm_ros.trace`` becomes an event of the
domain *python*, in the same session and on the same clock as the events of ROS::

    lttng create; lttng enable-event --python quant_llm_ros.trace
    lttng enable-event --userspace 'ros2:*'; lttng start

Without the agent the logger is off, and a tracepoint costs a comparison.
"""

from __future__ import annotations

import contextlib
import importlib
import logging

_LOG = logging.getLogger("quant_llm_ros.trace")


def start(agent: str = "lttngust") -> bool:
    """Load the agent, which connects to LTTng's session daemon in threads of its own.

    Args:
        agent: Name of its module.

    Returns:
        Whether it is installed.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module(agent)
        _LOG.setLevel(logging.DEBUG)
        return True
    return False


def point(command_id: int, event: str) -> None:
    """Pass a tracepoint.

    Args:
        command_id: Number of the command, as in its decision.
        event: ``received``, the name of a stage that begins, or ``decided STATUS``.
    """
    _LOG.debug("command=%d event=%s", command_id, event)
