"""The parameters of the executor node: ranges and descriptions; the defaults are ``Settings``'."""

from __future__ import annotations

import dataclasses

from quant_llm_ros.execution.settings import Settings
from quant_llm_ros.nodes.parameter_table import ChoiceSpec, Spec

NAVIGATION = ("auto", "nav2", "goal_pose")
ON_NEW_DECISION = ("preempt", "queue")

_DEFAULTS = dataclasses.asdict(Settings())


def _spec(
    name: str,
    description: str,
    low: float = 0.0,
    high: float = 0.0,
    *,
    loading: bool = False,
    read_only: bool = False,
) -> Spec:
    return Spec(name, _DEFAULTS[name], description, low, high, loading, read_only)


def _choice(
    name: str, description: str, choices: tuple[str, ...], *, loading: bool = False
) -> Spec:
    return ChoiceSpec(name, _DEFAULTS[name], description, loading=loading, choices=choices)


SPECS: tuple[Spec, ...] = (
    _spec("places", "YAML file with the known places for go_to; empty: none.", loading=True),
    _choice(
        "navigation",
        "Who drives to places: nav2 (its action navigate_to_pose), goal_pose (whoever listens to "
        "that topic), auto: nav2 where nav2_msgs is installed.",
        NAVIGATION,
        loading=True,
    ),
    _spec("holonomic", "Whether the base can move sideways.", loading=True),
    _spec(
        "stamped_cmd_vel",
        "Publish cmd_vel as TwistStamped, as Nav2 and ros2_control do since Jazzy, not as Twist.",
        loading=True,
    ),
    _spec("base_frame", "Frame of the velocity commands.", loading=True),
    _spec("map_frame", "Frame of the known places.", loading=True),
    _choice(
        "on_new_decision",
        "What an accepted decision does to those before: preempt gives them up, queue waits.",
        ON_NEW_DECISION,
    ),
    _spec("max_speed_mps", "Largest speed, m/s.", 0.01, 5.0),
    _spec("max_acceleration_mps2", "Largest change of the speed, m/s².", 0.01, 20.0),
    _spec("max_turn_rate_dps", "Largest turn rate, degrees/s.", 1.0, 720.0),
    _spec(
        "max_turn_acceleration_dps2", "Largest change of the turn rate, degrees/s².", 1.0, 7200.0
    ),
    _spec("distance_tolerance_m", "How far from its end a move may stop, m.", 0.001, 1.0),
    _spec("angle_tolerance_deg", "How far from its end a turn may stop, degrees.", 0.1, 45.0),
    _spec("goal_tolerance_m", "How near to a place is there, by goal_pose, m.", 0.01, 10.0),
    _spec("goal_tolerance_deg", "The same for the heading, degrees.", 0.1, 180.0),
    _spec("robot_radius_m", "Half the width of the robot, m.", 0.01, 5.0),
    _spec("obstacle_distance_m", "Room that is kept in front of the hull, m.", 0.0, 10.0),
    _spec("obstacle_wait_s", "How long to wait for an obstacle to leave, s.", 0.0, 3600.0),
    _spec("stall_time_s", "Without progress for so long, a motion is blocked, s.", 0.1, 60.0),
    _spec("require_scan", "Move only where the laser scanner sees."),
    _spec("scan_timeout_s", "Age of a scan that is too old to move, s.", 0.05, 60.0),
    _spec("odometry_timeout_s", "Age of odometry that is too old to move, s.", 0.05, 60.0),
    _spec("clock_timeout_s", "With use_sim_time: how long /clock may stand still, s.", 0.1, 600.0),
    _spec("watch_understanding", "Stop when the understanding node is gone."),
    _spec(
        "understanding_timeout_s",
        "How long the understanding node may publish nothing on latency, s; more than its "
        "latency_period_s.",
        0.2,
        7200.0,
    ),
    _spec("confirm_timeout_s", "How long to wait for a person's yes, s.", 0.1, 3600.0),
    _spec("server_wait_s", "How long to look for the action of a skill, s.", 0.0, 600.0),
    _spec("skill_timeout_s", "Longest time of a skill of the robot's own code, s.", 0.1, 86400.0),
    _spec("go_to_timeout_s", "Longest time of a drive to a place, s.", 0.1, 86400.0),
    _spec(
        "stop_hold_s",
        "How long zero velocity is repeated after a stop, s; 0: until the next accepted decision.",
        0.0,
        3600.0,
    ),
    _spec(
        "autostart",
        "Configure and activate when the process starts, also after a respawn.",
        read_only=True,
    ),
)
