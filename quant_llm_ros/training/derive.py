"""Registries made from others, so that a model must read the list of skills in its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math
import random
from types import MappingProxyType

from quant_llm_ros.command.names import KnownNames
from quant_llm_ros.command.skills import (
    Argument,
    ArgumentType,
    Example,
    Skill,
    SkillRegistry,
    STOP_SKILL,
)
from quant_llm_ros.training.corpus import Concepts, load_concepts, RobotKind, SkillSpeech
from quant_llm_ros.training.noise import CLEAN, disturb
from quant_llm_ros.training.sentences import Commander, Draft
from quant_llm_ros.training.talker import Wish
from quant_llm_ros.training.view import SkillView, Unsayable, View, write_answer

_PREFIXES = ("do_", "robot_", "cmd_", "skill_", "run_", "task_", "start_")
_ABSTRACT = ("action", "skill", "task", "routine", "function")


def derive(rng: random.Random, kind: RobotKind, others: Sequence[RobotKind]) -> View:
    """Make a registry from that of a kind of robot.

    Takes a part of the skills, perhaps some of other robots, changes their order, names,
    descriptions, arguments, choices, units and limits, and writes new examples.

    Args:
        rng: Source of chance.
        kind: The robot to start from.
        others: Robots that skills may be borrowed from.
    """
    speeches = _subset(rng, kind)
    if others and rng.random() < 0.35:
        speeches += _borrowed(rng, speeches, rng.choice(others))
    if rng.random() < 0.6:
        rng.shuffle(speeches)
    rename = rng.random()
    abstract = rng.random() < 0.04
    taken: set[str] = {STOP_SKILL}
    views = []
    for speech in speeches:
        views.append(_changed(rng, speech, rename, taken, abstract))
    registry = SkillRegistry(
        name=kind.registry.name,
        skills=MappingProxyType({view.skill.name: view.skill for view in views}),
        places=KnownNames({}),
        objects=KnownNames({}),
        stop_phrases=kind.registry.stop_phrases,
        fillers=kind.registry.fillers,
        stop_reasons=kind.registry.stop_reasons,
        stop_warnings=kind.registry.stop_warnings,
        not_commands=(),
        sha256="",
        source=kind.registry.source,
    )
    return View(registry, kind, tuple(views))


def with_examples(
    rng: random.Random, view: View, share: float, not_commands: Sequence[str]
) -> View:
    """Give the skills of a registry new examples, and the registry sentences that are no command.

    Args:
        rng: Source of chance.
        view: The registry.
        share: How many of the skills get one, 0 to 1.
        not_commands: Sentences that are no command.
    """
    commander = Commander(rng, view)
    skills = {}
    views = []
    for old in view.skills:
        examples: tuple[Example, ...] = ()
        if rng.random() < share:
            examples = _example(commander, old)
        skill = dataclasses.replace(old.skill, examples=examples)
        skills[skill.name] = skill
        views.append(dataclasses.replace(old, skill=skill))
    registry = dataclasses.replace(
        view.registry, skills=MappingProxyType(skills), not_commands=tuple(not_commands)
    )
    return View(registry, view.kind, tuple(views))


def _example(commander: Commander, view: SkillView) -> tuple[Example, ...]:
    draft = Draft([], [])
    try:
        draft.calls = commander.talker.clause(draft.words, view, Wish())
        words = disturb(commander.rng, draft.words, draft.spans, CLEAN, frozenset())
        return (Example(" ".join(words), write_answer(draft.calls, words)),)
    except Unsayable:
        return ()


def _subset(rng: random.Random, kind: RobotKind) -> list[SkillSpeech]:
    speeches = list(kind.skills.values())
    # Mostly short lists: what a step costs grows with the prompt.
    if rng.random() < 0.85:
        count = rng.randint(min(3, len(speeches)), min(9, len(speeches)))
        kept = set(rng.sample(range(len(speeches)), count))
        speeches = [s for i, s in enumerate(speeches) if i in kept or s.skill.name == STOP_SKILL]
    return speeches


def _borrowed(
    rng: random.Random, own: Sequence[SkillSpeech], other: RobotKind
) -> list[SkillSpeech]:
    near = load_concepts().near
    taken = {s.concept for s in own}
    borrowed = []
    for speech in rng.sample(list(other.skills.values()), min(4, len(other.skills))):
        if speech.concept not in taken and not near.get(speech.concept, frozenset()) & taken:
            borrowed.append(speech)
            taken.add(speech.concept)
    return borrowed


def _changed(
    rng: random.Random, speech: SkillSpeech, rename: float, taken: set[str], abstract: bool
) -> SkillView:
    concepts = load_concepts()
    skill = speech.skill
    if skill.name == STOP_SKILL:
        return SkillView.plain(speech)
    name = skill.name
    if rng.random() < rename or name in taken:
        name = _skill_name(rng, concepts, speech, taken, abstract)
    taken.add(name)
    arguments: list[Argument] = []
    names: dict[str, str] = {}
    choices: dict[tuple[str, str], str] = {}
    for argument in skill.arguments:
        if not argument.required and rng.random() < 0.12:
            continue
        others = {a.name for a in skill.arguments if a is not argument}
        changed, kept = _changed_argument(
            rng, concepts, argument, rename, others.union(names.values())
        )
        arguments.append(changed)
        names[argument.name] = changed.name
        choices.update({(argument.name, old): new for old, new in kept.items()})
    if len(arguments) > 1 and rng.random() < 0.15:
        rng.shuffle(arguments)
    return SkillView(
        Skill(name, rng.choice(speech.descriptions), skill.safety, tuple(arguments)),
        speech,
        names,
        choices,
    )


def _skill_name(
    rng: random.Random, concepts: Concepts, speech: SkillSpeech, taken: set[str], abstract: bool
) -> str:
    for _ in range(8):
        if abstract:
            name = f"{rng.choice(_ABSTRACT)}_{rng.randint(1, 40)}"
        else:
            options = (*concepts.names.get(speech.concept, ()), speech.skill.name)
            name = rng.choice(options)
            if rng.random() < 0.08:
                name = rng.choice(_PREFIXES) + name
        if name not in taken:
            return name
    number = 2
    while f"{speech.skill.name}_{number}" in taken:
        number += 1
    return f"{speech.skill.name}_{number}"


def _changed_argument(
    rng: random.Random, concepts: Concepts, argument: Argument, rename: float, taken: set[str]
) -> tuple[Argument, Mapping[str, str]]:
    name = argument.name
    if rng.random() < rename * 0.7:
        name = rng.choice((*concepts.argument_names.get(name, ()), name))
        if name in taken:
            name = argument.name
    changed = dataclasses.replace(argument, name=name)
    if not argument.required and argument.default is None and rng.random() < 0.1:
        changed = dataclasses.replace(changed, required=True, ask=changed.ask or f"{name}?")
    if argument.type is ArgumentType.QUANTITY:
        return _changed_quantity(rng, changed), {}
    if argument.type is not ArgumentType.CHOICE:
        return changed, {}
    kept = {choice: choice for choice in argument.choices}
    if len(kept) > 2 and rng.random() < 0.3:
        del kept[rng.choice(list(kept))]
    if rng.random() < rename:
        # The same column for all of them, so that they go together: enabled and disabled.
        column = rng.randrange(4)
        for choice in kept:
            options = concepts.choice_names.get(choice, ())
            if column < len(options) and options[column] not in kept.values():
                kept[choice] = options[column]
    names = list(kept.values())
    if rng.random() < 0.4:
        rng.shuffle(names)
    # A default by choice speaks of names that may be gone; the decision's default is no concern
    # of a training sentence.
    return dataclasses.replace(changed, choices=tuple(names), default=None), kept


def _changed_quantity(rng: random.Random, argument: Argument) -> Argument:
    units = list(argument.factors)
    if len(units) > 1 and rng.random() < 0.4:
        kept = set(rng.sample(units, rng.randint(1, len(units) - 1)))
        units = [unit for unit in units if unit in kept]
    if rng.random() < 0.3:
        rng.shuffle(units)
    largest = argument.max
    if math.isfinite(largest) and argument.min < largest * 0.2 and rng.random() < 0.5:
        largest = float(f"{largest * rng.choice((0.25, 0.5, 0.75, 1.5, 2.0, 3.0)):.2g}")
        if argument.unit in ("%", "percent", "deg", "turn"):
            largest = argument.max
    return dataclasses.replace(
        argument,
        factors=MappingProxyType({unit: argument.factors[unit] for unit in units}),
        max=largest,
        default=None,
    )
