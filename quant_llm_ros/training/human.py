"""Sentences that people said, with their gold calls, as training examples.

The datasets have the format of ``command/evaluation.py``: each argument lists all strings that
count as right. For training one of them is taken: a run of the sentence's own words, what a
pronoun stands for rather than the pronoun, and as much of it as makes sense.
"""

from __future__ import annotations

from collections.abc import Sequence
import os

from quant_llm_ros.command.amounts import find_amounts
from quant_llm_ros.command.calls import MISSING, SEPARATOR, UNKNOWN
from quant_llm_ros.command.evaluation import GoldCall, load_dataset, Row
from quant_llm_ros.command.quantities import conversion_factor
from quant_llm_ros.command.skills import Argument, ArgumentType, SkillRegistry
from quant_llm_ros.command.text import clean, words
from quant_llm_ros.errors import CommandError
from quant_llm_ros.training.generator import check, MAX_CHARS, TrainingExample

KIND = "human"

_PRONOUNS = frozenset((
    "it", "them", "this", "that", "these", "those", "one", "ones", "some", "him", "her", "he",
    "she", "they",
))  # fmt: skip
_DETERMINERS = frozenset((
    "the", "a", "an", "this", "that", "these", "those", "some", "any", "my", "your", "his",
    "her", "its", "our", "their",
))  # fmt: skip
_PREPOSITIONS = frozenset((
    "to", "towards", "toward", "in", "into", "inside", "on", "onto", "at", "from", "of", "off",
    "near", "by", "beside", "behind", "under", "over", "above", "below", "with", "for", "next",
    "up", "down", "out", "around", "across", "along", "through", "between", "straight", "and",
    "or", "is", "are", "was", "that", "which", "front",
))  # fmt: skip


def load_human(
    path: str | os.PathLike[str], registry: SkillRegistry, *, kind: str = KIND
) -> list[TrainingExample]:
    """Read sentences for a registry.

    A required text, place or amount that the gold lacks is written ``?``. Rows are left out whose
    calls are not skills of the registry, whose gold lacks a required choice (in such rows a verb
    such as «activate» tells it), or of whose values none stands in the sentence.

    Args:
        path: Dataset file.
        registry: Registry that the answers are for.
        kind: Kind of the examples.

    Raises:
        DatasetError: The file cannot be read.
    """
    examples = []
    for row in load_dataset(path):
        example = as_example(row, registry, kind)
        if example is not None:
            examples.append(example)
    return examples


def as_example(row: Row, registry: SkillRegistry, kind: str = KIND) -> TrainingExample | None:
    """Make an example of one row, or None where that is not possible."""
    try:
        text = clean(row.text, max_chars=MAX_CHARS)
    except CommandError:
        return None
    if not words(text):
        return None
    calls = [_written(call, words(text), registry) for call in row.calls]
    written = [call for call in calls if call is not None]
    if len(written) < len(calls):
        return None
    example = TrainingExample(text, SEPARATOR.join(written) or UNKNOWN, kind)
    try:
        check(example, registry)
    except ValueError:
        return None
    return example


def _written(call: GoldCall, sentence: list[str], registry: SkillRegistry) -> str | None:
    skill = registry.skills.get(call.skill)
    if skill is None or not set(call.args) <= {a.name for a in skill.arguments} | {
        a.decision_name for a in skill.arguments
    }:
        return None
    parts = []
    for argument in skill.arguments:
        gold = call.args.get(argument.name, call.args.get(argument.decision_name))
        if gold is None:
            if argument.required and argument.type is ArgumentType.CHOICE:
                return None
            value = MISSING if argument.required else None
        else:
            value = _value(argument, gold, sentence)
            if value is None:
                return None
        if value is not None:
            parts.append(f"{argument.name}={value}")
    return f"{skill.name}({', '.join(parts)})"


def _value(argument: Argument, gold: tuple[str, ...] | float, sentence: list[str]) -> str | None:
    if argument.type is ArgumentType.QUANTITY:
        return _said_amount(argument, gold, sentence)
    if isinstance(gold, float):
        return None
    if argument.type is ArgumentType.CHOICE:
        return next((option for option in gold if option in argument.choices), None)
    return best_option(gold, sentence)


def _said_amount(
    argument: Argument, gold: tuple[str, ...] | float, sentence: list[str]
) -> str | None:
    """Find the amount in the sentence that is the gold one in the unit of the decision."""
    try:
        wanted = gold if isinstance(gold, float) else float(gold[0].split()[0])
    except ValueError:
        return None
    units = tuple(argument.factors)
    for amount in find_amounts(sentence, units):
        said = amount.written(argument.unit, units)
        if said is not None:
            number, _, unit = said.partition(" ")
            value = float(number) * conversion_factor(unit, argument.unit)
            if abs(value - wanted) <= 0.01 * abs(wanted):
                return said
    return None


def best_option(options: Sequence[str], sentence: Sequence[str]) -> str | None:
    """Choose among accepted strings.

    Args:
        options: Strings that count as right.
        sentence: Words of the sentence.

    Returns:
        The longest string that is a run of the sentence's words and neither begins with a
        determiner or preposition nor ends with one; a pronoun where there is nothing else; None
        where none stands in the sentence.
    """
    said = f" {' '.join(sentence)} "
    present = [" ".join(words(option)) for option in options]
    present = [option for option in present if option and f" {option} " in said]
    if not present:
        return None
    full = [option for option in present if _complete(option.casefold().split())]
    return max(full or present, key=len)


def _complete(option: list[str]) -> bool:
    if len(option) == 1:
        return option[0] not in _PRONOUNS
    closing = option[-1] in _PREPOSITIONS or option[-1] in _DETERMINERS
    return not (closing or option[0] in _PREPOSITIONS or option[0] in _DETERMINERS)
