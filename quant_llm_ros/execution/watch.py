"""Without odometry, a running clock and somebody who can say stop, the robot does not move."""

from __future__ import annotations

from collections.abc import Callable
import math

from quant_llm_ros.execution.report import State
from quant_llm_ros.execution.senses import Senses
from quant_llm_ros.execution.settings import Settings


class Watch:
    """Tells what was lost. All times are steady, in seconds."""

    def __init__(
        self, senses: Senses, settings: Callable[[], Settings], *, clock_s: float | None = None
    ) -> None:
        """Begin to watch.

        Args:
            senses: Has the age of the odometry.
            settings: Gives the limits.
            clock_s: Time now, when a clock of a simulation is to be watched from now on.
        """
        self._senses = senses
        self._settings = settings
        self._clock_s = clock_s
        self._clock: float | None = None
        self._heartbeat_s = -math.inf
        self._publishers = 1

    def on_clock(self, value: float, now_s: float) -> None:
        """Take what the clock says, s."""
        if value != self._clock:
            self._clock = value
            if self._clock_s is not None:
                self._clock_s = now_s

    def on_heartbeat(self, now_s: float) -> None:
        """Note a sign of life of the understanding node."""
        self._heartbeat_s = now_s

    def on_decision(self, now_s: float) -> None:
        """Note a decision: a sign of life too, but one that may come from a person by hand."""
        self._publishers = max(1, self._publishers)  # the last count may be from before it came
        if math.isfinite(self._heartbeat_s):
            self._heartbeat_s = now_s

    def on_publishers(self, count: int) -> None:
        """Note how many publish decisions."""
        self._publishers = count

    def check(self, now_s: float, *, needs_odometry: bool) -> tuple[State, str] | None:
        """Give what is lost, with a message, or None when all is well.

        Args:
            now_s: Time now.
            needs_odometry: Whether the call that runs is driven by odometry.
        """
        settings = self._settings()
        if self._clock_s is not None and now_s - self._clock_s > settings.clock_timeout_s:
            return State.LOST_CLOCK, f"/clock stood still for {settings.clock_timeout_s:g} s"
        age_s = self._senses.odometry_age_s(now_s)
        if needs_odometry and age_s > settings.odometry_timeout_s:
            if math.isinf(age_s):
                return State.LOST_ODOMETRY, "no odometry has arrived on the topic 'odom'"
            return State.LOST_ODOMETRY, f"no new odometry for {settings.odometry_timeout_s:g} s"
        if not settings.watch_understanding:
            return None
        if self._publishers == 0:
            return State.LOST_UNDERSTANDING, "nobody publishes decisions any more"
        silent_s = now_s - self._heartbeat_s
        if math.isfinite(silent_s) and silent_s > settings.understanding_timeout_s:
            return (
                State.LOST_UNDERSTANDING,
                f"no sign of life of the understanding node for "
                f"{settings.understanding_timeout_s:g} s",
            )
        return None
