"""The frame of a lifecycle node: four steps to fill in, and what happens when one fails."""

from __future__ import annotations

import abc
from collections.abc import Callable
import time
import traceback
from typing import Any

from rclpy.action.server import RCLError
from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from quant_llm_ros.errors import QuantLlmError

_SUCCESS = TransitionCallbackReturn.SUCCESS
_FAILURE = TransitionCallbackReturn.FAILURE
_ERROR = TransitionCallbackReturn.ERROR


class EndingError(Exception):
    """The process is about to end, so that a step is not worth completing; not logged."""


class ManagedNode(LifecycleNode, abc.ABC):
    """A lifecycle node of four steps; a failing one is logged and undone.

    rclpy swallows the exceptions of lifecycle callbacks; here they end up in the node's log.
    """

    def __init__(self, name: str, **options: Any) -> None:
        """Create the node, unconfigured.

        Args:
            name: Its name.
            **options: For ``rclpy.lifecycle.LifecycleNode``.
        """
        self._services_group = ReentrantCallbackGroup()
        super().__init__(name, **options)
        self._loaded = False
        self._ending = False
        self._finalized = False
        # A step does something that takes long, cannot be interrupted and owes nobody an answer.
        self._opening = False

    @property
    def default_callback_group(self) -> CallbackGroup:
        """Group of the lifecycle and parameter services: none of them waits for another.

        rclpy's own default lets one callback run at a time, so that a service call that loads a
        model for seconds would hold up every other lifecycle and parameter call.
        """
        return self._services_group

    @abc.abstractmethod
    def load(self) -> None:
        """Configure: read files, make publishers and clients."""

    @abc.abstractmethod
    def open(self) -> None:
        """Activate: begin to take input; the publishers work already."""

    @abc.abstractmethod
    def close(self) -> None:
        """Deactivate: take no more input; the publishers still work."""

    @abc.abstractmethod
    def free(self) -> None:
        """Clean up: give back whatever ``load`` made, as far as it got."""

    def autostart(self) -> None:
        """Configure and activate; a failure leaves the node up, with what to do in its log."""
        if self.trigger_configure() == _SUCCESS and self.trigger_activate() == _SUCCESS:
            return
        if not self._ending:
            name = self.get_fully_qualified_name()
            self.get_logger().error(
                "autostart failed, the node stays up: correct what is wrong, for a parameter "
                f"with `ros2 param set {name} <parameter> <value>`, then `ros2 lifecycle set "
                f"{name} configure` and `ros2 lifecycle set {name} activate`"
            )

    def end(self, timeout_s: float) -> bool:
        """Finish the lifecycle.

        Args:
            timeout_s: How long to wait for a transition that is under way.

        Returns:
            Whether that is done; false at once while a step cannot be interrupted.
        """
        self._ending = True
        end_s = time.monotonic() + timeout_s
        while not self._finalized and not self._opening and time.monotonic() < end_s:
            try:
                self.trigger_shutdown()
            except RCLError:
                time.sleep(0.02)  # a transition is under way in another thread
        return self._finalized

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load; what a failure leaves is freed."""
        self._loaded = True  # from here on the loading parameters must hold still
        result = self._guarded("configure", self.load, _FAILURE)
        if result != _SUCCESS:
            self._free()
            return result
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the inputs."""
        # The publishers first: input may come as soon as there is a subscription.
        result = super().on_activate(state)
        if result == _SUCCESS:
            result = self._guarded("activate", self.open, _FAILURE)
            if result != _SUCCESS:
                self.close()
                super().on_deactivate(state)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the inputs."""
        result = self._guarded("deactivate", self.close, _ERROR)
        # The publishers last: what closing has to say must get out.
        return super().on_deactivate(state) if result == _SUCCESS else result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free what was loaded."""
        result = self._guarded("clean up", self._free, _ERROR)
        return super().on_cleanup(state) if result == _SUCCESS else result

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close and free."""
        result = self._guarded("shut down", self.close, _SUCCESS)
        self._guarded("shut down", self._free, _SUCCESS)
        self._finalized = True
        return result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop everything and go back to unconfigured, from where a new start is possible."""
        self.get_logger().error("recovering from the error: back to unconfigured")
        self._guarded("recover", self.close, _SUCCESS)
        return self._guarded("recover", self._free, _FAILURE)

    def _free(self) -> None:
        self.free()
        self._loaded = False

    def _guarded(
        self, action: str, run: Callable[[], None], on_exception: TransitionCallbackReturn
    ) -> TransitionCallbackReturn:
        try:
            run()
        except EndingError:
            return on_exception
        except (QuantLlmError, OSError) as error:
            self.get_logger().error(f"cannot {action}: {error}")
            return on_exception
        except Exception as error:
            self.get_logger().error(
                f"cannot {action}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
            )
            return on_exception
        return _SUCCESS
