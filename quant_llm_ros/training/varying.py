"""Human sentences with other names in the places of theirs, so that a few of them go further.

From «put the milk in the fridge» comes «put the jam in the drawer»: what people say around the
names stays, what the names are is no longer learnt by heart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import random
import re

from quant_llm_ros.command.calls import MISSING, parse, SEPARATOR
from quant_llm_ros.command.skills import ArgumentType, SkillRegistry
from quant_llm_ros.command.text import words
from quant_llm_ros.training.corpus import default_kind
from quant_llm_ros.training.generator import check, TrainingExample
from quant_llm_ros.training.human import PREPOSITIONS
from quant_llm_ros.training.lexicon import Entry, Lexicon, load_lexicons, pick

KIND = "varied"

_FIRST = ("room", "relative", "name", "role")
_THEN = ("container", "furniture", "device", "openable", "food", "household", "office")
_USED = ("device", "openable")
"""What is named to be used takes other names for things that are used alike."""


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
            lexicon and number («the books» for «the towels», never for «the towel»).
        mark_share: How often a sentence without marks gets a capital and a full stop.

    Returns:
        The new sentence; the old one where nothing in it could be changed.
    """
    text, answer = example.text, example.answer
    for name, others in _names(example, registry):
        if rng.random() >= name_share:
            continue
        new = " ".join(rng.choice(others).words)
        if _is_said(new, example.text):
            continue
        text = _agreeing(_replaced(name, new, text))
        answer = _in_values(name, new, answer)
    if rng.random() < mark_share and text[:1].islower() and text[-1:].isalnum():
        text = f"{text[0].upper()}{text[1:]}{pick(rng, ('.', '.', '!'))}"
    varied = dataclasses.replace(example, text=text, answer=answer, kind=KIND)
    try:
        check(varied, registry)
    except ValueError:
        return example
    return varied


def _names(
    example: TrainingExample, registry: SkillRegistry
) -> Iterator[tuple[str, Sequence[Entry]]]:
    """Find the names in an answer's values.

    Yields:
        Each name with the entries that can take its place.
    """
    uses: dict[tuple[str, ...], str] = {}
    for call in parse(example.answer):
        known = default_kind().skills.get(call.skill)
        for argument in registry.skills[call.skill].arguments:
            value = call.arguments.get(argument.name, MISSING)
            if value == MISSING or argument.type not in (ArgumentType.TEXT, ArgumentType.PLACE):
                continue
            use = known.lexicons.get(argument.name, "") if known else ""
            for name in _known_names(words(value.casefold())):
                # «Go to the oven and switch it on»: what is used decides.
                if use in _USED or name not in uses:
                    uses[name] = use
    for name, use in uses.items():
        lexicon = _lexicon(name, use)
        if lexicon is not None:
            yield " ".join(name), _alike(lexicon, name)


def _known_names(said: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Find the longest names that lexicons know, where a name ends: «jar» in «jam jar lid» not."""
    start = 0
    while start < len(said):
        for end in range(len(said), start, -1):
            name = tuple(said[start:end])
            ends = end == len(said) or said[end] in PREPOSITIONS
            if ends and any(_lexicon(name, use) for use in ("", *_USED)):
                yield name
                start = end - 1
                break
        start += 1


def _lexicon(name: tuple[str, ...], use: str) -> Lexicon | None:
    lexicons = load_lexicons()
    order = (*_FIRST, use, *_THEN) if use in _USED else (*_FIRST, *_THEN)
    return next((lexicons[n] for n in order if name in lexicons[n].names), None)


def _alike(lexicon: Lexicon, name: tuple[str, ...]) -> list[Entry]:
    number = lexicon.names[name].number
    return [entry for entry in lexicon.names.values() if entry.number == number]


def _pattern(name: str) -> str:
    return rf"(?<![\w']){re.escape(name)}(?![\w'])"


def _is_said(name: str, text: str) -> bool:
    return re.search(_pattern(name), text, re.IGNORECASE) is not None


def _replaced(name: str, new: str, text: str) -> str:
    return re.sub(_pattern(name), new, text, flags=re.IGNORECASE)


def _in_values(name: str, new: str, answer: str) -> str:
    """Replace in the values of an answer, not in names of skills or arguments."""
    calls = []
    for call in parse(answer):
        values = [f"{key}={_replaced(name, new, value)}" for key, value in call.arguments.items()]
        calls.append(f"{call.skill}({', '.join(values)})")
    return SEPARATOR.join(calls)


def _agreeing(text: str) -> str:
    """Write «a» and «an» as the word behind them wants it."""
    text = re.sub(r"\b([Aa])n(?= [^aeiouAEIOU\W])", r"\1", text)
    return re.sub(r"\b([Aa])(?= [aeioAEIO])", r"\1n", text)
