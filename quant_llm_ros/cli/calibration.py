"""Commands for calibration and for comparing models, tokenized as at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quant_llm_ros.command import text as reading
from quant_llm_ros.command.calls import UNKNOWN
from quant_llm_ros.command.prompt import Prompt
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.resources import share_path

if TYPE_CHECKING:
    from quant_llm_ros.quantize.calibration import CalibrationSettings, CommandSource, Passages


_MOST_REFERENCE = 12


def reference_source(*, examples: bool) -> Callable[[Path], Passages]:
    """Make the source of reference texts that ``build_bundle`` takes: what the skills' file says.

    Its examples are there for every robot, and do not change when the generator does. The last
    example of a skill is taken, because the first one may stand in the prompt.

    Args:
        examples: Whether the model's prompt shows the skills' examples.
    """

    def texts(folder: Path) -> Passages:
        from quant_llm_ros.quantize.calibration import Passages

        registry = SkillRegistry.load(folder / "skills.yaml")
        tokenizer = Tokenizer(folder / "tokenizer.json")
        prompt = Prompt(registry, tokenizer, examples=examples)
        pairs = [(e.say, e.calls) for s in registry.skills.values() for e in s.examples[-1:]]
        pairs += [(text, UNKNOWN) for text in registry.not_commands[-1:]]
        chosen = pairs[:: -(-len(pairs) // _MOST_REFERENCE)]
        return Passages(
            prompt.prefix,
            [[*prompt.after_prefix(say), *tokenizer.encode(answer)] for say, answer in chosen],
        )

    return texts


def command_source(*, examples: bool) -> CommandSource:
    """Make the source of commands that ``build_bundle`` takes.

    Args:
        examples: Whether the model's prompt shows the skills' examples.
    """

    def commands(folder: Path, settings: CalibrationSettings) -> Sequence[Passages]:
        from quant_llm_ros.quantize.calibration import Passages
        from quant_llm_ros.training.generator import generate, MAX_CHARS

        registry = SkillRegistry.load(folder / "skills.yaml")
        default = SkillRegistry.load(share_path("config/skills/service_robot.yaml"))
        tokenizer = Tokenizer(folder / "tokenizer.json")
        prompt = Prompt(registry, tokenizer, examples=examples)
        (group,) = generate(
            settings.seed,
            1,
            settings.commands,
            default_share=1.0,
            registries=None if registry.sha256 == default.sha256 else [registry],
        )

        def cleaned(sentence: str) -> str:
            return reading.clean(sentence, max_chars=MAX_CHARS)

        texts = []
        for example in group.examples:
            before = [(cleaned(said), answer) for said, answer in example.before]
            question = prompt.after_prefix(cleaned(example.text), before)
            texts.append([*question, *tokenizer.encode(example.answer)])
        return [Passages(prompt.prefix, texts)]

    return commands
