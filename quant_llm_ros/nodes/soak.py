"""Endurance: thousands of commands at mixed rates to a node of its own, over DDS.

``python -m quant_llm_ros.nodes.soak --bundle bundles/default --commands 10000``

No command may be lost or answered twice, its stages must add up to its total, and the memory of
the node must be flat. Nothing is said about how long anything took, which belongs to the machine;
the figures compare what the node says of that with a stopwatch on this side.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterator, Sequence
import dataclasses
import json
import os
from pathlib import Path
import random
import statistics
import sys
import tempfile
import time
from typing import Any, TYPE_CHECKING

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.errors import QuantLlmError
from quant_llm_ros.nodes import environment

if TYPE_CHECKING:
    from quant_llm_ros.nodes.client import Client, NodeProcess

_TEXTS = (
    "go to room {}",
    "bring me the red cup number {} from the kitchen table",
    "turn left by {} degrees",
    "drive forward {} centimetres and then turn around",
    "the weather is fine for the time number {}",
)
_STOP = "stop"
_STOPS = 0.02
# Less than the depth of the topics: what does not fit there would be lost on this side.
_MOST_IN_FLIGHT = 300
_START_LIMIT_S = 300.0
_ANSWER_LIMIT_S = 120.0
_TWICE_S = 2.0
_STOP_LIMIT_S = 30.0
_SAMPLES = 200
# Most by which the stages of a command may miss its total, a share of it.
_STAGES_OFF = 0.02
# Less than the largest burst: most commands reach the model, and some find a full queue.
_QUEUE = 60


@dataclasses.dataclass
class Tally:
    """What was sent and what came back.

    Attributes:
        sent: How often each text was sent.
        received: How often each was answered.
        ids: How often each number of a command came.
        statuses: How often each status came.
        total_ms: What the node says that each command took, in milliseconds.
        stages_off: Largest share by which the stages of a command did not add up to its total.
        outside_ms: What this side measured for those that were sent alone, minus that.
        memory_mb: Share of the commands that were sent, and the node's memory then, in MB.
    """

    sent: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    received: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    ids: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    statuses: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    total_ms: list[float] = dataclasses.field(default_factory=list)
    stages_off: float = 0.0
    outside_ms: list[float] = dataclasses.field(default_factory=list)
    memory_mb: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    @property
    def in_flight(self) -> int:
        """Commands without an answer."""
        return self.sent.total() - self.received.total()

    def report(self) -> dict[str, Any]:
        """Give the figures."""
        first = [mb for share, mb in self.memory_mb if 0.5 <= share < 0.6]
        last = [mb for share, mb in self.memory_mb if share >= 0.9]
        growth = statistics.mean(last) / statistics.mean(first) - 1.0 if first and last else 0.0
        total = sorted(self.total_ms) or [0.0]
        # Every stop has the same text, but no two commands have the same number.
        texts_twice = (self.received - self.sent).total()
        ids_twice = self.ids.total() - len(self.ids)
        return {
            "commands": self.sent.total(),
            "lost": (self.sent - self.received).total(),
            "answered_twice": max(texts_twice, ids_twice),
            "statuses": dict(sorted(self.statuses.items())),
            "total_ms_p50": round(statistics.median(total), 2),
            "total_ms_max": round(total[-1], 2),
            "stages_off_share_max": round(self.stages_off, 6),
            "outside_minus_total_ms_p50": round(statistics.median(self.outside_ms or [0.0]), 3),
            "memory_mb": round(self.memory_mb[-1][1], 1) if self.memory_mb else 0.0,
            "memory_mb_by_tenth": [
                round(statistics.mean(mbs), 1)
                for tenth in range(10)
                if (mbs := [mb for share, mb in self.memory_mb if int(share * 10) == tenth])
            ],
            "memory_growth_second_half": round(growth, 4),
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Run.

    Args:
        argv: Arguments after the program's name; None means those of the process.

    Returns:
        Exit status: 0 when no command was lost or answered twice, all stages added up, the memory
        was flat and the node ended in order; 1 otherwise.
    """
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--commands", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--max-growth",
        type=float,
        default=0.02,
        help="most growth of the node's memory in the second half, a share (default: %(default)s)",
    )
    parser.add_argument("--policy", choices=("fifo", "latest_wins"), default="fifo")
    parser.add_argument("--report", type=Path, help="write the figures to a file (JSON)")
    arguments = parser.parse_args(argv)
    environment.prepare()
    # A domain of its own, as the demo has it: a robot on this machine shall not hear this.
    os.environ.setdefault("ROS_DOMAIN_ID", str(50 + os.getpid() % 52))
    try:
        figures = _run(
            Bundle.load(arguments.bundle),
            arguments.commands,
            random.Random(arguments.seed),
            arguments.policy,
        )
    except QuantLlmError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures, indent=1))
    if arguments.report:
        arguments.report.write_text(json.dumps(figures, indent=1) + "\n")
    wrong = [name for name in ("lost", "answered_twice", "node_status") if figures[name] != 0]
    limits = {
        "memory_growth_second_half": arguments.max_growth,
        "stages_off_share_max": _STAGES_OFF,
    }
    wrong += [name for name, limit in limits.items() if figures[name] > limit]
    if wrong:
        print(f"soak failed: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def _run(bundle: Bundle, commands: int, chance: random.Random, policy: str) -> dict[str, Any]:
    from quant_llm_ros.nodes.client import Client, NodeProcess

    folder = str(bundle.path.resolve()).replace("'", "''")
    parameters = [f"bundle:='{folder}'", "autostart:=true", f"queue_policy:={policy}"]
    parameters.append("stall_timeout_s:=600.0")  # times are not what this is about
    parameters.append(f"queue_capacity:={_QUEUE}")
    tally = Tally()
    with tempfile.TemporaryFile() as log, Client() as client:
        node = NodeProcess(parameters, log)
        try:
            if not client.wait_ready(_START_LIMIT_S, give_up=lambda: node.ended):
                log.seek(0)
                tail = log.read().decode("utf-8", "replace")[-2000:]
                raise QuantLlmError(f"the node did not become active:\n{tail}")
            started_s = time.monotonic()
            for block in _blocks(commands, chance):
                _send(client, node, tally, block, chance, commands)
            _receive(client, tally, until=0)
            end_s = time.monotonic() + _TWICE_S
            while time.monotonic() < end_s:  # whatever comes now comes twice
                _take(client, tally, end_s - time.monotonic())
            took_s = time.monotonic() - started_s - _TWICE_S
        finally:
            status = node.stop(_STOP_LIMIT_S)
    return {**tally.report(), "seconds": round(took_s, 1), "node_status": status}


def _blocks(commands: int, chance: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Divide all commands into blocks, each with its rate: alone, steady or at once."""
    number = 0
    while number < commands:
        kind, most = chance.choice((("alone", 10), ("steady", 40), ("at once", 80)))
        texts = []
        for _ in range(min(chance.randint(1, most), commands - number)):
            number += 1
            stop = chance.random() < _STOPS
            texts.append(_STOP if stop else chance.choice(_TEXTS).format(number))
        yield kind, texts


def _send(
    client: Client,
    node: NodeProcess,
    tally: Tally,
    block: tuple[str, list[str]],
    chance: random.Random,
    commands: int,
) -> None:
    kind, texts = block
    period_s = 1.0 / chance.uniform(5.0, 200.0) if kind == "steady" else 0.0
    if kind == "alone":
        _receive(client, tally, until=0)
    for text in texts:
        started_s = time.monotonic()
        client.send(text)
        tally.sent[text] += 1
        if kind == "alone":
            total_ms = _receive(client, tally, until=0)
            tally.outside_ms.append((time.monotonic() - started_s) * 1e3 - total_ms)
        else:
            _take(client, tally, period_s)
        if tally.in_flight >= _MOST_IN_FLIGHT:
            _receive(client, tally, until=_MOST_IN_FLIGHT // 2)
        if tally.sent.total() % max(1, commands // _SAMPLES) == 0:
            tally.memory_mb.append((tally.sent.total() / commands, node.memory_mb()))


def _receive(client: Client, tally: Tally, *, until: int) -> float:
    """Wait until no more than so many are in flight, or nothing comes; give the last total."""
    total_ms = 0.0
    while tally.in_flight > until:
        decision_ms = _take(client, tally, _ANSWER_LIMIT_S)
        if decision_ms is None:
            break
        total_ms = decision_ms
    return total_ms


def _take(client: Client, tally: Tally, timeout_s: float) -> float | None:
    """Count the next decision, if it comes in time, and give its total in milliseconds."""
    from quant_llm_ros.command.decision import Status

    decision = client.receive(timeout_s)
    if decision is None:
        return None
    tally.received[decision.text] += 1
    tally.ids[decision.command_id] += 1
    tally.statuses[Status(decision.status).name] += 1
    tally.total_ms.append(decision.total_ms)
    if decision.total_ms > 0.0:
        off_ms = abs(sum(stage.latency_ms for stage in decision.stages) - decision.total_ms)
        tally.stages_off = max(tally.stages_off, off_ms / decision.total_ms)
    return float(decision.total_ms)


if __name__ == "__main__":
    sys.exit(main())
