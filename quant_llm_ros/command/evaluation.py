"""How good decisions are, on sentences with known meaning.

A dataset has one JSON object a line:
``{"id", "text", "calls": [{"skill", "args": {name: gold}}]}``, where a gold value is
``{"any_of": [strings]}`` or ``{"near": number}`` (within 1 %), ``calls: []`` means that the
text is no command, and ``"status"`` may name the status that is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import json
import math
import os
from typing import Any

import numpy as np

from quant_llm_ros.command.decision import ArgumentValue, Decision, SkillCall, Status
from quant_llm_ros.command.skills import ArgumentType, SkillRegistry
from quant_llm_ros.command.text import bare_name
from quant_llm_ros.errors import DatasetError

_NEAR = 0.01


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


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How one decision compares with what was meant.

    Attributes:
        skills_exact: The same skills in the same order.
        all_exact: Also the same arguments with right values.
        status_exact: The right status, where the row names one.
        valid: Every call fits the registry: skill, argument names, types and limits.
    """

    row: Row
    decision: Decision
    skills_exact: bool
    all_exact: bool
    status_exact: bool | None
    valid: bool


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


def evaluate(
    rows: Iterable[Row],
    decide: Callable[[str], Decision],
    registry: SkillRegistry,
    *,
    on_verdict: Callable[[Verdict], None] | None = None,
) -> dict[str, Any]:
    """Decide about every row and give the figures as plain data.

    Shares are between 0 and 1, and null where there are no rows to share. ``accepted_wrongly`` is
    the share of texts that are no command but were ACCEPTED or taken for a STOP; ``missed`` the
    share of commands that got no call.
    """
    verdicts = []
    for row in rows:
        verdict = judge(row, decide(row.text), registry)
        verdicts.append(verdict)
        if on_verdict is not None:
            on_verdict(verdict)
    commands = [v for v in verdicts if v.row.calls]
    others = [v for v in verdicts if not v.row.calls]
    graded = [v for v in verdicts if v.status_exact is not None]
    total_ms = [v.decision.total_ms for v in verdicts]
    p50, p90, p99 = np.percentile(total_ms, (50, 90, 99))
    statuses = [v.decision.status for v in verdicts]
    return {
        "n": len(verdicts),
        "skills_exact": _share(v.skills_exact for v in verdicts),
        "all_exact": _share(v.all_exact for v in verdicts),
        "valid": _share(v.valid for v in verdicts),
        "status_exact": _share(v.status_exact for v in graded),
        "accepted_wrongly": _share(bool(v.decision.calls) for v in others),
        "missed": _share(not v.decision.calls for v in commands),
        "statuses": {s.name: statuses.count(s) for s in Status if s in statuses},
        "latency_ms": {"p50": round(p50, 3), "p90": round(p90, 3), "p99": round(p99, 3)},
        "forward_passes_mean": round(
            float(np.mean([v.decision.forward_passes for v in verdicts])), 3
        ),
    }


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
    valid = all(fits(call, registry) for call in decision.calls)
    return Verdict(row, decision, skills_exact, all_exact, status_exact, valid)


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
        known_places = set(registry.places.values())
        if argument.type is ArgumentType.PLACE and known_places and value not in known_places:
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
    return Row(
        id=str(data.get("id", where)),
        text=data["text"],
        calls=tuple(_gold_call(call, where) for call in calls),
        status=None if status is None else Status[status],
    )


def _gold_call(call: Any, where: str) -> GoldCall:
    if not isinstance(call, dict) or not isinstance(call.get("skill"), str):
        raise DatasetError(f'{where}: each call must be an object with "skill", not {call!r}')
    args: dict[str, tuple[str, ...] | float] = {}
    given = call.get("args", {})
    if not isinstance(given, dict):
        raise DatasetError(f'{where}: "args" of {call["skill"]} must be an object, not {given!r}')
    for name, gold in given.items():
        any_of = gold.get("any_of") if isinstance(gold, dict) else None
        near = gold.get("near") if isinstance(gold, dict) else None
        if isinstance(any_of, list) and any_of and all(isinstance(item, str) for item in any_of):
            args[name] = tuple(any_of)
        elif isinstance(near, (int, float)) and not isinstance(near, bool):
            args[name] = float(near)
        else:
            raise DatasetError(
                f'{where}: {call["skill"]}.{name} must be {{"any_of": [texts]}} or '
                f'{{"near": number}}, not {gold!r}'
            )
    return GoldCall(call["skill"], args)
