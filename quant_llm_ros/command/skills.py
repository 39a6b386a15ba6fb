"""The skill registry: what a robot can do, as data.

The file format is described at the head of ``config/skills/service_robot.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import enum
import hashlib
import os
from pathlib import Path
from typing import Any

import yaml

from quant_llm_ros.command.decision import Safety
from quant_llm_ros.command.names import KnownNames
from quant_llm_ros.command.quantities import argument_suffix
from quant_llm_ros.errors import SkillsError

STOP_SKILL = "stop"
KNOWN_LISTS = ("places", "objects")


class ArgumentType(str, enum.Enum):
    """How the value of an argument is written and checked."""

    QUANTITY = "quantity"
    """A number with a unit, within limits."""
    CHOICE = "choice"
    """One of a few words."""
    PLACE = "place"
    """A piece of the sentence that names a place."""
    TEXT = "text"
    """A piece of the sentence."""


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a skill.

    Attributes:
        name: Name in calls, for example ``distance``.
        type: How the value is written and checked.
        required: Whether a call without it is incomplete.
        ask: Question to a person when a value is needed and was not said; "" for an optional
            argument that is never asked for.
        choices: The words of a CHOICE.
        unit: Unit of a QUANTITY in decisions.
        factors: For a QUANTITY, what turns a number in each unit that may be said into ``unit``.
        min: Smallest accepted value of a QUANTITY, in ``unit``.
        max: Largest accepted value of a QUANTITY, in ``unit``.
        known: List of the registry in which the name must be, where it is not empty: ``places``,
            ``objects`` or "" for none.
        default: Value when nothing is said, as it is written in a call; or such values by the
            choice of another argument: ``("direction", {"left": "90 deg"})``.
    """

    name: str
    type: ArgumentType
    required: bool = True
    ask: str = ""
    choices: tuple[str, ...] = ()
    unit: str = ""
    factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    min: float = float("-inf")
    max: float = float("inf")
    known: str = ""
    default: str | tuple[str, Mapping[str, str]] | None = None

    @property
    def askable(self) -> bool:
        """Whether a call may say that the value is needed but was not said."""
        return bool(self.ask)

    @property
    def decision_name(self) -> str:
        """Name in decisions: that of a quantity carries its unit, as in ``distance_m``."""
        if self.type is ArgumentType.QUANTITY:
            return f"{self.name}_{argument_suffix(self.unit)}"
        return self.name

    @property
    def signature(self) -> str:
        """How the argument is shown to the model and to people."""
        if self.type is ArgumentType.CHOICE:
            value = "|".join(self.choices)
        elif self.type is ArgumentType.QUANTITY:
            value = f"number {'|'.join(self.factors)}"
        else:
            value = self.type.value
        return f"{self.name}={value}" if self.required else f"[{self.name}={value}]"


@dataclasses.dataclass(frozen=True)
class Example:
    """What a person says and the calls that are meant."""

    say: str
    calls: str


@dataclasses.dataclass(frozen=True)
class Skill:
    """Something that the robot can do."""

    name: str
    description: str
    safety: Safety = Safety.SAFE
    arguments: tuple[Argument, ...] = ()
    examples: tuple[Example, ...] = ()

    @property
    def signature(self) -> str:
        """How the skill is shown to the model and to people."""
        return f"{self.name}({', '.join(a.signature for a in self.arguments)})"


@dataclasses.dataclass(frozen=True)
class SkillRegistry:
    """All skills of a robot, with its places and the words that stop it.

    Attributes:
        name: Name of the registry.
        skills: Skills by name, in the order of the file; ``stop`` is always among them.
        places: Known places. Empty: any name is accepted.
        objects: Known things, for the text arguments that say ``known: objects``. Empty: any name
            is accepted.
        stop_phrases: Phrases that stop the robot without asking the model.
        fillers: Words around a stop phrase that change nothing.
        stop_reasons: Words with which a reason begins that may follow a stop phrase.
        stop_warnings: Words of warning; what they warn of may stand beside a stop phrase.
        not_commands: Sentences that are no command.
        sha256: Hash of the file.
        source: Where the registry came from, for messages.
    """

    name: str
    skills: Mapping[str, Skill]
    places: KnownNames
    objects: KnownNames
    stop_phrases: tuple[str, ...]
    fillers: tuple[str, ...]
    stop_reasons: tuple[str, ...]
    stop_warnings: tuple[str, ...]
    not_commands: tuple[str, ...]
    sha256: str
    source: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the skills in order."""
        return tuple(self.skills)

    def known(self, names: str) -> KnownNames:
        """Give one of the lists of ``KNOWN_LISTS``."""
        return self.places if names == "places" else self.objects

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SkillRegistry:
        """Read and check a registry.

        Raises:
            SkillsError: The file is missing or malformed; the message names the place in it.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise SkillsError(
                f"{path}: {error.strerror}; name a skills file that exists"
            ) from error
        try:
            document = yaml.safe_load(data)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SkillsError(f"{path}: not readable as YAML: {error}") from error
        return cls.from_document(
            document, source=str(path), sha256=hashlib.sha256(data).hexdigest()
        )

    @classmethod
    def from_document(cls, document: Any, *, source: str, sha256: str = "") -> SkillRegistry:
        """Make a registry of a parsed YAML document; see ``load``."""
        # Here, since the reader makes what this module defines.
        from quant_llm_ros.command.skills_file import read_document

        return read_document(document, source=source, sha256=sha256)
