"""Commands from many threads, one model: a bounded queue, a worker, and stops that overtake."""

from __future__ import annotations

import collections
from collections.abc import Callable
import dataclasses
import itertools
import logging
import threading
import time

from quant_llm_ros.command.conversation import Conversation
from quant_llm_ros.command.decision import Decision, Stage, Status
from quant_llm_ros.command.understander import Understander

_LOG = logging.getLogger(__name__)


class Command:
    """One command on its way to a decision.

    Attributes:
        id: Number of the command, from 1.
        text: The command as it was received.
        received_s: When it arrived, by ``time.monotonic``.
        deadline_s: Seconds from then that it may take, or None.
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
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ask for the decision CANCELLED; too late once another one is made."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether the command was asked to be cancelled."""
        return self._cancelled.is_set()


class CommandService:
    """Queues commands for an understander and answers each exactly once.

    Attributes:
        capacity: Most commands that wait; one more is answered with ERROR at once.
        default_deadline_s: Seconds that a command may take when it brings no deadline; None: any.
        conversation: What was said before, for all commands of the service.
    """

    def __init__(
        self,
        understander: Understander,
        on_decision: Callable[[Command, Decision], None],
        *,
        capacity: int = 16,
        default_deadline_s: float | None = 5.0,
        conversation_s: float = 0.0,
    ) -> None:
        """Start the worker thread.

        Args:
            understander: What decides; the service is its only user until ``close``.
            on_decision: Told every decision, from the worker's or the submitter's thread.
            capacity: Most commands that wait.
            default_deadline_s: Deadline of commands that bring none.
            conversation_s: Seconds for which a command may refer to the one before it.
        """
        self.capacity = capacity
        self.default_deadline_s = default_deadline_s
        self.conversation = Conversation(conversation_s)
        self._understander = understander
        self._on_decision = on_decision
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        # Held while a decision is settled and told. So a stop cannot come between the look at a
        # command's cancellation and the publication of its decision: nothing that was ACCEPTED
        # follows a STOP that was given before it.
        self._settling = threading.RLock()
        self._waiting: collections.deque[Command] = collections.deque()
        self._running: Command | None = None
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="understanding", daemon=True)
        self._worker.start()
        self._overseer = threading.Thread(target=self._expire, name="deadlines", daemon=True)
        self._overseer.start()

    @property
    def pending(self) -> int:
        """Number of commands that wait."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a command is being processed."""
        return self._running is not None

    def submit(
        self,
        text: str,
        *,
        deadline_s: float | None = None,
        on_stage: Callable[[Stage], None] | None = None,
        on_decision: Callable[[Decision], None] | None = None,
    ) -> Command:
        """Take a command without waiting for its decision.

        A stop phrase is answered before this returns, and cancels every command before it.

        Args:
            text: The command.
            deadline_s: Seconds that it may take; None means ``default_deadline_s``.
            on_stage: Told each stage as it begins, from the worker's thread.
            on_decision: Told the decision, before the service's own callback is.
        """
        if deadline_s is None:
            deadline_s = self.default_deadline_s
        with self._changed:
            command = Command(next(self._numbers), text, deadline_s, on_stage, on_decision)
        if self.is_stop(text):
            stop = self._understander.stop_decision(text, received_s=command.received_s)
            with self._settling:
                waiting = self._take_all()
                self.conversation.note(stop)
                self._answer(command, stop)
                for other in waiting:
                    self._answer(
                        other, _without_model(other, Status.CANCELLED, "cancelled by a stop")
                    )
            return command
        with self._changed:
            refusal = (
                "the node is shutting down"
                if self._closed
                else f"queue full: {self.capacity} commands wait already"
                if len(self._waiting) >= self.capacity
                else ""
            )
            if not refusal:
                self._waiting.append(command)
                self._changed.notify_all()
        if refusal:
            self._answer(command, _without_model(command, Status.ERROR, refusal))
        return command

    def is_stop(self, text: str) -> bool:
        """Tell whether ``submit`` would answer a text as a stop, at once."""
        return self._understander.is_stop(text)

    def cancel(self, command: Command) -> None:
        """Cancel a command; one that waits is answered at once."""
        command.cancel()
        with self._changed:
            waiting = command in self._waiting
            if waiting:
                self._waiting.remove(command)
        if waiting:
            self._answer(command, _without_model(command, Status.CANCELLED, "cancelled in queue"))

    def cancel_all(self, reason: str) -> None:
        """Cancel the running command and answer all that wait with CANCELLED."""
        for command in self._take_all():
            self._answer(command, _without_model(command, Status.CANCELLED, reason))

    def close(self, timeout_s: float = 2.0) -> bool:
        """Cancel everything and end the worker.

        Returns:
            Whether the worker ended within ``timeout_s``; while it has not, the understander is
            still in use.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.cancel_all("cancelled by shutdown")
        self._worker.join(timeout_s)
        self._overseer.join(timeout_s)
        return not self._worker.is_alive()

    def _take_all(self) -> list[Command]:
        """Cancel the running command and take away all that wait."""
        with self._changed:
            if self._running is not None:
                self._running.cancel()
            waiting = list(self._waiting)
            self._waiting.clear()
        return waiting

    def _expire(self) -> None:
        """Answer commands whose deadline passes while they wait for the model."""
        while True:
            expired = None
            with self._changed:
                if self._closed:
                    return
                now_s = time.monotonic()
                ends = [
                    (command.received_s + command.deadline_s, command.id, command)
                    for command in self._waiting
                    if command.deadline_s is not None
                ]
                end_s, _, first = min(ends, default=(float("inf"), 0, None))
                if first is None:
                    self._changed.wait()
                elif end_s > now_s:
                    self._changed.wait(end_s - now_s)
                else:
                    expired = first
                    self._waiting.remove(first)
            if expired is not None:
                message = f"no decision within the deadline of {expired.deadline_s:g} s"
                self._answer(expired, _without_model(expired, Status.TIMEOUT, message))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                command = self._running = self._waiting.popleft()
            try:
                decision = self._understander.understand(
                    command.text,
                    before=self.conversation.before(),
                    received_s=command.received_s,
                    deadline_s=command.deadline_s,
                    cancelled=lambda command=command: command.cancelled,  # type: ignore[misc]
                    on_stage=command.on_stage,
                )
            except Exception as error:  # whatever broke, the command gets its answer
                _LOG.exception("command %d broke the understander", command.id)
                decision = _without_model(
                    command, Status.ERROR, f"internal error: {type(error).__name__}: {error}"
                )
            with self._settling:
                if command.cancelled and decision.status is not Status.CANCELLED:
                    # The cancel came after the last look at it inside of the understander.
                    decision = dataclasses.replace(
                        decision,
                        status=Status.CANCELLED,
                        calls=(),
                        confidence=0.0,
                        message="cancelled while it was processed",
                    )
                self.conversation.note(decision)
                self._answer(command, decision)

    def _answer(self, command: Command, decision: Decision) -> None:
        for callback in (command.on_decision, lambda d: self._on_decision(command, d)):
            if callback is None:
                continue
            try:
                callback(decision)
            except Exception:  # a broken listener must not end the worker or rob the others
                _LOG.exception("a listener failed on the decision of command %d", command.id)


def _without_model(command: Command, status: Status, message: str) -> Decision:
    waited_ms = (time.monotonic() - command.received_s) * 1e3
    return Decision(
        text=command.text,
        status=status,
        message=message,
        latency_ms={Stage.QUEUE: waited_ms},
        total_ms=waited_ms,
    )
