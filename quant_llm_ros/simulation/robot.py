"""A robot that does what its wheels are told, as far as walls and slip let it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from quant_llm_ros.geometry import Pose, STANDSTILL, Velocity, wrap
from quant_llm_ros.simulation.world import World


@dataclasses.dataclass(frozen=True)
class Base:
    """What the robot can do.

    Attributes:
        radius_m: Radius of its round hull, m.
        holonomic: Whether it can move sideways.
        max_speed_mps: Largest speed, m/s.
        max_turn_rate: Largest turn rate, rad/s.
        acceleration_mps2: Largest change of the speed, m/s².
        turn_acceleration: Largest change of the turn rate, rad/s².
        command_timeout_s: It stops when no command came for so long, s.
        odometry_noise: Standard deviation of odometry, as a share of the way and of the angle
            moved in each second.
    """

    radius_m: float = 0.25
    holonomic: bool = False
    max_speed_mps: float = 1.0
    max_turn_rate: float = 2.0
    acceleration_mps2: float = 2.0
    turn_acceleration: float = 6.0
    command_timeout_s: float = 0.5
    odometry_noise: float = 0.01


class Robot:
    """The robot in its world. Time is that of the simulation."""

    def __init__(self, base: Base, world: World, random: np.random.Generator) -> None:
        """Put the robot at the start.

        Args:
            base: What it can do.
            world: Where it is; has the start.
            random: Source of the odometry's noise.
        """
        self._base = base
        self._world = world
        self._random = random
        self._command = STANDSTILL
        self._command_age_s = math.inf
        self.pose = world.start
        self.odometry = world.start
        self.velocity = STANDSTILL
        self.touches_wall = False

    def drive(self, command: Velocity) -> None:
        """Take a command; what is not a number is taken as zero, as a careful base does."""
        values = (command.forward, command.left if self._base.holonomic else 0.0, command.turn)
        if all(math.isfinite(value) for value in values):
            self._command, self._command_age_s = Velocity(*values), 0.0
        else:
            self._command = STANDSTILL

    def step(self, dt_s: float, *, slip: float = 0.0) -> None:
        """Move on.

        Args:
            dt_s: Time step, s.
            slip: Share of the wheels' motion that does not move the robot, 0 to 1.
        """
        self._command_age_s += dt_s
        late = self._command_age_s > self._base.command_timeout_s
        wheels = self._accelerated(STANDSTILL if late else self._command, dt_s)
        grip = 1.0 - slip
        moved = _moved(self.pose, wheels, dt_s * grip)
        radius_m = self._base.radius_m
        room_m = self._world.distance(moved.x, moved.y)
        # A robot that touches a wall may move away from it.
        into = room_m < radius_m and room_m < self._world.distance(self.pose.x, self.pose.y)
        self.touches_wall = into
        if into:
            # The wheels are blocked, so odometry stands too.
            wheels = Velocity(turn=wheels.turn)
            moved = _moved(self.pose, wheels, dt_s * grip)
        self.pose, self.velocity = moved, wheels
        self._measure(wheels, dt_s)

    def _accelerated(self, wanted: Velocity, dt_s: float) -> Velocity:
        base, now = self._base, self.velocity
        change, turn_change = base.acceleration_mps2 * dt_s, base.turn_acceleration * dt_s
        speed, rate = base.max_speed_mps, base.max_turn_rate
        return Velocity(
            _towards(now.forward, max(-speed, min(speed, wanted.forward)), change),
            _towards(now.left, max(-speed, min(speed, wanted.left)), change),
            _towards(now.turn, max(-rate, min(rate, wanted.turn)), turn_change),
        )

    def _measure(self, wheels: Velocity, dt_s: float) -> None:
        # Independent from step to step: over a second the deviations add up to the given share.
        scale = self._base.odometry_noise / math.sqrt(dt_s)
        along = 1.0 + float(self._random.normal(0.0, scale))
        turned = 1.0 + float(self._random.normal(0.0, scale))
        measured = Velocity(wheels.forward * along, wheels.left * along, wheels.turn * turned)
        self.odometry = _moved(self.odometry, measured, dt_s)


def _towards(value: float, wanted: float, change: float) -> float:
    return value + max(-change, min(change, wanted - value))


def _moved(pose: Pose, velocity: Velocity, dt_s: float) -> Pose:
    """Move along an arc, by the heading in its middle."""
    heading = pose.yaw + velocity.turn * dt_s / 2.0
    cos, sin = math.cos(heading), math.sin(heading)
    return Pose(
        pose.x + (velocity.forward * cos - velocity.left * sin) * dt_s,
        pose.y + (velocity.forward * sin + velocity.left * cos) * dt_s,
        wrap(pose.yaw + velocity.turn * dt_s),
    )
