"""The lifecycle node that carries decisions out."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from nav_msgs.msg import Odometry as OdometryMsg
import numpy as np
from rclpy.callback_groups import (
    CallbackGroup,
    MutuallyExclusiveCallbackGroup,
    ReentrantCallbackGroup,
)
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.publisher import Publisher
from sensor_msgs.msg import LaserScan
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from quant_llm_msgs.msg import Decision, Execution, Heartbeat
from quant_llm_msgs.msg import SkillCall as SkillCallMsg
from quant_llm_ros.command.decision import Safety, SkillCall
from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.execution.places import load_places
from quant_llm_ros.execution.report import Report, State
from quant_llm_ros.execution.senses import Odometry, Scan, Senses
from quant_llm_ros.execution.sequencer import Sequencer
from quant_llm_ros.execution.settings import Settings
from quant_llm_ros.execution.tasks import GoTo, Task, TaskMaker
from quant_llm_ros.execution.watch import Watch
from quant_llm_ros.geometry import Pose, STANDSTILL, Velocity, yaw_of
from quant_llm_ros.nodes import messages, qos
from quant_llm_ros.nodes.executor_goals import Actions, navigate_to_pose
from quant_llm_ros.nodes.executor_parameters import SPECS
from quant_llm_ros.nodes.managed import ManagedNode
from quant_llm_ros.nodes.parameter_table import ParameterTable

NODE_NAME = "executor"

_TICK_S = 0.05
# Looking into the graph is slower than all the rest of a tick.
_TICKS_PER_LOOK = 4
_ACKNOWLEDGE_LIMIT_S = 0.3


class ExecutorNode(ManagedNode):
    """Carries out the calls of accepted decisions, and stops when it is told or has to.

    States: *configure* reads the places and makes publishers; *active* takes ``decision``, drives
    the base by ``cmd_vel`` and reports on ``execution``; *deactivate* commands zero velocity and
    ends whatever is not at its end as CANCELLED.

    Motion is timed by the stamps of odometry, their age and a scan's by the ROS clock where it is
    simulated, everything else by the steady clock: a simulation may be fast, slow or dead.
    """

    def __init__(self, **options: Any) -> None:
        """Declare the parameters.

        Args:
            **options: For ``rclpy.lifecycle.LifecycleNode``.
        """
        super().__init__(NODE_NAME, **options)
        self._table: ParameterTable[Settings] = ParameterTable(
            self, SPECS, Settings, is_loaded=lambda: self._loaded
        )
        self._group = ReentrantCallbackGroup()
        # Odometry and decisions in the order in which they came; neither waits for the other.
        self._sense_group = MutuallyExclusiveCallbackGroup()
        self._decision_group = MutuallyExclusiveCallbackGroup()
        self._lock = threading.RLock()  # one at a time: sequencer, senses and watch
        self._places: dict[str, Pose] = {}
        self._with_nav2 = False
        self._actions: Actions | None = None
        self._lifecycle_publishers: list[Publisher] = []
        self._inputs: list[tuple[Any, Any]] = []
        self._senses = Senses()
        self._watch = Watch(self._senses, self._settings)
        self._sequencer: Sequencer | None = None
        self._ticks = 0
        self._stepped_s = 0.0

    @property
    def wants_autostart(self) -> bool:
        """Whether the node shall configure and activate itself."""
        return self._settings().autostart

    def _settings(self) -> Settings:
        return self._table.settings

    # The steps of the lifecycle.

    def load(self) -> None:
        """Read the places, make publishers and action clients."""
        self._table.require_valid()
        settings = self._settings()
        path = os.path.expanduser(settings.places)
        self._places = load_places(path) if path else {}
        has_nav2 = navigate_to_pose() is not None
        if settings.navigation == "nav2" and not has_nav2:
            raise QuantLlmError(
                "the parameter 'navigation' is 'nav2', but nav2_msgs is not installed; install it "
                "or set navigation to goal_pose"
            )
        self._with_nav2 = has_nav2 and settings.navigation != "goal_pose"
        self._actions = Actions(self, self._settings, self._group)
        kind = TwistStamped if settings.stamped_cmd_vel else Twist
        self._velocity = self._publisher(kind, "cmd_vel", qos.VELOCITY)
        self._execution = self._publisher(Execution, "execution", qos.EXECUTION)
        self._goal = self._publisher(PoseStamped, "goal_pose", qos.GOAL)
        self.get_logger().info(
            f"{len(self._places)} known places; drives to them by "
            f"{'Nav2' if self._with_nav2 else 'goal_pose'}"
        )

    def open(self) -> None:
        """Begin to take decisions."""
        now_s = time.monotonic()
        simulated = bool(self.get_parameter("use_sim_time").value)
        self._senses = Senses(self._clock_s if simulated else None)
        self._watch = Watch(self._senses, self._settings, clock_s=now_s if simulated else None)
        assert self._actions is not None
        maker = TaskMaker(
            self._senses,
            self._settings,
            self._places,
            go_to=self._go_to,
            other=self._actions.skill,
        )
        self._sequencer = Sequencer(
            maker, self._watch, self._settings, report=self._report, drive=self._drive
        )
        senses, sensor = self._sense_group, qos.SENSOR
        self._subscribe(OdometryMsg, "odom", self._on_odometry, sensor, senses)
        self._subscribe(LaserScan, "scan", self._on_scan, sensor, senses)
        self._subscribe(Heartbeat, "heartbeat", self._on_heartbeat, qos.HEARTBEAT, senses)
        service = self.create_service(
            SetBool, "confirm", self._on_confirm, callback_group=self._group
        )
        self._inputs.append((self.destroy_service, service))
        # By the steady clock: it has to go on when the simulation's stands still.
        timer = self.create_timer(
            _TICK_S,
            self._on_tick,
            callback_group=self._group,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._inputs.append((self.destroy_timer, timer))
        self._subscribe(
            Decision, "decision", self._on_decision, qos.DECISION, self._decision_group
        )
        self.get_logger().info("ready for decisions")

    def close(self) -> None:
        """Stop the robot and end every call."""
        with self._lock:
            sequencer, self._sequencer = self._sequencer, None
            if sequencer is not None:
                self._drive(STANDSTILL)
                sequencer.cancel(State.CANCELLED, "the executor was deactivated", time.monotonic())
        while self._inputs:
            destroy, entity = self._inputs.pop()
            destroy(entity)
        if sequencer is not None:
            limit = Duration(seconds=_ACKNOWLEDGE_LIMIT_S)
            self._velocity.wait_for_all_acked(limit)
            self._execution.wait_for_all_acked(limit)

    def free(self) -> None:
        """Take publishers and clients away."""
        while self._lifecycle_publishers:
            self.destroy_lifecycle_publisher(self._lifecycle_publishers.pop())
        if self._actions is not None:
            self._actions.destroy()
            self._actions = None

    def _publisher(self, kind: Any, name: str, profile: Any) -> Publisher:
        publisher = self.create_lifecycle_publisher(kind, name, profile)
        self._lifecycle_publishers.append(publisher)
        return publisher

    def _subscribe(
        self, kind: Any, name: str, callback: Any, profile: Any, group: CallbackGroup
    ) -> None:
        subscription = self.create_subscription(
            kind, name, callback, profile, callback_group=group
        )
        self._inputs.append((self.destroy_subscription, subscription))

    # Input. Decisions have their turn as they come: the lock is never held for long.

    def _on_decision(self, message: Decision) -> None:
        now_s = time.monotonic()
        with self._lock:
            if self._sequencer is None:
                return
            self._watch.on_decision(now_s)
            if message.status == Decision.STATUS_STOP:
                self._sequencer.stop(message.command_id, now_s)
            elif message.status == Decision.STATUS_ACCEPTED:
                queue = self._settings().on_new_decision == "queue"
                calls = [_call(call) for call in message.calls]
                self._sequencer.submit(message.command_id, calls, now_s, queue=queue)

    def _on_odometry(self, message: OdometryMsg) -> None:
        position, q = message.pose.pose.position, message.pose.pose.orientation
        twist = message.twist.twist
        odometry = Odometry(
            messages.time_s(message.header.stamp),
            Pose(position.x, position.y, yaw_of(q.x, q.y, q.z, q.w)),
            Velocity(twist.linear.x, twist.linear.y, twist.angular.z),
        )
        now_s = time.monotonic()
        with self._lock:
            self._senses.on_odometry(odometry, now_s)
            self._step(now_s)

    def _on_scan(self, message: LaserScan) -> None:
        scan = Scan(
            message.angle_min,
            message.angle_increment,
            message.range_min,
            message.range_max,
            np.asarray(message.ranges, dtype=np.float64),
        )
        with self._lock:
            self._senses.on_scan(scan, time.monotonic())

    def _on_heartbeat(self, message: Heartbeat) -> None:
        # A node whose model has stalled is as good as gone: it is about to start anew.
        if message.state != Heartbeat.STATE_STALLED:
            with self._lock:
                self._watch.on_heartbeat(time.monotonic())

    def _on_confirm(
        self, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        with self._lock:
            sequencer = self._sequencer
            skill = sequencer.confirm(request.data, time.monotonic()) if sequencer else ""
        response.success = bool(skill)
        answer = "confirmed" if request.data else "refused"
        response.message = f"{answer}: {skill}" if skill else "nothing waits for a confirmation"
        return response

    def _on_tick(self) -> None:
        now_s = time.monotonic()
        look = self._ticks % _TICKS_PER_LOOK == 0
        self._ticks += 1
        publishers = self.count_publishers("decision") if look else None
        with self._lock:
            self._watch.on_clock(self._clock_s(), now_s)
            if publishers is not None:
                self._watch.on_publishers(publishers)
            # While odometry comes it sets the pace: a command from older odometry in between
            # would be news to the base, and is none.
            if now_s - self._stepped_s >= _TICK_S:
                self._step(now_s)

    def _clock_s(self) -> float:
        return float(self.get_clock().now().nanoseconds * 1e-9)

    def _step(self, now_s: float) -> None:
        self._stepped_s = now_s
        if self._sequencer is not None:
            self._sequencer.step(now_s)

    # Output.

    def _drive(self, velocity: Velocity) -> None:
        twist = Twist()
        twist.linear.x, twist.linear.y = velocity.forward, velocity.left
        twist.angular.z = velocity.turn
        if self._settings().stamped_cmd_vel:
            self._velocity.publish(
                TwistStamped(header=self._header(self._settings().base_frame), twist=twist)
            )
        else:
            self._velocity.publish(twist)

    def _go_to(self, pose: Pose) -> Task:
        actions = self._actions
        assert actions is not None
        if self._with_nav2:
            return actions.navigate(pose)
        return GoTo(
            pose,
            self._senses,
            self._settings,
            lambda goal: self._goal.publish(actions.pose_stamped(goal)),
        )

    def _report(self, report: Report) -> None:
        self._execution.publish(
            Execution(
                header=self._header(""),
                command_id=report.command_id,
                skill=messages.sendable(report.skill),
                index=report.index,
                count=report.count,
                state=int(report.state),
                progress=float(report.share),
                message=messages.sendable(report.message),
            )
        )
        if report.state.is_final or report.state is State.CONFIRMING:
            place = f"command {report.command_id}, call {report.index + 1} of {report.count}"
            text = f": {report.message}" if report.message else ""
            self.get_logger().info(f"{place}, {report.skill}: {report.state.name}{text}")

    def _header(self, frame: str) -> Header:
        return Header(stamp=self.get_clock().now().to_msg(), frame_id=frame)


def _call(message: SkillCallMsg) -> SkillCall:
    # A safety class of a newer version is none that may be carried out unasked.
    safe = message.safety == SkillCallMsg.SAFETY_SAFE
    arguments = messages.arguments_to_dict(message.arguments)
    return SkillCall(message.skill, arguments, Safety.SAFE if safe else Safety.CONFIRM)
