"""What can be set about carrying decisions out; each is a parameter of the executor node."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Settings:
    """Values of all parameters at one time; ``nodes/executor_parameters.py`` has their ranges.

    The unit is in the name: ``_s`` seconds, ``_m`` metres, ``_mps`` m/s, ``_mps2`` m/s²,
    ``_deg`` degrees, ``_dps`` degrees/s, ``_dps2`` degrees/s².
    """

    places: str = ""
    navigation: str = "auto"
    holonomic: bool = False
    stamped_cmd_vel: bool = False
    base_frame: str = "base_link"
    map_frame: str = "map"
    on_new_decision: str = "preempt"
    max_speed_mps: float = 0.4
    max_acceleration_mps2: float = 0.5
    max_turn_rate_dps: float = 60.0
    max_turn_acceleration_dps2: float = 90.0
    distance_tolerance_m: float = 0.02
    angle_tolerance_deg: float = 1.0
    goal_tolerance_m: float = 0.25
    goal_tolerance_deg: float = 15.0
    robot_radius_m: float = 0.25
    obstacle_distance_m: float = 0.2
    obstacle_wait_s: float = 5.0
    stall_time_s: float = 2.0
    require_scan: bool = False
    scan_timeout_s: float = 1.0
    odometry_timeout_s: float = 0.5
    clock_timeout_s: float = 2.0
    watch_understanding: bool = True
    understanding_timeout_s: float = 3.0
    confirm_timeout_s: float = 15.0
    server_wait_s: float = 2.0
    skill_timeout_s: float = 300.0
    go_to_timeout_s: float = 300.0
    stop_hold_s: float = 0.0
    autostart: bool = False

    @property
    def max_turn_rate(self) -> float:
        """Largest turn rate, rad/s."""
        return math.radians(self.max_turn_rate_dps)

    @property
    def max_turn_acceleration(self) -> float:
        """Largest change of the turn rate, rad/s²."""
        return math.radians(self.max_turn_acceleration_dps2)

    @property
    def angle_tolerance(self) -> float:
        """How far from its end a turn may stop, rad."""
        return math.radians(self.angle_tolerance_deg)
