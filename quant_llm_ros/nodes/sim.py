"""The node with the simulated robot."""

from __future__ import annotations

import math
import os
import time
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from nav_msgs.msg import Odometry
import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.timer import Timer
from rosgraph_msgs.msg import Clock as ClockMsg
from sensor_msgs.msg import LaserScan
from std_msgs.msg import Header

from quant_llm_ros.geometry import Pose, quaternion_of, STANDSTILL, Velocity, yaw_of
from quant_llm_ros.nodes import qos
from quant_llm_ros.nodes.parameter_table import ParameterTable
from quant_llm_ros.nodes.sim_parameters import SimSettings, SPECS
from quant_llm_ros.resources import share_path
from quant_llm_ros.simulation.goal_driver import command_towards
from quant_llm_ros.simulation.laser import Laser
from quant_llm_ros.simulation.robot import Base, Robot
from quant_llm_ros.simulation.world import load_world

NODE_NAME = "sim"
ODOM_FRAME = "odom"
BASE_FRAME = "base_link"

# Behind the wall clock by more than this, as after a pause of the process, the rest is dropped.
_MOST_BEHIND_S = 0.2
_TRUTH_RATE_HZ = 10.0
_REST_PATIENCE_S = 0.1


class SimNode(Node):
    """A kinematic robot in a walled world.

    Subscribes ``cmd_vel`` and ``goal_pose``; publishes ``odom``, ``scan``, ``true_pose`` (where
    the robot really is, without noise or slip) and ``/clock``. Faults are parameters that can be
    set while it runs.
    """

    wants_autostart = False

    def __init__(self, **options: Any) -> None:
        """Read the world and start the time.

        Args:
            **options: For ``rclpy.node.Node``.

        Raises:
            QuantLlmError: A parameter or the world cannot be used.
        """
        super().__init__(NODE_NAME, **options)
        self._table: ParameterTable[SimSettings] = ParameterTable(
            self, SPECS, SimSettings, on_change=self._apply
        )
        self._table.require_valid(read_only=True)
        settings = self._table.settings
        path = os.path.expanduser(settings.world) or share_path("config/simulation/flat.yaml")
        self._world = load_world(path)
        self._random = np.random.default_rng(settings.seed)
        base = Base(
            radius_m=settings.robot_radius_m,
            holonomic=settings.holonomic,
            max_speed_mps=settings.max_speed_mps,
            max_turn_rate=settings.max_turn_rate_rps,
            acceleration_mps2=settings.acceleration_mps2,
            turn_acceleration=settings.turn_acceleration_rps2,
            command_timeout_s=settings.command_timeout_s,
            odometry_noise=settings.odometry_noise,
        )
        self._robot = Robot(base, self._world, self._random)
        self._laser = Laser(beams=settings.scan_beams, noise_m=settings.scan_noise_m)
        self._goal: Pose | None = None
        self._steps = 0
        self._step_s = 1.0 / settings.odometry_rate_hz
        self._origin_s = 0.0 if settings.clock else time.time()
        self._published_clock_s = 0.0
        self._due_s = time.monotonic()
        self._wait_until_s = -math.inf
        self._patience_s = 0.0
        self._odometry = self.create_publisher(Odometry, "odom", qos.VELOCITY)
        self._scan = self.create_publisher(LaserScan, "scan", qos.VELOCITY)
        self._truth = self.create_publisher(PoseStamped, "true_pose", qos.VELOCITY)
        # One clock for all robots, as every node of ROS expects it.
        self._clock_publisher = (
            self.create_publisher(ClockMsg, "/clock", qos.VELOCITY) if settings.clock else None
        )
        if settings.stamped_cmd_vel:
            self._subscribe(TwistStamped, "cmd_vel", lambda m: self._on_command(m.twist))
        else:
            self._subscribe(Twist, "cmd_vel", self._on_command)
        if settings.goal_pose_driver:
            self._subscribe(PoseStamped, "goal_pose", self._on_goal)
        self._timer: Timer | None = None
        self._speed_factor = settings.speed_factor
        self._apply(settings)
        self.get_logger().info(
            f"world '{self._world.name}' with {len(self._world.walls)} walls, "
            f"{settings.speed_factor:g} times as fast as the real world"
        )

    def autostart(self) -> None:
        """Nothing to begin: the simulation runs from the start."""

    def end(self, timeout_s: float) -> bool:
        """Stop the time."""
        del timeout_s
        if self._timer is not None:
            self._timer.cancel()
        return True

    def _subscribe(self, kind: Any, name: str, callback: Any) -> None:
        self.create_subscription(kind, name, callback, qos.VELOCITY)

    def _apply(self, settings: SimSettings) -> None:
        if self._timer is not None:
            if settings.speed_factor == self._speed_factor:
                return
            self.destroy_timer(self._timer)
        self._speed_factor = settings.speed_factor
        self._due_s = time.monotonic()
        self._timer = self.create_timer(
            self._step_s / self._speed_factor,
            self._on_timer,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    def _on_timer(self) -> None:
        """Do all the steps that are due; a timer that fires late does not slow the time down."""
        now_s = time.monotonic()
        self._due_s = max(self._due_s, now_s - _MOST_BEHIND_S)
        while self._due_s <= now_s and not self._waits(now_s):
            self._due_s += self._step_s / self._speed_factor
            self._step()

    def _waits(self, now_s: float) -> bool:
        """Tell whether the time stands until the next velocity command (``lockstep_s``)."""
        if not math.isfinite(self._wait_until_s):
            return False
        if now_s >= self._wait_until_s:
            # Nobody drives any more: on alone, until the base's own time limit stops it.
            self._wait_until_s, self._patience_s = -math.inf, 0.0
            return False
        self._due_s = now_s
        return True

    def _step(self) -> None:
        settings = self._table.settings
        if self._goal is not None:
            self._robot.drive(command_towards(self._goal, self._robot.odometry))
        self._robot.step(self._step_s, slip=settings.fault_slip)
        self._steps += 1
        stamp = self._stamp()
        if self._clock_publisher is not None and not settings.fault_clock:
            self._clock_publisher.publish(ClockMsg(clock=stamp))
        if not settings.fault_odometry:
            self._odometry.publish(self._odometry_message(stamp))
            if self._patience_s > 0.0:
                self._wait_until_s = time.monotonic() + self._patience_s
        if self._is_due(settings.scan_rate_hz) and not settings.fault_scan:
            self._scan.publish(self._scan_message(stamp))
        if self._is_due(_TRUTH_RATE_HZ):
            message = PoseStamped(header=Header(stamp=stamp, frame_id=ODOM_FRAME))
            _fill(message.pose, self._robot.pose)
            self._truth.publish(message)

    def _is_due(self, rate_hz: float) -> bool:
        share = rate_hz * self._step_s
        return math.floor(self._steps * share) != math.floor((self._steps - 1) * share)

    def _stamp(self) -> Time:
        nanoseconds = round((self._origin_s + self._steps * self._step_s) * 1e9)
        return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)

    def _on_command(self, message: Twist) -> None:
        self._goal = None  # whoever commands velocities has taken over
        velocity = Velocity(message.linear.x, message.linear.y, message.angular.z)
        self._robot.drive(velocity)
        # Zero velocity may be the last that comes.
        self._patience_s = self._table.settings.lockstep_s
        if velocity == STANDSTILL:
            self._patience_s = min(self._patience_s, _REST_PATIENCE_S)
        self._wait_until_s = -math.inf

    def _on_goal(self, message: PoseStamped) -> None:
        position, q = message.pose.position, message.pose.orientation
        self._goal = Pose(position.x, position.y, yaw_of(q.x, q.y, q.z, q.w))

    def _odometry_message(self, stamp: Time) -> Odometry:
        message = Odometry(
            header=Header(stamp=stamp, frame_id=ODOM_FRAME), child_frame_id=BASE_FRAME
        )
        _fill(message.pose.pose, self._robot.odometry)
        twist, velocity = message.twist.twist, self._robot.velocity
        twist.linear.x, twist.linear.y = velocity.forward, velocity.left
        twist.angular.z = velocity.turn
        return message

    def _scan_message(self, stamp: Time) -> LaserScan:
        laser = self._laser
        ranges = laser.measure(self._world.walls, self._robot.pose, self._random)
        return LaserScan(
            header=Header(stamp=stamp, frame_id=BASE_FRAME),
            angle_min=laser.angle_min,
            angle_max=laser.angle_min + laser.angle_increment * (laser.beams - 1),
            angle_increment=laser.angle_increment,
            range_min=laser.range_min,
            range_max=laser.range_max,
            ranges=ranges.astype(np.float32),
        )


def _fill(message: Any, pose: Pose) -> None:
    message.position.x, message.position.y = pose.x, pose.y
    q = message.orientation
    q.x, q.y, q.z, q.w = quaternion_of(pose.yaw)
