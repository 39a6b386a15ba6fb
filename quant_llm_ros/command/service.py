"""Commands from many threads, one model: a bounded queue, a worker, and stops that overtake."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
import dataclasses
import itertools
import logging
import threading
import time

from quant_llm_ros.command import text as reading
from quant_llm_ros.command.conversation import Conversation
from quant_llm_ros.command.decision import Decision, Stage, Status
from quant_llm_ros.command.pending import Command, QueuePolicy
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.engine.cpus import keep_to
from quant_llm_ros.errors import EngineError

_LOG = logging.getLogger(__name__)

# By so much the watch itself may wake up late before the whole process is taken to have stood
# still, as after SIGSTOP: then the model had no time either.
_LATE_S = 1.0
_QUOTED_CHARS = 60


@dataclasses.dataclass(frozen=True)
class Load:
    """What a service does now.

    Attributes:
        waiting: Commands that wait for the model.
        busy: Whether a command is being processed.
        silent_s: Seconds since the model's last sign of life in that command; 0 when not busy.
        stalled: Why nothing is decided any more; empty while all is well.
    """

    waiting: int = 0
    busy: bool = False
    silent_s: float = 0.0
    stalled: str = ""


class CommandService:
    """Queues commands for an understander and answers each exactly once.

    A model that gives no sign of life for ``stall_timeout_s`` within one pass has *stalled*: what
    is in flight and waits is answered with ERROR, and so is what comes later, except for stops.
    A thread inside of a library cannot be ended from outside. It is left behind, and closes its
    understander if it ever comes back.

    Attributes:
        capacity: Most commands that wait; one more is answered with ERROR at once.
        policy: What a new command does to those before it.
        default_deadline_s: Seconds that a command may take when it brings no deadline; None: any.
        stall_timeout_s: Longest time of one pass of the model.
        conversation: What was said before, for all commands of the service.
        worker: The thread that runs the model.
    """

    def __init__(
        self,
        understander: Understander,
        on_decision: Callable[[Command, Decision], None],
        *,
        capacity: int = 16,
        policy: QueuePolicy = QueuePolicy.FIFO,
        default_deadline_s: float | None = 5.0,
        conversation_s: float = 0.0,
        stall_timeout_s: float = float("inf"),
        on_stall: Callable[[str], None] | None = None,
        cpus: Sequence[int] = (),
    ) -> None:
        """Start the worker thread.

        Args:
            understander: What decides; the service is its only user until ``close``.
            on_decision: Told every decision, from any of the service's or the submitter's threads.
            capacity: Most commands that wait.
            policy: What a new command does to those before it.
            default_deadline_s: Deadline of commands that bring none.
            conversation_s: Seconds for which a command may refer to the one before it.
            stall_timeout_s: Longest time of one pass of the model.
            on_stall: Told once, with the reason, after all commands of a stalled model were
                answered.
            cpus: CPU cores that the worker keeps to, see ``engine.cpus``; none: as the system
                likes.
        """
        self.capacity = capacity
        self.policy = policy
        self.default_deadline_s = default_deadline_s
        self.stall_timeout_s = stall_timeout_s
        self.conversation = Conversation(conversation_s)
        self._understander = understander
        self._on_decision = on_decision
        self._on_stall = on_stall
        self._cpus = cpus
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        # Held while a decision is settled and told. So a stop cannot come between the look at a
        # command's cancellation and the publication of its decision: nothing that was ACCEPTED
        # follows a STOP that was given before it. Always taken before the lock of _changed.
        self._settling = threading.RLock()
        self._waiting: collections.deque[Command] = collections.deque()
        self._running: Command | None = None
        self._running_on: Understander | None = None
        self._alive_s = 0.0
        self._stalled = ""
        self._left_behind = False
        self._closed = False
        self.worker = threading.Thread(target=self._work, name="understanding", daemon=True)
        self.worker.start()
        self._overseer = threading.Thread(target=self._oversee, name="overseer", daemon=True)
        self._overseer.start()

    @property
    def pending(self) -> int:
        """Number of commands that wait."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a command is being processed."""
        return self._running is not None

    @property
    def load(self) -> Load:
        """What it does now."""
        with self._changed:
            busy = self._running is not None
            silent_s = time.monotonic() - self._alive_s if busy else 0.0
            return Load(len(self._waiting), busy, silent_s, self._stalled)

    @property
    def hung_in(self) -> Understander | None:
        """The understander that the worker was left behind in; it closes it when it comes back."""
        return self._running_on if self._left_behind else None

    def submit(
        self,
        text: str,
        *,
        deadline_s: float | None = None,
        on_stage: Callable[[Stage], None] | None = None,
        on_decision: Callable[[Decision], None] | None = None,
    ) -> Command:
        """Take a command without waiting for its decision.

        A stop phrase is answered before this returns, and cancels every command before it. So does
        any other command under ``LATEST_WINS``, unless it has no words: recognizers send such.

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
            understander = self._understander
        if understander.is_stop(text):
            stop = understander.stop_decision(text, received_s=command.received_s)
            with self._settling:
                waiting = self._take_all("cancelled by a stop")
                self.conversation.note(stop)
                self._answer(command, stop)
                self._answer_cancelled(waiting)
            return command
        replaced: list[Command] = []
        with self._changed:
            if self.policy is QueuePolicy.LATEST_WINS and reading.spoken_words(text):
                replaced = self._take_all(f"replaced by the newer command {_quoted(text)}")
            refusal = self._refusal()
            if not refusal:
                self._waiting.append(command)
                self._changed.notify_all()
        self._answer_cancelled(replaced)
        if refusal:
            self._answer(command, command.unprocessed(Status.ERROR, refusal))
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
            self._answer(command, command.unprocessed(Status.CANCELLED, "cancelled in queue"))

    def replace(self, understander: Understander) -> bool:
        """Decide with another understander from the next command on.

        A command that is being processed is finished by the old one, which this waits for.

        Returns:
            Whether the old one is free, and the caller's to close; false if the worker hangs in
            it.
        """
        with self._changed:
            old, self._understander = self._understander, understander
            self._changed.wait_for(lambda: self._running_on is not old or self._left_behind)
            return self._running_on is not old

    def close(self, timeout_s: float = 2.0) -> bool:
        """Cancel everything and end the worker.

        Returns:
            Whether the worker ended within ``timeout_s``. If it has not, its command is answered
            all the same, and the understander is in use: it is closed when the worker comes back.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._answer_cancelled(self._take_all("cancelled by shutdown"))
        if not self._left_behind:
            self.worker.join(timeout_s)
            self._leave_behind(Status.CANCELLED, "cancelled by shutdown", self._running)
        if threading.current_thread() is not self._overseer:
            self._overseer.join(timeout_s)
        return not self._left_behind

    def _refusal(self) -> str:
        """Say why no command can be taken now; empty: it can."""
        if self._closed:
            return "the node is shutting down"
        if self._stalled:
            return self._stalled
        if len(self._waiting) >= self.capacity:
            return f"queue full: {self.capacity} commands wait already"
        return ""

    def _take_all(self, reason: str) -> list[Command]:
        """Cancel the running command and take away all that wait, which are then to answer."""
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
            for command in (self._running, *waiting):
                if command is not None:
                    command.cancel(reason)
        return waiting

    def _oversee(self) -> None:
        """Answer commands whose deadline passes while they wait, and those of a stalled model."""
        while True:
            expired = stalled = None
            with self._changed:
                if self._closed or self._left_behind:
                    return
                now_s = time.monotonic()
                first = min(self._waiting, key=lambda c: (c.end_s, c.id), default=None)
                end_s = first.end_s if first is not None else float("inf")
                stall_s = float("inf")
                if self._running is not None:
                    stall_s = self._alive_s + self.stall_timeout_s
                if now_s > stall_s + _LATE_S:
                    self._alive_s = now_s
                elif now_s >= stall_s:
                    stalled = self._running
                elif first is not None and now_s >= end_s:
                    expired = first
                    self._waiting.remove(first)
                else:
                    left_s = min(end_s, stall_s) - now_s
                    self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
            if expired is not None:
                message = f"no decision within the deadline of {expired.deadline_s:g} s"
                self._answer(expired, expired.unprocessed(Status.TIMEOUT, message))
            if stalled is not None:
                self._give_up(stalled)

    def _give_up(self, command: Command) -> None:
        """Answer everything, the model having stalled in a command."""
        reason = f"the model stalled: no sign of life for {self.stall_timeout_s:g} s"
        if not self._leave_behind(Status.ERROR, reason, command):
            return
        with self._changed:
            self._stalled = reason
            waiting = list(self._waiting)
            self._waiting.clear()
        for other in waiting:
            self._answer(other, other.unprocessed(Status.ERROR, reason))
        if self._on_stall is not None:
            self._on_stall(reason)

    def _leave_behind(self, status: Status, message: str, command: Command | None) -> bool:
        """Go on without the worker, if it still runs a command, which is answered here."""
        with self._settling:
            with self._changed:
                if command is None or self._running is not command:
                    return False
                self._left_behind = True
                self._changed.notify_all()
            self._answer(command, command.unprocessed(status, message))
        return True

    def _work(self) -> None:
        try:
            keep_to(self._cpus)
        except EngineError as error:  # they were there when the model was loaded
            _LOG.error("%s; the model goes on wherever it can", error)
        served = self._understander
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                command = self._running = self._waiting.popleft()
                understander = self._running_on = self._understander
                self._alive_s = time.monotonic()
                self._changed.notify_all()
            if understander.skills.sha256 != served.skills.sha256:
                self.conversation.clear()  # its answers name skills that may not exist any more
            served = understander
            decision = self._decide(command, understander)
            with self._settling:
                with self._changed:
                    if self._left_behind:
                        break
                    self._running = self._running_on = None
                    self._changed.notify_all()
                if command.cancelled and decision.status is not Status.CANCELLED:
                    # The cancel came after the last look at it inside of the understander.
                    decision = dataclasses.replace(
                        decision, status=Status.CANCELLED, calls=(), confidence=0.0
                    )
                if command.cancelled:
                    decision = dataclasses.replace(decision, message=command.reason)
                self.conversation.note(decision)
                self._answer(command, decision)
            try:
                understander.learn()  # now that nobody waits for it
            except Exception:  # it only makes later commands faster
                _LOG.exception("nothing was learned from command %d", command.id)
        understander.close()

    def _decide(self, command: Command, understander: Understander) -> Decision:
        def cancelled() -> bool:  # asked before every pass
            self._alive_s = time.monotonic()
            return command.cancelled or self._left_behind

        def on_stage(stage: Stage) -> None:
            self._alive_s = time.monotonic()
            if command.on_stage is not None and not self._left_behind:
                command.on_stage(stage)

        try:
            return understander.understand(
                command.text,
                before=self.conversation.before(),
                received_s=command.received_s,
                deadline_s=command.deadline_s,
                cancelled=cancelled,
                on_stage=on_stage,
            )
        except Exception as error:  # whatever broke, the command gets its answer
            _LOG.exception("command %d broke the understander", command.id)
            return command.unprocessed(
                Status.ERROR, f"internal error: {type(error).__name__}: {error}"
            )

    def _answer_cancelled(self, commands: list[Command]) -> None:
        for command in commands:
            self._answer(command, command.unprocessed(Status.CANCELLED, command.reason))

    def _answer(self, command: Command, decision: Decision) -> None:
        for callback in (command.on_decision, lambda d: self._on_decision(command, d)):
            if callback is None:
                continue
            try:
                callback(decision)
            except Exception:  # a broken listener must not end the worker or rob the others
                _LOG.exception("a listener failed on the decision of command %d", command.id)


def _quoted(text: str) -> str:
    shown = " ".join(text.split())
    return repr(shown if len(shown) <= _QUOTED_CHARS else f"{shown[:_QUOTED_CHARS]}...")
