"""The notation that the model answers in.

``move(direction=forward, distance=2 m); go_to(place=kitchen)`` are calls of skills, ``?`` stands
for a required value that was not said, and ``unknown`` for a text that is no command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import re

from quant_llm_ros.command.skills import Argument, ArgumentType, Skill, SkillRegistry

UNKNOWN = "unknown"
MISSING = "?"
SEPARATOR = "; "
MAX_CALLS = 4
"""Most calls in one answer."""

_CALL = re.compile(r"([a-z][a-z0-9_]*)\(([^()]*)\)")
_PAIR = re.compile(r"([a-z][a-z0-9_]*)=([^=,;()]+)")
NUMBER = r"-?[0-9]{1,6}(?:\.[0-9]{1,4})?"
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


class Grammar:
    """The answers that a registry allows, as Lark text for llguidance.

    The rules over the skills are written once; only the words of the sentence, of which a text
    argument must be a contiguous piece, change with every command.
    """

    def __init__(self, registry: SkillRegistry) -> None:
        """Write the rules of a registry."""
        calls = "\n    | ".join(_call_rule(skill) for skill in registry.skills.values())
        # The last call closes the answer by itself: the grammar then forces the end.
        self._rules = (
            f'start: "{UNKNOWN}" | call ("{SEPARATOR}" call){{0,{MAX_CALLS - 1}}}\n'
            f"call: {calls}\n"
            f"NUMBER: /{NUMBER}/\n"
        )

    def for_sentence(self, sentence_words: Sequence[str]) -> str:
        """Give the grammar of the answers to one sentence.

        Args:
            sentence_words: Words of the sentence, at least one; see ``text.words``.
        """
        if not sentence_words:
            raise ValueError("a sentence without words has no answers")
        chunks: list[str] = []
        for word in sentence_words:
            chunks += [" ", word]
        # Chunks may be joined in any contiguous run; a piece neither begins nor ends with a space.
        return (
            f"{self._rules}"
            "PIECE: /[^ ](.*[^ ])?/ & CHUNKS\n"
            f'CHUNKS: %regex {{"substring_chunks": {json.dumps(chunks[1:])}}}\n'
        )


def _call_rule(skill: Skill) -> str:
    return f'"{skill.name}("{_arguments_rule(skill.arguments, first=True)} ")"'


def _arguments_rule(arguments: Sequence[Argument], *, first: bool) -> str:
    if not arguments:
        return ""
    head, rest = arguments[0], arguments[1:]
    given = f' "{"" if first else ", "}{head.name}=" {_value_rule(head)}'
    after = _arguments_rule(rest, first=False)
    if head.required:
        return given + after
    if first:
        # Nothing stands before it, so whether a comma follows depends on its presence.
        without = _arguments_rule(rest, first=True) or ' ""'
        return f" ({given}{after} |{without})"
    return f" ({given})?{after}"


def _value_rule(argument: Argument) -> str:
    if argument.type is ArgumentType.CHOICE:
        options = [json.dumps(choice) for choice in argument.choices]
    elif argument.type is ArgumentType.QUANTITY:
        units = " | ".join(json.dumps(unit) for unit in argument.factors)
        options = [f'NUMBER " " ({units})']
    else:
        options = ["PIECE"]
    if argument.required:
        options.append(f'"{MISSING}"')
    return f"({' | '.join(options)})"
