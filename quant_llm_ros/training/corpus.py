"""Kinds of robots: their skill registries and how people ask for each skill.

A file in ``config/training/registries`` is a skill registry (see the head of
``config/skills/service_robot.yaml``) whose skills also have:

    concept     what the skill is about; skills of one concept are alternatives for each other
    also        other descriptions of the same skill
    words       the lexicon of each text or place argument
    says        how each value of a choice is said: {state: {"on": [on, up]}}
    phrases     patterns of commands, the verb first and in its base form
    questions   patterns that cannot stand behind «could you»
    incomplete  patterns that leave out something required
    again       patterns that continue a call of the same skill: «then {distance} back»
    terse       patterns without a verb, as in «lamp off, two meters back, battery»
    use         a default skill whose patterns serve too: {skill: go_to, place: area}

and itself ``where``, the lexicon of places at which things are. The default registry's own
patterns lie in ``config/training/service_robot``.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
from pathlib import Path
from typing import Any

from quant_llm_ros.command.skills import ArgumentType, Skill, SkillRegistry
from quant_llm_ros.errors import DatasetError
from quant_llm_ros.resources import share_path
from quant_llm_ros.training.lexicon import load_lexicons, patterns, read_yaml
from quant_llm_ros.training.pattern import Pattern

DEFAULT_SKILLS = "config/skills/service_robot.yaml"
_REGISTRY_KEYS = ("description", "safety", "arguments", "examples")
_PATTERNS = ("questions", "incomplete", "again", "terse")


@dataclasses.dataclass(frozen=True)
class SkillSpeech:
    """How people ask for a skill."""

    skill: Skill
    concept: str
    descriptions: tuple[str, ...]
    lexicons: Mapping[str, str]
    says: Mapping[str, Mapping[str, tuple[Pattern, ...]]]
    phrases: tuple[Pattern, ...]
    questions: tuple[Pattern, ...] = ()
    incomplete: tuple[Pattern, ...] = ()
    again: tuple[Pattern, ...] = ()
    terse: tuple[Pattern, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the required arguments."""
        return tuple(a.name for a in self.skill.arguments if a.required)


@dataclasses.dataclass(frozen=True)
class RobotKind:
    """A registry with the speech of its skills."""

    registry: SkillRegistry
    skills: Mapping[str, SkillSpeech]
    where: str = "spot"


@dataclasses.dataclass(frozen=True)
class Concepts:
    """What is known about concepts across registries.

    Attributes:
        names: Other names for a skill of the concept.
        near: Concepts that could be meant by the same words.
        then: Concepts that often come next, the more frequent ones several times.
        argument_names: Other names for an argument.
        choice_names: Other names for a choice.
    """

    names: Mapping[str, tuple[str, ...]]
    near: Mapping[str, frozenset[str]]
    then: Mapping[str, tuple[str, ...]]
    argument_names: Mapping[str, tuple[str, ...]]
    choice_names: Mapping[str, tuple[str, ...]]


@functools.lru_cache(maxsize=1)
def load_concepts() -> Concepts:
    """Read ``config/training/concepts``.

    Raises:
        DatasetError: A name is defined twice.
    """
    document: dict[str, dict[str, Any]] = {"concepts": {}, "arguments": {}, "choices": {}}
    for path in sorted(share_path("config/training/concepts").glob("*.yaml")):
        for part, entries in read_yaml(path).items():
            for name, value in (entries or {}).items():
                if name in document[part]:
                    raise DatasetError(f"{path}: {part}.{name} is defined twice")
                document[part][name] = value
    names, near, then = {}, {}, {}
    for concept, fields in document["concepts"].items():
        names[concept] = _words(fields.get("names"))
        near[concept] = frozenset(_words(fields.get("near")))
        then[concept] = _words(fields.get("then"))
    return Concepts(
        names,
        near,
        then,
        {k: _words(v) for k, v in document["arguments"].items()},
        {k: _parts(v) for k, v in document["choices"].items()},
    )


def _words(value: Any) -> tuple[str, ...]:
    return tuple(str(value or "").split())


def _parts(value: Any) -> tuple[str, ...]:
    return tuple(part.strip() for part in str(value or "").split(","))


@functools.lru_cache(maxsize=1)
def default_kind() -> RobotKind:
    """Read the default registry with its patterns."""
    registry = SkillRegistry.load(share_path(DEFAULT_SKILLS))
    return _kind(registry, {"skills": _default_speech()}, {})


@functools.lru_cache(maxsize=1)
def _default_speech() -> Mapping[str, Any]:
    """Read how people ask for the skills of the default registry."""
    skills: dict[str, Any] = {}
    for path in sorted(share_path("config/training/service_robot").glob("*.yaml")):
        skills.update(read_yaml(path)["skills"])
    return skills


@functools.lru_cache(maxsize=1)
def other_kinds() -> tuple[RobotKind, ...]:
    """Read the registries of all other robots, in the order of their names."""
    shared = _default_speech()
    folder = share_path("config/training/registries")
    return tuple(load_kind(path, shared) for path in sorted(folder.glob("*.yaml")))


def load_kind(path: Path, shared: Mapping[str, Any]) -> RobotKind:
    """Read one registry with its patterns; ``shared`` are those of the default skills."""
    speech = read_yaml(path)
    document = {k: v for k, v in speech.items() if k not in ("where", "skills")}
    document["skills"] = {
        name: {k: v for k, v in fields.items() if k in _REGISTRY_KEYS}
        for name, fields in speech["skills"].items()
    }
    registry = SkillRegistry.from_document(document, source=str(path))
    return _kind(registry, speech, shared)


def _kind(
    registry: SkillRegistry, speech: Mapping[str, Any], shared: Mapping[str, Any]
) -> RobotKind:
    skills = {}
    for name, skill in registry.skills.items():
        where = f"{registry.source}: skills.{name}"
        fields = dict(speech["skills"].get(name) or {})
        if "phrases" not in fields and name in shared:
            fields = _inherited(fields, skill, shared[name])
        if "use" in fields:
            fields = _using(fields, shared)
        skills[name] = speech_of(skill, fields, where)
    return RobotKind(registry, skills, speech.get("where", "spot"))


def _inherited(fields: dict[str, Any], skill: Skill, default: Mapping[str, Any]) -> dict[str, Any]:
    """Take over all of a default skill of the same name and with the same arguments."""
    merged = {**default, **fields}
    merged["words"] = {**(default.get("words") or {}), **(fields.get("words") or {})}
    choices = {a.name: a.choices for a in skill.arguments}
    merged["says"] = {
        name: {c: texts for c, texts in says.items() if c in choices.get(name, ())}
        for name, says in (default.get("says") or {}).items()
    }
    return merged


def _using(fields: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Take over the patterns of a default skill, with the arguments' names changed."""
    renamed = dict(fields["use"])
    other = shared[renamed.pop("skill")]
    merged = dict(fields)
    for key in ("phrases", *_PATTERNS):
        texts = [str(text) for text in other.get(key) or ()]
        for old, new in renamed.items():
            for mark in "}+!:'=":
                texts = [t.replace(f"{{{old}{mark}", f"{{\0{new}{mark}") for t in texts]
        merged[key] = [*(fields.get(key) or ()), *(t.replace("\0", "") for t in texts)]
    for key in ("words", "says"):
        taken = {renamed.get(k, k): v for k, v in (other.get(key) or {}).items()}
        merged[key] = {**taken, **(fields.get(key) or {})}
    merged.setdefault("concept", other.get("concept"))
    return merged


def speech_of(skill: Skill, fields: Mapping[str, Any], where: str) -> SkillSpeech:
    """Read the patterns of a skill.

    Raises:
        DatasetError: A pattern names an argument that the skill has not, or there is none at all.
    """
    speech = SkillSpeech(
        skill=skill,
        concept=str(fields.get("concept") or skill.name),
        descriptions=(skill.description, *(fields.get("also") or ())),
        lexicons=dict(fields.get("words") or {}),
        says={
            argument: {str(choice): patterns(texts) for choice, texts in says.items()}
            for argument, says in (fields.get("says") or {}).items()
        },
        phrases=patterns(fields.get("phrases")),
        **{key: patterns(fields.get(key)) for key in _PATTERNS},
    )
    _check(speech, where)
    return speech


def _check(speech: SkillSpeech, where: str) -> None:
    known = {a.name: a for a in speech.skill.arguments}
    lexicons = load_lexicons()
    if not speech.phrases:
        raise DatasetError(f"{where} has no phrases; write several")
    for pattern in (
        *speech.phrases, *speech.questions, *speech.incomplete, *speech.again, *speech.terse
    ):  # fmt: skip
        unknown = pattern.slots() - set(known)
        if unknown:
            raise DatasetError(
                f"{where}: a phrase has the slot {sorted(unknown)[0]!r}, an argument "
                f"that the skill has not"
            )
        for name in pattern.lexicons():
            lexicons[name]
    for name, argument in known.items():
        if argument.type in (ArgumentType.TEXT, ArgumentType.PLACE):
            lexicons[speech.lexicons.get(name, "thing")]
        elif argument.type is ArgumentType.CHOICE:
            extra = set(speech.says.get(name, ())) - set(argument.choices)
            if extra:
                raise DatasetError(f"{where}: says of {name} has {sorted(extra)[0]!r}, no choice")
