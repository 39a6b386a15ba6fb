"""What the robot knows of itself and its surroundings: the latest odometry and laser scan."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.geometry import Pose, Velocity, wrap

# The corridor in front of the robot is looked at this far to each side of the direction of travel.
_SECTOR = math.radians(90.0)


@dataclasses.dataclass(frozen=True)
class Odometry:
    """One odometry message.

    Attributes:
        stamp_s: Its time stamp, s; motion is timed by it.
        pose: Where the robot believes to be.
        velocity: How it believes to move.
    """

    stamp_s: float
    pose: Pose
    velocity: Velocity


@dataclasses.dataclass(frozen=True)
class Scan:
    """One sweep of a laser scanner that sits in the middle of the robot and looks forward.

    Attributes:
        angle_min: Direction of the first beam, rad, 0 is forward.
        angle_increment: From one beam to the next, rad.
        range_min: Shortest valid range, m.
        range_max: Longest valid range, m.
        ranges: Distances, m, shape (beams,); what is not valid is taken as free.
    """

    angle_min: float
    angle_increment: float
    range_min: float
    range_max: float
    ranges: NDArray[np.float64]

    def covers(self, heading: float) -> bool:
        """Tell whether a direction, rad, 0 is forward, lies inside the sweep."""
        sweep = self.angle_increment * len(self.ranges)
        if abs(sweep) >= math.tau - abs(self.angle_increment):
            return True
        middle = self.angle_min + sweep / 2.0
        return abs(wrap(heading - middle)) <= abs(sweep) / 2.0

    def clearance(self, heading: float, half_width: float) -> float:
        """Give the distance to the nearest thing that a move into a direction would meet.

        Args:
            heading: Direction of travel, rad, 0 is forward.
            half_width: Half the width of the corridor that has to be free, m.

        Returns:
            Distance along the direction from the middle of the robot, m; infinite when free.
        """
        angles = self.angle_min + self.angle_increment * np.arange(len(self.ranges)) - heading
        angles = np.remainder(angles + np.pi, 2.0 * np.pi) - np.pi
        with np.errstate(invalid="ignore"):
            valid = (self.ranges >= self.range_min) & (self.ranges <= self.range_max)
        valid &= np.abs(angles) < _SECTOR
        ahead = self.ranges[valid] * np.cos(angles[valid])
        aside = self.ranges[valid] * np.sin(angles[valid])
        ahead = ahead[np.abs(aside) <= half_width]
        return float(ahead.min()) if len(ahead) else math.inf


class Senses:
    """The latest of what was received, with the time of its arrival in seconds.

    That time is the steady one which the callers give, or a simulation's: a simulation that runs
    at a tenth of real time sends a tenth as often, and that is no loss.
    """

    def __init__(self, simulated_s: Callable[[], float] | None = None) -> None:
        """Begin with nothing received.

        Args:
            simulated_s: Gives the time of the simulation, s, where there is one. While it stands
                still, ages do too: ``Watch`` sees to that.
        """
        self.odometry: Odometry | None = None
        self.scan: Scan | None = None
        self._simulated_s = simulated_s
        self._odometry_s = -math.inf
        self._scan_s = -math.inf

    def on_odometry(self, odometry: Odometry, now_s: float) -> None:
        """Take odometry, unless it is no news.

        A stamp that does not advance comes from a driver that hangs, and what is not a number
        says nothing: both count as if nothing had arrived.
        """
        if self.odometry is not None and odometry.stamp_s == self.odometry.stamp_s:
            return
        pose, velocity = odometry.pose, odometry.velocity
        numbers = (pose.x, pose.y, pose.yaw, velocity.forward, velocity.left, velocity.turn)
        if not all(map(math.isfinite, numbers)):
            return
        self.odometry = odometry
        self._odometry_s = self._time_s(now_s)

    def on_scan(self, scan: Scan, now_s: float) -> None:
        """Take a scan."""
        self.scan = scan
        self._scan_s = self._time_s(now_s)

    def odometry_age_s(self, now_s: float) -> float:
        """Give the time since the last odometry, s; infinite when there was none."""
        return self._time_s(now_s) - self._odometry_s

    def scan_age_s(self, now_s: float) -> float:
        """Give the time since the last scan, s; infinite when there was none."""
        return self._time_s(now_s) - self._scan_s

    def _time_s(self, now_s: float) -> float:
        return now_s if self._simulated_s is None else self._simulated_s()
