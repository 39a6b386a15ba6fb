"""How fast a whole robot reacts, and what its nodes cost: figures for a machine at rest.

``python -m quant_llm_ros.nodes.reaction --bundle bundles/default --rounds 20``

Starts understanding_node, executor_node and sim_node (odometry 50 Hz, scan 10 Hz, clock 50 Hz) as
processes in a ROS domain of their own, tells the robot to drive and to stop, and prints as JSON
when its velocity commands changed. All times are those of this process: of a sentence when it is
published, of everything else when it arrives here over DDS.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import json
import os
from pathlib import Path
import sys
import tempfile
import time
from typing import Any, IO, TYPE_CHECKING

import numpy as np

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.nodes import environment
from quant_llm_ros.resources import share_path

if TYPE_CHECKING:
    from quant_llm_ros.nodes.client import Client, NodeProcess

_DRIVES = ("drive forward ten meters", "drive backward ten meters")
_START_LIMIT_S = 300.0
_REPLY_LIMIT_S = 60.0
_DRIVE_S = 2.0
# Zero velocity is held and the base has slowed down by then.
_REST_S = 1.5
_NODES = {
    "understanding": "understanding_node",
    "executor": "executor_node",
    "sim": "sim_node",
}


class Ears:
    """When what came; filled by the thread of the client's callbacks."""

    def __init__(self, client: Client) -> None:
        """Listen to the robot beside the client."""
        from geometry_msgs.msg import Twist
        from nav_msgs.msg import Odometry

        from quant_llm_msgs.msg import Decision
        from quant_llm_ros.nodes import qos

        self.decisions: list[tuple[float, Any]] = []
        self.velocities: list[tuple[float, float]] = []
        self.odometry_to_velocity_s: list[float] = []
        self.odometries = 0
        self._odometry_s: float | None = None
        subscribe = client.node.create_subscription
        subscribe(Decision, "decision", self._on_decision, qos.DECISION)
        subscribe(Twist, "cmd_vel", self._on_velocity, 100)
        subscribe(Odometry, "odom", self._on_odometry, qos.VELOCITY)

    def _on_decision(self, message: Any) -> None:
        self.decisions.append((time.monotonic(), message))

    def _on_odometry(self, message: Any) -> None:
        del message
        self.odometries += 1
        self._odometry_s = time.monotonic()

    def _on_velocity(self, message: Any) -> None:
        now_s = time.monotonic()
        self.velocities.append((now_s, message.linear.x))
        if self._odometry_s is not None and message.linear.x:
            self.odometry_to_velocity_s.append(now_s - self._odometry_s)
        self._odometry_s = None  # a second command after the same odometry is no answer to it

    def wait_decision(self, text: str, since_s: float) -> tuple[float, Any]:
        """Wait for the decision about a sentence; give the time of its arrival, and itself."""
        return _wait(
            lambda: next(
                ((t, d) for t, d in reversed(self.decisions) if t >= since_s and d.text == text),
                None,
            ),
            f"a decision about {text!r}",
        )

    def wait_velocity(self, moving: bool, since_s: float) -> float:
        """Wait for a velocity command that is or is not zero; give the time of its arrival."""
        found = _wait(
            lambda: next(
                (t for t, v in list(self.velocities) if t >= since_s and bool(v) is moving), None
            ),
            f"{'a' if moving else 'zero'} velocity",
        )
        return float(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure.

    Args:
        argv: Arguments after the program's name; None means those of the process.

    Returns:
        Exit status: 0, or 1 when the robot does not do as it is told.
    """
    parser = argparse.ArgumentParser(prog="reaction", description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    parser.add_argument(
        "--idle",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds of doing nothing before the rounds (default: %(default)s)",
    )
    parser.add_argument("--report", type=Path, help="write the figures to a file (JSON)")
    arguments = parser.parse_args(argv)
    environment.prepare()
    # A domain of its own, as the demo has it: a robot on this machine shall not hear this.
    os.environ.setdefault("ROS_DOMAIN_ID", str(50 + os.getpid() % 52))
    try:
        figures = _run(Bundle.load(arguments.bundle), arguments.rounds, arguments.idle)
    except (QuantLlmError, OSError) as error:
        print(f"reaction: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures, indent=1))
    if arguments.report:
        arguments.report.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _run(bundle: Bundle, rounds: int, idle_s: float) -> dict[str, Any]:
    from quant_llm_ros.nodes.client import Client

    with tempfile.TemporaryFile() as log:
        try:
            with _robot(bundle, log) as nodes, Client() as client:
                ears = Ears(client)
                if not client.wait_ready(
                    _START_LIMIT_S, give_up=lambda: any(node.ended for node in nodes.values())
                ):
                    raise QuantLlmError("the nodes did not become active")
                _get_going(client, ears)
                return _measure(client, ears, nodes, rounds, idle_s)
        except QuantLlmError:
            log.seek(0)
            sys.stderr.write(log.read().decode("utf-8", "replace")[-4000:])
            raise


@contextlib.contextmanager
def _robot(bundle: Bundle, log: IO[bytes]) -> Iterator[dict[str, NodeProcess]]:
    """Run the three nodes with the parameters that the launch file of the simulation gives."""
    from quant_llm_ros.nodes.client import NodeProcess

    # In quotes, with quotes doubled: ROS reads a parameter's value as YAML.
    folder = str(bundle.path.resolve()).replace("'", "''")
    hall = share_path("config/simulation/hall.yaml")
    parameters = {
        "sim": [f"world:='{hall}'"],
        "executor": ["use_sim_time:=true", "autostart:=true", f"places:='{hall}'"],
        # No sentence follows from the one before it here.
        "understanding": [f"bundle:='{folder}'", "autostart:=true", "conversation_s:=0.0"],
    }
    nodes: dict[str, NodeProcess] = {}
    try:
        for name, given in parameters.items():
            nodes[name] = NodeProcess(given, log, _NODES[name])
        yield nodes
    finally:
        for node in nodes.values():
            node.stop()


def _get_going(client: Client, ears: Ears) -> None:
    """Tell it to drive until it does: then all have found each other."""
    end_s = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < end_s:
        start_s = time.monotonic()
        client.send(_DRIVES[0])
        with contextlib.suppress(QuantLlmError):
            ears.wait_decision(_DRIVES[0], start_s)
            time.sleep(1.0)
            if any(t >= start_s and v for t, v in list(ears.velocities)):
                break
    client.send("stop")
    ears.wait_velocity(False, time.monotonic())
    time.sleep(_REST_S)


def _measure(
    client: Client, ears: Ears, nodes: dict[str, NodeProcess], rounds: int, idle_s: float
) -> dict[str, Any]:
    before = {name: node.cpu_s() for name, node in nodes.items()}
    time.sleep(idle_s := max(idle_s, 0.1))
    idle = {name: (node.cpu_s() - before[name]) / idle_s for name, node in nodes.items()}

    times_s: dict[str, list[float]] = {
        name: []
        for name in (
            "sentence_to_decision",
            "decision_to_velocity",
            "sentence_to_velocity",
            "stop_to_decision",
            "stop_to_zero_velocity",
        )
    }
    ears.odometry_to_velocity_s.clear()
    used_s = dict.fromkeys(nodes, 0.0)
    drove_s, odometries = 0.0, 0
    for number in range(rounds):
        text = _DRIVES[number % 2]
        said_s = time.monotonic()
        client.send(text)
        decided_s, decision = ears.wait_decision(text, said_s)
        if not decision.calls:
            raise QuantLlmError(f"{text!r} was not understood: {decision.message}")
        moved_s = ears.wait_velocity(True, decided_s)
        times_s["sentence_to_decision"].append(decided_s - said_s)
        times_s["decision_to_velocity"].append(moved_s - decided_s)
        times_s["sentence_to_velocity"].append(moved_s - said_s)

        before = {name: node.cpu_s() for name, node in nodes.items()}
        known, from_s = ears.odometries, time.monotonic()
        time.sleep(_DRIVE_S)
        drove_s += time.monotonic() - from_s
        odometries += ears.odometries - known
        for name, node in nodes.items():
            used_s[name] += node.cpu_s() - before[name]

        said_s = time.monotonic()
        client.send("stop")
        decided_s, _ = ears.wait_decision("stop", said_s)
        stood_s = ears.wait_velocity(False, said_s)
        times_s["stop_to_decision"].append(decided_s - said_s)
        times_s["stop_to_zero_velocity"].append(stood_s - said_s)
        time.sleep(_REST_S)
    times_s["odometry_to_velocity"] = ears.odometry_to_velocity_s
    return {
        "rounds": rounds,
        "milliseconds": {name: _summary(values) for name, values in times_s.items()},
        "odometry_hz": round(odometries / max(drove_s, 1e-9), 1),
        "cpu_of_one_core_idle": {name: round(share, 4) for name, share in idle.items()},
        "cpu_of_one_core_driving": {
            name: round(used_s[name] / max(drove_s, 1e-9), 4) for name in nodes
        },
    }


def _summary(values_s: Sequence[float]) -> dict[str, float]:
    values_ms = np.asarray(values_s or [0.0]) * 1e3
    return {
        "p50": round(float(np.percentile(values_ms, 50)), 2),
        "p90": round(float(np.percentile(values_ms, 90)), 2),
        "max": round(float(values_ms.max()), 2),
    }


def _wait(condition: Any, what: str) -> Any:
    end_s = time.monotonic() + _REPLY_LIMIT_S
    while (found := condition()) is None:
        if time.monotonic() > end_s:
            raise QuantLlmError(f"waited {_REPLY_LIMIT_S:g} s for {what}")
        time.sleep(0.01)  # what is measured does not hang on it
    return found


if __name__ == "__main__":
    sys.exit(main())
