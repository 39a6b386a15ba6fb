"""Between the types of ``command`` and the messages of ``quant_llm_msgs``, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TYPE_CHECKING

from builtin_interfaces.msg import Duration, Time
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from std_msgs.msg import Header

from quant_llm_msgs.msg import (
    BundleInfo,
    KnownName,
    LatencyStats,
    StageLatency,
    StageStatistics,
)
from quant_llm_msgs.msg import Decision as DecisionMsg
from quant_llm_msgs.msg import SkillCall as SkillCallMsg
from quant_llm_ros.command.decision import ArgumentValue, Decision, SkillCall, Status
from quant_llm_ros.command.names import KnownNames
from quant_llm_ros.command.statistics import LatencySummary

if TYPE_CHECKING:  # the executor speaks the same messages and loads no model
    from quant_llm_ros.command.understander import Understander

REPLACEMENT_CHARACTER = "\ufffd"


def is_damaged(text: str) -> bool:
    """Tell whether a received text was not valid UTF-8.

    rclpy decodes strings with the error handler "replace", so that invalid bytes never raise but
    arrive as U+FFFD. That character says nothing else: whoever sends it has lost text before.
    """
    return REPLACEMENT_CHARACTER in text


def sendable(text: str) -> str:
    """Replace what cannot be encoded as UTF-8 (lone surrogates), which publishing would refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def argument_to_msg(name: str, value: ArgumentValue) -> Parameter:
    """Convert one typed argument: numbers become doubles, everything else a string."""
    if isinstance(value, (int, float)):
        typed = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=float(value))
    else:
        typed = ParameterValue(
            type=ParameterType.PARAMETER_STRING, string_value=sendable(str(value))
        )
    return Parameter(name=name, value=typed)


def known_names_from_msg(names: Sequence[KnownName]) -> KnownNames:
    """Convert a list of names.

    Raises:
        ValueError: One is empty, or two share a name.
    """
    known: dict[str, list[str]] = {}
    for entry in names:
        if not entry.name.strip() or entry.name in known:
            raise ValueError(f"the name {entry.name!r} is empty or comes twice")
        known[entry.name] = list(entry.others)
    return KnownNames(known)


def call_to_msg(call: SkillCall) -> SkillCallMsg:
    """Convert one skill call."""
    return SkillCallMsg(
        skill=call.skill,
        arguments=[argument_to_msg(name, value) for name, value in call.arguments.items()],
        safety=int(call.safety),
    )


def decision_to_msg(decision: Decision, *, command_id: int, stamp: Time) -> DecisionMsg:
    """Convert a decision.

    Args:
        decision: The decision.
        command_id: Number of the command.
        stamp: Time at which the decision was made.
    """
    return DecisionMsg(
        header=Header(stamp=stamp),
        command_id=command_id,
        text=sendable(decision.text),
        status=int(decision.status),
        calls=[call_to_msg(call) for call in decision.calls],
        unserved=[sendable(part) for part in decision.unserved],
        confidence=float(decision.confidence),
        message=sendable(decision.message),
        stages=[
            StageLatency(stage=stage.value, latency_ms=float(ms))
            for stage, ms in decision.latency_ms.items()
        ],
        total_ms=float(decision.total_ms),
        forward_passes=int(decision.forward_passes),
        generated_tokens=int(decision.generated_tokens),
    )


def latency_to_msg(summary: LatencySummary, *, stamp: Time) -> LatencyStats:
    """Convert latency statistics.

    Args:
        summary: Statistics of the window.
        stamp: Time of publication.
    """
    return LatencyStats(
        header=Header(stamp=stamp),
        count=summary.count,
        stages=[
            StageStatistics(
                stage=s.stage,
                count=s.count,
                mean_ms=s.mean_ms,
                p50_ms=s.p50_ms,
                p90_ms=s.p90_ms,
                p99_ms=s.p99_ms,
                max_ms=s.max_ms,
            )
            for s in summary.stages
        ],
        tokens_per_s=summary.tokens_per_s,
        forward_passes_mean=summary.forward_passes_mean,
        deadline_misses=summary.deadline_misses,
        decisions=summary.decisions,
    )


def bundle_to_msg(understander: Understander, *, stamp: Time) -> BundleInfo:
    """Describe what an opened understander serves.

    Args:
        understander: An understander made by ``Understander.open``.
        stamp: Time at which it was loaded.

    Raises:
        ValueError: The understander was not opened from a bundle.
    """
    bundle, report = understander.bundle, understander.self_test
    if bundle is None or report is None:
        raise ValueError("the understander was not opened from a bundle")
    return BundleInfo(
        header=Header(stamp=stamp),
        name=bundle.name,
        path=sendable(str(bundle.path)),
        format_version=bundle.format_version,
        sha256=bundle.sha256,
        model=str(bundle.model.source),
        recipe=str(bundle.recipe.get("name", "")),
        parameters=bundle.model.parameters,
        size_bytes=bundle.size_bytes,
        runtime=understander.engine.info.runtime,
        provider=understander.engine.info.provider,
        context_length=understander.engine.context_length,
        skills=list(understander.skills.names),
        load_ms=float(understander.load_ms),
        selftest_relative_error=float(report.relative_error),
    )


def decision_to_dict(message: DecisionMsg) -> dict[str, Any]:
    """Give a decision message as plain data, in the form of ``Decision.to_dict``."""
    return {
        "command_id": message.command_id,
        "text": message.text,
        "status": Status(message.status).name,
        "calls": [
            {"skill": call.skill, "args": arguments_to_dict(call.arguments)}
            for call in message.calls
        ],
        "unserved": list(message.unserved),
        "confidence": float(message.confidence),
        "message": message.message,
        "latency_ms": {
            **{stage.stage: stage.latency_ms for stage in message.stages},
            "total": message.total_ms,
        },
        "forward_passes": message.forward_passes,
        "generated_tokens": message.generated_tokens,
    }


def arguments_to_dict(arguments: Sequence[Parameter]) -> dict[str, ArgumentValue]:
    """Give the arguments of a call message by name."""
    return {
        argument.name: (
            argument.value.double_value
            if argument.value.type == ParameterType.PARAMETER_DOUBLE
            else argument.value.string_value
        )
        for argument in arguments
    }


def duration_s(duration: Duration) -> float:
    """Convert a duration message to seconds."""
    return float(duration.sec) + duration.nanosec * 1e-9


def time_s(time: Time) -> float:
    """Convert a time message to seconds since its clock's origin."""
    return float(time.sec) + time.nanosec * 1e-9


def duration_msg(seconds: float) -> Duration:
    """Convert seconds to a duration message; negative ones are allowed."""
    whole = int(seconds // 1)
    return Duration(sec=whole, nanosec=min(int((seconds - whole) * 1e9), 999_999_999))
