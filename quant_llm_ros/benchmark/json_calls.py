"""What a user of a general runtime asks a model for: calls as JSON, under a JSON schema."""

from __future__ import annotations

from typing import Any

from quant_llm_ros.command.skills import Argument, ArgumentType, SkillRegistry

MAX_CALLS = 4
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


def instruction(registry: SkillRegistry) -> str:
    """Tell the model what to do; the skills as this package's own prompt has them."""
    lines = "\n".join(f"{s.signature}: {s.description}" for s in registry.skills.values())
    return (
        "You turn what people say to a robot into calls of its skills, as a JSON object with the "
        f'list "calls"; it is empty when the text is not a command.\nSkills:\n{lines}'
    )


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
