"""The lifecycle node that turns commands into decisions."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from std_msgs.msg import String

from quant_llm_msgs.msg import BundleInfo
from quant_llm_msgs.msg import KnownNames as KnownNamesMsg
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.nodes import messages, qos
from quant_llm_ros.nodes.dispatcher import Dispatcher
from quant_llm_ros.nodes.goals import UnderstandServer
from quant_llm_ros.nodes.managed import EndingError, ManagedNode
from quant_llm_ros.nodes.parameter_table import ParameterTable
from quant_llm_ros.nodes.parameters import Settings, SPECS

NODE_NAME = "understanding"

_GOALS_LIMIT_S = 1.0


class UnderstandingNode(ManagedNode):
    """Understands text commands; the model runs in a thread of its own, never in the executor's.

    States: *unconfigured* holds no model; *configure* verifies, loads and self-tests the bundle
    and publishes ``bundle``; *active* takes commands from the topic ``command`` and the action
    ``understand`` and publishes a ``decision`` for each, and ``latency``; *deactivate* answers
    whatever is in flight with CANCELLED; *cleanup* frees the model. A configuration that fails
    leaves the node unconfigured with the reason in its log.

    Needs an executor with several threads: transitions that take long occupy one.
    """

    def __init__(self, **options: Any) -> None:
        """Declare the parameters; nothing is loaded yet.

        Args:
            **options: For ``rclpy.lifecycle.LifecycleNode``.
        """
        super().__init__(NODE_NAME, **options)
        # Commands keep their order, so one at a time; taking one never waits for the model.
        self._command_group = MutuallyExclusiveCallbackGroup()
        self._understander: Understander | None = None
        self._dispatcher: Dispatcher | None = None
        self._goals: UnderstandServer | None = None
        self._bundle_publisher: Publisher | None = None
        self._subscription: Subscription | None = None
        self._names_subscription: Subscription | None = None
        self._table: ParameterTable[Settings] = ParameterTable(
            self, SPECS, Settings, is_loaded=lambda: self._loaded, on_change=self._apply
        )

    @property
    def wants_autostart(self) -> bool:
        """Whether the node shall configure and activate itself."""
        return self._table.settings.autostart

    # The steps of the lifecycle.

    def load(self) -> None:
        """Verify, load and self-test the bundle; publish what is served."""
        self._table.require_valid()
        settings = self._table.settings
        if not settings.bundle:
            raise QuantLlmError(
                "the parameter 'bundle' is empty; set it to the folder of a bundle (make one "
                "with `make bundle` or `quant_llm quantize`)"
            )
        path = os.path.expanduser(settings.bundle)
        skills = os.path.expanduser(settings.skills) or None
        self.get_logger().info(f"loading the bundle {path} ...")
        self._opening = True
        try:
            if self._ending:
                raise EndingError
            self._understander = understander = Understander.open(
                path,
                skills,
                threads=settings.threads,
                provider=settings.provider,
                allow_fallback=settings.allow_fallback,
                selftest_commands=settings.selftest_commands,
                max_command_chars=settings.max_command_chars,
                min_confidence=settings.min_confidence,
            )
            _require_accuracy(understander, settings.min_accuracy)
            if self._ending:
                raise EndingError
        finally:
            self._opening = False
        stamp = self.get_clock().now().to_msg()
        info = messages.bundle_to_msg(understander, stamp=stamp)
        self._dispatcher = dispatcher = Dispatcher(self)
        self._goals = UnderstandServer(
            self, "understand", dispatcher.submit, lambda: dispatcher.is_open
        )
        self._names_subscription = self.create_subscription(
            KnownNamesMsg,
            "known_names",
            lambda message: self._know(understander, message),
            qos.KNOWN_NAMES,
            callback_group=self._command_group,
        )
        # Not a lifecycle publisher: what is loaded is of interest before activation.
        self._bundle_publisher = self.create_publisher(BundleInfo, "bundle", qos.BUNDLE)
        self._bundle_publisher.publish(info)
        self.get_logger().info(
            f"bundle '{info.name}' loaded in {info.load_ms / 1e3:.1f} s: {info.model}, "
            f"{info.size_bytes / 1e6:.0f} MB, {len(info.skills)} skills, {info.runtime} on "
            f"{info.provider} with {settings.threads} threads; self-test: relative error "
            f"{info.selftest_relative_error:.2g}, "
            + (
                str(understander.decided)
                if understander.decided is not None
                else "no decisions compared (none in the bundle, or other skills than its own)"
            )
        )

    def open(self) -> None:
        """Open the inputs."""
        understander, dispatcher = self._understander, self._dispatcher
        assert understander is not None
        assert dispatcher is not None
        dispatcher.open(understander, self._table.settings)
        self._subscription = self.create_subscription(
            String,
            "command",
            lambda message: dispatcher.submit(message.data),
            qos.COMMAND,
            callback_group=self._command_group,
        )
        self.get_logger().info("ready for commands")

    def close(self) -> None:
        """Close the inputs; whatever is in flight gets the decision CANCELLED."""
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._dispatcher is not None:
            self._dispatcher.close()
        if self._goals is not None and not self._goals.wait_finished(_GOALS_LIMIT_S):
            self.get_logger().warning(f"{self._goals.pending} goals remain without a result")

    def free(self) -> None:
        """Free the model."""
        if self._dispatcher is not None:
            self._dispatcher.destroy()
            self._dispatcher = None
        if self._goals is not None:
            self._goals.destroy()
            self._goals = None
        if self._names_subscription is not None:
            self.destroy_subscription(self._names_subscription)
            self._names_subscription = None
        if self._bundle_publisher is not None:
            self.destroy_publisher(self._bundle_publisher)
            self._bundle_publisher = None
        understander, self._understander = self._understander, None
        if understander is not None:
            understander.close()
            del understander
            _return_memory()

    def _know(self, understander: Understander, message: KnownNamesMsg) -> None:
        """Take over names of places and things."""
        try:
            places = messages.known_names_from_msg(message.places)
            objects = messages.known_names_from_msg(message.objects)
        except ValueError as error:
            self.get_logger().error(f"known_names: {error}; the names known before stay")
            return
        understander.know(places=places, objects=objects)
        self.get_logger().info(
            f"knows {len(places.names)} places and {len(objects.names)} things by name"
        )

    def _apply(self, settings: Settings) -> None:
        """Take over parameters that changed at run time."""
        if self._understander is not None:
            self._understander.min_confidence = settings.min_confidence
        if self._dispatcher is not None:
            self._dispatcher.apply(settings)


def _require_accuracy(understander: Understander, least: float) -> None:
    """Refuse a bundle that was measured to be worse, or not at all."""
    bundle = understander.bundle
    if least <= 0.0 or bundle is None:
        return
    accuracy = bundle.figures.get("accuracy")
    if accuracy is None:
        raise QuantLlmError(
            f"{bundle.path}: was never evaluated, but min_accuracy is {least:g}; build it by a "
            "recipe with `accuracy`, or set min_accuracy to 0"
        )
    if accuracy < least:
        raise QuantLlmError(
            f"{bundle.path}: got {accuracy:.1%} of its own evaluation right, less than "
            f"min_accuracy, {least:.1%}; use a better bundle or lower min_accuracy"
        )


def _return_memory() -> None:
    """Give freed memory back to the system, which other programs of the robot can use."""
    gc.collect()
    # glibc keeps what a program frees: 200 MB after a model of 90 MB.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
