"""What carries one call out: motions of the base, drives to places, calls that end at once."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
import math
from typing import TypeGuard

from quant_llm_ros.command.decision import ArgumentValue, SkillCall
from quant_llm_ros.execution.motion import is_standing, Motion, Straight, Turn
from quant_llm_ros.execution.report import Progress, State
from quant_llm_ros.execution.senses import Senses
from quant_llm_ros.execution.settings import Settings
from quant_llm_ros.geometry import Pose, STANDSTILL, Velocity, wrap

_HEADINGS = {
    "forward": 0.0,
    "backward": math.pi,
    "left": math.pi / 2.0,
    "right": -math.pi / 2.0,
}
_TURNS = {"left": 90.0, "right": -90.0, "around": 180.0}
_GLIMPSE_M = 0.01


class Task(abc.ABC):
    """One call on its way.

    Attributes:
        command: What the base shall do now; None when the task leaves the base to others.
        needs_odometry: Whether it must end when odometry is lost.
    """

    command: Velocity | None = None
    needs_odometry = False

    @abc.abstractmethod
    def step(self, now_s: float) -> Progress:
        """Go on; called often, at steady times in seconds, until the state is final."""

    def cancel(self) -> None:  # noqa: B027 - most have nothing to do beyond not being called again
        """Give up; called once, and no step follows."""


class Ended(Task):
    """A call that is over before it begins."""

    def __init__(self, state: State, message: str = "") -> None:
        """Say how it ends."""
        self._progress = Progress(1.0 if state is State.SUCCEEDED else 0.0, state, message)

    def step(self, now_s: float) -> Progress:
        """Give the end."""
        del now_s
        return self._progress


class Halt(Task):
    """The skill ``stop`` among other calls: zero velocity until the robot stands."""

    command = STANDSTILL
    needs_odometry = True

    def __init__(self, senses: Senses) -> None:
        """Take the senses that tell when it stands."""
        self._senses = senses

    def step(self, now_s: float) -> Progress:
        """Wait."""
        del now_s
        odometry = self._senses.odometry
        if odometry is not None and is_standing(odometry.velocity):
            return Progress(1.0, State.SUCCEEDED)
        return Progress()


class Drive(Task):
    """A motion of the base, watched by the laser scanner where there is one."""

    needs_odometry = True

    def __init__(
        self, motion: Motion, senses: Senses, settings: Callable[[], Settings], *, looks: bool
    ) -> None:
        """Prepare the drive.

        Args:
            motion: The motion.
            senses: Odometry and scan.
            settings: Gives the limits.
            looks: Whether something can be in the way; not so for turns on the spot.
        """
        self.command = STANDSTILL
        self._motion = motion
        self._senses = senses
        self._settings = settings
        self._looks = looks
        self._stamp_s = math.nan
        self._progress = Progress()

    def step(self, now_s: float) -> Progress:
        """Go on once for each odometry."""
        blind = self._blind(now_s) if self._looks else ""
        if blind:
            self.command = STANDSTILL
            return Progress(self._progress.share, State.BLOCKED, blind)
        odometry = self._senses.odometry
        if odometry is not None and odometry.stamp_s != self._stamp_s:
            self._stamp_s = odometry.stamp_s
            self._progress = self._motion.step(odometry, self._clearance)
            self.command = self._motion.command
        return self._progress

    def _blind(self, now_s: float) -> str:
        settings = self._settings()
        age_s = self._senses.scan_age_s(now_s)
        if math.isinf(age_s):
            return "no laser scan has arrived on the topic 'scan'" if settings.require_scan else ""
        if age_s > settings.scan_timeout_s:
            return f"no laser scan for {settings.scan_timeout_s:g} s"
        return ""

    def _clearance(self, heading: float) -> float:
        settings, scan = self._settings(), self._senses.scan
        if scan is None:
            return math.inf
        if not scan.covers(heading):
            return -math.inf if settings.require_scan else math.inf
        radius_m = settings.robot_radius_m
        return scan.clearance(heading, radius_m) - radius_m - settings.obstacle_distance_m


class GoTo(Task):
    """A drive to a pose by whoever listens to goal poses; odometry tells the arrival."""

    needs_odometry = True

    def __init__(
        self,
        goal: Pose,
        senses: Senses,
        settings: Callable[[], Settings],
        publish: Callable[[Pose], None],
    ) -> None:
        """Prepare the drive; odometry is taken to be in the frame of the goal.

        Args:
            goal: Where to go.
            senses: Has the odometry.
            settings: Gives tolerances and the time limit.
            publish: Publishes a goal pose.
        """
        self._goal = goal
        self._senses = senses
        self._settings = settings
        self._publish = publish
        self._start_s: float | None = None
        self._distance_m = 0.0

    def step(self, now_s: float) -> Progress:
        """Publish the goal, then watch."""
        odometry, settings = self._senses.odometry, self._settings()
        if odometry is None:
            return Progress()
        left_m = math.hypot(self._goal.x - odometry.pose.x, self._goal.y - odometry.pose.y)
        if self._start_s is None:
            self._start_s, self._distance_m = now_s, max(left_m, _GLIMPSE_M)
            self._publish(self._goal)
        off_deg = abs(math.degrees(wrap(self._goal.yaw - odometry.pose.yaw)))
        near = left_m <= settings.goal_tolerance_m and off_deg <= settings.goal_tolerance_deg
        if near and is_standing(odometry.velocity):
            return Progress(1.0, State.SUCCEEDED)
        share = min(1.0, max(0.0, 1.0 - left_m / self._distance_m))
        if now_s - self._start_s > settings.go_to_timeout_s:
            self.cancel()
            limit_s = settings.go_to_timeout_s
            return Progress(share, State.TIMEOUT, f"{left_m:.1f} m left after {limit_s:g} s")
        return Progress(share, message=f"{left_m:.1f} m left")

    def cancel(self) -> None:
        """Make the place where the robot is the goal: goal poses know no other way to cancel."""
        if self._start_s is not None and self._senses.odometry is not None:
            self._publish(self._senses.odometry.pose)


class TaskMaker:
    """Makes the task of a call."""

    def __init__(
        self,
        senses: Senses,
        settings: Callable[[], Settings],
        places: Mapping[str, Pose],
        *,
        go_to: Callable[[Pose], Task],
        other: Callable[[SkillCall], Task],
    ) -> None:
        """Prepare.

        Args:
            senses: Odometry and scan.
            settings: Gives the limits.
            places: Poses of the known places, by name in lower case.
            go_to: Makes the task of a drive to a pose.
            other: Makes the task of a skill that the robot's own code carries out.
        """
        self._senses = senses
        self._settings = settings
        self._places = places
        self._go_to = go_to
        self._other = other

    def __call__(self, call: SkillCall) -> Task:
        """Make the task of a call; one that makes no sense ends at once, and says why."""
        match call.skill:
            case "move":
                return self._move(call.arguments)
            case "turn":
                return self._turn(call.arguments)
            case "go_to":
                return self._place(call.arguments)
            case "stop":
                return Halt(self._senses)
            case _:
                return self._other(call)

    def _move(self, arguments: Mapping[str, ArgumentValue]) -> Task:
        direction, distance_m = arguments.get("direction"), arguments.get("distance_m")
        heading = _HEADINGS.get(str(direction))
        if heading is None or not _is_amount(distance_m):
            return _unusable("move", arguments, "direction", list(_HEADINGS), "distance_m")
        if direction in ("left", "right") and not self._settings().holonomic:
            return Ended(
                State.UNSUPPORTED,
                "this base cannot move sideways (parameter 'holonomic'); turn, then move forward",
            )
        motion = Straight(self._settings, distance_m, heading)
        return Drive(motion, self._senses, self._settings, looks=True)

    def _turn(self, arguments: Mapping[str, ArgumentValue]) -> Task:
        usual_deg = _TURNS.get(str(arguments.get("direction")))
        angle_deg = arguments.get("angle_deg", abs(usual_deg or 0.0))
        if usual_deg is None or not _is_amount(angle_deg):
            return _unusable("turn", arguments, "direction", list(_TURNS), "angle_deg")
        angle = math.copysign(math.radians(angle_deg), usual_deg)
        return Drive(Turn(self._settings, angle), self._senses, self._settings, looks=False)

    def _place(self, arguments: Mapping[str, ArgumentValue]) -> Task:
        name = str(arguments.get("place", "")).strip()
        pose = self._places.get(name.lower())
        if pose is None:
            known = ", ".join(sorted(self._places)) or "none; set the parameter 'places'"
            return Ended(State.FAILED, f"the place {name!r} is not known; known places: {known}")
        return self._go_to(pose)


def _is_amount(value: ArgumentValue | None) -> TypeGuard[float]:
    return isinstance(value, float) and math.isfinite(value) and value > 0.0


def _unusable(
    skill: str,
    arguments: Mapping[str, ArgumentValue],
    choice: str,
    choices: list[str],
    amount: str,
) -> Task:
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return Ended(
        State.FAILED,
        f"{skill}({given}): expected {choice} as one of {', '.join(choices)} and a positive "
        f"number {amount}",
    )
