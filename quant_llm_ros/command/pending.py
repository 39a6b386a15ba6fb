"""A command on its way to a decision, and what a newer one does to it."""

from __future__ import annotations

from collections.abc import Callable
import enum
import time

from quant_llm_ros.command.decision import Decision, Stage, Status

CANCELLED = "cancelled while it was processed"


class QueuePolicy(enum.Enum):
    """What happens to commands that are not decided yet when a new one comes."""

    FIFO = "fifo"
    """Nothing: each has its turn."""
    LATEST_WINS = "latest_wins"
    """They are cancelled: who says something else has changed their mind."""


class Command:
    """One command on its way to a decision.

    Attributes:
        id: Number of the command, from 1.
        text: The command as it was received.
        received_s: When it arrived, by ``time.monotonic``.
        deadline_s: Seconds from then that it may take, or None.
        reason: Why it was cancelled; empty while it was not.
    """

    def __init__(
        self,
        number: int,
        text: str,
        deadline_s: float | None,
        on_stage: Callable[[Stage], None] | None,
        on_decision: Callable[[Decision], None] | None,
    ) -> None:
        """Take down a command that arrives now."""
        self.id = number
        self.text = text
        self.received_s = time.monotonic()
        self.deadline_s = deadline_s
        self.on_stage = on_stage
        self.on_decision = on_decision
        self.reason = ""

    def cancel(self, reason: str = CANCELLED) -> None:
        """Ask for the decision CANCELLED; too late once another one is made."""
        self.reason = self.reason or reason

    @property
    def cancelled(self) -> bool:
        """Whether the command was asked to be cancelled."""
        return bool(self.reason)

    @property
    def end_s(self) -> float:
        """When its deadline passes, by ``time.monotonic``."""
        return float("inf") if self.deadline_s is None else self.received_s + self.deadline_s

    def unprocessed(self, status: Status, message: str) -> Decision:
        """Give the decision about it that needed no model."""
        waited_ms = (time.monotonic() - self.received_s) * 1e3
        return Decision(
            text=self.text,
            status=status,
            message=message,
            latency_ms={Stage.QUEUE: waited_ms},
            total_ms=waited_ms,
        )
