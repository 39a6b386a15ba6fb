"""Latency statistics against figures worked out by hand."""

import pytest

from quant_llm_ros.command.decision import Decision, Stage, Status
from quant_llm_ros.command.statistics import LatencyWindow


def decision(total_ms, status=Status.UNKNOWN, **stages):
    """Make a decision that took some time."""
    return Decision(
        text="t",
        status=status,
        message="m",
        total_ms=total_ms,
        latency_ms={Stage(name): ms for name, ms in stages.items()},
        generated_tokens=10,
        forward_passes=4,
    )


def test_empty_window():
    """Before the first decision there is nothing to average."""
    summary = LatencyWindow().summary()
    assert (summary.count, summary.stages, summary.tokens_per_s) == (0, (), 0.0)


def test_figures():
    """Percentiles, means and rates are what they are called."""
    window = LatencyWindow(size=101)
    window.add(decision(1e6, prefill=1e6))  # falls out of the window
    for ms in range(101):
        window.add(decision(ms + 1.0, guard=1.0, decode=float(ms)))
    window_summary = window.summary()
    guard, decode, total = window_summary.stages
    assert (guard.stage, decode.stage, total.stage) == ("guard", "decode", "total")
    assert (decode.count, decode.mean_ms, decode.p50_ms) == (101, 50.0, 50.0)
    assert (decode.p90_ms, decode.p99_ms, decode.max_ms) == (90.0, 99.0, 100.0)
    assert total.max_ms == 101.0
    assert window_summary.tokens_per_s == pytest.approx(101 * 10 / 5.05)
    assert window_summary.forward_passes_mean == 4.0
    assert (window_summary.count, window_summary.decisions) == (101, 102)


def test_resizing_keeps_the_counters():
    """Another window size looks back differently; what was counted stays counted."""
    window = LatencyWindow(size=5)
    for ms in range(5):
        window.add(decision(float(ms), Status.TIMEOUT))
    window.resize(2)
    summary = window.summary()
    assert (summary.count, summary.decisions, summary.deadline_misses) == (2, 5, 5)
    assert summary.stages[-1].mean_ms == 3.5


def test_deadline_misses_are_never_forgotten():
    """The window slides, the counters do not."""
    window = LatencyWindow(size=1)
    for status in (Status.TIMEOUT, Status.UNKNOWN, Status.TIMEOUT, Status.ERROR):
        window.add(decision(1.0, status))
    assert (window.summary().count, window.summary().deadline_misses) == (1, 2)
