"""The notation that the model answers in.

``move(direction=forward, distance=2 m); go_to(place=kitchen)`` are calls of skills, ``?`` stands
for a required value that was not said, ``unserved(part=water the plants)`` for a part of a command
that no skill serves, and ``unknown`` for a text that is no command.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import json
import re

from quant_llm_ros.command.amounts import Amount, find_amounts
from quant_llm_ros.command.skills import Argument, ArgumentType, Skill, SkillRegistry

UNKNOWN = "unknown"
MISSING = "?"
SEPARATOR = "; "
MAX_CALLS = 4
"""Most calls in one answer, unserved parts included."""
PART = "part"
UNSERVED = Skill("unserved", "", arguments=(Argument(PART, ArgumentType.TEXT),))
"""Stands among the calls of skills where a part of the command asks for something else."""

_CALL = re.compile(r"([a-z][a-z0-9_]*)\(([^()]*)\)")
_PAIR = re.compile(r"([a-z][a-z0-9_]*)=([^=,;()]+)")
NUMBER = r"-?[0-9]{1,12}(?:\.[0-9]{1,4})?"
"""A number as the model writes it."""


@dataclasses.dataclass(frozen=True)
class RawCall:
    """A call as the model wrote it: every value is text, not yet checked."""

    skill: str
    arguments: Mapping[str, str]


def parse(answer: str) -> tuple[RawCall, ...]:
    """Read an answer; ``unknown`` gives no calls.

    Raises:
        ValueError: The answer is not in the notation.
    """
    if answer == UNKNOWN:
        return ()
    calls = []
    for part in answer.split(SEPARATOR):
        call = _CALL.fullmatch(part)
        if call is None:
            raise ValueError(f"{part!r} is not a call such as go_to(place=kitchen)")
        arguments: dict[str, str] = {}
        for item in call[2].split(", ") if call[2] else ():
            pair = _PAIR.fullmatch(item)
            if pair is None or pair[1] in arguments:
                raise ValueError(
                    f"{item!r} in {part!r} is not a new argument such as place=kitchen"
                )
            arguments[pair[1]] = pair[2]
        calls.append(RawCall(call[1], arguments))
    return tuple(calls)


def served(answer: str) -> list[str]:
    """Give the calls of skills in an answer, as they are written there."""
    parts = answer.split(SEPARATOR)
    return [part for part in parts if not part.startswith(f"{UNSERVED.name}(")]


class Grammar:
    """The answers that a registry allows, as Lark text for llguidance.

    What a call may say is made of the sentence: a text argument is a contiguous piece of it, and
    an amount one of those that stand in it. So the model cannot name a thing that nobody mentioned
    nor a number that nobody said.
    """

    def __init__(self, registry: SkillRegistry) -> None:
        """Write the rules of a registry."""
        self._skills = tuple(registry.skills.values())
        self._units: dict[str, tuple[str, ...]] = {}
        for skill in self._skills:
            for argument in skill.arguments:
                if argument.type is ArgumentType.QUANTITY:
                    known = self._units.get(argument.unit, ())
                    self._units[argument.unit] = (*known, *argument.factors)
        self._all_units = tuple(
            dict.fromkeys(unit for units in self._units.values() for unit in units)
        )
        self._rules: dict[frozenset[str], str] = {}

    def amounts(self, sentence_words: Sequence[str]) -> tuple[Amount, ...]:
        """Find the amounts in a sentence that some argument of the registry can take."""
        return tuple(
            amount
            for amount in find_amounts(sentence_words, self._all_units)
            if any(amount.written(unit, units) for unit, units in self._units.items())
        )

    def for_sentence(
        self,
        sentence_words: Sequence[str],
        before: Sequence[Sequence[str]] = (),
        among: Collection[str] | None = None,
    ) -> str:
        """Give the grammar of the answers to one sentence.

        Args:
            sentence_words: Words of the sentence, at least one; see ``text.words``.
            before: Words of the sentences before it, which it may refer to.
            among: Names of the skills that may be called; None: all.
        """
        if not sentence_words:
            raise ValueError("a sentence without words has no answers")
        sentences = [sentence_words, *(words for words in before if words)]
        said: dict[str, str] = {}
        for unit, units in self._units.items():
            written = dict.fromkeys(
                amount.written(unit, units)
                for words in sentences
                for amount in find_amounts(words, self._all_units)
            )
            options = [json.dumps(text, ensure_ascii=False) for text in written if text]
            if options:
                said[unit] = " | ".join(options)
        lines = [self._rules_with(frozenset(said), among)]
        for index, unit in enumerate(self._units):
            if unit in said:
                lines.append(f"amount_{index}: {said[unit]}")
        pieces = []
        for index, words in enumerate(sentences):
            chunks = [part for word in words for part in (" ", word)][1:]
            # Chunks may be joined in any contiguous run; no piece begins or ends with a space.
            lines.append(f"PIECE_{index}: /[^ ](.*[^ ])?/ & CHUNKS_{index}")
            lines.append(
                f'CHUNKS_{index}: %regex {{"substring_chunks": '
                f"{json.dumps(chunks, ensure_ascii=False)}}}"
            )
            pieces.append(f"PIECE_{index}")
        lines.append(f"piece: {' | '.join(pieces)}")
        return "\n".join(lines) + "\n"

    def _rules_with(self, said: frozenset[str], among: Collection[str] | None) -> str:
        """Write the rules over the skills where amounts in these units were said."""
        if among is not None:
            return self._rules_over([s for s in self._skills if s.name in among], said)
        if said not in self._rules:
            self._rules[said] = self._rules_over(self._skills, said)
        return self._rules[said]

    def _rules_over(self, skills: Sequence[Skill], said: frozenset[str]) -> str:
        amounts = {
            unit: f"amount_{index}" for index, unit in enumerate(self._units) if unit in said
        }
        calls = "\n    | ".join(_call_rule(skill, amounts) for skill in (*skills, UNSERVED))
        # The last call closes the answer by itself: the grammar then forces the end.
        return (
            f'start: "{UNKNOWN}" | call ("{SEPARATOR}" call){{0,{MAX_CALLS - 1}}}\ncall: {calls}'
        )


def _call_rule(skill: Skill, amounts: Mapping[str, str]) -> str:
    values = [(argument, _value_rule(argument, amounts)) for argument in skill.arguments]
    # Without a value that could be said, an optional argument cannot be given.
    return f'"{skill.name}("{_arguments_rule([v for v in values if v[1]], first=True)} ")"'


def _arguments_rule(values: Sequence[tuple[Argument, str]], *, first: bool) -> str:
    if not values:
        return ""
    (head, value), rest = values[0], values[1:]
    given = f' "{"" if first else ", "}{head.name}=" ({value})'
    after = _arguments_rule(rest, first=False)
    if head.required:
        return given + after
    if first:
        # Nothing stands before it, so whether a comma follows depends on its presence.
        without = _arguments_rule(rest, first=True) or ' ""'
        return f" ({given}{after} |{without})"
    return f" ({given})?{after}"


def _value_rule(argument: Argument, amounts: Mapping[str, str]) -> str:
    if argument.type is ArgumentType.CHOICE:
        options = [json.dumps(choice) for choice in argument.choices]
    elif argument.type is ArgumentType.QUANTITY:
        options = [amounts[argument.unit]] if argument.unit in amounts else []
    else:
        options = ["piece"]
    if argument.askable:
        options.append(f'"{MISSING}"')
    return " | ".join(options)
