"""Moves and turns on the simulated robot, without ROS."""

from __future__ import annotations

from collections import deque
import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from quant_llm_ros.command.decision import SkillCall
from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.execution.motion import speed_towards
from quant_llm_ros.execution.places import load_places
from quant_llm_ros.execution.report import Progress, State
from quant_llm_ros.execution.senses import Odometry, Scan, Senses
from quant_llm_ros.execution.settings import Settings
from quant_llm_ros.execution.tasks import Drive, Ended, GoTo, Task, TaskMaker
from quant_llm_ros.geometry import Pose, quaternion_of, STANDSTILL, Velocity, wrap, yaw_of
from quant_llm_ros.simulation.laser import Laser
from quant_llm_ros.simulation.robot import Base, Robot
from quant_llm_ros.simulation.world import World

DT_S = 0.02
NO_WALLS = np.zeros((0, 4))


class Course:
    """The robot, its senses, and a task that drives it, in simulated time."""

    def __init__(
        self,
        *,
        walls: list[tuple[float, float, float, float]] | None = None,
        settings: Settings | None = None,
        base: Base | None = None,
        start: Pose | None = None,
        scans: bool = True,
        solid: bool = True,
        late_s: float = 0.0,
    ) -> None:
        self.walls = np.array(walls, dtype=float) if walls else NO_WALLS
        self.settings = settings or Settings()
        self.random = np.random.default_rng(5)
        self.robot = Robot(
            base or Base(),
            World("test", self.walls if solid else NO_WALLS, start or Pose()),
            self.random,
        )
        self.senses = Senses()
        self.laser = Laser()
        self.scans = scans
        self.slip = 0.0
        # What the base has been told and does not do yet.
        self.late = deque([STANDSTILL] * round(late_s / DT_S))
        self.now_s = 0.0
        self.speeds: list[Velocity] = []
        self.goals: list[Pose] = []
        self.maker = TaskMaker(
            self.senses,
            lambda: self.settings,
            {"kitchen": Pose(1.0, 0.5, 0.0)},
            go_to=lambda pose: GoTo(pose, self.senses, lambda: self.settings, self.goals.append),
            other=lambda call: Ended(State.UNSUPPORTED, call.skill),
        )
        self.tick()

    def tick(self) -> None:
        """Let one step of the simulation pass."""
        self.now_s += DT_S
        self.robot.step(DT_S, slip=self.slip)
        odometry = Odometry(self.now_s, self.robot.odometry, self.robot.velocity)
        self.senses.on_odometry(odometry, self.now_s)
        if self.scans:
            ranges = self.laser.measure(self.walls, self.robot.pose, self.random)
            laser = self.laser
            scan = Scan(laser.angle_min, laser.angle_increment, 0.05, 10.0, ranges)
            self.senses.on_scan(scan, self.now_s)

    def task(self, skill: str, **arguments: str | float) -> Task:
        """Make the task of a call."""
        return self.maker(SkillCall(skill, arguments))

    def run(self, task: Task, limit_s: float = 60.0) -> Progress:
        """Carry a task out to its end."""
        end_s = self.now_s + limit_s
        while self.now_s < end_s:
            progress = task.step(self.now_s)
            if progress.state.is_final:
                return progress
            if task.command is not None:
                self.late.append(task.command)
                self.robot.drive(self.late.popleft())
                self.speeds.append(task.command)
            self.tick()
        raise AssertionError(f"still {progress} after {limit_s} s")


def test_angles() -> None:
    assert wrap(math.pi + 0.1) == pytest.approx(-math.pi + 0.1)
    for yaw in (-3.0, -0.5, 0.0, 1.0, 3.1):
        assert yaw_of(*quaternion_of(yaw)) == pytest.approx(yaw)


@pytest.mark.parametrize("remaining", [3.0, -3.0, 0.05])
def test_profile_keeps_the_limits_and_stops_in_time(remaining: float) -> None:
    speed, position, dt_s = 0.0, 0.0, 0.05
    for _ in range(1000):
        new = speed_towards(remaining - position, speed, limit=0.5, acceleration=0.4, dt_s=dt_s)
        assert abs(new) <= 0.5
        assert abs(new) <= abs(speed) + 0.4 * dt_s + 1e-9
        assert abs(speed) - abs(new) <= 0.4 * dt_s * 1.6  # brakes no harder, but for the last step
        speed = new
        position += speed * dt_s
    assert position == pytest.approx(remaining, abs=1e-3)


@pytest.mark.parametrize(
    ("direction", "distance_m", "end"),
    [
        ("forward", 2.0, (2.0, 0.0)),
        ("backward", 0.5, (-0.5, 0.0)),
        ("left", 1.0, (0.0, 1.0)),
        ("right", 0.3, (0.0, -0.3)),
        ("forward", 0.01, (0.01, 0.0)),
    ],
)
def test_move(direction: str, distance_m: float, end: tuple[float, float]) -> None:
    course = Course(
        settings=Settings(holonomic=True), base=Base(holonomic=True), start=Pose(0.0, 0.0, 0.0)
    )
    progress = course.run(course.task("move", direction=direction, distance_m=distance_m))
    assert progress == Progress(1.0, State.SUCCEEDED)
    pose = course.robot.pose
    assert math.dist((pose.x, pose.y), end) < 0.05
    assert abs(math.degrees(pose.yaw)) < 3.0
    assert max(v.speed for v in course.speeds) <= course.settings.max_speed_mps + 1e-9


@pytest.mark.parametrize(
    ("arguments", "turned_deg"),
    [
        ({"direction": "left", "angle_deg": 90.0}, 90.0),
        ({"direction": "right", "angle_deg": 30.0}, -30.0),
        ({"direction": "left", "angle_deg": 360.0}, 360.0),
        ({"direction": "right"}, -90.0),
        ({"direction": "around"}, 180.0),
    ],
)
def test_turn(arguments: dict[str, str | float], turned_deg: float) -> None:
    course = Course(start=Pose(0.0, 0.0, 3.0))
    task = course.task("turn", **arguments)
    before = course.robot.pose.yaw
    total, yaw = 0.0, before

    def turned() -> float:
        nonlocal total, yaw
        total += wrap(course.robot.pose.yaw - yaw)
        yaw = course.robot.pose.yaw
        return total

    tick = course.tick
    course.tick = lambda: (tick(), turned())[0]  # type: ignore[method-assign]
    assert course.run(task).state is State.SUCCEEDED
    assert math.degrees(total) == pytest.approx(turned_deg, abs=3.0)
    assert course.robot.pose.x == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("late_s", [0.1, 0.2])
@pytest.mark.parametrize(
    ("skill", "arguments"),
    [
        ("move", {"direction": "forward", "distance_m": 1.0}),
        ("turn", {"direction": "left", "angle_deg": 90.0}),
        ("turn", {"direction": "around"}),
    ],
)
def test_a_base_that_answers_late_is_not_driven_to_and_fro(
    skill: str, arguments: dict[str, str | float], late_s: float
) -> None:
    course = Course(late_s=late_s)
    assert course.run(course.task(skill, **arguments)).state is State.SUCCEEDED
    told = [v.forward if skill == "move" else v.turn for v in course.speeds]
    turns = sum(a * b < 0.0 for a, b in itertools.pairwise(told))
    assert turns <= 2


def test_a_crooked_start_is_led_back_to_the_line() -> None:
    course = Course()
    task = course.task("move", direction="forward", distance_m=2.0)
    for _ in range(100):
        task.step(course.now_s)
        course.robot.drive(task.command or STANDSTILL)
        course.tick()
    # Somebody pushes the robot aside: odometry sees it.
    robot = course.robot
    robot.odometry = Pose(robot.odometry.x, robot.odometry.y + 0.1, robot.odometry.yaw + 0.1)
    assert course.run(task).state is State.SUCCEEDED
    assert abs(robot.odometry.y) < 0.05


def test_the_next_move_waits_until_the_robot_stands() -> None:
    course = Course()
    course.robot.drive(Velocity(0.5))
    for _ in range(20):
        course.tick()
    task = course.task("move", direction="forward", distance_m=1.0)
    start = None
    while start is None:
        task.step(course.now_s)
        if task.command == STANDSTILL:
            course.robot.drive(STANDSTILL)
            course.tick()
        else:
            start = course.robot.pose.x
    assert course.run(task).state is State.SUCCEEDED
    assert course.robot.pose.x - start == pytest.approx(1.0, abs=0.05)


def test_an_obstacle_stops_the_robot_before_it_touches() -> None:
    course = Course(walls=[(1.5, -1.0, 1.5, 1.0)], settings=Settings(obstacle_wait_s=1.0))
    progress = course.run(course.task("move", direction="forward", distance_m=3.0))
    assert progress.state is State.BLOCKED
    assert "in the way" in progress.message
    gap_m = 1.5 - course.robot.pose.x - Base().radius_m
    assert 0.1 < gap_m < 0.3
    assert not course.robot.touches_wall


def test_it_goes_on_when_the_obstacle_leaves() -> None:
    course = Course(walls=[(1.5, -1.0, 1.5, 1.0)], solid=False)
    task = course.task("move", direction="forward", distance_m=2.0)
    while not task.step(course.now_s).message:
        course.robot.drive(task.command or STANDSTILL)
        course.tick()
    course.walls = NO_WALLS
    assert course.run(task).state is State.SUCCEEDED
    assert course.robot.pose.x == pytest.approx(2.0, abs=0.05)


def test_what_stands_beside_or_behind_is_not_in_the_way() -> None:
    walls = [(-1.0, 0.4, 5.0, 0.4), (-1.0, -0.4, 5.0, -0.4), (-0.5, -1.0, -0.5, 1.0)]
    course = Course(walls=walls)
    progress = course.run(course.task("move", direction="forward", distance_m=2.0))
    assert progress.state is State.SUCCEEDED


def test_a_base_that_does_not_move_is_noticed() -> None:
    course = Course(walls=[(0.3, -1.0, 0.3, 1.0)], scans=False)
    progress = course.run(course.task("move", direction="forward", distance_m=1.0))
    assert progress.state is State.BLOCKED
    assert "does not move" in progress.message


def test_a_slow_base_runs_out_of_time() -> None:
    course = Course(base=Base(max_speed_mps=0.02))
    progress = course.run(course.task("move", direction="forward", distance_m=3.0), 120.0)
    assert progress.state is State.TIMEOUT


def test_a_lost_scan_stops_a_move_but_no_turn() -> None:
    course = Course()
    course.scans = False
    assert course.run(course.task("turn", direction="left")).state is State.SUCCEEDED
    progress = course.run(course.task("move", direction="forward", distance_m=1.0))
    assert (progress.state, progress.message) == (State.BLOCKED, "no laser scan for 1 s")


def test_a_required_scan_that_never_came() -> None:
    course = Course(scans=False, settings=Settings(require_scan=True))
    progress = course.run(course.task("move", direction="forward", distance_m=1.0))
    assert progress.state is State.BLOCKED
    assert "'scan'" in progress.message


def test_stamps_that_go_backwards_end_a_move() -> None:
    course = Course(scans=False)
    task = course.task("move", direction="forward", distance_m=1.0)
    for _ in range(3):
        task.step(course.now_s)
        course.tick()
    course.senses.on_odometry(Odometry(0.001, Pose(), STANDSTILL), course.now_s)
    assert task.step(course.now_s).state is State.LOST_ODOMETRY
    assert task.command == STANDSTILL


def test_clearance_of_a_scan() -> None:
    ranges = np.array([1.0, math.inf, 2.0, math.nan, 0.0])
    scan = Scan(-math.pi / 2, math.pi / 4, 0.1, 5.0, ranges)
    assert scan.clearance(0.0, 0.3) == pytest.approx(2.0)
    assert scan.clearance(-math.pi / 2, 0.3) == pytest.approx(1.0)
    assert scan.clearance(math.pi / 2, 0.3) == math.inf
    assert scan.covers(0.0)
    assert not scan.covers(math.pi)


@pytest.mark.parametrize(
    ("skill", "arguments", "part"),
    [
        ("move", {"direction": "up", "distance_m": 1.0}, "one of forward, backward"),
        ("move", {"direction": "forward"}, "positive number distance_m"),
        ("move", {"direction": "forward", "distance_m": -1.0}, "distance_m=-1.0"),
        ("move", {"direction": "forward", "distance_m": math.nan}, "positive number"),
        ("turn", {"direction": "left", "angle_deg": "much"}, "positive number angle_deg"),
        ("go_to", {"place": "Moon"}, "'Moon' is not known; known places: kitchen"),
    ],
)
def test_calls_that_make_no_sense(
    skill: str, arguments: dict[str, str | float], part: str
) -> None:
    progress = Course().task(skill, **arguments).step(0.0)
    assert progress.state is State.FAILED
    assert part in progress.message


def test_sideways_needs_a_base_that_can() -> None:
    progress = Course().task("move", direction="left", distance_m=1.0).step(0.0)
    assert progress.state is State.UNSUPPORTED
    assert "holonomic" in progress.message


def test_go_to_publishes_the_goal_and_watches_the_arrival() -> None:
    course = Course()
    task = course.task("go_to", place="Kitchen")
    first = task.step(course.now_s)
    assert course.goals == [Pose(1.0, 0.5, 0.0)]
    assert (first.state, first.message) == (State.RUNNING, "1.1 m left")
    assert task.command is None  # somebody else drives
    course.robot.odometry = Pose(0.9, 0.5, 0.1)
    course.tick()
    assert task.step(course.now_s).state is State.SUCCEEDED
    assert len(course.goals) == 1


def test_go_to_that_is_given_up_makes_the_present_pose_the_goal() -> None:
    course = Course(settings=Settings(go_to_timeout_s=5.0))
    progress = course.run(course.task("go_to", place="kitchen"))
    assert progress.state is State.TIMEOUT
    assert course.goals[-1] == course.robot.odometry


def test_places_of_a_file(tmp_path: Path, repository: Path) -> None:
    assert "kitchen" in load_places(repository / "config/simulation/flat.yaml")
    file = tmp_path / "places.yaml"
    file.write_text("places: {Tea Kitchen: {x: 1, y: 2.5, yaw_deg: 180}}")
    assert load_places(file) == {"tea kitchen": Pose(1.0, 2.5, math.pi)}


@pytest.mark.parametrize(
    "text",
    ["", "places: [a]", "places: {a: {x: 1}}", "places: {a: {x: 1, y: .nan}}", "{]", "places: 3"],
)
def test_malformed_places_name_the_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "places.yaml"
    file.write_text(text)
    with pytest.raises(QuantLlmError, match=r"places\.yaml"):
        load_places(file)


def test_settings_are_asked_anew_at_every_step() -> None:
    course = Course()
    task = course.task("move", direction="forward", distance_m=4.0)
    assert isinstance(task, Drive)
    for _ in range(150):
        task.step(course.now_s)
        course.robot.drive(task.command or STANDSTILL)
        course.tick()
    assert course.robot.velocity.forward == pytest.approx(0.4, abs=0.01)
    course.settings = dataclasses.replace(course.settings, max_speed_mps=0.1)
    task.step(course.now_s)
    assert task.command is not None
    assert task.command.forward <= 0.1
