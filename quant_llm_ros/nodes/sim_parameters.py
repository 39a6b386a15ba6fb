"""The parameters of the simulation."""

from __future__ import annotations

import dataclasses

from quant_llm_ros.nodes.parameter_table import Spec


@dataclasses.dataclass(frozen=True)
class SimSettings:
    """The values of all parameters at one time; the meanings stand in ``SPECS``."""

    world: str
    seed: int
    speed_factor: float
    lockstep_s: float
    clock: bool
    holonomic: bool
    stamped_cmd_vel: bool
    goal_pose_driver: bool
    robot_radius_m: float
    max_speed_mps: float
    max_turn_rate_rps: float
    acceleration_mps2: float
    turn_acceleration_rps2: float
    command_timeout_s: float
    odometry_rate_hz: float
    odometry_noise: float
    scan_rate_hz: float
    scan_beams: int
    scan_noise_m: float
    fault_odometry: bool
    fault_scan: bool
    fault_clock: bool
    fault_slip: float


SPECS: tuple[Spec, ...] = (
    Spec("world", "", "World (YAML file); empty: config/simulation/flat.yaml.", read_only=True),
    Spec("seed", 0, "Seed of the noise.", 0, 2**31 - 1, read_only=True),
    Spec(
        "speed_factor",
        1.0,
        "Seconds of the simulation in a second of the real world.",
        0.01,
        20.0,
    ),
    Spec(
        "lockstep_s",
        0.0,
        "After each odometry of a drive the simulation waits up to so long, s of the real world, "
        "for the next velocity command; 0: never.",
        0.0,
        60.0,
    ),
    Spec(
        "clock",
        True,
        "Publish /clock and stamp with the simulation's time; else stamps begin with the real "
        "time.",
        read_only=True,
    ),
    Spec("holonomic", False, "Whether the robot can move sideways.", read_only=True),
    Spec("stamped_cmd_vel", False, "cmd_vel is TwistStamped, not Twist.", read_only=True),
    Spec(
        "goal_pose_driver",
        True,
        "Drive straight to what comes on goal_pose, in place of a navigation.",
        read_only=True,
    ),
    Spec("robot_radius_m", 0.25, "Radius of the robot, m.", 0.01, 5.0, read_only=True),
    Spec("max_speed_mps", 1.0, "Largest speed of the base, m/s.", 0.01, 5.0, read_only=True),
    Spec("max_turn_rate_rps", 2.0, "Largest turn rate, rad/s.", 0.01, 20.0, read_only=True),
    Spec("acceleration_mps2", 2.0, "Acceleration of the base, m/s².", 0.01, 50.0, read_only=True),
    Spec(
        "turn_acceleration_rps2",
        6.0,
        "Acceleration of turns, rad/s².",
        0.01,
        200.0,
        read_only=True,
    ),
    Spec(
        "command_timeout_s",
        0.5,
        "The base stops without a command for so long, s of the simulation.",
        0.05,
        60.0,
        read_only=True,
    ),
    Spec(
        "odometry_rate_hz",
        50.0,
        "Odometry messages per second of the simulation; the physics has the same step.",
        10.0,
        200.0,
        read_only=True,
    ),
    Spec(
        "odometry_noise",
        0.01,
        "Standard deviation of odometry, as a share of the motion of each second.",
        0.0,
        1.0,
        read_only=True,
    ),
    Spec("scan_rate_hz", 10.0, "Scans per second of the simulation.", 0.1, 50.0, read_only=True),
    Spec("scan_beams", 180, "Beams of a scan, over the full circle.", 4, 3600, read_only=True),
    Spec("scan_noise_m", 0.005, "Standard deviation of a range, m.", 0.0, 1.0, read_only=True),
    Spec("fault_odometry", False, "Fault: no odometry."),
    Spec("fault_scan", False, "Fault: no scan."),
    Spec("fault_clock", False, "Fault: /clock stands still."),
    Spec(
        "fault_slip",
        0.0,
        "Fault: share of the wheels' motion that does not move the robot.",
        0.0,
        1.0,
    ),
)
