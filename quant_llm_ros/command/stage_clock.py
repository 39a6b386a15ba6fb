"""How long each stage of a command took."""

from __future__ import annotations

from collections.abc import Callable
import time

from quant_llm_ros.command.decision import Stage


class StageClock:
    """Splits the time of one command into its stages without a gap between them."""

    def __init__(self, start_s: float, on_stage: Callable[[Stage], None] | None = None) -> None:
        """Begin in the stage QUEUE at ``start_s`` of ``time.monotonic``."""
        self._start_s = self._since_s = start_s
        self._stage: Stage = Stage.QUEUE
        self._on_stage = on_stage
        self._ms: dict[Stage, float] = {}

    def enter(self, stage: Stage) -> None:
        """End the present stage and begin another."""
        self._close()
        self._stage = stage
        if self._on_stage is not None:
            self._on_stage(stage)

    def finish(self) -> tuple[dict[Stage, float], float]:
        """Give the time of each stage and of all, in milliseconds."""
        self._close()
        return dict(self._ms), (self._since_s - self._start_s) * 1e3

    def _close(self) -> None:
        now_s = time.monotonic()
        self._ms[self._stage] = self._ms.get(self._stage, 0.0) + (now_s - self._since_s) * 1e3
        self._since_s = now_s
