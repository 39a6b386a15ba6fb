"""Latency statistics over a sliding window of decisions."""

from __future__ import annotations

import collections
import dataclasses
import threading

import numpy as np

from quant_llm_ros.command.decision import Decision, Stage, Status

TOTAL = "total"


@dataclasses.dataclass(frozen=True)
class StageSummary:
    """Latency of one stage, or of ``total``, over the commands that went through it.

    All times are in milliseconds.
    """

    stage: str
    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclasses.dataclass(frozen=True)
class LatencySummary:
    """Statistics of a window.

    Attributes:
        count: Decisions in the window.
        stages: One entry per stage that occurred, in order, then ``total``.
        tokens_per_s: Tokens of complete answers per second of decoding them.
        forward_passes_mean: Mean number of passes per decision.
        deadline_misses: TIMEOUT decisions since the beginning, not only in the window.
        decisions: All decisions since the beginning.
    """

    count: int
    stages: tuple[StageSummary, ...]
    tokens_per_s: float
    forward_passes_mean: float
    deadline_misses: int
    decisions: int


def summarize(stage: str, values_ms: list[float]) -> StageSummary:
    """Give the statistics of some latencies, at least one; percentiles are interpolated."""
    values = np.asarray(values_ms, dtype=np.float64)
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return StageSummary(
        stage,
        len(values),
        float(values.mean()),
        float(p50),
        float(p90),
        float(p99),
        float(values.max()),
    )


class LatencyWindow:
    """The last decisions and their statistics; any thread may use it."""

    def __init__(self, size: int = 200) -> None:
        """Keep the last ``size`` decisions."""
        self._lock = threading.Lock()
        self._window: collections.deque[Decision] = collections.deque(maxlen=size)
        self._decisions = 0
        self._deadline_misses = 0

    def resize(self, size: int) -> None:
        """Look back on ``size`` decisions from now on; the counters go on."""
        with self._lock:
            self._window = collections.deque(self._window, maxlen=size)

    def add(self, decision: Decision) -> None:
        """Take in one decision."""
        with self._lock:
            self._window.append(decision)
            self._decisions += 1
            self._deadline_misses += decision.status is Status.TIMEOUT

    def summary(self) -> LatencySummary:
        """Give the statistics of the present window; without decisions it has no stages."""
        with self._lock:
            window = list(self._window)
            decisions, misses = self._decisions, self._deadline_misses
        stages = []
        for stage in Stage:
            values = [d.latency_ms[stage] for d in window if stage in d.latency_ms]
            if values:
                stages.append(summarize(stage.value, values))
        if window:
            stages.append(summarize(TOTAL, [d.total_ms for d in window]))
        answered = [d for d in window if d.generated_tokens]
        decode_s = sum(d.latency_ms.get(Stage.DECODE, 0.0) for d in answered) / 1e3
        tokens = sum(d.generated_tokens for d in answered)
        return LatencySummary(
            count=len(window),
            stages=tuple(stages),
            tokens_per_s=tokens / decode_s if decode_s else 0.0,
            forward_passes_mean=(
                sum(d.forward_passes for d in window) / len(window) if window else 0.0
            ),
            deadline_misses=misses,
            decisions=decisions,
        )
