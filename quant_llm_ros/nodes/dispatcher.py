"""Commands in, decisions out: what the node does while it is active."""

from __future__ import annotations

from collections.abc import Callable
import functools
import itertools
import threading
import time
import traceback

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.timer import Timer
from std_msgs.msg import Header

from quant_llm_msgs.msg import Decision as DecisionMsg
from quant_llm_msgs.msg import Heartbeat, LatencyStats
from quant_llm_ros.command.decision import Decision, Stage, Status
from quant_llm_ros.command.pending import Command, QueuePolicy
from quant_llm_ros.command.service import CommandService, Load
from quant_llm_ros.command.statistics import LatencySummary, LatencyWindow
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.engine.cpus import parse_cpus
from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.nodes import messages, qos, tracing
from quant_llm_ros.nodes.parameters import Settings

_CLOSE_LIMIT_S = 2.0
_ACKNOWLEDGE_LIMIT_S = 0.5
_LOGGED_CHARS = 80


class Ticket:
    """One command on its way to a decision."""

    def __init__(self, number: int, on_message: Callable[[DecisionMsg], None] | None) -> None:
        """Give the command its number."""
        self.id = number
        self.on_message = on_message
        self.on_cancel: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Ask for the decision CANCELLED; too late once another one is made."""
        if self.on_cancel is not None:
            self.on_cancel()


class Dispatcher:
    """Takes commands while it is open; publishes decisions, latency statistics and heartbeat.

    Exists while the node is configured, so commands are numbered from 1 since then.

    Attributes:
        hung: The thread that the model does not come back from, after ``close`` has failed.
        hung_in: The understander that this thread uses, and closes when it comes back.
    """

    def __init__(self, node: LifecycleNode, on_stall: Callable[[str], None]) -> None:
        """Create the publishers, which the node's activation enables.

        Args:
            node: The node whose topics ``decision``, ``latency`` and ``heartbeat`` are served.
            on_stall: Told the reason when the model has stalled, from a thread of its own.
        """
        self._node = node
        self._on_stall = on_stall
        self.hung: threading.Thread | None = None
        self.hung_in: Understander | None = None
        self._decisions = node.create_lifecycle_publisher(DecisionMsg, "decision", qos.DECISION)
        self._latency = node.create_lifecycle_publisher(LatencyStats, "latency", qos.LATENCY)
        self._heartbeat = node.create_lifecycle_publisher(Heartbeat, "heartbeat", qos.HEARTBEAT)
        self._service: CommandService | None = None
        self._gate = threading.Lock()  # nothing is submitted while the service is swapped
        self._numbers = itertools.count(1)
        self._window = LatencyWindow()
        self._window_size = 0
        self._period_s = 0.0
        self._due = False
        self._published_s = 0.0
        self._timer: Timer | None = None
        self._ticking = threading.Lock()  # not amid its publications when it is destroyed

    @property
    def is_open(self) -> bool:
        """Whether commands are taken."""
        return self._service is not None

    @property
    def load(self) -> Load:
        """What the model does now."""
        service = self._service
        return service.load if service is not None else Load()

    def summary(self) -> LatencySummary:
        """Give the latency statistics."""
        return self._window.summary()

    def open(self, understander: Understander, settings: Settings) -> None:
        """Begin to take commands."""
        self._window = LatencyWindow(settings.latency_window)  # begins with each activation
        self.apply(settings)
        with self._gate:
            self._service = CommandService(
                understander,
                _ignore,
                capacity=settings.queue_capacity,
                policy=QueuePolicy(settings.queue_policy),
                default_deadline_s=settings.deadline_s,
                conversation_s=settings.conversation_s,
                stall_timeout_s=settings.stall_timeout_s,
                on_stall=self._on_stall,
                cpus=parse_cpus(settings.cpus),
            )
        # By the steady clock: with use_sim_time and a paused simulation they have to go on.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self._node.create_timer(qos.HEARTBEAT_PERIOD_S, self._tick, clock=steady)

    def apply(self, settings: Settings) -> None:
        """Take over parameters that can change at any time."""
        self._period_s = settings.latency_period_s
        if settings.latency_window != self._window_size:
            self._window_size = settings.latency_window
            self._window.resize(self._window_size)
        with self._gate:
            if self._service is not None:
                self._service.default_deadline_s = settings.deadline_s
                self._service.capacity = settings.queue_capacity
                self._service.policy = QueuePolicy(settings.queue_policy)
                self._service.stall_timeout_s = settings.stall_timeout_s
                self._service.conversation.lasts_s = settings.conversation_s

    def close(self) -> None:
        """Take no more commands; those in flight get the decision CANCELLED before this returns.

        Raises:
            QuantLlmError: The model did not stop.
        """
        with self._gate:
            service, self._service = self._service, None
        with self._ticking:
            if self._timer is not None:
                self._node.destroy_timer(self._timer)
                self._timer = None
        if service is not None and not service.close(_CLOSE_LIMIT_S):
            self.hung, self.hung_in = service.worker, service.hung_in
            stalled = service.load.stalled
            raise QuantLlmError(stalled or f"the model did not stop within {_CLOSE_LIMIT_S:g} s")

    def replace(self, understander: Understander) -> bool:
        """Decide with another understander from the next command on.

        Returns:
            Whether the old one is free, and the caller's to close; false if a thread hangs in it.
        """
        service = self._service
        return service.replace(understander) if service is not None else True

    def destroy(self) -> None:
        """Take the topics away."""
        # What was cancelled just now has to arrive before its publisher is gone.
        self._decisions.wait_for_all_acked(Duration(seconds=_ACKNOWLEDGE_LIMIT_S))
        for publisher in (self._decisions, self._latency, self._heartbeat):
            self._node.destroy_lifecycle_publisher(publisher)

    def submit(
        self,
        text: str,
        *,
        deadline_s: float | None = None,
        on_stage: Callable[[Stage], None] | None = None,
        on_message: Callable[[DecisionMsg], None] | None = None,
    ) -> Ticket:
        """Take a command without waiting; exactly one decision follows for each.

        Args:
            text: The command as it was received.
            deadline_s: Seconds that it may take; None means the parameter ``deadline_s``.
            on_stage: Told each stage as it begins, from any thread.
            on_message: Told the decision after it was published, from any thread.
        """
        refusal: Decision | None = None
        with self._gate:
            ticket = Ticket(next(self._numbers), on_message)
            tracing.point(ticket.id, "received")
            service = self._service
            if service is None:
                refusal = Decision(text, Status.CANCELLED, message="the node is not active")
            elif messages.is_damaged(text) and not service.is_stop(text):
                refusal = Decision(
                    text,
                    Status.ERROR,
                    message="the command is not valid UTF-8: its bytes were damaged or are in "
                    "another encoding",
                )
            else:
                command = service.submit(
                    text,
                    deadline_s=deadline_s,
                    on_stage=functools.partial(_on_stage, ticket.id, on_stage),
                    on_decision=functools.partial(self._on_decision, ticket),
                )
                ticket.on_cancel = functools.partial(service.cancel, command)
        if refusal is not None:
            self._on_decision(ticket, refusal)
        return ticket

    def _on_decision(self, ticket: Ticket, decision: Decision) -> None:
        """Publish a decision; from the worker's thread, or the submitter's for a stop."""
        try:
            message = messages.decision_to_msg(
                decision, command_id=ticket.id, stamp=self._node.get_clock().now().to_msg()
            )
            self._decisions.publish(message)
            tracing.point(ticket.id, f"decided {decision.status.name}")
            if ticket.on_message is not None:
                ticket.on_message(message)
            self._window.add(decision)
            self._due = True
            self._node.get_logger().info(_summary(ticket.id, decision))
        except Exception:
            # Raised into the command service it would be logged nowhere that a ROS user looks.
            self._node.get_logger().error(
                f"decision of command {ticket.id} not delivered:\n{traceback.format_exc()}"
            )

    def _tick(self) -> None:
        with self._ticking:
            if self._timer is None:
                return
            self._beat()
            # Soon after a decision, yet not once for each of a burst.
            now_s = time.monotonic()
            if self._due or now_s - self._published_s >= self._period_s:
                self._due = False
                self._published_s = now_s
                stamp = self._node.get_clock().now().to_msg()
                self._latency.publish(messages.latency_to_msg(self.summary(), stamp=stamp))

    def _beat(self) -> None:
        load = self.load
        state = Heartbeat.STATE_BUSY if load.busy else Heartbeat.STATE_IDLE
        self._heartbeat.publish(
            Heartbeat(
                header=Header(stamp=self._node.get_clock().now().to_msg()),
                state=Heartbeat.STATE_STALLED if load.stalled else state,
                waiting=load.waiting,
                silent_s=load.silent_s,
            )
        )


def _ignore(command: Command, decision: Decision) -> None:
    # Each command brings its own callback, which knows the node's number for it.
    del command, decision


def _on_stage(number: int, listener: Callable[[Stage], None] | None, stage: Stage) -> None:
    tracing.point(number, stage.value)
    if listener is not None:
        listener(stage)


def _summary(number: int, decision: Decision) -> str:
    """Describe a decision in one line of the log, whatever the text contains."""
    text = decision.text
    if len(text) > _LOGGED_CHARS:
        text = f"{text[:_LOGGED_CHARS]}... ({len(text)} characters)"
    return (
        f"command {number} {text!a}: {decision.status.name} {decision.outline} "
        f"({decision.total_ms:.0f} ms, confidence {decision.confidence:.2f})"
    )
