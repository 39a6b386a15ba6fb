"""Reading a skill registry from its file, with messages that name the place of a mistake."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import difflib
import re
from types import MappingProxyType
from typing import Any

from quant_llm_ros.command.calls import UNKNOWN, UNSERVED
from quant_llm_ros.command.decision import Safety
from quant_llm_ros.command.names import KnownNames
from quant_llm_ros.command.quantities import argument_suffix, conversion_factor
from quant_llm_ros.command.skills import (
    Argument,
    ArgumentType,
    Example,
    KNOWN_LISTS,
    Skill,
    SkillRegistry,
    STOP_SKILL,
)
from quant_llm_ros.command.text import spoken_words
from quant_llm_ros.errors import SkillsError

FORMAT_VERSION = 1

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# What can stand as a choice between "=" and "," in a call, and as a place's name.
_CHOICE = re.compile(r"[^\W_](?:[\w' -]{0,38}\w)?")


class _Malformed(Exception):
    """Something in the file is wrong; the text says where and what."""


def read_document(document: Any, *, source: str, sha256: str) -> SkillRegistry:
    """Check a parsed YAML document and make a registry of it.

    Args:
        document: What the YAML file holds.
        source: Where it came from, for messages.
        sha256: Hash of the file; "" where there is none.

    Raises:
        SkillsError: It is malformed; the message names the place in it.
    """
    try:
        return _registry(document, source, sha256)
    except _Malformed as error:
        raise SkillsError(f"{source}: {error}") from None


def _mapping(value: Any, where: str, known: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Malformed(f"{where} must be a mapping, not {value!r}")
    for key in value:
        # YAML 1.1 reads a bare on, off, yes or no as a boolean.
        if not isinstance(key, str):
            raise _Malformed(f"{where}: the key {key!r} must be text; put it in quotes")
        if known and key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise _Malformed(f"{where}: unknown key {key!r}; {hint}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        hint = "; put it in quotes" if isinstance(value, bool) else ""
        raise _Malformed(f"{where} must be text, not {value!r}{hint}")
    return value.strip()


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _Malformed(f"{where} must be a list, not {value!r}")
    return tuple(_text(item, f"{where}[{index}]") for index, item in enumerate(value))


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise _Malformed(f"{where} must be a number, not {value!r}")
    return float(value)


def _bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _Malformed(f"{where} must be true or false, not {value!r}")
    return value


def _name(value: str, where: str) -> str:
    if not _NAME.fullmatch(value):
        raise _Malformed(
            f"{where}: {value!r} is not a name; use up to 40 lower-case letters, digits and _"
        )
    return value


def _registry(document: Any, source: str, sha256: str) -> SkillRegistry:
    top = _mapping(
        document,
        "the file",
        (
            "version",
            "name",
            "description",
            "stop_phrases",
            "fillers",
            "stop_reasons",
            "stop_warnings",
            "places",
            "objects",
            "not_commands",
            "skills",
        ),
    )
    if top.get("version") != FORMAT_VERSION:
        raise _Malformed(
            f"version is {top.get('version')!r}; this release reads version {FORMAT_VERSION}"
        )
    skills: dict[str, Skill] = {}
    for name, value in _mapping(top.get("skills"), "skills").items():
        if name in (UNKNOWN, UNSERVED.name):
            raise _Malformed(
                f"skills.{name}: an answer says {name!r} where no skill fits; choose another name"
            )
        skills[name] = _skill(_name(name, "skills"), value)
    if not skills:
        raise _Malformed("skills is empty; a robot needs at least one skill")
    if STOP_SKILL not in skills:
        skills[STOP_SKILL] = Skill(STOP_SKILL, "stop all motion")
    elif skills[STOP_SKILL].arguments:
        raise _Malformed("skills.stop must have no arguments: a stop is never incomplete")
    elif skills[STOP_SKILL].safety is not Safety.SAFE:
        raise _Malformed("skills.stop.safety must be safe: nobody confirms a stop")
    stop_phrases = _texts(top.get("stop_phrases", ["stop"]), "stop_phrases")
    if not stop_phrases:
        raise _Malformed("stop_phrases is empty; leave it out for «stop» alone")
    for phrase in stop_phrases:
        if not spoken_words(phrase):
            raise _Malformed(f"stop_phrases: {phrase!r} has no words")
    return SkillRegistry(
        name=_text(top.get("name"), "name"),
        skills=MappingProxyType(skills),
        places=_known_names(top.get("places") or {}, "places"),
        objects=_known_names(top.get("objects") or {}, "objects"),
        stop_phrases=stop_phrases,
        fillers=_texts(top.get("fillers", []), "fillers"),
        stop_reasons=_texts(top.get("stop_reasons", []), "stop_reasons"),
        stop_warnings=_texts(top.get("stop_warnings", []), "stop_warnings"),
        not_commands=_texts(top.get("not_commands", []), "not_commands"),
        sha256=sha256,
        source=source,
    )


def _known_names(value: Any, where: str) -> KnownNames:
    names: dict[str, tuple[str, ...]] = {}
    for name, others in _mapping(value, where).items():
        names[name] = _texts(others or [], f"{where}.{name}")
        for said in (name, *names[name]):
            if not _CHOICE.fullmatch(said):
                raise _Malformed(f"{where}.{name}: {said!r} has characters that no name can have")
    try:
        return KnownNames(names)
    except ValueError as error:
        raise _Malformed(f"{where}: {error}") from error


def _skill(name: str, value: Any) -> Skill:
    where = f"skills.{name}"
    fields = _mapping(value, where, ("description", "safety", "arguments", "examples"))
    safety = fields.get("safety", "safe")
    if safety not in ("safe", "confirm"):
        raise _Malformed(f"{where}.safety is {safety!r}; use safe or confirm")
    arguments = {
        key: _argument(_name(key, f"{where}.arguments"), item, f"{where}.arguments.{key}")
        for key, item in _mapping(fields.get("arguments") or {}, f"{where}.arguments").items()
    }
    if len(arguments) > 8:
        raise _Malformed(f"{where} has {len(arguments)} arguments; at most 8 can be understood")
    names = [argument.decision_name for argument in arguments.values()]
    for name_in_decision in names:
        if names.count(name_in_decision) > 1:
            raise _Malformed(
                f"{where}: two arguments are called {name_in_decision!r} in decisions"
            )
    for key, argument in arguments.items():
        _check_default(argument, arguments, f"{where}.arguments.{key}")
    examples = []
    listed = fields.get("examples") or []
    if not isinstance(listed, list):
        raise _Malformed(f"{where}.examples must be a list, not {listed!r}")
    for index, item in enumerate(listed):
        place = f"{where}.examples[{index}]"
        pair = _mapping(item, place, ("say", "calls"))
        examples.append(
            Example(
                _text(pair.get("say"), f"{place}.say"), _text(pair.get("calls"), f"{place}.calls")
            )
        )
    return Skill(
        name=name,
        description=_text(fields.get("description"), f"{where}.description"),
        safety=Safety[safety.upper()],
        arguments=tuple(arguments.values()),
        examples=tuple(examples),
    )


_KEYS = {
    ArgumentType.QUANTITY: ("unit", "units", "min", "max"),
    ArgumentType.CHOICE: ("choices",),
    ArgumentType.PLACE: (),
    ArgumentType.TEXT: ("known",),
}


def _argument(name: str, value: Any, where: str) -> Argument:
    kinds = tuple(kind.value for kind in ArgumentType)
    fields = _mapping(value, where)
    kind_name = fields.get("type")
    if kind_name not in kinds:
        near = difflib.get_close_matches(str(kind_name), kinds, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(kinds)}"
        raise _Malformed(f"{where}: unknown type {kind_name!r}; {hint}")
    kind = ArgumentType(kind_name)
    _mapping(value, where, ("type", "required", "default", "ask", *_KEYS[kind]))
    required = _bool(fields.get("required", True), f"{where}.required")
    ask = fields.get("ask", f"{name}?" if required else None)
    argument = Argument(
        name=name,
        type=kind,
        required=required,
        ask="" if ask is None else _text(ask, f"{where}.ask"),
        default=_default(fields.get("default"), where),
    )
    if kind is ArgumentType.PLACE:
        argument = dataclasses.replace(argument, known="places")
    elif kind is ArgumentType.TEXT and "known" in fields:
        if fields["known"] not in KNOWN_LISTS:
            raise _Malformed(
                f"{where}.known is {fields['known']!r}; use {' or '.join(KNOWN_LISTS)}"
            )
        argument = dataclasses.replace(argument, known=fields["known"])
    elif kind is ArgumentType.QUANTITY:
        argument = _quantity(argument, fields, where)
    elif kind is ArgumentType.CHOICE:
        choices = _texts(fields.get("choices"), f"{where}.choices")
        for choice in choices:
            if not _CHOICE.fullmatch(choice):
                raise _Malformed(
                    f"{where}.choices: {choice!r} may have letters, digits, spaces, ' and - only"
                )
        if not choices or len(set(choices)) < len(choices):
            raise _Malformed(f"{where}.choices must be different words, at least one")
        argument = dataclasses.replace(argument, choices=choices)
    return argument


def _quantity(argument: Argument, fields: dict[str, Any], where: str) -> Argument:
    unit = _text(fields.get("unit"), f"{where}.unit")
    factors = {}
    for said in _texts(fields.get("units", [unit]), f"{where}.units"):
        if not re.fullmatch(r"[^\W\d_]+(?:/[^\W\d_]+)?|%|°", said):
            raise _Malformed(f"{where}.units: {said!r} must be letters, such as m or m/s")
        try:
            factors[said] = conversion_factor(said, unit)
        except ValueError as error:
            raise _Malformed(f"{where}: {error}") from error
    try:
        argument_suffix(unit)
    except ValueError as error:
        raise _Malformed(f"{where}.unit: {error}") from error
    smallest = _number(fields.get("min", float("-inf")), f"{where}.min")
    largest = _number(fields.get("max", float("inf")), f"{where}.max")
    if smallest > largest:
        raise _Malformed(f"{where}: min {smallest:g} is above max {largest:g}")
    if not factors:
        raise _Malformed(f"{where}.units is empty; leave it out to accept {unit!r} alone")
    return dataclasses.replace(
        argument, unit=unit, factors=MappingProxyType(factors), min=smallest, max=largest
    )


def _default(value: Any, where: str) -> str | tuple[str, Mapping[str, str]] | None:
    if value is None:
        return None
    if isinstance(value, dict):
        if len(value) != 1:
            raise _Malformed(f"{where}.default must name one other argument")
        other, by_choice = next(iter(_mapping(value, f"{where}.default").items()))
        chosen = _mapping(by_choice, f"{where}.default.{other}")
        return other, MappingProxyType(
            {choice: _text(v, f"{where}.default.{other}.{choice}") for choice, v in chosen.items()}
        )
    return _text(value, f"{where}.default")


def _check_default(argument: Argument, arguments: Mapping[str, Argument], where: str) -> None:
    if argument.default is None:
        return
    if argument.required:
        raise _Malformed(f"{where} has a default and is required; add `required: false`")
    if isinstance(argument.default, tuple):
        other, values = argument.default
        if other not in arguments or arguments[other].type is not ArgumentType.CHOICE:
            raise _Malformed(f"{where}.default: {other!r} is not a choice argument of the skill")
        for choice in values:
            if choice not in arguments[other].choices:
                raise _Malformed(f"{where}.default.{other}: {choice!r} is not one of its choices")
