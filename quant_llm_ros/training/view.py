"""What one robot's registry looks like to the generator: its skills under their names there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses

from quant_llm_ros.command.calls import (
    MAX_CALLS,
    MISSING,
    PART,
    SEPARATOR,
    UNKNOWN,
    UNSERVED,
)
from quant_llm_ros.command.skills import Skill, SkillRegistry
from quant_llm_ros.training.corpus import RobotKind, SkillSpeech
from quant_llm_ros.training.pattern import Span, Value


class Unsayable(Exception):
    """What was to be said cannot be expressed in this registry; try something else."""


@dataclasses.dataclass(frozen=True)
class SkillView:
    """A skill as it stands in a registry, with the speech that asks for it.

    Attributes:
        skill: The skill under its name and with its arguments in this registry.
        speech: How people ask for it; its names are those of the speech.
        arguments: Arguments of the speech, and their names here; what is not here is missing.
        choices: Choices by (argument of the speech, choice there), and their names here.
    """

    skill: Skill
    speech: SkillSpeech
    arguments: Mapping[str, str]
    choices: Mapping[tuple[str, str], str]

    @classmethod
    def plain(cls, speech: SkillSpeech) -> SkillView:
        """View a skill under its own names."""
        return cls(
            speech.skill,
            speech,
            {a.name: a.name for a in speech.skill.arguments},
            {(a.name, c): c for a in speech.skill.arguments for c in a.choices},
        )

    @classmethod
    def unserved(cls, speech: SkillSpeech) -> SkillView:
        """View a skill that the registry lacks: an answer only repeats how it was asked for."""
        return cls(UNSERVED, speech, {PART: PART}, {})

    @property
    def is_served(self) -> bool:
        """Whether the registry has the skill."""
        return self.skill is not UNSERVED


@dataclasses.dataclass(frozen=True)
class View:
    """A registry with the speech of its skills."""

    registry: SkillRegistry
    kind: RobotKind
    skills: tuple[SkillView, ...]

    @classmethod
    def plain(cls, kind: RobotKind) -> View:
        """View a kind of robot with its registry as it is."""
        return cls(kind.registry, kind, tuple(SkillView.plain(s) for s in kind.skills.values()))

    @property
    def concepts(self) -> frozenset[str]:
        """Concepts of all skills."""
        return frozenset(view.speech.concept for view in self.skills)


@dataclasses.dataclass
class Call:
    """A call in the making: arguments of the speech, with spans of the sentence's words."""

    view: SkillView
    values: dict[str, Value]

    @property
    def missing(self) -> bool:
        """Whether a value is needed that was not said."""
        named = {self.view.arguments[a]: v for a, v in self.values.items()}
        return any(
            a.askable and named.get(a.name, MISSING if a.required else None) == MISSING
            for a in self.view.skill.arguments
        )

    def written(self, words_of: Sequence[str]) -> str:
        """Write the call.

        Args:
            words_of: Text of each word of the sentence that an argument can copy; "" for a word
                that has none.

        Raises:
            Unsayable: A choice is not in this registry, or a name consists of no words.
        """
        named: dict[str, str] = {}
        for argument, value in self.values.items():
            if isinstance(value, Span):
                text = " ".join(w for w in words_of[value.start : value.end] if w)
                if not text:
                    raise Unsayable(argument)
            else:
                text = value
                if (argument, value) in self.view.choices:
                    text = self.view.choices[argument, value]
            named[self.view.arguments[argument]] = text
        parts = []
        for known in self.view.skill.arguments:
            said = named.get(known.name)
            if said is None and known.required:
                said = MISSING
            if said == MISSING and not known.askable:
                said = None
            if said is not None:
                parts.append(f"{known.name}={said}")
        return f"{self.view.skill.name}({', '.join(parts)})"


def write_answer(calls: Sequence[Call], words_of: Sequence[str]) -> str:
    """Write an answer of several calls, or ``unknown`` for none."""
    if len(calls) > MAX_CALLS:
        raise Unsayable("too many calls")
    return SEPARATOR.join(call.written(words_of) for call in calls) or UNKNOWN
