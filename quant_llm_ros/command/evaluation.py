"""How good decisions are, on sentences with known meaning.

A dataset has one JSON object a line:
``{"id", "text", "calls": [{"skill", "args": {name: gold}}]}``, where a gold value is
``{"any_of": [strings]}`` or ``{"near": number}`` (within 1 %), ``calls: []`` means that the
text is no command, and ``"status"`` may name the status that is right, ``"class"`` what kind of
sentence it is, ``"unserved"`` the parts that no skill serves, in order, each as
``{"any_of": [strings]}``, and ``"before"`` what was said before in the same conversation.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import difflib
import json
import math
import os
from typing import Any

import numpy as np

from quant_llm_ros.command.calibration import calibration_error
from quant_llm_ros.command.conversation import Conversation
from quant_llm_ros.command.decision import ArgumentValue, Decision, SkillCall, Status
from quant_llm_ros.command.skills import ArgumentType, SkillRegistry
from quant_llm_ros.command.text import bare_name
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.errors import DatasetError

_NEAR = 0.01
_SHOWN_CONFUSIONS = 40


@dataclasses.dataclass(frozen=True)
class GoldCall:
    """A call as it is meant: the accepted strings of each argument, or a number."""

    skill: str
    args: Mapping[str, tuple[str, ...] | float]


@dataclasses.dataclass(frozen=True)
class Row:
    """One sentence with its meaning."""

    id: str
    text: str
    calls: tuple[GoldCall, ...]
    status: Status | None
    kind: str = ""
    before: tuple[str, ...] = ()
    unserved: tuple[tuple[str, ...], ...] | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How one decision compares with what was meant.

    Attributes:
        skills_exact: The same skills in the same order.
        all_exact: Also the same arguments with right values.
        status_exact: The right status, where the row names one.
        unserved_exact: The right parts not served, where the row names them.
        valid: Every call fits the registry: skill, argument names, types and limits.
    """

    row: Row
    decision: Decision
    skills_exact: bool
    all_exact: bool
    status_exact: bool | None
    unserved_exact: bool | None
    valid: bool

    @property
    def right(self) -> bool:
        """Whether calls, values, status and unserved parts are all as they should be."""
        return self.all_exact and False not in (self.status_exact, self.unserved_exact)

    @property
    def dropped(self) -> bool:
        """Whether it was ACCEPTED with fewer calls than were meant."""
        calls = self.decision.calls
        return bool(calls) and len(calls) < len(self.row.calls)


def load_dataset(path: str | os.PathLike[str]) -> list[Row]:
    """Read a dataset.

    Raises:
        DatasetError: The file is missing, empty, or a line is malformed; the message names it.
    """
    rows = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(_row(line, f"{path}:{number}"))
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8: {error}") from error
    if not rows:
        raise DatasetError(f"{path}: no rows")
    return rows


def decide_alone(understander: Understander) -> Callable[[Row], Decision]:
    """Decide about every row by itself, after what it says was said before."""

    def decide(row: Row) -> Decision:
        conversation = Conversation()
        for text in row.before:
            conversation.note(understander.understand(text, before=conversation.before()))
        return understander.understand(row.text, before=conversation.before())

    return decide


def decide_in_conversation(understander: Understander) -> Callable[[Row], Decision]:
    """Decide about every row as if it were said after the row before it."""
    conversation = Conversation()

    def decide(row: Row) -> Decision:
        for text in (*row.before, row.text):
            decision = understander.understand(text, before=conversation.before())
            conversation.note(decision)
        return decision

    return decide


def evaluate(
    rows: Iterable[Row],
    decide: Callable[[Row], Decision],
    registry: SkillRegistry,
    *,
    on_verdict: Callable[[Verdict], None] | None = None,
) -> dict[str, Any]:
    """Decide about every row and give the figures as plain data.

    Shares are between 0 and 1, and null where there are no rows to share. ``right`` is the share
    of rows with everything right, status and unserved parts included; ``accepted_wrongly`` the
    share of texts that are no command but were ACCEPTED or taken for a STOP; ``missed`` the share
    of commands that got no call; ``dropped`` the share of commands of several calls that were
    ACCEPTED with fewer. ``calibration_error`` is that of the ACCEPTED decisions. ``classes``
    counts rows and right ones by class, where the rows name one, and ``confusion`` the most
    frequent wrong sequences of skills.

    Raises:
        DatasetError: A row means a skill or an argument that the registry does not have.
    """
    rows = list(rows)
    _require_known(rows, registry)
    verdicts = []
    for row in rows:
        verdict = judge(row, decide(row), registry)
        verdicts.append(verdict)
        if on_verdict is not None:
            on_verdict(verdict)
    commands = [v for v in verdicts if v.row.calls]
    others = [v for v in verdicts if not v.row.calls]
    graded = [v for v in verdicts if v.status_exact is not None]
    parted = [v for v in verdicts if v.unserved_exact is not None]
    accepted = [v for v in verdicts if v.decision.status is Status.ACCEPTED]
    total_ms = [v.decision.total_ms for v in verdicts]
    p50, p90, p99 = np.percentile(total_ms, (50, 90, 99))
    passes = [v.decision.forward_passes for v in verdicts]
    statuses = [v.decision.status for v in verdicts]
    return {
        "n": len(verdicts),
        "skills_exact": _share(v.skills_exact for v in verdicts),
        "all_exact": _share(v.all_exact for v in verdicts),
        "right": _share(v.right for v in verdicts),
        "valid": _share(v.valid for v in verdicts),
        "status_exact": _share(v.status_exact for v in graded),
        "unserved_exact": _share(v.unserved_exact for v in parted),
        "accepted_wrongly": _share(bool(v.decision.calls) for v in others),
        "missed": _share(not v.decision.calls for v in commands),
        "dropped": _share(v.dropped for v in commands if len(v.row.calls) > 1),
        "calibration_error": calibration_error(
            [v.decision.confidence for v in accepted], [v.right for v in accepted]
        ),
        "statuses": {s.name: statuses.count(s) for s in Status if s in statuses},
        "latency_ms": {"p50": round(p50, 3), "p90": round(p90, 3), "p99": round(p99, 3)},
        "forward_passes": {
            "mean": round(float(np.mean(passes)), 3),
            "p50": float(np.percentile(passes, 50)),
            "p90": float(np.percentile(passes, 90)),
        },
        "classes": _classes(verdicts),
        "confusion": _confusion(verdicts),
    }


def _require_known(rows: Iterable[Row], registry: SkillRegistry) -> None:
    """Refuse rows that no decision could get right."""

    def require(name: str, known: Iterable[str], what: str) -> None:
        known = list(known)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise DatasetError(f"{what} {name!r} in {registry.source}{meant}")

    for row in rows:
        for call in row.calls:
            require(call.skill, registry.skills, f"row {row.id}: there is no skill")
            arguments = registry.skills[call.skill].arguments
            for name in call.args:
                require(
                    name,
                    [argument.decision_name for argument in arguments],
                    f"row {row.id}: {call.skill} has no argument",
                )


def _classes(verdicts: Sequence[Verdict]) -> dict[str, dict[str, int]]:
    classes: dict[str, dict[str, int]] = {}
    for verdict in verdicts:
        if verdict.row.kind:
            counts = classes.setdefault(verdict.row.kind, {"n": 0, "right": 0})
            counts["n"] += 1
            counts["right"] += verdict.right
    return classes


def _confusion(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Count pairs of what was meant and what was decided, the most frequent first."""
    counts = collections.Counter(
        (_outline(v.row.calls, v.row.status), _outline(v.decision.calls, v.decision.status))
        for v in verdicts
        if not (v.skills_exact and v.status_exact is not False)
    )
    return [
        {"meant": meant, "decided": decided, "n": n}
        for (meant, decided), n in counts.most_common(_SHOWN_CONFUSIONS)
    ]


def _outline(calls: Sequence[GoldCall | SkillCall], status: Status | None) -> str:
    skills = "; ".join(call.skill for call in calls)
    return skills or (status.name if status is not None else Status.UNKNOWN.name)


def judge(row: Row, decision: Decision, registry: SkillRegistry) -> Verdict:
    """Compare one decision with what was meant."""
    skills_exact = [c.skill for c in decision.calls] == [c.skill for c in row.calls]
    all_exact = skills_exact and all(
        _same_arguments(gold, call) for gold, call in zip(row.calls, decision.calls, strict=True)
    )
    status_exact = None if row.status is None else decision.status is row.status
    if row.status is not None and not row.calls:
        # With a status, "no calls" alone does not say what is right.
        all_exact = all_exact and bool(status_exact)
    unserved_exact = None
    if row.unserved is not None:
        unserved_exact = len(row.unserved) == len(decision.unserved) and all(
            _same_value(gold, part)
            for gold, part in zip(row.unserved, decision.unserved, strict=True)
        )
    valid = all(fits(call, registry) for call in decision.calls)
    return Verdict(row, decision, skills_exact, all_exact, status_exact, unserved_exact, valid)


def fits(call: SkillCall, registry: SkillRegistry) -> bool:
    """Tell whether a call has a known skill and complete, typed arguments within their limits."""
    skill = registry.skills.get(call.skill)
    if skill is None:
        return False
    known = {argument.decision_name: argument for argument in skill.arguments}
    required = {name for name, argument in known.items() if argument.required}
    if not required <= set(call.arguments) <= set(known):
        return False
    for name, value in call.arguments.items():
        argument = known[name]
        if argument.type is ArgumentType.QUANTITY:
            if not isinstance(value, float) or not argument.min <= value <= argument.max:
                return False
            continue
        if not isinstance(value, str) or not value.strip():
            return False
        if argument.type is ArgumentType.CHOICE and value not in argument.choices:
            return False
        if argument.known and registry.known(argument.known).match(value).name != value:
            return False
    return True


def _same_arguments(gold: GoldCall, call: SkillCall) -> bool:
    return set(gold.args) == set(call.arguments) and all(
        _same_value(gold.args[name], value) for name, value in call.arguments.items()
    )


def _same_value(gold: tuple[str, ...] | float, value: ArgumentValue) -> bool:
    if isinstance(gold, float):
        return isinstance(value, float) and math.isclose(value, gold, rel_tol=_NEAR)
    said = f"{value:g}" if isinstance(value, float) else value
    return bare_name(said) in {bare_name(option) for option in gold}


def _share(flags: Iterable[bool | None]) -> float | None:
    values = [bool(flag) for flag in flags]
    return round(sum(values) / len(values), 6) if values else None


def _row(line: str, where: str) -> Row:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{where}: not JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("text"), str):
        raise DatasetError(f'{where}: must be an object with "text"')
    status = data.get("status")
    if status is not None and status not in Status.__members__:
        raise DatasetError(
            f"{where}: unknown status {status!r}; known are {', '.join(Status.__members__)}"
        )
    calls = data.get("calls", [] if status is not None else None)
    if not isinstance(calls, list):
        raise DatasetError(f'{where}: "calls" must be a list (empty: the text is no command)')
    before = data.get("before", [])
    if not isinstance(before, list) or not all(isinstance(text, str) for text in before):
        raise DatasetError(f'{where}: "before" must be a list of texts')
    return Row(
        id=str(data.get("id", where)),
        text=data["text"],
        calls=tuple(_gold_call(call, where) for call in calls),
        status=None if status is None else Status[status],
        kind=str(data.get("class", "")),
        before=tuple(before),
        unserved=_unserved(data["unserved"], where) if "unserved" in data else None,
    )


def _unserved(parts: Any, where: str) -> tuple[tuple[str, ...], ...]:
    options = [_any_of(part) for part in parts] if isinstance(parts, list) else [()]
    if not all(options):
        raise DatasetError(
            f'{where}: "unserved" must be a list of {{"any_of": [texts]}}, not {parts!r}'
        )
    return tuple(options)


def _any_of(gold: Any) -> tuple[str, ...]:
    """Give the texts of {"any_of": [texts]}; none where it is something else."""
    options = gold.get("any_of") if isinstance(gold, dict) else None
    if not isinstance(options, list) or not all(isinstance(item, str) for item in options):
        return ()
    return tuple(options)


def _gold_call(call: Any, where: str) -> GoldCall:
    if not isinstance(call, dict) or not isinstance(call.get("skill"), str):
        raise DatasetError(f'{where}: each call must be an object with "skill", not {call!r}')
    args: dict[str, tuple[str, ...] | float] = {}
    given = call.get("args", {})
    if not isinstance(given, dict):
        raise DatasetError(f'{where}: "args" of {call["skill"]} must be an object, not {given!r}')
    for name, gold in given.items():
        any_of = _any_of(gold)
        near = gold.get("near") if isinstance(gold, dict) else None
        if any_of:
            args[name] = any_of
        elif isinstance(near, (int, float)) and not isinstance(near, bool):
            args[name] = float(near)
        else:
            raise DatasetError(
                f'{where}: {call["skill"]}.{name} must be {{"any_of": [texts]}} or '
                f'{{"near": number}}, not {gold!r}'
            )
    return GoldCall(call["skill"], args)
