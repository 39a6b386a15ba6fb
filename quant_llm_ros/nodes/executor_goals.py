"""Tasks that send a goal to an action: the robot's own skills, and Nav2."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import threading
from typing import Any

from action_msgs.msg import GoalStatus
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node

from quant_llm_msgs.action import ExecuteSkill
from quant_llm_ros.command.decision import SkillCall
from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.execution.report import Progress, State
from quant_llm_ros.execution.settings import Settings
from quant_llm_ros.execution.tasks import Task
from quant_llm_ros.geometry import Pose, quaternion_of
from quant_llm_ros.nodes import messages

NAVIGATE = "navigate_to_pose"


@dataclasses.dataclass(frozen=True)
class Goal:
    """What an action is asked to do, and how its answers are read.

    Attributes:
        message: The goal message.
        limit_s: Longest time that it may take, s.
        read_result: Gives success and a message of a result message.
        read_feedback: Gives progress of a feedback message.
    """

    message: Any
    limit_s: float
    read_result: Callable[[Any], tuple[bool, str]]
    read_feedback: Callable[[Any], Progress]


class GoalTask(Task):
    """One goal of an action, from looking for its server to its result."""

    def __init__(self, client: ActionClient, name: str, goal: Goal, server_wait_s: float) -> None:
        """Prepare the goal.

        Args:
            client: Client of the action.
            name: Name of the action, for messages.
            goal: The goal.
            server_wait_s: How long to look for the server, s.
        """
        self._client = client
        self._name = name
        self._goal = goal
        self._server_wait_s = server_wait_s
        self._start_s: float | None = None
        self._sent: Any = None
        self._handle: Any = None
        self._result: Any = None
        self._progress = Progress()

    def step(self, now_s: float) -> Progress:
        """Look how far the goal is."""
        if self._start_s is None:
            self._start_s = now_s
        ready = self._client.server_is_ready()
        if self._sent is None:
            return self._send(ready, now_s - self._start_s)
        if self._handle is None and self._sent.done():
            self._handle = self._sent.result()
            if not self._handle.accepted:
                return self._ended(State.FAILED, f"the action {self._name} refused the goal")
            self._result = self._handle.get_result_async()
        if self._result is not None and self._result.done():
            return self._read(self._result.result())
        if not ready:
            return self._ended(State.FAILED, f"the server of the action {self._name} is gone")
        if now_s - self._start_s > self._goal.limit_s:
            self.cancel()
            return self._ended(State.TIMEOUT, f"not done after {self._goal.limit_s:g} s")
        return self._progress

    def cancel(self) -> None:
        """Cancel the goal, also one whose acceptance is still under way."""
        if self._sent is not None:
            self._sent.add_done_callback(_cancel_goal)

    def _send(self, ready: bool, waited_s: float) -> Progress:
        if ready:
            self._sent = self._client.send_goal_async(self._goal.message, self._on_feedback)
        elif waited_s >= self._server_wait_s:
            return self._ended(
                State.UNSUPPORTED,
                f"nothing serves the action {self._name} (waited {self._server_wait_s:g} s)",
            )
        return self._progress

    def _on_feedback(self, message: Any) -> None:
        self._progress = self._goal.read_feedback(message.feedback)

    def _read(self, response: Any) -> Progress:
        success, text = self._goal.read_result(response.result)
        if response.status == GoalStatus.STATUS_SUCCEEDED and success:
            return Progress(1.0, State.SUCCEEDED, text)
        if response.status == GoalStatus.STATUS_CANCELED:
            text = text or f"the server of the action {self._name} cancelled the goal"
        return self._ended(State.FAILED, text or f"the action {self._name} failed")

    def _ended(self, state: State, message: str) -> Progress:
        return Progress(self._progress.share, state, message)


def _cancel_goal(sent: Any) -> None:
    handle = sent.result()
    if handle is not None and handle.accepted:
        handle.cancel_goal_async()


class _Client(ActionClient):
    """An action client that can be made while the executor spins.

    rclpy shows a client to the executor a moment before it gives it its lock (Kilted), and the
    executor asks for that lock.
    """

    _lock = threading.Lock()


class Actions:
    """The clients of all actions, made when first needed."""

    def __init__(self, node: Node, settings: Callable[[], Settings], group: CallbackGroup) -> None:
        """Prepare.

        Args:
            node: Owner of the clients.
            settings: Gives the time limits.
            group: Callback group of the clients.
        """
        self._node = node
        self._settings = settings
        self._group = group
        self._clients: dict[str, ActionClient] = {}

    def skill(self, call: SkillCall) -> Task:
        """Make the task of a skill that the robot's own code carries out."""
        settings = self._settings()
        name = f"skill/{call.skill}"
        goal = Goal(
            ExecuteSkill.Goal(call=messages.call_to_msg(call)),
            settings.skill_timeout_s,
            lambda result: (result.success, result.message),
            lambda f: Progress(min(1.0, max(0.0, f.progress)), message=f.text),
        )
        return GoalTask(self._client(ExecuteSkill, name), name, goal, settings.server_wait_s)

    def navigate(self, pose: Pose) -> Task:
        """Make the task of a drive by Nav2 (not run with Nav2).

        Raises:
            QuantLlmError: nav2_msgs is not installed.
        """
        kind = navigate_to_pose()
        if kind is None:
            raise QuantLlmError("nav2_msgs is not installed; set navigation to goal_pose")
        settings = self._settings()
        far = _Farthest()
        goal = Goal(
            kind.Goal(pose=self.pose_stamped(pose)),
            settings.go_to_timeout_s,
            lambda result: (True, getattr(result, "error_msg", "")),
            lambda feedback: far.progress(feedback.distance_remaining),
        )
        return GoalTask(self._client(kind, NAVIGATE), NAVIGATE, goal, settings.server_wait_s)

    def pose_stamped(self, pose: Pose) -> PoseStamped:
        """Give a pose of a known place as a message."""
        message = PoseStamped()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.header.frame_id = self._settings().map_frame
        message.pose.position.x, message.pose.position.y = pose.x, pose.y
        orientation = message.pose.orientation
        orientation.x, orientation.y, orientation.z, orientation.w = quaternion_of(pose.yaw)
        return message

    def destroy(self) -> None:
        """Take the clients away."""
        for client in self._clients.values():
            client.destroy()
        self._clients.clear()

    def _client(self, kind: Any, name: str) -> ActionClient:
        if name not in self._clients:
            self._clients[name] = _Client(self._node, kind, name, callback_group=self._group)
        return self._clients[name]


class _Farthest:
    """Progress of Nav2, which tells only what remains."""

    def __init__(self) -> None:
        self._most_m = 0.0

    def progress(self, left_m: float) -> Progress:
        self._most_m = max(self._most_m, left_m)
        share = 1.0 - left_m / self._most_m if self._most_m > 0.0 else 0.0
        return Progress(share, message=f"{left_m:.1f} m left")


def navigate_to_pose() -> Any:
    """Give the type of Nav2's action NavigateToPose, or None where nav2_msgs is not installed."""
    try:
        from nav2_msgs.action import NavigateToPose
    except ImportError:
        return None
    return NavigateToPose
