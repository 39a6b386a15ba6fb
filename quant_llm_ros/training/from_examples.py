"""How to ask for the skills of a user's own registry: what its examples show."""

from __future__ import annotations

from collections.abc import Mapping

from quant_llm_ros.command.amounts import find_amounts
from quant_llm_ros.command.calls import MISSING, parse, RawCall
from quant_llm_ros.command.skills import Argument, ArgumentType, Skill, SkillRegistry
from quant_llm_ros.command.text import words
from quant_llm_ros.training.corpus import default_kind, RobotKind, SkillSpeech
from quant_llm_ros.training.pattern import compile_pattern

# Lexicons for names of arguments that say what they take; anything else is a thing.
_LEXICONS = {
    "place": "goal", "location": "goal", "destination": "goal", "goal": "goal", "room": "room",
    "zone": "room", "area": "room", "where": "goal", "to": "goal", "source": "spot",
    "from": "spot", "origin": "spot",
    "target": "person", "person": "person", "who": "person", "whom": "person",
    "name": "person", "user": "person", "customer": "person", "patient": "person",
    "device": "device", "appliance": "device", "machine": "device", "light": "device",
    "text": "utterance", "message": "utterance", "sentence": "utterance", "words": "utterance",
    "door": "openable", "container": "openable", "package": "package", "parcel": "package",
    "tool": "tool", "part": "industrial", "food": "food", "drink": "food", "dish": "food",
}  # fmt: skip


def kind_of(registry: SkillRegistry) -> RobotKind:
    """Find out how to ask for the skills of a registry.

    A skill that is the same in the default registry, its arguments too, is asked for as there. The
    others are asked for as in their examples, with other values in the places of the examples'.
    A skill without a usable example is not asked for.

    Args:
        registry: Any registry.
    """
    known = default_kind()
    skills: dict[str, SkillSpeech] = {}
    for name, skill in registry.skills.items():
        default = known.skills.get(name)
        if default is not None and _shape(default.skill) == _shape(skill):
            skills[name] = SkillSpeech(
                skill=skill,
                concept=default.concept,
                descriptions=(skill.description,),
                lexicons=default.lexicons,
                says=default.says,
                phrases=default.phrases,
                questions=default.questions,
                incomplete=default.incomplete,
                again=default.again,
                terse=default.terse,
            )
        else:
            speech = _speech(skill)
            if speech is not None:
                skills[name] = speech
    return RobotKind(registry, skills)


def _shape(skill: Skill) -> list[tuple[str, str, bool, tuple[str, ...]]]:
    return [(a.name, a.type.value, a.required, a.choices) for a in skill.arguments]


def _speech(skill: Skill) -> SkillSpeech | None:
    found = [slotted(example.say, example.calls, skill) for example in skill.examples]
    compiled = tuple(compile_pattern(text) for text in found if text is not None)
    required = {a.name for a in skill.arguments if a.required}
    complete = tuple(p for p in compiled if required <= p.slots())
    if not complete:
        return None
    return SkillSpeech(
        skill=skill,
        concept=skill.name,
        descriptions=(skill.description,),
        lexicons={
            a.name: _LEXICONS.get(a.name, "goal" if a.type is ArgumentType.PLACE else "thing")
            for a in skill.arguments
        },
        says={},
        phrases=complete,
    )


def slotted(say: str, calls: str, skill: Skill) -> str | None:
    """Turn an example into a pattern: «bring {object} to {destination}».

    Args:
        say: What a person says.
        calls: The calls that are meant.
        skill: The skill whose example it is.

    Returns:
        The pattern, or None where the example has several calls, leaves something out or its
        values cannot be found in what is said.
    """
    parsed = parse(calls)
    if len(parsed) != 1 or parsed[0].skill != skill.name:
        return None
    said = words(say)
    slots: dict[int, tuple[int, str]] = {}
    silent = ""
    for argument in skill.arguments:
        value = parsed[0].arguments.get(argument.name)
        if value is None:
            continue
        run = None if value == MISSING else _run(said, argument, value, parsed[0])
        if run is not None:
            slots[run[0]] = (run[1], _slot(argument, value, said[run[0] : run[1]]))
        elif argument.type is ArgumentType.CHOICE and value != MISSING:
            silent += f" {{{argument.name}={value}}}"
        else:
            return None
    return _with_slots(said, slots) + silent


def _slot(argument: Argument, value: str, said: list[str]) -> str:
    if argument.type in (ArgumentType.TEXT, ArgumentType.PLACE) and value.casefold() in (
        "me", "us", "here",
    ):  # fmt: skip
        return f"{{{argument.name}'{' '.join(said)}}}"
    return f"{{{argument.name}}}"


def _with_slots(said: list[str], slots: Mapping[int, tuple[int, str]]) -> str:
    parts: list[str] = []
    at = 0
    while at < len(said):
        if at in slots:
            end, slot = slots[at]
            named = not slot.startswith("{") or "'" not in slot
            if named and parts and parts[-1].casefold() in ("the", "a", "an", "my", "some"):
                parts.pop()
            parts.append(slot)
            at = end
        else:
            parts.append(said[at])
            at += 1
    return " ".join(parts)


def _run(said: list[str], argument: Argument, value: str, call: RawCall) -> tuple[int, int] | None:
    if argument.type is ArgumentType.QUANTITY:
        return _amount_run(said, argument, value)
    wanted = [w.casefold() for w in words(value.replace("_", " "))]
    for start in range(len(said) - len(wanted) + 1):
        if [w.casefold() for w in said[start : start + len(wanted)]] == wanted:
            return start, start + len(wanted)
    return None


def _amount_run(said: list[str], argument: Argument, value: str) -> tuple[int, int] | None:
    units = tuple(argument.factors)
    for amount in find_amounts(said, units):
        if amount.written(argument.unit, units) == value:
            return amount.start, amount.end
    return None
