"""The text around a command: a prefix, whole or made of the lines of some skills, and a suffix."""

from __future__ import annotations

from collections.abc import Sequence
import functools

from quant_llm_ros.command.calls import MISSING, UNKNOWN
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.engine.tokenizer import Tokenizer

_INSTRUCTION = (
    "You turn what people say to a robot into calls of its skills. Copy names from the sentence. "
    f"Write {MISSING} for a value that was not said. "
    f"Answer {UNKNOWN} when it is not a command.\nSkills:"
)


class Prompt:
    """The prompt of a registry in the ChatML form.

    The user's text is tokenized by itself and with special tokens off: whatever it says, it cannot
    leave its place.
    """

    def __init__(
        self,
        registry: SkillRegistry,
        tokenizer: Tokenizer,
        *,
        examples: bool,
        instruction: str | None = None,
    ) -> None:
        """Write and tokenize everything but the sentence.

        Args:
            registry: The skills that the model chooses among.
            tokenizer: The model's tokenizer.
            examples: Whether the prompt shows the first example of each skill. A model as it comes
                needs them; one that was fine-tuned for the task was trained without.
            instruction: Another instruction, skills included; None: the one of the notation of
                calls.
        """
        self._tokenizer = tokenizer
        self._registry = registry
        self._instruction = instruction
        self._shows_examples = examples
        self.suffix: tuple[int, ...] = (*self.close, *self._open("assistant"))
        """Tokens after the sentence."""

    @functools.cached_property
    def prefix(self) -> tuple[int, ...]:
        """Tokens before the sentence where all skills are shown; the same for every command."""
        return self.prefix_of(self._registry.names)

    def prefix_of(self, names: Sequence[str]) -> tuple[int, ...]:
        """Give the tokens before the sentence where only some skills are shown."""
        tokens = [*self.head(names), *self.close]
        for say, calls in self.examples(names):
            tokens += self.example(say, calls)
        return (*tokens, *self.open)

    def head(self, names: Sequence[str]) -> list[int]:
        """Tokens up to the line of the last of some skills."""
        text = self._instruction or _INSTRUCTION + "".join(map(self._line, names))
        return [*self._open("system"), *self._tokenizer.encode(text)]

    def line(self, name: str) -> list[int]:
        """Tokens of a skill's line, the break before it included."""
        return self._tokenizer.encode(self._line(name))

    @property
    def close(self) -> list[int]:
        """Tokens behind the last line."""
        return [self._tokenizer.turn_end, *self._tokenizer.encode("\n")]

    @property
    def open(self) -> list[int]:
        """Tokens right before a sentence."""
        return self._open("user")

    def example(self, say: str, calls: str) -> list[int]:
        """Give the tokens of an example: a turn of the user and the answer to it."""
        return self._turn("user", say) + self._turn("assistant", calls)

    def examples(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Give the examples that the prompt of some skills shows, in order.

        Those of no command are always among them.
        """
        return _examples(self._registry, names) if self._shows_examples else []

    def _line(self, name: str) -> str:
        skill = self._registry.skills[name]
        return f"\n{skill.signature}: {skill.description}"

    def after_prefix(self, sentence: str, before: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Give the tokens that one sentence adds to the prefix.

        Args:
            sentence: The sentence.
            before: Sentences of the same conversation before it, with the answers to them.
        """
        tokens: list[int] = []
        for said, answer in before:
            tokens += [*self._tokenizer.encode(said), *self.suffix]
            tokens += [*self._tokenizer.encode(answer), *self.close, *self.open]
        return [*tokens, *self._tokenizer.encode(sentence), *self.suffix]

    def _turn(self, role: str, text: str) -> list[int]:
        return [*self._open(role), *self._tokenizer.encode(text), *self.close]

    def _open(self, role: str) -> list[int]:
        return [self._tokenizer.turn_start, *self._tokenizer.encode(f"{role}\n")]


def _examples(registry: SkillRegistry, names: Sequence[str]) -> list[tuple[str, str]]:
    # Commands and small talk take turns, so that neither is what always comes at the end.
    skills = [registry.skills[name] for name in names]
    pairs = [(e.say, e.calls) for skill in skills for e in skill.examples[:1]]
    step = max(1, len(pairs) // (len(registry.not_commands) + 1))
    for index, text in enumerate(registry.not_commands):
        pairs.insert(min(len(pairs), (index + 1) * step + index), (text, UNKNOWN))
    return pairs
