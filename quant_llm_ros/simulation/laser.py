"""A laser scanner by ray casting."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.geometry import Pose

_PARALLEL = 1e-12


@dataclasses.dataclass(frozen=True)
class Laser:
    """A scanner in the middle of the robot that looks all around.

    Attributes:
        beams: Number of beams over the full circle.
        range_min: Shortest range, m.
        range_max: Longest range, m; what is farther gives infinity.
        noise_m: Standard deviation of a range, m.
    """

    beams: int = 180
    range_min: float = 0.05
    range_max: float = 10.0
    noise_m: float = 0.005

    @property
    def angle_min(self) -> float:
        """Direction of the first beam, rad."""
        return -math.pi

    @property
    def angle_increment(self) -> float:
        """From one beam to the next, rad."""
        return math.tau / self.beams

    def measure(
        self, walls: NDArray[np.float64], pose: Pose, random: np.random.Generator
    ) -> NDArray[np.float64]:
        """Measure the distances to the nearest walls.

        Args:
            walls: Segments, m, shape (walls, 4).
            pose: Where the scanner is.
            random: Source of the noise.

        Returns:
            Ranges, m, shape (beams,); infinite where there is nothing.
        """
        if not len(walls):
            return np.full(self.beams, math.inf)
        angles = pose.yaw + self.angle_min + self.angle_increment * np.arange(self.beams)
        ray_x, ray_y = np.cos(angles)[:, None], np.sin(angles)[:, None]
        from_x, from_y = walls[:, 0] - pose.x, walls[:, 1] - pose.y
        along_x, along_y = walls[:, 2] - walls[:, 0], walls[:, 3] - walls[:, 1]
        # pose + range * ray == start + share * along, solved for each pair of beam and wall
        cross = ray_x * along_y - ray_y * along_x
        with np.errstate(divide="ignore", invalid="ignore"):
            ranges = (from_x * along_y - from_y * along_x) / cross
            share = (from_x * ray_y - from_y * ray_x) / cross
        hit = (np.abs(cross) > _PARALLEL) & (ranges > 0.0) & (share >= 0.0) & (share <= 1.0)
        nearest = np.where(hit, ranges, math.inf).min(axis=1)
        nearest = nearest + random.normal(0.0, self.noise_m, self.beams)
        return np.where(
            (nearest >= self.range_min) & (nearest <= self.range_max), nearest, math.inf
        )
