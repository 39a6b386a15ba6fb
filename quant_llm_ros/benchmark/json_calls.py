"""What a user of a general runtime asks a model for: calls as JSON, under a JSON schema."""

from __future__ import annotations

import json
from typing import Any

from quant_llm_ros.benchmark.sample import written
from quant_llm_ros.command.calls import parse, RawCall
from quant_llm_ros.command.skills import Argument, ArgumentType, Skill, SkillRegistry
from quant_llm_ros.command.units import written_number
from quant_llm_ros.command.validator import Validator

MAX_CALLS = 4
MAX_TOKENS = 256
"""Most tokens of an answer."""
INVALID = "INVALID"
"""The decision of an answer that is no whole one."""
_MAX_CHARS = 64


def schema(registry: SkillRegistry) -> dict[str, Any]:
    """Describe the answers that a registry allows, as a JSON schema."""
    return {
        "type": "object",
        "properties": {
            "calls": {
                "type": "array",
                "maxItems": MAX_CALLS,
                "items": {
                    "anyOf": [
                        {
                            "type": "object",
                            "properties": {
                                "skill": {"const": skill.name},
                                "args": _arguments(skill.arguments),
                            },
                            "required": ["skill", "args"],
                            "additionalProperties": False,
                        }
                        for skill in registry.skills.values()
                    ]
                },
            }
        },
        "required": ["calls"],
        "additionalProperties": False,
    }


def compact(text: str) -> str:
    """Write JSON without its spaces; what was cut off stays as it is."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
    except ValueError:
        return text


def instruction(registry: SkillRegistry) -> str:
    """Tell the model what to do, with an example for each skill.

    The skills are written as this package's own prompt has them. The model was not tuned for JSON;
    without examples it mostly answers with no calls at all.
    """
    lines = "\n".join(f"{s.signature}: {s.description}" for s in registry.skills.values())
    return (
        "You turn what people say to a robot into calls of its skills, as a JSON object with the "
        f'list "calls"; it is empty when the text is not a command.\nSkills:\n{lines}'
        f"\nExamples:\n{_examples(registry)}"
    )


def _examples(registry: SkillRegistry) -> str:
    validator = Validator(registry)
    lines = []
    for skill in registry.skills.values():
        for example in skill.examples[:1]:
            outcome = validator.check(parse(example.calls))
            calls = [{"skill": c.skill, "args": dict(c.arguments)} for c in outcome.calls]
            answer = json.dumps({"calls": calls}, ensure_ascii=False, separators=(",", ":"))
            lines.append(f"{example.say} -> {answer}")
    return "\n".join(lines)


class JsonDecisions:
    """What JSON answers come to, by the rules that this package's own answers are held to."""

    def __init__(self, registry: SkillRegistry) -> None:
        """Take the registry that the answers call."""
        self._registry = registry
        self._validator = Validator(registry)

    def __call__(self, answer: str) -> str:
        """Write the decision of an answer; ``INVALID`` for one that is cut off."""
        try:
            calls = tuple(
                _raw_call(self._registry.skills[call["skill"]], call["args"])
                for call in json.loads(answer)["calls"]
            )
            outcome = self._validator.check(calls)
        except (ValueError, KeyError, TypeError):
            return INVALID
        return written(outcome.status, outcome.calls)


def _raw_call(skill: Skill, values: dict[str, Any]) -> RawCall:
    """Write a call's values as this package's notation has them."""
    arguments: dict[str, str] = {}
    for argument in skill.arguments:
        if argument.decision_name in values:
            value = values[argument.decision_name]
            quantity = argument.type is ArgumentType.QUANTITY
            arguments[argument.name] = (
                f"{written_number(value)} {argument.unit}" if quantity else str(value)
            )
    return RawCall(skill.name, arguments)


def _arguments(arguments: tuple[Argument, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {argument.decision_name: _value(argument) for argument in arguments},
        "required": [argument.decision_name for argument in arguments if argument.required],
        "additionalProperties": False,
    }


def _value(argument: Argument) -> dict[str, Any]:
    if argument.type is ArgumentType.QUANTITY:
        return {"type": "number"}
    if argument.type is ArgumentType.CHOICE:
        return {"type": "string", "enum": list(argument.choices)}
    return {"type": "string", "maxLength": _MAX_CHARS}
