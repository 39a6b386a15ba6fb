"""The simulated robot and its world, without ROS."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.geometry import Pose, STANDSTILL, Velocity
from quant_llm_ros.simulation.goal_driver import command_towards
from quant_llm_ros.simulation.laser import Laser
from quant_llm_ros.simulation.robot import Base, Robot
from quant_llm_ros.simulation.world import load_world, World

EXACT = Base(odometry_noise=0.0, acceleration_mps2=1e3, turn_acceleration=1e3)
DT_S = 0.02


def robot(
    base: Base = EXACT, *walls: tuple[float, float, float, float], start: Pose | None = None
) -> Robot:
    world = World("test", np.array(walls, dtype=float).reshape(-1, 4), start or Pose())
    return Robot(base, world, np.random.default_rng(3))


def drive(robot: Robot, command: Velocity, seconds: float, *, slip: float = 0.0) -> None:
    for _ in range(round(seconds / DT_S)):
        robot.drive(command)
        robot.step(DT_S, slip=slip)


def test_a_circle_ends_where_it_began() -> None:
    r = robot()
    drive(r, Velocity(0.5, 0.0, 0.5), math.tau / 0.5)
    assert math.dist((r.pose.x, r.pose.y), (0.0, 0.0)) < 0.02
    assert r.odometry == r.pose


def test_only_a_holonomic_base_moves_sideways() -> None:
    r = robot()
    drive(r, Velocity(0.0, 0.5), 1.0)
    assert r.pose == Pose()
    r = robot(Base(holonomic=True, odometry_noise=0.0, acceleration_mps2=1e3))
    drive(r, Velocity(0.0, 0.5), 1.0)
    assert r.pose.y == pytest.approx(0.5)


def test_limits_of_the_base() -> None:
    r = robot(Base(max_speed_mps=1.0, acceleration_mps2=0.5))
    drive(r, Velocity(9.0), 1.0)
    assert r.velocity.forward == pytest.approx(0.5)
    drive(r, Velocity(9.0), 5.0)
    assert r.velocity.forward == pytest.approx(1.0)


def test_without_commands_the_base_stops() -> None:
    r = robot()
    drive(r, Velocity(0.5), 1.0)
    for _ in range(100):
        r.step(DT_S)
    assert r.velocity == STANDSTILL
    assert r.pose.x == pytest.approx(0.75, abs=0.03)  # it went on for the timeout of 0.5 s


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_command_that_is_no_number_stops_the_base(value: float) -> None:
    r = robot()
    drive(r, Velocity(0.5), 0.2)
    drive(r, Velocity(value), 0.2)
    assert r.velocity == STANDSTILL


def test_a_wall_stops_the_robot_and_lets_it_back() -> None:
    r = robot(EXACT, (1.0, -1.0, 1.0, 1.0))
    drive(r, Velocity(0.5), 3.0)
    assert r.touches_wall
    assert r.pose.x == pytest.approx(0.75, abs=0.02)
    assert r.velocity.forward == 0.0
    drive(r, Velocity(-0.5), 1.0)
    assert r.pose.x == pytest.approx(0.25, abs=0.03)


def test_slip_moves_the_robot_less_than_odometry_says() -> None:
    r = robot()
    drive(r, Velocity(0.5), 2.0, slip=0.2)
    assert r.odometry.x == pytest.approx(1.0)
    assert r.pose.x == pytest.approx(0.8)


def test_odometry_drifts_by_its_share() -> None:
    ends = []
    for seed in range(40):
        world = World("test", np.zeros((0, 4)), Pose())
        r = Robot(Base(odometry_noise=0.02), world, np.random.default_rng(seed))
        drive(r, Velocity(0.5), 2.0)
        ends.append(r.odometry.x - r.pose.x)
    # 2 % of 0.5 m in each of two seconds
    assert np.std(ends) == pytest.approx(0.02 * 0.5 * math.sqrt(2), rel=0.4)


def test_laser_in_a_room() -> None:
    room = np.array([[-1, -1, 3, -1], [3, -1, 3, 1], [3, 1, -1, 1], [-1, 1, -1, -1]], dtype=float)
    laser = Laser(beams=4, noise_m=0.0)
    random = np.random.default_rng(0)
    # back, right, forward, left
    assert laser.measure(room, Pose(), random) == pytest.approx([1, 1, 3, 1])
    turned = laser.measure(room, Pose(0.0, 0.0, math.pi / 2), random)
    assert turned == pytest.approx([1, 3, 1, 1])
    assert np.all(np.isinf(laser.measure(np.zeros((0, 4)), Pose(), random)))
    assert np.isinf(Laser(beams=4, range_max=2.0).measure(room, Pose(), random)[2])


def test_laser_beside_the_end_of_a_wall() -> None:
    wall = np.array([[1.0, 0.1, 1.0, 2.0]])
    ranges = Laser(beams=360, noise_m=0.0).measure(wall, Pose(), np.random.default_rng(0))
    assert math.isinf(ranges[180])
    assert math.isfinite(ranges[180 + 45])


def test_goal_driver_arrives() -> None:
    r = robot(Base())
    goal = Pose(-1.0, 1.0, math.pi / 2)
    for _ in range(1500):
        r.drive(command_towards(goal, r.odometry))
        r.step(DT_S)
    assert command_towards(goal, r.odometry) == STANDSTILL
    assert math.dist((r.pose.x, r.pose.y), (-1.0, 1.0)) < 0.15


@pytest.mark.parametrize("name", ["flat", "hall"])
def test_worlds_that_are_shipped(repository: Path, name: str) -> None:
    world = load_world(repository / f"config/simulation/{name}.yaml")
    assert world.name == name
    assert world.distance(world.start.x, world.start.y) > 0.5


def test_a_world_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "box.yaml"
    file.write_text("{rectangles: [[0, 0, 2, 1]], walls: [[1, 0, 1, 0.5]], start: {x: 0.5, y: 1}}")
    world = load_world(file)
    assert world.walls.shape == (5, 4)
    assert (world.name, world.start) == ("box", Pose(0.5, 1.0, 0.0))
    assert world.distance(1.0, 0.75) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[]", "expected a mapping"),
        ("wals: []", "unknown key wals"),
        ("walls: [[1, 2, 3]]", r"walls\[0\]"),
        ("walls: [[1, 2, 1, 2]]", "single point"),
        ("rectangles: [[1, 2, 3, .inf]]", r"rectangles\[0\]"),
        ("start: {x: left}", "start is"),
        ("start: {z: 1}", "start is"),
        ("walls: 3", r"walls\[0\]"),
        ("{]", "is not valid YAML"),
    ],
)
def test_malformed_worlds_name_the_file(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "world.yaml"
    file.write_text(text)
    with pytest.raises(QuantLlmError, match=part) as caught:
        load_world(file)
    assert str(file) in str(caught.value)
