"""Conversions between decisions and messages, checked after a trip through serialization."""

from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time
import pytest
from rcl_interfaces.msg import ParameterType
from rclpy.serialization import deserialize_message, serialize_message

from quant_llm_msgs.msg import Decision as DecisionMsg
from quant_llm_msgs.msg import Execution, LatencyStats
from quant_llm_msgs.msg import SkillCall as SkillCallMsg
from quant_llm_ros.command.decision import Decision, Safety, SkillCall, Stage, Status
from quant_llm_ros.command.statistics import LatencyWindow
from quant_llm_ros.execution.report import State
from quant_llm_ros.nodes import messages

pytestmark = pytest.mark.ros

STAMP = Time(sec=12, nanosec=345)


def sent(message: Any) -> Any:
    """Return the message as a receiver gets it."""
    return deserialize_message(serialize_message(message), type(message))


def decision(status: Status, **fields: Any) -> Decision:
    if status is not Status.ACCEPTED:
        fields.setdefault("message", "a reason")
    if status in (Status.ACCEPTED, Status.STOP):
        fields.setdefault("calls", (SkillCall("stop", {}),))
    if fields.get("unserved"):
        fields.setdefault("message", "a part")
    return Decision(fields.pop("text", "a text"), status, **fields)


def test_constants_of_the_messages_are_those_of_the_enums() -> None:
    for status in Status:
        assert getattr(DecisionMsg, f"STATUS_{status.name}") == status
    for safety in Safety:
        assert getattr(SkillCallMsg, f"SAFETY_{safety.name}") == safety
    states = {name: getattr(Execution, name) for name in dir(Execution) if name[:6] == "STATE_"}
    assert states == {f"STATE_{state.name}": state.value for state in State}


@pytest.mark.parametrize("status", Status)
def test_every_status_survives_the_trip(status: Status) -> None:
    original = decision(
        status,
        confidence=0.25,
        latency_ms={Stage.QUEUE: 1.5, Stage.GUARD: 0.5, Stage.DECODE: 40.0},
        total_ms=42.0,
        forward_passes=3,
        generated_tokens=7,
        unserved=("water the plants",) if status is Status.ACCEPTED else (),
    )
    message = sent(messages.decision_to_msg(original, command_id=9, stamp=STAMP))
    assert message.command_id == 9
    assert message.header.stamp == STAMP
    assert [s.stage for s in message.stages] == ["queue", "guard", "decode"]
    expected = {"command_id": 9, **original.to_dict()}
    del expected["answer"]  # what the model wrote is no concern of other nodes
    assert messages.decision_to_dict(message) == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1.5, ParameterType.PARAMETER_DOUBLE),
        (-0.0, ParameterType.PARAMETER_DOUBLE),
        (2, ParameterType.PARAMETER_DOUBLE),
        ("left", ParameterType.PARAMETER_STRING),
        ("2", ParameterType.PARAMETER_STRING),
        ("", ParameterType.PARAMETER_STRING),
        ("das grüne Glas 🥛", ParameterType.PARAMETER_STRING),
    ],
)
def test_arguments_keep_their_type(value: str | float, kind: int) -> None:
    call = SkillCall("do", {"what": value}, Safety.CONFIRM)
    message = sent(messages.call_to_msg(call))
    assert message.safety == SkillCallMsg.SAFETY_CONFIRM
    assert message.arguments[0].value.type == kind
    assert messages.arguments_to_dict(message.arguments) == {"what": value}


@pytest.mark.parametrize(
    ("text", "arrives"),
    [
        ("plain", "plain"),
        ("naïve 日本語 🤖", "naïve 日本語 🤖"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ("", ""),
    ],
)
def test_any_python_string_can_be_published(text: str, arrives: str) -> None:
    message = messages.decision_to_msg(
        decision(Status.ERROR, text=text), command_id=1, stamp=STAMP
    )
    assert sent(message).text == arrives


@pytest.mark.parametrize(
    ("data", "damaged"),
    [
        (b"stop", False),
        ("h\u00e4lt an".encode(), False),
        ("h\u00e4lt an".encode("latin-1"), True),
        (b"\xff\xfe", True),
        (b"cut off \xe2\x82", True),
    ],
)
def test_damaged_text_is_noticed(data: bytes, damaged: bool) -> None:
    # What rclpy does with the bytes of a string that it receives.
    assert messages.is_damaged(data.decode("utf-8", "replace")) is damaged


def test_latency_statistics() -> None:
    window = LatencyWindow(10)
    empty = sent(messages.latency_to_msg(window.summary(), stamp=STAMP))
    assert (empty.count, len(empty.stages), empty.tokens_per_s) == (0, 0, 0.0)
    for total_ms in (10.0, 20.0, 30.0):
        window.add(
            decision(
                Status.UNKNOWN,
                latency_ms={Stage.DECODE: total_ms},
                total_ms=total_ms,
                generated_tokens=2,
                forward_passes=4,
            )
        )
    window.add(decision(Status.TIMEOUT, latency_ms={Stage.QUEUE: 5.0}, total_ms=5.0))
    stats: LatencyStats = sent(messages.latency_to_msg(window.summary(), stamp=STAMP))
    assert (stats.count, stats.decisions, stats.deadline_misses) == (4, 4, 1)
    assert stats.tokens_per_s == pytest.approx(6 / 0.060)
    assert stats.forward_passes_mean == pytest.approx(3.0)
    by_stage = {s.stage: s for s in stats.stages}
    assert list(by_stage) == ["queue", "decode", "total"]
    assert by_stage["decode"].count == 3
    assert by_stage["decode"].mean_ms == by_stage["decode"].p50_ms == pytest.approx(20.0)
    assert by_stage["total"].max_ms == pytest.approx(30.0)


@pytest.mark.parametrize("seconds", [0.0, 0.25, 5.0, 599.999, -1.0, -0.25])
def test_durations(seconds: float) -> None:
    message = messages.duration_msg(seconds)
    assert 0 <= message.nanosec < 1_000_000_000
    assert messages.duration_s(message) == pytest.approx(seconds, abs=1e-8)
