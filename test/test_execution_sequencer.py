"""The order of calls, and every way in which one can end, without ROS."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from quant_llm_ros.command.decision import Safety, SkillCall
from quant_llm_ros.execution.report import Progress, Report, State
from quant_llm_ros.execution.senses import Odometry, Senses
from quant_llm_ros.execution.sequencer import Sequencer
from quant_llm_ros.execution.settings import Settings
from quant_llm_ros.execution.tasks import Ended, Task
from quant_llm_ros.execution.watch import Watch
from quant_llm_ros.geometry import Pose, STANDSTILL, Velocity

MOVING = Velocity(0.3)


class Manual(Task):
    """A task that the test ends."""

    def __init__(self, *, drives: bool) -> None:
        self.command = MOVING if drives else None
        self.needs_odometry = drives
        self.progress = Progress()
        self.cancelled = 0
        self.error: Exception | None = None

    def step(self, now_s: float) -> Progress:
        if self.error is not None:
            raise self.error
        return self.progress

    def cancel(self) -> None:
        self.cancelled += 1


class Bench:
    """A sequencer with manual tasks: skill "drive" drives, any other does not."""

    def __init__(self, settings: Settings | None = None, *, clock: bool = False) -> None:
        self.settings = settings or Settings()
        self.now_s = 100.0
        self.senses = Senses()
        self.watch = Watch(
            self.senses, lambda: self.settings, clock_s=self.now_s if clock else None
        )
        self.reports: list[Report] = []
        self.tasks: list[Manual] = []
        self.sent: list[Velocity] = []
        self.sequencer = Sequencer(
            self.make,
            self.watch,
            lambda: self.settings,
            report=self.reports.append,
            drive=self.sent.append,
        )
        self.odometry()

    def make(self, call: SkillCall) -> Task:
        if call.skill == "unknown":
            return Ended(State.UNSUPPORTED, "no server")
        if call.skill == "broken":
            raise ValueError("a bug")
        self.tasks.append(Manual(drives=call.skill == "drive"))
        return self.tasks[-1]

    def odometry(self) -> None:
        self.senses.on_odometry(Odometry(self.now_s, Pose(), STANDSTILL), self.now_s)

    def submit(self, *skills: str, number: int = 1, queue: bool = False, **call: Any) -> None:
        calls = [SkillCall(skill, {}, **call) for skill in skills]
        self.sequencer.submit(number, calls, self.now_s, queue=queue)

    def step(self, seconds: float = 0.0, *, odometry: bool = True) -> None:
        self.now_s += seconds
        if odometry:
            self.odometry()
        self.sequencer.step(self.now_s)

    def end(self, state: State = State.SUCCEEDED, message: str = "") -> None:
        self.tasks[-1].progress = Progress(1.0, state, message)
        self.step()

    def outcomes(self) -> list[tuple[int, str, str]]:
        return [(r.command_id, r.skill, r.state.name) for r in self.reports if r.state.is_final]


def test_ages_count_in_the_time_of_a_simulation() -> None:
    """A simulation at a tenth of real time sends a tenth as often, and nothing is lost."""
    simulated_s = 50.0
    senses = Senses(lambda: simulated_s)
    assert math.isinf(senses.odometry_age_s(1000.0))
    senses.on_odometry(Odometry(50.0, Pose(), STANDSTILL), 1000.0)
    simulated_s += 0.2
    assert senses.odometry_age_s(1002.0) == pytest.approx(0.2)
    assert math.isinf(senses.scan_age_s(1002.0))


def test_calls_run_one_after_another() -> None:
    bench = Bench()
    bench.submit("drive", "wave")
    assert [(r.index, r.count, r.state) for r in bench.reports] == [
        (0, 2, State.WAITING),
        (1, 2, State.WAITING),
        (0, 2, State.RUNNING),
    ]
    assert bench.sent[-1] == MOVING
    assert len(bench.tasks) == 1
    bench.end()
    assert bench.sent[-1] == STANDSTILL
    assert len(bench.tasks) == 2
    bench.end()
    assert bench.outcomes() == [(1, "drive", "SUCCEEDED"), (1, "wave", "SUCCEEDED")]
    assert not bench.sequencer.is_busy


def test_progress_is_reported_without_flooding() -> None:
    bench = Bench()
    bench.submit("drive")
    for n in range(1000):
        bench.tasks[0].progress = Progress(n / 1000)
        bench.step()
    running = [r.share for r in bench.reports if r.state is State.RUNNING]
    assert 30 <= len(running) <= 60
    assert running == sorted(running)


@pytest.mark.parametrize(
    "state", [State.BLOCKED, State.TIMEOUT, State.FAILED, State.UNSUPPORTED, State.CANCELLED]
)
def test_a_call_that_does_not_succeed_ends_the_rest_of_its_decision(state: State) -> None:
    bench = Bench()
    bench.submit("drive", "wave", "wave")
    bench.submit("wave", number=2, queue=True)
    bench.end(state, "because")
    assert bench.outcomes() == [
        (1, "drive", state.name),
        (1, "wave", "CANCELLED"),
        (1, "wave", "CANCELLED"),
    ]
    assert [r.message for r in bench.reports if r.state is state][:1] == ["because"]
    assert bench.reports[-1].command_id == 2  # the next decision's turn
    assert bench.reports[-1].state is State.RUNNING


def test_a_newer_decision_pre_empts_or_waits() -> None:
    bench = Bench()
    bench.submit("drive", "wave")
    bench.submit("wave", number=2, queue=True)
    assert bench.tasks[0].cancelled == 0
    bench.submit("drive", number=3)
    assert bench.tasks[0].cancelled == 1
    assert bench.outcomes() == [
        (1, "drive", "PREEMPTED"),
        (1, "wave", "PREEMPTED"),
        (2, "wave", "PREEMPTED"),
    ]
    assert STANDSTILL in bench.sent
    bench.end()
    assert bench.outcomes()[-1] == (3, "drive", "SUCCEEDED")


def test_the_same_number_again_is_another_decision() -> None:
    """The understanding node counts from 1 again after a restart."""
    bench = Bench()
    bench.submit("wave")
    bench.submit("drive", queue=True)
    bench.end(State.FAILED)
    assert bench.outcomes() == [(1, "wave", "FAILED")]
    assert bench.sent[-1] == MOVING


def test_stop_is_sent_first_and_zero_is_held_until_the_next_decision() -> None:
    bench = Bench()
    bench.submit("drive", "wave")
    bench.sent.clear()
    bench.sequencer.stop(2, bench.now_s)
    assert bench.sent[0] == STANDSTILL
    assert bench.outcomes() == [
        (1, "drive", "PREEMPTED"),
        (1, "wave", "PREEMPTED"),
        (2, "stop", "SUCCEEDED"),
    ]
    bench.sent.clear()
    for _ in range(100):
        bench.step(10.0)
    assert bench.sent == [STANDSTILL] * 100
    bench.submit("wave", number=3)
    bench.sent.clear()
    bench.step(10.0)
    assert bench.sent == []


def test_stop_can_be_held_for_a_while_only() -> None:
    bench = Bench(Settings(stop_hold_s=3.0))
    bench.sequencer.stop(1, bench.now_s)
    bench.step(2.9)
    assert bench.sent[-1] == STANDSTILL
    bench.sent.clear()
    bench.step(0.2)
    assert bench.sent == []


def test_after_a_drive_the_base_is_left_alone() -> None:
    bench = Bench()
    bench.submit("drive")
    bench.end()
    bench.step(0.3)
    assert bench.sent[-1] == STANDSTILL
    bench.sent.clear()
    bench.step(0.3)
    assert bench.sent == []


def test_confirmed() -> None:
    bench = Bench()
    assert bench.sequencer.confirm(True, bench.now_s) == ""  # nothing waits
    bench.submit("drive", safety=Safety.CONFIRM)
    assert bench.reports[-1].state is State.CONFIRMING
    assert not bench.tasks
    assert bench.sequencer.confirm(True, bench.now_s) == "drive"
    assert bench.sent[-1] == MOVING
    assert bench.sequencer.confirm(True, bench.now_s) == ""


def test_refused() -> None:
    bench = Bench()
    bench.submit("drive", "drive", safety=Safety.CONFIRM)
    assert bench.sequencer.confirm(False, bench.now_s) == "drive"
    assert bench.outcomes() == [(1, "drive", "REFUSED"), (1, "drive", "CANCELLED")]
    assert not bench.tasks
    assert MOVING not in bench.sent


def test_nobody_confirms() -> None:
    bench = Bench(Settings(confirm_timeout_s=2.0))
    bench.submit("drive", safety=Safety.CONFIRM)
    bench.step(1.9)
    assert bench.outcomes() == []
    bench.step(0.2)
    assert bench.outcomes() == [(1, "drive", "TIMEOUT")]
    assert "nobody" in bench.reports[-1].message


def test_stop_while_a_person_is_asked() -> None:
    bench = Bench()
    bench.submit("drive", safety=Safety.CONFIRM)
    bench.sequencer.stop(2, bench.now_s)
    assert bench.sequencer.confirm(True, bench.now_s) == ""
    assert bench.outcomes()[0] == (1, "drive", "PREEMPTED")


def test_lost_odometry_stops_drives_only() -> None:
    bench = Bench()
    bench.submit("drive")
    bench.step(0.4, odometry=False)
    assert bench.outcomes() == []
    bench.step(0.2, odometry=False)
    assert bench.outcomes() == [(1, "drive", "LOST_ODOMETRY")]
    assert bench.tasks[0].cancelled == 1
    assert bench.sent[-1] == STANDSTILL
    bench.submit("wave", number=2)
    bench.step(10.0, odometry=False)
    assert bench.reports[-1].state is State.RUNNING


def test_odometry_that_never_came() -> None:
    bench = Bench()
    bench.senses.__init__()  # type: ignore[misc]
    bench.submit("drive")
    assert bench.outcomes() == [(1, "drive", "LOST_ODOMETRY")]
    assert "'odom'" in bench.reports[-1].message


def test_odometry_with_a_stamp_that_stands_still_is_lost() -> None:
    bench = Bench()
    bench.submit("drive")
    for _ in range(10):
        bench.now_s += 0.1
        bench.senses.on_odometry(Odometry(1.0, Pose(), STANDSTILL), bench.now_s)
        bench.step(odometry=False)
    assert bench.outcomes() == [(1, "drive", "LOST_ODOMETRY")]


@pytest.mark.parametrize("pose", [Pose(math.nan), Pose(0.0, math.inf), Pose(yaw=math.nan)])
def test_odometry_that_is_no_number_is_lost(pose: Pose) -> None:
    bench = Bench()
    bench.submit("drive")
    for _ in range(10):
        bench.now_s += 0.1
        bench.senses.on_odometry(Odometry(bench.now_s, pose, STANDSTILL), bench.now_s)
        bench.step(odometry=False)
    assert bench.outcomes() == [(1, "drive", "LOST_ODOMETRY")]


def test_lost_clock() -> None:
    bench = Bench(clock=True)
    bench.watch.on_clock(5.0, bench.now_s)
    bench.submit("wave")
    bench.step(1.9)
    bench.watch.on_clock(6.0, bench.now_s)
    bench.step(1.9)
    assert bench.outcomes() == []
    bench.watch.on_clock(6.0, bench.now_s)
    bench.step(0.2)
    assert bench.outcomes() == [(1, "wave", "LOST_CLOCK")]


@pytest.mark.parametrize("way", ["no publisher", "no heartbeat"])
def test_lost_understanding(way: str) -> None:
    bench = Bench()
    bench.watch.on_heartbeat(bench.now_s)
    bench.submit("drive")
    bench.step(2.9)
    assert bench.outcomes() == []
    if way == "no publisher":
        bench.watch.on_publishers(0)
        bench.step()
    else:
        bench.step(0.2)
    assert bench.outcomes() == [(1, "drive", "LOST_UNDERSTANDING")]
    assert bench.sent[-1] == STANDSTILL


def test_the_first_decision_comes_before_the_next_count_of_publishers() -> None:
    bench = Bench()
    bench.watch.on_publishers(0)
    bench.watch.on_decision(bench.now_s)
    bench.submit("drive")
    assert bench.outcomes() == []
    bench.watch.on_publishers(0)
    bench.step()
    assert bench.outcomes() == [(1, "drive", "LOST_UNDERSTANDING")]


def test_the_understanding_node_need_not_be_watched() -> None:
    bench = Bench(Settings(watch_understanding=False))
    bench.watch.on_heartbeat(bench.now_s)
    bench.watch.on_publishers(0)
    bench.submit("drive")
    bench.step(100.0)
    assert bench.outcomes() == []


@pytest.mark.parametrize("when", ["making", "running"])
def test_a_bug_in_a_task_stops_the_robot(when: str) -> None:
    bench = Bench()
    bench.submit("broken" if when == "making" else "drive")
    if when == "running":
        bench.tasks[0].error = ValueError("a bug")
        bench.step()
        assert bench.sent[-1] == STANDSTILL
        assert bench.tasks[0].cancelled == 1
    assert [state for _, _, state in bench.outcomes()] == ["FAILED"]
    assert bench.reports[-1].message == "ValueError: a bug"


def test_deactivation_ends_everything() -> None:
    bench = Bench()
    bench.submit("drive", "wave")
    bench.submit("wave", number=2, queue=True)
    bench.sequencer.cancel(State.CANCELLED, "deactivated", bench.now_s)
    assert [state for _, _, state in bench.outcomes()] == ["CANCELLED"] * 3
    assert bench.sent[-1] == STANDSTILL


def test_every_call_has_exactly_one_outcome() -> None:
    bench = Bench()
    bench.submit("drive", "unknown", "wave")
    bench.submit("wave", "broken", number=2, queue=True)
    bench.submit("drive", number=3, queue=True)
    for _ in range(5):
        if bench.sequencer.is_busy:
            bench.end()
    keys = [(r.command_id, r.index) for r in bench.reports if r.state.is_final]
    assert sorted(keys) == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0)]


def test_settings_have_no_field_without_a_default() -> None:
    assert all(f.default is not dataclasses.MISSING for f in dataclasses.fields(Settings))
