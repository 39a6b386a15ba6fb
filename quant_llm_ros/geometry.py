"""Poses and velocities of a robot on the floor: metres, radians, x forward, y to the left."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Pose:
    """Where the robot is.

    Attributes:
        x: Position, m.
        y: Position, m.
        yaw: Heading, rad, counterclockwise from the x axis.
    """

    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0


@dataclasses.dataclass(frozen=True)
class Velocity:
    """How the robot moves, in its own frame.

    Attributes:
        forward: Speed along x, m/s.
        left: Speed along y, m/s; always 0 for a base that cannot move sideways.
        turn: Turn rate, rad/s, counterclockwise.
    """

    forward: float = 0.0
    left: float = 0.0
    turn: float = 0.0

    @property
    def speed(self) -> float:
        """Speed over the floor, m/s."""
        return math.hypot(self.forward, self.left)


STANDSTILL = Velocity()


def wrap(angle: float) -> float:
    """Bring an angle into -pi to pi, rad."""
    return math.remainder(angle, math.tau)


def yaw_of(x: float, y: float, z: float, w: float) -> float:
    """Give the heading in a quaternion, rad."""
    return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def quaternion_of(yaw: float) -> tuple[float, float, float, float]:
    """Give the quaternion (x, y, z, w) of a heading in rad."""
    return 0.0, 0.0, math.sin(yaw / 2.0), math.cos(yaw / 2.0)
