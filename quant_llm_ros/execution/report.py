"""How far a call is, and how it ended."""

from __future__ import annotations

import dataclasses
import enum


class State(enum.IntEnum):
    """State of a call. The numbers are those of ``quant_llm_msgs/msg/Execution``."""

    WAITING = 0
    """Waits for the calls before it."""
    CONFIRMING = 1
    """Waits for a person's yes."""
    RUNNING = 2
    """Is being carried out."""
    SUCCEEDED = 3
    """Carried out to its end."""
    CANCELLED = 4
    """Given up because a call before it did not succeed, or by deactivation."""
    PREEMPTED = 5
    """Given up because of a stop or of a newer decision."""
    BLOCKED = 6
    """Something was in the way, or the robot did not move."""
    LOST_ODOMETRY = 7
    """Odometry did not arrive any more."""
    LOST_CLOCK = 8
    """The clock of the simulation stood still."""
    LOST_UNDERSTANDING = 9
    """The understanding node was gone, so that nobody could have said stop."""
    TIMEOUT = 10
    """Not done, or not confirmed, within its time."""
    FAILED = 11
    """The robot's own code, the navigation or an unusable argument ended it."""
    REFUSED = 12
    """A person said no."""
    UNSUPPORTED = 13
    """This robot has nothing that carries the skill out."""

    @property
    def is_final(self) -> bool:
        """Whether nothing follows it."""
        return self >= State.SUCCEEDED


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a task says about itself at each step.

    Attributes:
        share: Share of the work that is done, 0 to 1.
        state: RUNNING, or the final state.
        message: For a person to read; may be empty.
    """

    share: float = 0.0
    state: State = State.RUNNING
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """The state of one call of a decision.

    Attributes:
        command_id: Number of the command, from the decision.
        skill: Name of the skill.
        index: Place of the call in its decision, from 0.
        count: Calls of the decision.
        state: State now.
        share: Share of the call that is done, 0 to 1.
        message: For a person to read; may be empty.
    """

    command_id: int
    skill: str
    index: int
    count: int
    state: State
    share: float = 0.0
    message: str = ""
