"""The result of understanding one command.

A decision is checked when it is made, so that an invalid one cannot be represented.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import enum
from types import MappingProxyType
from typing import Any

ArgumentValue = str | float


class Status(enum.IntEnum):
    """What became of a command. The numbers are those of ``quant_llm_msgs/msg/Decision``."""

    ACCEPTED = 0
    """Understood and within limits: carry out the calls in their order."""
    STOP = 1
    """The command was to stop: stop all motion now."""
    CLARIFY = 2
    """Something needed was not said: the message asks for it."""
    UNKNOWN = 3
    """The text is not a command for this robot."""
    REJECTED = 4
    """Understood, but outside limits: the message names the limit."""
    TIMEOUT = 5
    """No decision before the deadline."""
    CANCELLED = 6
    """Cancelled by the client, by a stop or by deactivation."""
    ERROR = 7
    """The command could not be processed: the message says why."""


class Safety(enum.IntEnum):
    """Whether a skill may be carried out at once."""

    SAFE = 0
    """Carry it out at once."""
    CONFIRM = 1
    """Ask a person before carrying it out."""


class Stage(str, enum.Enum):
    """The stages of a command, in their order."""

    QUEUE = "queue"
    """Waiting for the model to be free."""
    GUARD = "guard"
    """Checking the text and looking for a stop phrase."""
    GRAMMAR = "grammar"
    """Compiling the grammar of the answers that this sentence allows."""
    PREFILL = "prefill"
    """The model's pass over the sentence."""
    DECODE = "decode"
    """The model's passes over its own answer."""
    VALIDATE = "validate"
    """Units, limits, and the decision."""


@dataclasses.dataclass(frozen=True)
class SkillCall:
    """One call of a skill with typed, range-checked arguments.

    Attributes:
        skill: Name of the skill in the registry.
        arguments: Values by name; a quantity is a float whose name carries the unit
            (``distance_m``), everything else is a string. Read-only.
        safety: Whether the skill may be carried out at once.
    """

    skill: str
    arguments: Mapping[str, ArgumentValue]
    safety: Safety = Safety.SAFE

    def __post_init__(self) -> None:
        """Freeze the arguments."""
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the robot should do about one command.

    Attributes:
        text: The command as it was received.
        status: What became of it.
        calls: Skill calls in order; not empty exactly when the status is ACCEPTED or STOP.
        confidence: Probability that the answer is right, 0 to 1: the one that the model gives to
            it among all that the grammar allows, calibrated; 1 where no model was needed, 0 where
            nothing was decided.
        message: Question, reason or limit for a person, or what is not served; empty exactly when
            all of the command is ACCEPTED.
        latency_ms: Time spent in each stage that the command went through, in milliseconds.
        total_ms: From the arrival of the command to the decision; the stages add up to it.
        forward_passes: Passes of the model over its weights.
        generated_tokens: Tokens of the model's answer, forced ones included.
        answer: The model's answer in the notation of calls; "" where the model was not asked.
        unserved: Parts of the command that no skill serves, in the words of the sentence or of
            the one before. The calls of an ACCEPTED decision come before them; where something
            comes after, it is CLARIFY.

    Raises:
        ValueError: The parts contradict each other.
    """

    text: str
    status: Status
    calls: tuple[SkillCall, ...] = ()
    confidence: float = 0.0
    message: str = ""
    latency_ms: Mapping[Stage, float] = dataclasses.field(default_factory=dict)
    total_ms: float = 0.0
    forward_passes: int = 0
    generated_tokens: int = 0
    answer: str = ""
    unserved: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        object.__setattr__(self, "latency_ms", MappingProxyType(dict(self.latency_ms)))
        if bool(self.calls) != (self.status in (Status.ACCEPTED, Status.STOP)):
            raise ValueError(f"a decision {self.status.name} cannot have {len(self.calls)} calls")
        if bool(self.message) == (self.status is Status.ACCEPTED and not self.unserved):
            raise ValueError(f"a decision {self.status.name} with message {self.message!r}")
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence {self.confidence} is not between 0 and 1")

    @property
    def outline(self) -> str:
        """Calls and what is not served, or else the message, in one line for a person."""
        calls = [
            f"{call.skill}({', '.join(f'{k}={v}' for k, v in call.arguments.items())})"
            for call in self.calls
        ]
        if not calls or self.unserved:
            calls.append(self.message)
        return "; ".join(calls)

    def to_dict(self) -> dict[str, Any]:
        """Give the decision as plain data, ready for JSON."""
        return {
            "text": self.text,
            "status": self.status.name,
            "calls": [{"skill": c.skill, "args": dict(c.arguments)} for c in self.calls],
            "unserved": list(self.unserved),
            "confidence": round(self.confidence, 6),
            "message": self.message,
            "latency_ms": {
                **{stage.value: round(ms, 3) for stage, ms in self.latency_ms.items()},
                "total": round(self.total_ms, 3),
            },
            "forward_passes": self.forward_passes,
            "generated_tokens": self.generated_tokens,
            "answer": self.answer,
        }
