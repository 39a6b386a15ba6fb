"""What `quant_llm watch` has heard of a robot, and how it looks in a terminal."""

from __future__ import annotations

from collections import deque
import dataclasses
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from quant_llm_ros.command.decision import Status
from quant_llm_ros.execution.report import State

SHOWN_DECISIONS = 8
STALE_S = 5.0

STATUS_STYLES = {
    "ACCEPTED": "bold green",
    "STOP": "bold red",
    "CLARIFY": "bold yellow",
    "UNKNOWN": "bold cyan",
    "REJECTED": "bold magenta",
    "TIMEOUT": "bold red",
    "CANCELLED": "bold red",
    "ERROR": "bold red",
}
# Of diagnostic_msgs/DiagnosticStatus: OK, WARN, ERROR, STALE.
_LEVELS = (("ok", "green"), ("warning", "bold yellow"), ("error", "bold red"), ("stale", "dim"))
_STALE = 3


@dataclasses.dataclass
class Heard:
    """The latest messages of a robot.

    Attributes:
        namespace: Namespace of its nodes.
        domain: ROS domain that is listened to.
        publishers: How many publish decisions.
        decisions: The last decisions, oldest first.
        executions: The last report about each call: command number and place of the call.
        latency: The latest statistics.
        bundle: What is served.
        health: The latest status by name, with the (steady) time of its arrival, s.
    """

    namespace: str = ""
    domain: str = "0"
    publishers: int = 0
    decisions: deque[Any] = dataclasses.field(
        default_factory=lambda: deque(maxlen=SHOWN_DECISIONS)
    )
    executions: dict[tuple[int, int], Any] = dataclasses.field(default_factory=dict)
    latency: Any = None
    bundle: Any = None
    health: dict[str, tuple[float, Any]] = dataclasses.field(default_factory=dict)

    @property
    def is_anybody(self) -> bool:
        """Whether anything was heard of a robot."""
        return bool(self.publishers or self.bundle or self.latency or self.decisions)

    def on_decision(self, message: Any) -> None:
        """Take a decision."""
        # A node that starts again counts from 1 again. The first report about a call may come
        # before its decision, though.
        again = {d.command_id for d in self.decisions} & {message.command_id}
        self.decisions.append(message)
        shown = {d.command_id for d in self.decisions} - again
        self.executions = {k: v for k, v in self.executions.items() if k[0] in shown}

    def on_execution(self, message: Any) -> None:
        """Take a report about a call."""
        self.executions[message.command_id, message.index] = message


def frame(heard: Heard, now_s: float) -> RenderableType:
    """Draw one frame.

    Args:
        heard: What was heard.
        now_s: Time now on the clock of ``heard.health``, s.
    """
    return Group(
        _headline(heard),
        _panel("Decisions", _decisions(heard)),
        _panel("Latency by stage, ms", _latency(heard)),
        _panel("Health", _health(heard, now_s)),
    )


def printable(text: str) -> str:
    """Replace control characters: what was said must not steer the terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _panel(title: str, content: RenderableType) -> Panel:
    return Panel(content, title=title, title_align="left", border_style="dim")


def _headline(heard: Heard) -> Text:
    where = f"{heard.namespace or '/'} in ROS domain {heard.domain}"
    if not heard.is_anybody:
        return Text(f"{where}: nobody publishes decisions. Is the node running?", "bold yellow")
    bundle = heard.bundle
    if bundle is None:
        return Text(f"{where}: the node serves no bundle yet", "bold yellow")
    return Text.assemble(
        (where, "bold"),
        f": bundle '{printable(bundle.name)}' ({bundle.sha256[:8]}), "
        f"{bundle.size_bytes / 1e6:.0f} MB, {printable(bundle.runtime)} on "
        f"{printable(bundle.provider)}, {len(bundle.skills)} skills",
    )


def _decisions(heard: Heard) -> RenderableType:
    if not heard.decisions:
        return Text("none yet", "dim")
    table = Table(box=None, expand=True, pad_edge=False)
    table.add_column("no.", justify="right")
    table.add_column("said", ratio=3)
    table.add_column("status", no_wrap=True)
    table.add_column("calls, or why there are none", ratio=4)
    table.add_column("sure", justify="right")
    table.add_column("ms", justify="right")
    for decision in heard.decisions:
        status = Status(decision.status).name
        table.add_row(
            str(decision.command_id),
            Text(f"“{printable(decision.text)}”"),
            Text(status, STATUS_STYLES[status]),
            _calls(heard, decision),
            f"{decision.confidence:.2f}",
            f"{decision.total_ms:.1f}",
        )
    return table


def _calls(heard: Heard, decision: Any) -> Text:
    lines = Text()
    for index, call in enumerate(decision.calls):
        arguments = ", ".join(
            f"{a.name}={a.value.string_value or format(a.value.double_value, 'g')}"
            for a in call.arguments
        )
        lines.append("\n" if index else "").append(printable(f"{call.skill}({arguments})"))
        report = heard.executions.get((decision.command_id, index))
        if report is not None:
            state = State(report.state)
            share = f" {report.progress:.0%}" if state is State.RUNNING else ""
            why = f": {printable(report.message)}" if report.message else ""
            style = "green" if state is State.SUCCEEDED else "red" if state.is_final else "cyan"
            lines.append(f"  {state.name}{share}{why}", style)
    if not decision.calls or decision.unserved:
        lines.append(("\n" if decision.calls else "") + printable(decision.message))
    return lines


def _latency(heard: Heard) -> RenderableType:
    statistics = heard.latency
    if statistics is None:
        return Text("none yet", "dim")
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "count", "mean", "p50", "p90", "p99", "max"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in statistics.stages:
        values = (stage.mean_ms, stage.p50_ms, stage.p90_ms, stage.p99_ms, stage.max_ms)
        table.add_row(
            Text(printable(stage.stage)), str(stage.count), *(f"{ms:.2f}" for ms in values)
        )
    total = Text(
        f"{statistics.decisions} decisions, {statistics.deadline_misses} deadline misses, "
        f"{statistics.forward_passes_mean:.1f} passes of the model per decision, "
        f"{statistics.tokens_per_s:.0f} tokens/s"
    )
    return Group(table, total)


def _health(heard: Heard, now_s: float) -> RenderableType:
    if not heard.health:
        return Text("nothing on /diagnostics", "dim")
    table = Table(box=None, pad_edge=False)
    for column in ("what", "level", "message", ""):
        table.add_column(column)
    for name, (heard_s, status) in sorted(heard.health.items()):
        # rclpy gives the type "byte" as bytes of length 1.
        level = status.level[0] if isinstance(status.level, bytes) else status.level
        if now_s - heard_s > STALE_S:
            level = _STALE
        word, style = _LEVELS[min(level, _STALE)]
        # Where all is well the message says enough, and a terminal is small.
        shown = status.values if level else ()
        values = ", ".join(f"{pair.key} {pair.value}" for pair in shown)
        table.add_row(
            Text(printable(name)),
            Text(word, style),
            Text(printable(status.message)),
            Text(printable(values), "dim"),
        )
    return table
