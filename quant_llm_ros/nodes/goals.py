"""The action ``understand``: goals in, feedback by stage, one result for each goal."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
import threading
import time
from typing import Any, Protocol

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import RCLError, ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from quant_llm_msgs.action import Understand
from quant_llm_msgs.msg import Decision as DecisionMsg
from quant_llm_ros.command.decision import Stage
from quant_llm_ros.nodes import messages

_CANCELING_LIMIT_S = 0.5
# rclpy sends a goal's result after our part of it has ended, and DDS delivers it later still.
_RESULT_GRACE_S = 0.1


class Ticket(Protocol):
    """A command on its way to a decision, as the goals see it."""

    def cancel(self) -> None:
        """Ask for the decision CANCELLED."""


class Submit(Protocol):
    """Takes a command without waiting for its decision."""

    def __call__(
        self,
        text: str,
        *,
        deadline_s: float | None,
        on_stage: Callable[[Stage], None],
        on_message: Callable[[DecisionMsg], None],
    ) -> Ticket:
        """Submit; the callbacks may come from any thread, even before this returns."""


@dataclasses.dataclass
class _Goal:
    handle: ServerGoalHandle
    accepted_s: float
    ticket: Ticket | None = None
    message: DecisionMsg | None = None
    cancel_wanted: bool = False
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class UnderstandServer:
    """Serves the action without a thread or a coroutine that waits for the model.

    A goal that is accepted becomes a command; only its decision schedules the goal's execution,
    which then finishes at once. The usual way, a coroutine that awaits a future, is resumed by
    polling in rclpy: a future that is set between a poll and its bookkeeping is noticed at the
    next unrelated event only, and every event polls all waiting coroutines.

    The server exists while the node is configured and refuses goals while it is not active, so
    that the goals cancelled by a deactivation still get their results delivered.
    """

    def __init__(self, node: Node, name: str, submit: Submit, is_open: Callable[[], bool]) -> None:
        """Create the server.

        Args:
            node: The node that owns the server.
            name: Name of the action.
            submit: Takes a command; tells its decision exactly once.
            is_open: Whether commands are taken now.
        """
        self._node = node
        self._submit = submit
        self._is_open = is_open
        self._goals: dict[bytes, _Goal] = {}
        # rclpy tells the client that a goal is accepted before it tells us: a cancel can come
        # between the two.
        self._early_cancels: set[bytes] = set()
        self._lock = threading.Lock()
        self._server = ActionServer(
            node,
            Understand,
            name,
            execute_callback=self._finish,
            # Cancels must get through at any time.
            callback_group=ReentrantCallbackGroup(),
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )

    @property
    def pending(self) -> int:
        """Number of goals without a result."""
        return len(self._goals)

    def wait_finished(self, timeout_s: float) -> bool:
        """Wait until every goal has its result; not from the only thread of an executor.

        Returns:
            Whether that happened within ``timeout_s``.
        """
        end_s = time.monotonic() + timeout_s
        while self._goals and time.monotonic() < end_s:
            time.sleep(0.005)
        return not self._goals

    def destroy(self) -> None:
        """Take the action away."""
        time.sleep(_RESULT_GRACE_S)
        # rclpy destroys the server first and then tells the executor, which meanwhile fails to
        # wait for it, again and again. In this order it does not; the second removal is in vain.
        self._node.remove_waitable(self._server)
        with contextlib.suppress(ValueError):
            self._server.destroy()

    def _on_goal(self, goal: Understand.Goal) -> GoalResponse:
        if self._is_open():
            return GoalResponse.ACCEPT
        self._node.get_logger().warning("goal refused: the node is not active")
        return GoalResponse.REJECT

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        goal = _Goal(handle, time.monotonic())
        with self._lock:
            self._goals[_key(handle)] = goal
            goal.cancel_wanted = _key(handle) in self._early_cancels
            self._early_cancels.discard(_key(handle))
        request: Understand.Goal = handle.request
        deadline_s = messages.duration_s(request.deadline)
        self._feedback(goal, Stage.QUEUE)
        ticket = self._submit(
            request.text,
            deadline_s=deadline_s if deadline_s != 0.0 else None,
            on_stage=lambda stage: self._feedback(goal, stage),
            on_message=lambda message: self._on_decision(goal, message),
        )
        with goal.lock:
            goal.ticket = ticket
            decided, cancel_wanted = goal.message is not None, goal.cancel_wanted
        if decided:  # while it was submitted: a stop, a full queue, a command that makes no sense
            self._execute(goal)
        elif cancel_wanted:
            ticket.cancel()

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        with self._lock:
            goal = self._goals.get(_key(handle))
            if goal is None and handle.is_active:
                self._early_cancels.add(_key(handle))
                return CancelResponse.ACCEPT
        if goal is None:
            return CancelResponse.REJECT  # it has its result already
        with goal.lock:
            goal.cancel_wanted = True
            ticket = goal.ticket
        if ticket is not None:
            ticket.cancel()
        return CancelResponse.ACCEPT

    def _feedback(self, goal: _Goal, stage: Stage) -> None:
        elapsed_ms = (time.monotonic() - goal.accepted_s) * 1e3
        goal.handle.publish_feedback(Understand.Feedback(stage=stage.value, elapsed_ms=elapsed_ms))

    def _on_decision(self, goal: _Goal, message: DecisionMsg) -> None:
        with goal.lock:
            goal.message = message
            submitted = goal.ticket is not None
        if submitted:
            self._execute(goal)

    def _execute(self, goal: _Goal) -> None:
        """Let the executor finish a goal that has its decision."""
        try:
            goal.handle.execute()
        except RCLError:
            # A cancel request came between rclpy's look at the state and its change of it; seen
            # now, it makes execute() leave the state alone.
            goal.handle.execute()

    def _finish(self, handle: ServerGoalHandle) -> Understand.Result:
        goal = self._goals[_key(handle)]
        message = goal.message
        assert message is not None  # execution is scheduled by the decision
        try:
            if message.status != DecisionMsg.STATUS_CANCELLED:
                handle.succeed()
            elif self._is_canceling(goal):
                handle.canceled()
            else:  # by a stop or by deactivation: ended by the server, without a client's request
                handle.abort()
        finally:
            del self._goals[_key(handle)]
        return Understand.Result(decision=message)

    def _is_canceling(self, goal: _Goal) -> bool:
        # rclpy changes the goal's state only after the cancel callback has returned, which can be
        # a moment after the decision that this callback has caused.
        end_s = time.monotonic() + (_CANCELING_LIMIT_S if goal.cancel_wanted else 0.0)
        while not goal.handle.is_cancel_requested and time.monotonic() < end_s:
            time.sleep(0.001)
        return bool(goal.handle.is_cancel_requested)


def _key(handle: ServerGoalHandle) -> bytes:
    goal_id: Any = handle.goal_id
    return bytes(goal_id.uuid)
