"""Straight moves and turns, closed-loop on odometry, with trapezoidal speed profiles."""

from __future__ import annotations

import abc
from collections.abc import Callable
import dataclasses
import math

from quant_llm_ros.execution.report import Progress, State
from quant_llm_ros.execution.senses import Odometry
from quant_llm_ros.execution.settings import Settings
from quant_llm_ros.geometry import Pose, STANDSTILL, Velocity, wrap

# Below these the robot counts as standing.
STANDING_MPS = 0.02
STANDING_RPS = math.radians(2.0)

# What the robot was doing before has to end before a move is measured; a robot that is pushed
# around may never stand, and then the move begins anyway.
_STANDING_LIMIT_S = 2.0

# Speed per way that remains, 1/s, near the end: braking at the very last, as the profile alone
# would, swings to and fro on a base that answers late. With this it may take 0.2 s to answer.
_APPROACH_GAIN = 3.0

# Less progress than this within the stall time is no progress.
_STALL_M = 0.01
_STALL_RAD = math.radians(0.5)

# A motion may take so many times as long as its profile says, and so much more.
_TIME_FACTOR = 3.0
_TIME_SLACK_S = 5.0

# Less room than this is none: on its way down to nothing, the speed would get ever smaller.
_ROOM_M = 0.02

# A move holds its line: turn rate per radian off the heading, and heading per metre off the line.
_HEADING_GAIN = 2.0
_LINE_GAIN = 1.5
_LINE_LIMIT_RAD = math.radians(20.0)

Clearance = Callable[[float], float]
"""Free distance in front of the hull, m, into a direction, rad, 0 is forward."""


def is_standing(velocity: Velocity) -> bool:
    """Tell whether a measured velocity is as good as none."""
    return velocity.speed < STANDING_MPS and abs(velocity.turn) < STANDING_RPS


def speed_towards(
    remaining: float, speed: float, *, limit: float, acceleration: float, dt_s: float
) -> float:
    """Give the next speed on a trapezoidal profile; works for metres and for radians.

    Args:
        remaining: What remains of the way, with its sign.
        speed: Speed commanded last.
        limit: Largest speed.
        acceleration: Largest change of the speed per second, up and down.
        dt_s: Time until the next speed can be given, s.

    Returns:
        The fastest speed that is within the limits and from which the robot can still stop in
        time: one more interval at this speed, then braking, and near the end a gentle approach.
    """
    stopping = acceleration * (math.sqrt(dt_s**2 + 2.0 * abs(remaining) / acceleration) - dt_s)
    reached = max(0.0, math.copysign(1.0, remaining) * speed) + acceleration * dt_s
    approach = _APPROACH_GAIN * abs(remaining)
    return math.copysign(min(limit, stopping, approach, reached), remaining)


@dataclasses.dataclass
class _Clock:
    """Times of one motion, in seconds of the odometry's stamps."""

    start_s: float
    last_s: float
    gained_s: float


class Motion(abc.ABC):
    """One motion. Subclasses say what remains of it and turn a speed into a command."""

    def __init__(self, settings: Callable[[], Settings], total: float, stall: float) -> None:
        """Prepare a motion.

        Args:
            settings: Gives the limits; asked at every step, so they may change meanwhile.
            total: Length of the way, m or rad.
            stall: Progress that counts, m or rad.
        """
        self._settings = settings
        self._total = total
        self._stall = stall
        self._begun_s: float | None = None
        self._clock: _Clock | None = None
        self._least = math.inf
        self._speed = 0.0
        self._waiting_since_s: float | None = None
        self.command = STANDSTILL

    def step(self, odometry: Odometry, clearance: Clearance) -> Progress:
        """Go on with the motion; ``command`` is then what the base should do.

        Args:
            odometry: Odometry that is newer than at the step before.
            clearance: Tells how much room there is.
        """
        if self._clock is None:
            return self._begin(odometry)
        clock = self._clock
        dt_s, clock.last_s = odometry.stamp_s - clock.last_s, odometry.stamp_s
        if dt_s < 0.0:
            self.command = STANDSTILL
            return Progress(0.0, State.LOST_ODOMETRY, "the odometry's stamps went backwards")
        remaining = self._remaining(odometry.pose)
        share = min(1.0, max(0.0, 1.0 - abs(remaining) / self._total)) if self._total else 1.0
        if abs(remaining) <= self._tolerance() and is_standing(odometry.velocity):
            self.command = STANDSTILL
            return Progress(1.0, State.SUCCEEDED)
        if odometry.stamp_s - clock.start_s > self._time_limit_s():
            self.command = STANDSTILL
            return Progress(share, State.TIMEOUT, f"not done after {self._time_limit_s():.0f} s")
        limit, acceleration = self._limits()
        free = self._room(clearance) - _ROOM_M
        blocked = self._wait_for_room(free, odometry.stamp_s)
        if free <= 0.0:
            self._speed, self.command = 0.0, STANDSTILL
            return blocked or Progress(share, message="waits: something is in the way")
        limit = min(limit, math.sqrt(2.0 * acceleration * free))
        self._speed = speed_towards(
            remaining, self._speed, limit=limit, acceleration=acceleration, dt_s=dt_s
        )
        if abs(remaining) < self._least - self._stall:
            self._least, clock.gained_s = abs(remaining), odometry.stamp_s
        elif odometry.stamp_s - clock.gained_s > self._settings().stall_time_s:
            self.command = STANDSTILL
            return Progress(share, State.BLOCKED, "the base does not move as commanded")
        self.command = self._steer(self._speed, odometry.pose)
        return Progress(share)

    def _begin(self, odometry: Odometry) -> Progress:
        if self._begun_s is None:
            self._begun_s = odometry.stamp_s
        waited_s = odometry.stamp_s - self._begun_s
        if is_standing(odometry.velocity) or not 0.0 <= waited_s < _STANDING_LIMIT_S:
            self._clock = _Clock(odometry.stamp_s, odometry.stamp_s, odometry.stamp_s)
            self._start(odometry.pose)
        return Progress()

    def _wait_for_room(self, free: float, stamp_s: float) -> Progress | None:
        """Wait while there is no room; give the final progress when that took too long."""
        assert self._clock is not None
        if free > 0.0:
            if self._waiting_since_s is not None:
                # Waiting is neither standing still nor being slow.
                self._clock.start_s += stamp_s - self._waiting_since_s
                self._clock.gained_s = stamp_s
                self._waiting_since_s = None
            return None
        if self._waiting_since_s is None:
            self._waiting_since_s = stamp_s
        limit_s = self._settings().obstacle_wait_s
        if stamp_s - self._waiting_since_s < limit_s:
            return None
        return Progress(0.0, State.BLOCKED, f"something has been in the way for {limit_s:g} s")

    def _time_limit_s(self) -> float:
        limit, acceleration = self._limits()
        return _TIME_FACTOR * (self._total / limit + limit / acceleration) + _TIME_SLACK_S

    def _room(self, clearance: Clearance) -> float:
        """Give the free distance into the direction of travel, m."""
        del clearance
        return math.inf

    @abc.abstractmethod
    def _start(self, pose: Pose) -> None:
        """Note where the motion begins."""

    @abc.abstractmethod
    def _remaining(self, pose: Pose) -> float:
        """Give what remains, m or rad, negative once it is too much."""

    @abc.abstractmethod
    def _tolerance(self) -> float:
        """Give how much may remain, m or rad."""

    @abc.abstractmethod
    def _limits(self) -> tuple[float, float]:
        """Give the largest speed and acceleration, in m or rad and seconds."""

    @abc.abstractmethod
    def _steer(self, speed: float, pose: Pose) -> Velocity:
        """Turn the speed along the way into a command."""


class Straight(Motion):
    """A straight move without a turn."""

    def __init__(
        self, settings: Callable[[], Settings], distance_m: float, heading: float
    ) -> None:
        """Prepare the move.

        Args:
            settings: Gives the limits.
            distance_m: How far.
            heading: Direction relative to the robot, rad: 0 is forward, pi/2 to the left.
        """
        super().__init__(settings, distance_m, _STALL_M)
        self._heading = heading
        self._origin = Pose()

    def _start(self, pose: Pose) -> None:
        self._origin = pose

    def _line(self, pose: Pose) -> tuple[float, float]:
        """Give the way along the line and the offset to its left, m."""
        direction = self._origin.yaw + self._heading
        dx, dy = pose.x - self._origin.x, pose.y - self._origin.y
        along = dx * math.cos(direction) + dy * math.sin(direction)
        return along, dy * math.cos(direction) - dx * math.sin(direction)

    def _remaining(self, pose: Pose) -> float:
        return self._total - self._line(pose)[0]

    def _tolerance(self) -> float:
        return self._settings().distance_tolerance_m

    def _limits(self) -> tuple[float, float]:
        settings = self._settings()
        return settings.max_speed_mps, settings.max_acceleration_mps2

    def _room(self, clearance: Clearance) -> float:
        return clearance(self._heading)

    def _steer(self, speed: float, pose: Pose) -> Velocity:
        settings = self._settings()
        offset = self._line(pose)[1]
        lean = 0.0
        sideways = abs(math.sin(self._heading)) > 0.5
        if not sideways:
            # Leans towards the line; the sign is the same forward and backward, since the
            # direction of the line and that of the motion turn together.
            lean = -math.copysign(_LINE_GAIN, speed) * offset
            lean = max(-_LINE_LIMIT_RAD, min(_LINE_LIMIT_RAD, lean))
        error = wrap(self._origin.yaw + lean - pose.yaw)
        limit = settings.max_turn_rate
        turn = max(-limit, min(limit, _HEADING_GAIN * error))
        forward = speed * round(math.cos(self._heading))
        left = speed * round(math.sin(self._heading))
        return Velocity(forward, left, turn)


class Turn(Motion):
    """A turn on the spot, also by more than half a circle."""

    def __init__(self, settings: Callable[[], Settings], angle: float) -> None:
        """Prepare the turn.

        Args:
            settings: Gives the limits.
            angle: How far, rad, counterclockwise.
        """
        super().__init__(settings, abs(angle), _STALL_RAD)
        self._sign = math.copysign(1.0, angle)
        self._turned = 0.0
        self._yaw = 0.0

    def _start(self, pose: Pose) -> None:
        self._yaw = pose.yaw

    def _remaining(self, pose: Pose) -> float:
        # Headings come as -pi to pi; from one to the next the robot turns by far less than pi.
        self._turned += self._sign * wrap(pose.yaw - self._yaw)
        self._yaw = pose.yaw
        return self._total - self._turned

    def _tolerance(self) -> float:
        return self._settings().angle_tolerance

    def _limits(self) -> tuple[float, float]:
        settings = self._settings()
        return settings.max_turn_rate, settings.max_turn_acceleration

    def _steer(self, speed: float, pose: Pose) -> Velocity:
        del pose
        return Velocity(turn=self._sign * speed)
