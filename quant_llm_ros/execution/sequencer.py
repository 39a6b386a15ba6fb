"""Carries out the calls of decisions one after another, each to exactly one outcome."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
import dataclasses
import itertools
import math

from quant_llm_ros.command.decision import Safety, SkillCall
from quant_llm_ros.execution.report import Progress, Report, State
from quant_llm_ros.execution.settings import Settings
from quant_llm_ros.execution.tasks import Ended, Task
from quant_llm_ros.execution.watch import Watch
from quant_llm_ros.geometry import STANDSTILL, Velocity

# Zero velocity is repeated so long after a drive, so that one lost message changes nothing.
_REST_S = 0.5
_REPORTED_SHARE = 0.02


@dataclasses.dataclass
class _Item:
    """One call of a decision; the batch is the decision, whose number can come again."""

    batch: int
    command_id: int
    index: int
    count: int
    call: SkillCall
    state: State = State.WAITING
    task: Task | None = None
    since_s: float = 0.0
    reported: Progress = dataclasses.field(default_factory=Progress)


class Sequencer:
    """The calls that are being carried out and that wait.

    Not thread-safe: the caller lets one method run at a time. All times are steady, in seconds.
    """

    def __init__(
        self,
        make_task: Callable[[SkillCall], Task],
        watch: Watch,
        settings: Callable[[], Settings],
        *,
        report: Callable[[Report], None],
        drive: Callable[[Velocity], None],
    ) -> None:
        """Begin with nothing to do.

        Args:
            make_task: Makes the task of a call when its turn comes.
            watch: Tells what was lost.
            settings: Gives the time limits.
            report: Told every change of a call.
            drive: Sends a velocity to the base.
        """
        self._make_task = make_task
        self._watch = watch
        self._settings = settings
        self._report = report
        self._drive = drive
        self._items: deque[_Item] = deque()
        self._batches = itertools.count()
        self._rest_until_s = -math.inf

    @property
    def is_busy(self) -> bool:
        """Whether any call is not at its end."""
        return bool(self._items)

    def submit(
        self, command_id: int, calls: Sequence[SkillCall], now_s: float, *, queue: bool
    ) -> None:
        """Take the calls of an accepted decision.

        Args:
            command_id: Number of the command.
            calls: The calls in their order.
            now_s: Time now.
            queue: Whether they wait for the decisions before; otherwise those are given up.
        """
        if not queue:
            self.cancel(State.PREEMPTED, "a newer decision came", now_s)
        self._rest_until_s = min(self._rest_until_s, now_s + _REST_S)
        batch = next(self._batches)
        for index, call in enumerate(calls):
            item = _Item(batch, command_id, index, len(calls), call)
            self._items.append(item)
            self._tell(item)
        self.step(now_s)

    def stop(self, command_id: int, now_s: float) -> None:
        """Stop the robot at once, give everything up, and hold zero velocity."""
        # First of all, whatever else may go wrong.
        self._drive(STANDSTILL)
        hold_s = self._settings().stop_hold_s
        self.cancel(State.PREEMPTED, "stopped", now_s)
        self._rest_until_s = now_s + hold_s if hold_s > 0.0 else math.inf
        self._report(Report(command_id, "stop", 0, 1, State.SUCCEEDED, 1.0))

    def cancel(self, state: State, message: str, now_s: float) -> None:
        """Give everything up.

        Args:
            state: How each call that is not at its end ends.
            message: Why, for a person to read.
            now_s: Time now.
        """
        while self._items:
            self._end(self._items[0], Progress(0.0, state, message), now_s, cancel=True)

    def confirm(self, yes: bool, now_s: float) -> str:
        """Answer the call that waits for a person.

        Args:
            yes: Whether it may be carried out.
            now_s: Time now.

        Returns:
            Name of its skill; "" when none waits.
        """
        item = self._items[0] if self._items else None
        if item is None or item.state is not State.CONFIRMING:
            return ""
        if yes:
            self._start(item, now_s)
            self.step(now_s)
        else:
            self._finish(item, Progress(0.0, State.REFUSED, "a person said no"), now_s)
            self.step(now_s)
        return item.call.skill

    def step(self, now_s: float) -> None:
        """Go on; to be called with every odometry, and often enough without one."""
        while self._items:
            item = self._items[0]
            if item.state is State.WAITING:
                self._begin(item, now_s)
            if item.state is State.CONFIRMING:
                if now_s - item.since_s > (limit_s := self._settings().confirm_timeout_s):
                    message = f"nobody confirmed it within {limit_s:g} s"
                    self._finish(item, Progress(0.0, State.TIMEOUT, message), now_s)
                    continue
                break
            progress = self._step_task(item, now_s)
            if progress.state.is_final:
                self._finish(item, progress, now_s)
                continue
            self._tell_progress(item, progress)
            break
        self._command(now_s)

    def _begin(self, item: _Item, now_s: float) -> None:
        item.since_s = now_s
        if item.call.safety is Safety.CONFIRM:
            item.state = State.CONFIRMING
            limit_s = self._settings().confirm_timeout_s
            self._tell(item, f"waits {limit_s:g} s for a yes or no at the service 'confirm'")
        else:
            self._start(item, now_s)

    def _start(self, item: _Item, now_s: float) -> None:
        try:
            item.task = self._make_task(item.call)
        except Exception as error:  # whatever it is, the robot must not go on as if all were well
            item.task = Ended(State.FAILED, f"{type(error).__name__}: {error}")
        item.since_s = now_s
        item.state = State.RUNNING
        self._tell(item)

    def _step_task(self, item: _Item, now_s: float) -> Progress:
        task = item.task
        assert task is not None
        lost = self._watch.check(now_s, needs_odometry=task.needs_odometry)
        if lost is not None:
            self._cancel_task(item)
            return Progress(item.reported.share, *lost)
        try:
            return task.step(now_s)
        except Exception as error:  # as above
            self._cancel_task(item)
            return Progress(item.reported.share, State.FAILED, f"{type(error).__name__}: {error}")

    def _cancel_task(self, item: _Item) -> None:
        if item.task is not None:
            item.task.cancel()

    def _finish(self, item: _Item, progress: Progress, now_s: float) -> None:
        """End a call, and with it the rest of its decision unless it succeeded."""
        self._end(item, progress, now_s)
        if progress.state is State.SUCCEEDED:
            return
        reason = f"{item.call.skill} before it ended as {progress.state.name}"
        while self._items and self._items[0].batch == item.batch:
            self._end(self._items[0], Progress(0.0, State.CANCELLED, reason), now_s)

    def _end(self, item: _Item, progress: Progress, now_s: float, *, cancel: bool = False) -> None:
        if item.task is not None and item.task.command is not None:
            self._drive(STANDSTILL)
            self._rest_until_s = max(self._rest_until_s, now_s + _REST_S)
        if cancel:
            self._cancel_task(item)
        self._items.remove(item)
        item.state = progress.state
        share = progress.share or item.reported.share
        item.reported = dataclasses.replace(progress, share=share)
        self._tell(item, progress.message)

    def _command(self, now_s: float) -> None:
        task = self._items[0].task if self._items else None
        if task is not None and task.command is not None:
            self._drive(task.command)
        elif task is None and now_s < self._rest_until_s:
            self._drive(STANDSTILL)

    def _tell_progress(self, item: _Item, progress: Progress) -> None:
        known = item.reported
        same = progress.message == known.message
        if abs(progress.share - known.share) >= _REPORTED_SHARE or (
            not same and not known.message
        ):
            item.reported = progress
            self._tell(item, progress.message)

    def _tell(self, item: _Item, message: str = "") -> None:
        self._report(
            Report(
                item.command_id,
                item.call.skill,
                item.index,
                item.count,
                item.state,
                item.reported.share,
                message,
            )
        )
