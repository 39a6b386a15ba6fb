"""Human sentences with other names in the places of theirs, so that a few of them go further.

From «put the milk in the fridge» comes «put the jam in the drawer»: what people say around the
names stays, what the names are is no longer learnt by heart.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import random
import re

from quant_llm_ros.command.calls import MISSING, parse, SEPARATOR
from quant_llm_ros.command.skills import ArgumentType, SkillRegistry
from quant_llm_ros.command.text import words
from quant_llm_ros.errors import CommandError
from quant_llm_ros.training.corpus import default_kind
from quant_llm_ros.training.generator import check, Group, TrainingExample
from quant_llm_ros.training.lexicon import Entry, Lexicon, load_lexicons, pick
from quant_llm_ros.training.talker import USED

_THINGS = ("household", "food", "office")
_PERSONS = ("relative", "name", "role")
_PLACES = ("room", "container", "furniture")
_BY_USE = {
    "thing": _THINGS, "watchable": ("device", "openable", *_THINGS), "device": ("device",),
    "openable": ("openable",), "person": _PERSONS,
}  # fmt: skip
_ANY = (*_PLACES, *_PERSONS, *_THINGS, *USED)
_BEHIND_A_NAME = frozenset((
    "on", "in", "near", "by", "beside", "behind", "under", "over", "above", "below", "next", "at",
    "from", "to", "with", "for", "that", "which", "inside", "is", "are",
))  # fmt: skip
_PATTERN = r"(?<![\w'-]){}(?![\w'-])"
_OF_PERSONS = frozenset(("it", "its", "he", "him", "his", "she", "her"))


def human_groups(
    examples: Sequence[TrainingExample],
    registry: SkillRegistry,
    rng: random.Random,
    *,
    size: int,
    varied_share: float,
    allows: Callable[[str], bool],
) -> Iterator[Group]:
    """Give human sentences in groups without end, in another order each time; none of none.

    Args:
        examples: The sentences.
        registry: Registry that they are for.
        rng: Source of chance.
        size: Sentences of a group.
        varied_share: Share of them in which other names stand. At 0 nothing is drawn for it, so
            that the groups are those of versions that knew no other names.
        allows: Whether a sentence may be learnt; where a new one may not, the old one is given.
    """

    def read(example: TrainingExample) -> TrainingExample:
        if not varied_share or rng.random() >= varied_share:
            return example
        varied = vary(example, registry, rng)
        return varied if allows(varied.text) else example

    waiting: list[TrainingExample] = []
    while examples:
        while len(waiting) < size:
            waiting += rng.sample(examples, len(examples))
        taken, waiting = waiting[:size], waiting[size:]
        yield Group(registry, tuple(read(example) for example in taken))


def vary(
    example: TrainingExample,
    registry: SkillRegistry,
    rng: random.Random,
    *,
    name_share: float = 0.8,
    mark_share: float = 0.25,
) -> TrainingExample:
    """Put other names into a sentence and its answer.

    Args:
        example: The sentence.
        registry: Registry that the answer is for.
        rng: Source of chance.
        name_share: How often a name that the lexicons know is changed for another one of its
            lexicon and number («the books» for «the shoes», never for «the shoe»).
        mark_share: How often a sentence without marks gets a capital and a mark at its end.

    Returns:
        The new sentence, or the old one where nothing in it was changed.
    """
    varied = example
    for name, others in _names(example, registry):
        if rng.random() >= name_share:
            continue
        new = " ".join(rng.choice(others).words)
        if not (_said(new, varied.text) or _said(new, example.text)):
            varied = _renamed(varied, registry, name, new)
    if rng.random() < mark_share and varied.text[:1].islower() and varied.text[-1:].isalnum():
        text = f"{varied.text[0].upper()}{varied.text[1:]}{pick(rng, ('.', '.', '!'))}"
        varied = dataclasses.replace(varied, text=text)
    try:
        check(varied, registry)
    except (ValueError, CommandError):  # too long, or a value begins with the capital
        return example
    return varied


def _names(
    example: TrainingExample, registry: SkillRegistry
) -> Iterator[tuple[str, Sequence[Entry]]]:
    """Find the names in an answer's values that stand nowhere else in the sentence.

    Yields:
        Each name with the entries that can take its place.
    """
    uses: dict[tuple[str, ...], str] = {}
    for call in parse(example.answer):
        known = default_kind().skills.get(call.skill)
        for argument in _copying(call.skill, registry):
            use = known.lexicons.get(argument, "") if known else ""
            for name in _known_names(words(call.arguments.get(argument, "").casefold())):
                # «Go to the oven and switch it on»: what is used decides.
                if use in USED or name not in uses:
                    uses[name] = use
    said = words(example.text.casefold())
    values = _values(example, registry)
    for name, use in uses.items():
        lexicon = _lexicon(name, use)
        if lexicon is None or (lexicon.kind == "person" and _OF_PERSONS.intersection(said)):
            continue
        text = " ".join(name)
        if _only_in_values(text, example.text, values):
            entries = lexicon.names.values()
            yield text, [e for e in entries if e.number == lexicon.names[name].number]


def _copying(skill: str, registry: SkillRegistry) -> list[str]:
    """Give the arguments of a skill that copy words of the sentence."""
    types = (ArgumentType.TEXT, ArgumentType.PLACE)
    return [a.name for a in registry.skills[skill].arguments if a.type in types]


def _known_names(said: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Find the longest names that lexicons know, where a name ends: not «jar» in «jar label»."""
    start = 0
    while start < len(said):
        for end in range(len(said), start, -1):
            name = tuple(said[start:end])
            ends = end == len(said) or said[end] in _BEHIND_A_NAME
            if ends and _lexicon(name, "") is not None:
                yield name
                start = end - 1
                break
        start += 1


def _lexicon(name: tuple[str, ...], use: str) -> Lexicon | None:
    lexicons = load_lexicons()
    order = (*_BY_USE.get(use, ()), *_ANY)
    return next((lexicons[n] for n in order if name in lexicons[n].names), None)


def _values(example: TrainingExample, registry: SkillRegistry) -> collections.Counter[str]:
    """Count what an answer copies from the sentence."""
    return collections.Counter(
        call.arguments[name]
        for call in parse(example.answer)
        for name in _copying(call.skill, registry)
        if call.arguments.get(name, MISSING) != MISSING
    )


def _only_in_values(name: str, text: str, values: collections.Counter[str]) -> bool:
    """Tell whether a name is never said as something else: not so in «can you open the can»."""
    inside = 0
    for value, calls in values.items():
        said = _said(value, text)
        if said > calls:
            return False
        inside += said * _said(name, value)
    return inside == _said(name, text)


def _said(name: str, text: str) -> int:
    return len(re.findall(_PATTERN.format(re.escape(name)), text, re.IGNORECASE))


def _renamed(
    example: TrainingExample, registry: SkillRegistry, name: str, new: str
) -> TrainingExample:
    """Replace a name in the sentence, which has it in values only, and in these."""
    calls = []
    for call in parse(example.answer):
        copying = _copying(call.skill, registry)
        values = [
            f"{key}={_replaced(name, new, value) if key in copying else value}"
            for key, value in call.arguments.items()
        ]
        calls.append(f"{call.skill}({', '.join(values)})")
    return dataclasses.replace(
        example, text=_replaced(name, new, example.text), answer=SEPARATOR.join(calls)
    )


def _replaced(name: str, new: str, text: str) -> str:
    """Replace a name, with its capital and with the «a» or «an» before it."""

    def other(match: re.Match[str]) -> str:
        article, old = match[1] or "", match[2]
        if article:
            article = f"{article[0]}{'n' if new[0] in 'aeiou' else ''} "
        return article + (new[0].upper() + new[1:] if old[0].isupper() else new)

    pattern = _PATTERN.format(rf"(an? )?({re.escape(name)})")
    return re.sub(pattern, other, text, flags=re.IGNORECASE)
