"""Recorded sentences, understood once more, and whether the same is decided, byte for byte.

What is compared is the whole message as it goes over the wire, without what belongs to the moment:
time stamp, number of the command, latencies and passes of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
from typing import Any

import numpy as np

from quant_llm_ros.command.conversation import Conversation
from quant_llm_ros.command.decision import Decision, SkillCall, Status
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.recording import types
from quant_llm_ros.recording.bag import Decided, Names, Recording

OF_THE_MOMENT = frozenset((Status.TIMEOUT, Status.CANCELLED, Status.ERROR))
"""Statuses that say what happened then, not what the sentence means."""

_DOUBLE, _STRING = 3, 4  # of rcl_interfaces/msg/ParameterType


@dataclasses.dataclass(frozen=True)
class Difference:
    """One field that is not the same.

    Attributes:
        field: Its name.
        recorded: What the bag has, for a person to read.
        replayed: What was decided now.
    """

    field: str
    recorded: str
    replayed: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One recorded decision and what became of it now.

    Attributes:
        recorded: The recorded decision.
        is_compared: Whether there was anything to compare; see ``OF_THE_MOMENT``.
        differences: What is not the same; empty when all bytes are.
    """

    recorded: Decided
    is_compared: bool
    differences: tuple[Difference, ...] = ()


def replay(
    recording: Recording,
    understander: Understander,
    *,
    conversation_s: float,
    tolerance: float = 0.0,
) -> Iterator[Comparison]:
    """Decide about every sentence again, in the order of the decisions.

    Names that were told in between are told again, and a sentence may refer to the one before it
    if that was no longer ago than it might then.

    Args:
        recording: What was recorded.
        understander: What decides now.
        conversation_s: The node's parameter of that name.
        tolerance: Largest difference of a confidence that is none, since another processor rounds
            otherwise; 0 for byte for byte.
    """
    conversation, noted_s = Conversation(), 0.0
    wire = _Wire(recording.typestore)
    for event in recording.events:
        if isinstance(event, Names):
            understander.know(places=event.places, objects=event.objects)
        elif not isinstance(event, Decided):
            conversation.clear()  # a node that loads a bundle has heard nothing yet
        elif event.status in OF_THE_MOMENT:
            yield Comparison(event, is_compared=False)
        else:
            if event.begun_s - noted_s >= conversation_s:
                conversation.clear()
            before = conversation.before()
            decision = understander.understand(event.text, before=before)
            conversation.note(decision)
            if conversation.before() != before:
                noted_s = event.decided_s
            yield Comparison(event, True, wire.differences(event.message, decision, tolerance))


class _Wire:
    """Messages as bytes, by the types of the recording."""

    def __init__(self, typestore: Any) -> None:
        self._typestore = typestore

    def differences(
        self, recorded: Any, decision: Decision, tolerance: float
    ) -> tuple[Difference, ...]:
        replayed = self._message(recorded, decision)
        if abs(replayed.confidence - recorded.confidence) <= tolerance:
            replayed.confidence = recorded.confidence
        if self._bytes(replayed) == self._bytes(self._timeless(recorded)):
            return ()
        then, now = _readable(recorded), _readable(replayed)
        return tuple(
            Difference(name, then[name], now[name]) for name in then if then[name] != now[name]
        ) or (Difference("bytes", "", "the messages differ in a field that is not shown"),)

    def _bytes(self, message: Any) -> bytes:
        return bytes(self._typestore.serialize_cdr(message, types.DECISION))

    def _make(self, kind: str, **values: Any) -> Any:
        return self._typestore.types[kind](**values)

    def _timeless(self, recorded: Any, **values: Any) -> Any:
        stamp = self._make("builtin_interfaces/msg/Time", sec=0, nanosec=0)
        header = self._make("std_msgs/msg/Header", stamp=stamp, frame_id="")
        moment = {"header": header, "command_id": 0, "stages": [], "total_ms": 0.0}
        return dataclasses.replace(recorded, **moment, forward_passes=0, **values)

    def _message(self, recorded: Any, decision: Decision) -> Any:
        values: dict[str, Any] = {}
        if hasattr(recorded, "unserved"):  # not in bags of releases before it
            values["unserved"] = list(decision.unserved)
        return self._timeless(
            recorded,
            **values,
            status=int(decision.status),
            calls=[self._call(call) for call in decision.calls],
            confidence=float(np.float32(decision.confidence)),
            message=decision.message,
            generated_tokens=decision.generated_tokens,
        )

    def _call(self, call: SkillCall) -> Any:
        return self._make(
            f"{types.PACKAGE}/msg/SkillCall",
            skill=call.skill,
            arguments=[
                self._make("rcl_interfaces/msg/Parameter", name=name, value=self._value(argument))
                for name, argument in call.arguments.items()
            ],
            safety=int(call.safety),
        )

    def _value(self, argument: str | float) -> Any:
        is_text = isinstance(argument, str)
        return self._make(
            "rcl_interfaces/msg/ParameterValue",
            type=_STRING if is_text else _DOUBLE,
            bool_value=False,
            integer_value=0,
            double_value=0.0 if is_text else float(argument),
            string_value=argument if is_text else "",
            byte_array_value=np.empty(0, np.uint8),
            bool_array_value=np.empty(0, np.bool_),
            integer_array_value=np.empty(0, np.int64),
            double_array_value=np.empty(0, np.float64),
            string_array_value=[],
        )


def _readable(message: Any) -> dict[str, str]:
    """Give the fields of a message for a person to read."""
    return {
        "status": Status(message.status).name,
        "calls": "; ".join(map(_readable_call, message.calls)),
        "unserved": "; ".join(getattr(message, "unserved", ())),
        "confidence": f"{message.confidence:.9g}",
        "message": message.message,
        "generated_tokens": str(message.generated_tokens),
    }


def _readable_call(call: Any) -> str:
    arguments = ", ".join(
        f"{a.name}={a.value.string_value if a.value.type == _STRING else a.value.double_value}"
        for a in call.arguments
    )
    return f"{call.skill}({arguments})" + (" to confirm" if call.safety else "")
