"""Base class of the robot's own skills: one class for each, served as an action."""

from __future__ import annotations

import abc
from collections.abc import Mapping
import threading
import traceback

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from quant_llm_msgs.action import ExecuteSkill
from quant_llm_ros.command.decision import ArgumentValue
from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.nodes import messages


class SkillFailedError(QuantLlmError):
    """A skill could not be carried out; the message says why, for a person to read."""


class Job:
    """One call that is being carried out."""

    def __init__(self, handle: ServerGoalHandle) -> None:
        """Take the goal."""
        self._handle = handle

    @property
    def is_cancelled(self) -> bool:
        """Whether to give up: a stop or a newer decision came."""
        return bool(self._handle.is_cancel_requested)

    def feedback(self, progress: float, text: str = "") -> None:
        """Tell how far it is.

        Args:
            progress: Share of the work that is done, 0 to 1.
            text: What is being done now, for a person to read.
        """
        message = ExecuteSkill.Feedback(progress=float(progress), text=messages.sendable(text))
        self._handle.publish_feedback(message)


class SkillServer(abc.ABC):
    """Serves the action ``skill/<name>``; subclasses carry the skill out.

    Needs an executor with several threads: ``carry_out`` occupies one, and a cancel needs another.
    Calls are carried out one at a time.

    Attributes:
        skill: Name of the skill as in the registry; set by the subclass.
    """

    skill: str

    def __init__(self, node: Node) -> None:
        """Begin to serve.

        Args:
            node: Owner of the action.
        """
        self.node = node
        self._turn = threading.Lock()
        self._server = ActionServer(
            node,
            ExecuteSkill,
            f"skill/{self.skill}",
            execute_callback=self._execute,
            callback_group=ReentrantCallbackGroup(),
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )

    @abc.abstractmethod
    def carry_out(self, arguments: Mapping[str, ArgumentValue], job: Job) -> str:
        """Carry the skill out.

        Args:
            arguments: Values by name, as in the registry: quantities are floats with the unit in
                the name, everything else is a string.
            job: For feedback; tells when to give up, which means to return soon.

        Returns:
            What was done, for a person to read; may be empty.

        Raises:
            SkillFailedError: It could not be done.
        """

    def destroy(self) -> None:
        """Serve no more."""
        self._server.destroy()

    def _execute(self, handle: ServerGoalHandle) -> ExecuteSkill.Result:
        job = Job(handle)
        with self._turn:
            try:
                arguments = messages.arguments_to_dict(handle.request.call.arguments)
                text = "" if job.is_cancelled else self.carry_out(arguments, job)
            except SkillFailedError as error:
                return self._failed(handle, str(error))
            except Exception as error:  # a bug in the skill is an answer too, not a silence
                self.node.get_logger().error(f"{self.skill}:\n{traceback.format_exc()}")
                return self._failed(handle, f"{type(error).__name__}: {error}")
        if job.is_cancelled:
            handle.canceled()
            return ExecuteSkill.Result(success=False, message="cancelled")
        handle.succeed()
        return ExecuteSkill.Result(success=True, message=messages.sendable(text))

    def _failed(self, handle: ServerGoalHandle, message: str) -> ExecuteSkill.Result:
        handle.abort()
        return ExecuteSkill.Result(success=False, message=messages.sendable(message))
