"""Conversions between decisions and messages."""

from __future__ import annotations

import pytest

from quant_llm_ros.command.decision import Decision, Safety, SkillCall, Stage, Status
from quant_llm_ros.command.statistics import LatencyWindow

pytest.importorskip("rclpy")
pytestmark = pytest.mark.ros

from builtin_interfaces.msg import Time  # noqa: E402
from rcl_interfaces.msg import ParameterType  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402

from quant_llm_msgs.msg import Decision as DecisionMsg  # noqa: E402
from quant_llm_msgs.msg import LatencyStats, SkillCall as SkillCallMsg  # noqa: E402
from quant_llm_ros.nodes import messages  # noqa: E402
