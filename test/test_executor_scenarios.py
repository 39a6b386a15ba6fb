"""The executor and the simulated robot as processes over DDS: what is told, and where it ends.

Nothing here depends on how fast the machine is: the simulation waits for the executor while it
drives (``lockstep_s``), limits of motion hold in its time, and figures in real time are printed.
"""

from __future__ import annotations

from collections.abc import Iterator
import math
from pathlib import Path
import signal
import time
from typing import Any

from node_harness import wait_for
import pytest
from scenarios_harness import Bench, bench, is_zero, moved, REPLY_S
import yaml

from quant_llm_msgs.msg import Decision
from quant_llm_ros.command.decision import Safety
from quant_llm_ros.execution.report import State
from quant_llm_ros.geometry import wrap

pytestmark = [
    pytest.mark.ros,
    pytest.mark.timeout(1800),
]

SCENARIOS = yaml.safe_load((Path(__file__).parent / "scenarios.yaml").read_text())
# Longer than any test lets it go on.
FORWARD = ("move", {"direction": "forward", "distance_m": 20.0})
TURN = ("turn", {"direction": "left"})
REAL_TIME = ("clock:=false",)


@pytest.fixture
def own(scripts: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A bench for processes of the test's own."""
    name = "".join(c for c in request.node.name if c.isalnum())
    with bench(f"/{name}", scripts, tmp_path) as made:
        yield made


class TestOneRobot:
    """A robot that all of these tests tell what to do, one after another.

    It is gone before the next ones start: a second one would take half of a small machine.
    """

    @pytest.fixture(scope="class")
    def hall(self, scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
        """A robot in a large empty hall."""
        with bench("/hall", scripts, tmp_path_factory.mktemp("hall")) as made:
            made.start_robot()
            yield made

    @pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
    def test_scenario(self, hall: Bench, scenario: dict[str, Any]) -> None:
        hall.wait_standing()
        start = hall.poses[-1]
        calls = [
            (c["skill"], {k: v for k, v in c.items() if k != "skill"}) for c in scenario["calls"]
        ]
        number = hall.decide(*calls)
        assert hall.outcomes(number, len(calls)) == ["SUCCEEDED"] * len(calls)
        hall.wait_standing()
        way, end = moved(start, hall.poses[-1]), scenario["end"]
        gap_m = math.dist((way.x, way.y), (end["x"], end["y"]))
        off_deg = abs(math.degrees(wrap(way.yaw - math.radians(end["yaw_deg"]))))
        print(f"{scenario['name']}: {gap_m * 100:.1f} cm and {off_deg:.1f} degrees off")
        assert gap_m < 0.05
        assert off_deg < 3.0

    def test_calls_are_reported_in_order_with_progress(self, hall: Bench) -> None:
        number = hall.decide(("move", {"direction": "forward", "distance_m": 0.5}), TURN)
        hall.outcomes(number, 2)
        reports = hall.reports_of(number)
        states = [(r.index, State(r.state).name) for r in reports]
        assert list(dict.fromkeys(states)) == [
            (0, "WAITING"),
            (1, "WAITING"),
            (0, "RUNNING"),
            (0, "SUCCEEDED"),
            (1, "RUNNING"),
            (1, "SUCCEEDED"),
        ]
        shares = [r.progress for r in reports if r.index == 0 and r.state == State.RUNNING]
        assert len(shares) > 3
        assert all(0.0 <= share <= 1.0 for share in shares)

    def test_confirmed_and_refused(self, hall: Bench) -> None:
        number = hall.decide(TURN, safety=Safety.CONFIRM)
        hall.wait_state(number, State.CONFIRMING)
        assert hall.confirm(True).success
        assert hall.outcomes(number, 1) == ["SUCCEEDED"]

        number = hall.decide(TURN, TURN, safety=Safety.CONFIRM)
        hall.wait_state(number, State.CONFIRMING)
        before = len(hall.commands)
        answer = hall.confirm(False)
        assert (answer.success, answer.message) == (True, "refused: turn")
        assert hall.outcomes(number, 2) == ["REFUSED", "CANCELLED"]
        assert all(is_zero(twist) for _, twist in hall.commands[before:])
        assert not hall.confirm(True).success

    def test_nobody_confirms(self, hall: Bench) -> None:
        hall.set_parameter("executor", "confirm_timeout_s", 1.0)
        number = hall.decide(TURN, safety=Safety.CONFIRM)
        assert hall.outcomes(number, 1) == ["TIMEOUT"]
        hall.set_parameter("executor", "confirm_timeout_s", 15.0)

    def test_unknown_place_and_unserved_skill(self, hall: Bench) -> None:
        number = hall.decide(("go_to", {"place": "moon"}))
        assert hall.outcomes(number, 1) == ["FAILED"]
        assert "known places: north gate, south gate" in hall.finals(number)[0].message
        number = hall.decide(("dance", {"style": "tango"}))
        assert hall.outcomes(number, 1) == ["UNSUPPORTED"]
        assert "skill/dance" in hall.finals(number)[0].message

    def test_a_newer_decision_pre_empts_unless_it_shall_wait(self, hall: Bench) -> None:
        first = hall.decide(FORWARD)
        hall.wait_driving()
        second = hall.decide(TURN)
        assert hall.outcomes(second, 1) == ["SUCCEEDED"]
        assert hall.outcomes(first, 1) == ["PREEMPTED"]
        hall.set_parameter("executor", "on_new_decision", "queue")
        first = hall.decide(("move", {"direction": "forward", "distance_m": 0.5}))
        second = hall.decide(TURN)
        assert hall.outcomes(second, 1) == ["SUCCEEDED"]
        assert hall.outcomes(first, 1) == ["SUCCEEDED"]
        hall.set_parameter("executor", "on_new_decision", "preempt")

    def test_what_is_not_accepted_changes_nothing(self, hall: Bench) -> None:
        number = hall.decide(("move", {"direction": "forward", "distance_m": 1.0}))
        hall.wait_state(number, State.RUNNING)
        for status in (Decision.STATUS_UNKNOWN, Decision.STATUS_CLARIFY, Decision.STATUS_TIMEOUT):
            hall.decide(status=status)
        assert hall.outcomes(number, 1) == ["SUCCEEDED"]

    def test_a_skill_of_the_robots_own_code(self, hall: Bench) -> None:
        say = hall.start_module("quant_llm_ros.nodes.skill_say")
        hall.set_parameter("executor", "server_wait_s", 20.0)
        number = hall.decide(("say", {"text": "good morning"}), TURN)
        assert hall.outcomes(number, 2) == ["SUCCEEDED", "SUCCEEDED"]
        assert hall.finals(number)[0].message == "said “good morning”"
        number = hall.decide(("say", {"text": ""}), TURN)
        assert hall.outcomes(number, 2) == ["FAILED", "CANCELLED"]
        assert hall.finals(number)[0].message == "there is nothing to say"
        hall.set_parameter("executor", "server_wait_s", 1.0)
        hall.end(say, signal.SIGINT)
        assert "“good morning”" in say.log

    @pytest.mark.parametrize(
        ("fault", "limit", "patient_s", "outcome"),
        [
            ("fault_odometry", "odometry_timeout_s", 60.0, "LOST_ODOMETRY"),
            ("fault_scan", "scan_timeout_s", 60.0, "BLOCKED"),
            ("fault_clock", "clock_timeout_s", 60.0, "LOST_CLOCK"),
        ],
    )
    def test_what_is_lost_while_driving_stops_the_robot_until_it_is_back(
        self, hall: Bench, fault: str, limit: str, patient_s: float, outcome: str
    ) -> None:
        number = hall.decide(FORWARD, TURN)
        hall.wait_driving()
        hall.set_parameter("sim", fault, True)
        hall.set_parameter("executor", limit, 1.0)
        assert hall.outcomes(number, 2) == [outcome, "CANCELLED"]
        hall.wait_standing()
        assert is_zero(hall.commands[-1][1])
        hall.set_parameter("executor", limit, patient_s)
        hall.set_parameter("sim", fault, False)
        hall.wait_ready()


def test_stop_while_driving(own: Bench) -> None:
    own.start_robot("use_sim_time:=false", sim=REAL_TIME)
    number = own.decide(FORWARD, TURN)
    own.wait_driving()
    sent_s = time.monotonic()
    stop = own.stop()
    assert own.outcomes(stop, 1) == ["SUCCEEDED"]
    assert own.outcomes(number, 2) == ["PREEMPTED", "PREEMPTED"]
    first_s = own.wait_zero(sent_s)
    print(f"zero velocity {(first_s - sent_s) * 1e3:.1f} ms after the decision")
    held = len(own.commands)
    wait_for(lambda: len(own.commands) > held + 20, REPLY_S, "zero velocity to be held")
    assert all(is_zero(twist) for t, twist in own.commands if t >= first_s)
    own.wait_standing()


def test_an_obstacle_blocks(own: Bench) -> None:
    own.start_robot("obstacle_wait_s:=1.0", world="flat")
    number = own.decide(("turn", {"direction": "around"}), FORWARD, TURN)
    assert own.outcomes(number, 3) == ["SUCCEEDED", "BLOCKED", "CANCELLED"]
    own.wait_standing()
    gap_m = own.poses[-1].x - 0.25 + 2.0  # to the wall at x = -2
    assert 0.1 < gap_m < 0.35

    number = own.decide(("go_to", {"place": "living room"}))
    assert own.outcomes(number, 1) == ["SUCCEEDED"]
    own.wait_standing()
    assert math.hypot(own.poses[-1].x, own.poses[-1].y) < 0.3

    number = own.decide(("go_to", {"place": "window"}))
    own.wait_state(number, State.RUNNING)
    own.stop()
    assert own.outcomes(number, 1) == ["PREEMPTED"]
    own.wait_standing()


def test_a_killed_base_is_lost_odometry(own: Bench) -> None:
    _, sim = own.start_robot("use_sim_time:=false", "odometry_timeout_s:=5.0", sim=REAL_TIME)
    number = own.decide(FORWARD, TURN)
    own.wait_driving()
    own.kill(sim)
    assert own.outcomes(number, 2) == ["LOST_ODOMETRY", "CANCELLED"]
    own.wait_zero(own.commands[-1][0] - 1e-9)
    own.respawn(sim)
    own.wait_ready()


def test_the_end_of_the_executor_stops_the_robot(own: Bench) -> None:
    executor, _ = own.start_robot()
    number = own.decide(FORWARD)
    own.wait_driving()
    own.end(executor, signal.SIGTERM)
    own.wait_standing()
    # A machine that is too busy to let the process say so in its 3.5 s leaves it to the base.
    assert {State(report.state).name for report in own.finals(number)} <= {"CANCELLED"}


@pytest.mark.bundle
class TestWholeRobot:
    """Text, model, decision, motion: all three nodes, told in words."""

    @pytest.fixture(scope="class")
    def robot(
        self, scripts: Path, bundle_path: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[dict[str, Any]]:
        """Give the bench and its processes by name; a test that ends one starts it again."""
        with bench("/whole", scripts, tmp_path_factory.mktemp("whole")) as made:
            # Each sentence for itself: what is told here follows from nothing said before.
            understanding = made.start(
                "understanding_node",
                f"bundle:='{bundle_path}'",
                "autostart:=true",
                "conversation_s:=0.0",
                "deadline_s:=60.0",
            )
            executor, sim = made.start_robot()
            made.wait_understanding()
            yield {"bench": made, "understanding": understanding, "executor": executor, "sim": sim}

    @pytest.fixture
    def whole(self, robot: dict[str, Any]) -> Bench:
        return robot["bench"]

    def test_from_a_sentence_to_the_place(self, whole: Bench) -> None:
        whole.wait_standing()
        start = whole.poses[-1]
        number = whole.command("drive forward two meters then turn left")
        assert whole.outcomes(number, 2) == ["SUCCEEDED", "SUCCEEDED"]
        whole.wait_standing()
        way = moved(start, whole.poses[-1])
        gap_m, off_deg = math.dist((way.x, way.y), (2.0, 0.0)), math.degrees(way.yaw) - 90.0
        print(f"{gap_m * 100:.1f} cm and {abs(off_deg):.1f} degrees off")
        assert gap_m < 0.05
        assert abs(off_deg) < 3.0

    def test_a_spoken_stop(self, whole: Bench) -> None:
        number = whole.command("drive forward twenty meters")
        whole.wait_driving()
        said_s = time.monotonic()
        assert whole.say("stop").status == Decision.STATUS_STOP
        assert whole.outcomes(number, 1) == ["PREEMPTED"]
        print(f"zero velocity {(whole.wait_zero(said_s) - said_s) * 1e3:.1f} ms after the word")
        whole.wait_standing()

    def test_what_misses_its_deadline_or_is_cancelled_changes_nothing(self, whole: Bench) -> None:
        driving = whole.command("drive forward twenty meters")
        whole.wait_driving()
        late = whole.ask("turn around and go to the kitchen", deadline_s=0.001)
        assert late.status == Decision.STATUS_TIMEOUT
        assert late.calls == []

        def cancelled() -> Decision | None:
            # May come too late, so again until one is in time; nothing said here is for a robot.
            text = "I really enjoyed the long and rather sad film that we saw together last night"
            decision = whole.ask(text, cancel=True)
            return decision if decision.status == Decision.STATUS_CANCELLED else None

        given_up = wait_for(cancelled, REPLY_S, "a cancel that is in time")
        assert given_up.calls == []
        assert whole.finals(driving) == []
        assert not [r for d in (late, given_up) for r in whole.reports_of(d.command_id)]
        # Another sentence in its place pre-empts it.
        turning = whole.command("turn left")
        assert whole.outcomes(turning, 1) == ["SUCCEEDED"]
        assert whole.outcomes(driving, 1) == ["PREEMPTED"]

    @pytest.mark.parametrize("victim", ["understanding", "executor"])
    def test_kill_9_while_driving(self, whole: Bench, robot: dict[str, Any], victim: str) -> None:
        """The robot stands; the node that launch starts again serves again."""
        number = whole.command("drive forward twenty meters")
        whole.wait_driving()
        whole.set_parameter("executor", "understanding_timeout_s", 3.0)
        start_s = time.monotonic()
        whole.kill(robot[victim])
        if victim == "understanding":
            assert whole.outcomes(number, 1) == ["LOST_UNDERSTANDING"]
            print(f"zero velocity {whole.wait_zero(start_s) - start_s:.1f} s after kill -9")
            whole.set_parameter("executor", "understanding_timeout_s", 60.0)
        whole.wait_standing()
        robot[victim] = whole.respawn(robot[victim])
        whole.wait_ready()
        whole.wait_understanding()
        known = len(whole.reports)
        number = whole.command("turn right")
        wait_for(
            lambda: [
                r
                for r in whole.reports[known:]
                if r.command_id == number and r.state == State.SUCCEEDED
            ],
            REPLY_S,
            "the turn after the new start",
        )
