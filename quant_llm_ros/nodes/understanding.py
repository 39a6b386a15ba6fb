"""The lifecycle node that turns commands into decisions."""

from __future__ import annotations

import threading
import traceback
from typing import Any

from rclpy.action.server import RCLError
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.publisher import Publisher
from rclpy.service import Service
from rclpy.subscription import Subscription
from std_msgs.msg import String

from quant_llm_msgs.msg import BundleInfo
from quant_llm_msgs.msg import KnownNames as KnownNamesMsg
from quant_llm_msgs.srv import LoadBundle
from quant_llm_ros.command.names import KnownNames
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.errors import EngineError, QuantLlmError
from quant_llm_ros.nodes import messages, qos
from quant_llm_ros.nodes.diagnostics import Diagnostics
from quant_llm_ros.nodes.dispatcher import Dispatcher
from quant_llm_ros.nodes.goals import UnderstandServer
from quant_llm_ros.nodes.health import Health, Recently, Snapshot, statuses
from quant_llm_ros.nodes.loading import open_understander, return_memory
from quant_llm_ros.nodes.managed import EndingError, ManagedNode
from quant_llm_ros.nodes.parameter_table import ParameterTable
from quant_llm_ros.nodes.parameters import Settings, SPECS

NODE_NAME = "understanding"

_GOALS_LIMIT_S = 1.0
# A thread that hangs in the model cannot be ended and holds the model's memory, a few hundred MB.
_MOST_HUNG = 3


class UnderstandingNode(ManagedNode):
    """Understands text commands; the model runs in a thread of its own, never in the executor's.

    States: *unconfigured* holds no model; *configure* verifies, loads and self-tests the bundle
    and publishes ``bundle``; *active* takes commands from the topic ``command`` and the action
    ``understand`` and publishes a ``decision`` for each, ``latency`` and ``heartbeat``;
    *deactivate* answers whatever is in flight with CANCELLED; *cleanup* frees the model. A
    configuration that fails leaves the node unconfigured with the reason in its log and in
    ``/diagnostics``, which is published in every state.

    A model that stalls is an error of the lifecycle: the node goes back to unconfigured, and with
    ``autostart`` up again.

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
        # Held while what is served changes, never while it is loaded or used.
        self._lock = threading.RLock()
        self._loading = threading.Lock()
        self._understander: Understander | None = None
        self._known: tuple[KnownNames, KnownNames] | None = None
        self._dispatcher: Dispatcher | None = None
        self._goals: UnderstandServer | None = None
        self._bundle_publisher: Publisher | None = None
        self._subscription: Subscription | None = None
        self._names_subscription: Subscription | None = None
        self._load_service: Service | None = None
        self._hung: list[threading.Thread] = []
        self._stalls = 0
        self._recently = Recently()
        self._table: ParameterTable[Settings] = ParameterTable(
            self, SPECS, Settings, is_loaded=lambda: self._loaded, on_change=self._apply
        )
        self._diagnostics = Diagnostics(self, self._health)

    @property
    def wants_autostart(self) -> bool:
        """Whether the node shall configure and activate itself."""
        return self._table.settings.autostart

    def end(self, timeout_s: float) -> bool:
        """Finish the lifecycle.

        Args:
            timeout_s: How long to wait for a transition that is under way.

        Returns:
            Whether that is done, and no thread hangs in the model.
        """
        return super().end(timeout_s) and not self._hanging()

    # The steps of the lifecycle.

    def load(self) -> None:
        """Verify, load and self-test the bundle; publish what is served."""
        self._table.require_valid()
        settings = self._table.settings
        hanging = self._hanging()
        if hanging >= _MOST_HUNG:
            raise EngineError(
                f"threads hang in the model and hold its memory, {hanging} of them; start the "
                "process anew"
            )
        self.get_logger().info(f"loading the bundle {settings.bundle} ...")
        self._opening = True
        try:
            if self._ending:
                raise EndingError
            understander = open_understander(settings, settings.bundle, settings.skills)
            self._understander = understander
            if self._ending:
                raise EndingError
        finally:
            self._opening = False
        self._known = None
        self._dispatcher = dispatcher = Dispatcher(self, self._on_stall)
        self._goals = UnderstandServer(
            self, "understand", dispatcher.submit, lambda: dispatcher.is_open
        )
        self._names_subscription = self.create_subscription(
            KnownNamesMsg,
            "known_names",
            self._on_known_names,
            qos.KNOWN_NAMES,
            callback_group=self._command_group,
        )
        self._load_service = self.create_service(LoadBundle, "~/load_bundle", self._on_load_bundle)
        # Not a lifecycle publisher: what is loaded is of interest before activation.
        self._bundle_publisher = self.create_publisher(BundleInfo, "bundle", qos.BUNDLE)
        self._announce(understander)

    def open(self) -> None:
        """Open the inputs."""
        dispatcher = self._dispatcher
        assert dispatcher is not None
        with self._lock:
            assert self._understander is not None
            dispatcher.open(self._understander, self._table.settings)
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
        try:
            if self._dispatcher is not None:
                self._dispatcher.close()
        finally:
            if self._dispatcher is not None and self._dispatcher.hung is not None:
                self._hung.append(self._dispatcher.hung)
                self._dispatcher.hung = None
            if self._goals is not None and not self._goals.wait_finished(_GOALS_LIMIT_S):
                self.get_logger().warning(f"{self._goals.pending} goals remain without a result")

    def free(self) -> None:
        """Free the model."""
        with self._lock:
            hung_in = self._dispatcher.hung_in if self._dispatcher is not None else None
            understander, self._understander = self._understander, None
            if self._load_service is not None:
                self.destroy_service(self._load_service)
                self._load_service = None
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
        if understander is not None:
            if understander is not hung_in:
                understander.close()
            del understander, hung_in
            return_memory()

    # What may come at any time.

    def _on_known_names(self, message: KnownNamesMsg) -> None:
        """Take over names of places and things."""
        try:
            places = messages.known_names_from_msg(message.places)
            objects = messages.known_names_from_msg(message.objects)
        except ValueError as error:
            self.get_logger().error(f"known_names: {error}; the names known before stay")
            return
        with self._lock:
            self._known = (places, objects)
            if self._understander is not None:
                self._understander.know(places=places, objects=objects)
        self.get_logger().info(
            f"knows {len(places.names)} places and {len(objects.names)} things by name"
        )

    def _apply(self, settings: Settings) -> None:
        """Take over parameters that changed at run time."""
        with self._lock:
            if self._understander is not None:
                self._understander.min_confidence = settings.min_confidence
            if self._dispatcher is not None:
                self._dispatcher.apply(settings)

    # Another bundle while the node runs.

    def _on_load_bundle(
        self, request: LoadBundle.Request, response: LoadBundle.Response
    ) -> LoadBundle.Response:
        if not self._loading.acquire(blocking=False):
            response.message = "another bundle is being loaded; try again when that is done"
            return response
        try:
            self._change_to(request.bundle or self._table.settings.bundle, request.skills)
            response.success = True
        except (QuantLlmError, OSError) as error:
            response.message = str(error)
        except Exception as error:
            response.message = f"{type(error).__name__}: {error}"
            self.get_logger().error(traceback.format_exc())
        finally:
            self._loading.release()
        with self._lock:
            if self._understander is not None:
                response.info = self._info(self._understander)
        if not response.success:
            response.message = messages.sendable(response.message)
            self.get_logger().error(f"nothing has changed: {response.message}")
        return response

    def _change_to(self, bundle: str, skills: str) -> None:
        with self._lock:
            old = self._understander
        if old is None:
            raise QuantLlmError("the node serves nothing yet; set 'bundle' and configure it")
        self.get_logger().info(f"loading the bundle {bundle} beside the present one ...")
        new = open_understander(self._table.settings, bundle, skills)
        with self._lock:
            dispatcher = self._dispatcher
            if dispatcher is None or self._understander is not old or self._ending:
                new.close()
                raise QuantLlmError("the node was cleaned up meanwhile; configure it again")
            if self._known is not None:
                new.know(places=self._known[0], objects=self._known[1])
            new.min_confidence = self._table.settings.min_confidence
            self._understander = new
        # So that the next configuration, as after a stall, brings the same.
        self._table.adopt(bundle=bundle, skills=skills)
        if dispatcher.replace(new):
            old.close()
        del old
        with self._lock:
            if self._understander is new:
                self._announce(new)
        return_memory()

    def _announce(self, understander: Understander) -> None:
        info = self._info(understander)
        assert self._bundle_publisher is not None
        self._bundle_publisher.publish(info)
        self.get_logger().info(
            f"bundle '{info.name}' loaded in {info.load_ms / 1e3:.1f} s: {info.model}, "
            f"{info.size_bytes / 1e6:.0f} MB, {len(info.skills)} skills, {info.runtime} on "
            f"{info.provider} with {self._table.settings.threads} threads; self-test: relative "
            f"error {info.selftest_relative_error:.2g}, "
            + (
                str(understander.decided)
                if understander.decided is not None
                else "no decisions compared (none in the bundle, or other skills than its own)"
            )
        )

    def _info(self, understander: Understander) -> BundleInfo:
        return messages.bundle_to_msg(understander, stamp=self.get_clock().now().to_msg())

    # A model that does not come back.

    def _on_stall(self, reason: str) -> None:
        """Have the lifecycle take notice; from the thread that watches the model."""
        self._stalls += 1
        self.get_logger().error(f"{reason}; all commands in flight got the decision ERROR")
        if self.executor is not None:
            self.executor.create_task(self._recover)

    def _recover(self) -> None:
        try:
            # Its step fails, since the model is in use, and that leads through the error state.
            self.trigger_deactivate()
        except RCLError:
            return  # somebody else's transition is under way and meets the same failure
        if self.wants_autostart and not self._ending:
            self.autostart()

    def _hanging(self) -> int:
        self._hung = [thread for thread in self._hung if thread.is_alive()]
        return len(self._hung)

    def _health(self) -> list[Health]:
        with self._lock:
            understander, dispatcher = self._understander, self._dispatcher
        return statuses(
            Snapshot(
                phase=self.phase,
                failure=self.failure,
                settings=self._table.settings,
                understander=understander,
                load=dispatcher.load if dispatcher is not None else None,
                summary=dispatcher.summary() if dispatcher is not None else None,
                stalls=self._stalls,
                hanging=self._hanging(),
            ),
            self._recently,
        )
