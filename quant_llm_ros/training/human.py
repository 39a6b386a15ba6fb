"""Sentences that people said, as training sentences.

The files have the format of ``command.evaluation``: the accepted strings of each argument. Of
them, one is what the model should write: a run of the sentence's own words, rather the thing than
a pronoun for it, and rather the longer name.
"""

from __future__ import annotations

from collections.abc import Sequence
import os

from quant_llm_ros.command import text as reading
from quant_llm_ros.command.calls import MAX_CALLS, MISSING, SEPARATOR, UNKNOWN
from quant_llm_ros.command.evaluation import GoldCall, load_dataset, normalize, Row
from quant_llm_ros.command.skills import Argument, ArgumentType, SkillRegistry
from quant_llm_ros.errors import DatasetError
from quant_llm_ros.training.generator import TrainingExample

_MAX_CHARS = 1000
_PRONOUNS = frozenset(
    "it its this that these those them they one him her he she there here".split()  # noqa: SIM905
)


def load_human(
    path: str | os.PathLike[str], registry: SkillRegistry
) -> tuple[list[TrainingExample], list[str]]:
    """Read a file of sentences with known meaning.

    Args:
        path: The file.
        registry: The skills that its calls are of.

    Returns:
        The sentences with the answers to learn, and the ids of the rows that cannot be learnt
        because no accepted string of an argument is a piece of the sentence.

    Raises:
        DatasetError: The file is malformed, or has a skill or an argument that the registry lacks.
    """
    examples, left_out = [], []
    for row in load_dataset(path):
        answer = answer_of(row, registry)
        if answer is None:
            left_out.append(row.id)
        else:
            text = reading.clean(row.text, max_chars=_MAX_CHARS)
            examples.append(TrainingExample(text, answer, "human"))
    return examples, left_out


def answer_of(row: Row, registry: SkillRegistry) -> str | None:
    """Write the answer to one sentence, or None where it cannot be written."""
    if not row.calls:
        return UNKNOWN
    words = reading.words(reading.clean(row.text, max_chars=_MAX_CHARS))
    calls = [_call(call, words, registry, row.id) for call in row.calls]
    if len(calls) > MAX_CALLS or any(call is None for call in calls):
        return None
    return SEPARATOR.join(call for call in calls if call is not None)


def _call(call: GoldCall, words: Sequence[str], registry: SkillRegistry, where: str) -> str | None:
    skill = registry.skills.get(call.skill)
    if skill is None:
        raise DatasetError(f"{where}: the registry has no skill {call.skill!r}")
    known = {argument.decision_name for argument in skill.arguments}
    if not known.issuperset(call.args):
        unknown = sorted(set(call.args) - known)[0]
        raise DatasetError(f"{where}: the skill {call.skill} has no argument {unknown!r}")
    parts = []
    for argument in skill.arguments:
        gold = call.args.get(argument.decision_name)
        if gold is None:
            value = MISSING if argument.required else ""
        elif isinstance(gold, float):
            value = f"{gold:g} {argument.unit}"
        else:
            value = _choose(argument, gold, words)
            if not value:
                return None
        if value:
            parts.append(f"{argument.name}={value}")
    return f"{skill.name}({', '.join(parts)})"


def _choose(argument: Argument, options: Sequence[str], words: Sequence[str]) -> str:
    """Give the best option as it is written in the sentence, or nothing."""
    if argument.type is ArgumentType.CHOICE:
        return next((option for option in options if option in argument.choices), "")
    pieces = [piece for option in options if (piece := _piece(normalize(option), words))]
    things = [piece for piece in pieces if piece.casefold() not in _PRONOUNS]
    return max(things or pieces, key=len, default="")


def _piece(name: str, words: Sequence[str]) -> str:
    wanted = [word.casefold() for word in reading.words(name)]
    said = [word.casefold() for word in words]
    for start in range(len(said) - len(wanted) + 1):
        if wanted and said[start : start + len(wanted)] == wanted:
            return " ".join(words[start : start + len(wanted)])
    return ""
