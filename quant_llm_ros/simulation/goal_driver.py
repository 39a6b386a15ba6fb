"""Drives straight to a goal pose, in place of a navigation: no planning, walls stop it."""

from __future__ import annotations

import math

from quant_llm_ros.geometry import Pose, STANDSTILL, Velocity, wrap

_SPEED_MPS = 0.5
_TURN_RATE = 1.2
_NEAR_M = 0.05
_NEAR_RAD = math.radians(3.0)
_GAIN = 2.0
_AHEAD_RAD = math.radians(20.0)


def command_towards(goal: Pose, pose: Pose) -> Velocity:
    """Give the command that brings the robot nearer: turn there, drive there, turn as wanted.

    Args:
        goal: Where to go.
        pose: Where the robot is.

    Returns:
        The command; standstill at the goal.
    """
    dx, dy = goal.x - pose.x, goal.y - pose.y
    left_m = math.hypot(dx, dy)
    if left_m > _NEAR_M:
        bearing = wrap(math.atan2(dy, dx) - pose.yaw)
        turn = max(-_TURN_RATE, min(_TURN_RATE, _GAIN * bearing))
        ahead = abs(bearing) < _AHEAD_RAD
        return Velocity(min(_SPEED_MPS, left_m) if ahead else 0.0, 0.0, turn)
    off = wrap(goal.yaw - pose.yaw)
    if abs(off) > _NEAR_RAD:
        return Velocity(turn=max(-_TURN_RATE, min(_TURN_RATE, _GAIN * off)))
    return STANDSTILL
